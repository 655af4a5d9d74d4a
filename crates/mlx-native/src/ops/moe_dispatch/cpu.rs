//! Bodies of the mixture's kernels for the CPU. The compiler vectorises the loops.

use super::{AccumulateKernelParams, WeightedSumParams, ZeroParams};
use crate::backend::cpu::{Element, Launch, part_range};

/// Elements that are widened to f32 at a time.
const CHUNK: usize = 512;
/// The unit in which parts share the work: less is not worth another thread.
const GRANULE: usize = 16 * CHUNK;

pub(super) fn zero(launch: &Launch<'_>, part: usize, parts: usize) {
    let n = launch.params::<ZeroParams>(1).n_elements as usize;
    // SAFETY: only this part touches these elements.
    unsafe { launch.output::<u32>(0).slice_mut(part_range(n, GRANULE, part, parts)) }.fill(0);
}

pub(super) fn accumulate<T: Element>(launch: &Launch<'_>, part: usize, parts: usize) {
    let p: AccumulateKernelParams = launch.params(2);
    let (sum, x) = (launch.output::<f32>(0), launch.input::<T>(1));
    let range = part_range(p.n_elements as usize, GRANULE, part, parts);
    let mut values = [0.0; CHUNK];
    for start in range.clone().step_by(CHUNK) {
        let end = range.end.min(start + CHUNK);
        let values = &mut values[..end - start];
        T::widen(&x[start..end], values);
        // SAFETY: only this part touches these elements.
        for (sum, v) in unsafe { sum.slice_mut(start..end) }.iter_mut().zip(values) {
            *sum += p.weight * *v;
        }
    }
}

pub(super) fn weighted_sum<T: Element>(launch: &Launch<'_>, part: usize, parts: usize) {
    let p: WeightedSumParams = launch.params(3);
    let (x, weights, output) = (launch.input::<T>(0), launch.input::<f32>(1), launch.output::<T>(2));
    let (hidden, top_k) = (p.hidden as usize, p.top_k as usize);
    let chunks = hidden.div_ceil(CHUNK);
    let (mut sums, mut values) = ([0.0; CHUNK], [0.0; CHUNK]);
    for i in part_range(p.n_tokens as usize * chunks, 4, part, parts) {
        let (token, c) = (i / chunks, i % chunks * CHUNK);
        let len = CHUNK.min(hidden - c);
        let (sums, values) = (&mut sums[..len], &mut values[..len]);
        sums.fill(0.0);
        for slot in token * top_k..(token + 1) * top_k {
            T::widen(&x[slot * hidden + c..][..len], values);
            for (sum, v) in sums.iter_mut().zip(&*values) {
                *sum += weights[slot] * *v;
            }
        }
        // SAFETY: only this part touches these elements.
        unsafe { output.store(token * hidden + c, sums) };
    }
}
