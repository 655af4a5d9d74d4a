//! Bodies of the mixture's kernels for the CPU. The compiler vectorises the loops.

use super::{AccumulateKernelParams, ZeroParams};
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
