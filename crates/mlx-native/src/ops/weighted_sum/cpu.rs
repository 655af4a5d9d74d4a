//! Bodies of `weighted_sum` for the CPU. The compiler vectorises the loop; memory bounds it.

use super::WeightedSumParams;
use crate::backend::cpu::{Element, Launch, part_range};

/// Elements that are widened to f32 at a time, and the unit in which parts share the work.
const CHUNK: usize = 512;

pub(super) fn weighted_sum<T: Element>(launch: &Launch<'_>, part: usize, parts: usize) {
    let p: WeightedSumParams = launch.params(3);
    let (x, weights, output) = (launch.input::<T>(0), launch.input::<T>(1), launch.output::<T>(2));
    let (terms, dim) = (p.terms as usize, p.dim as usize);
    let chunks = dim.div_ceil(CHUNK);
    let (mut sums, mut values) = ([0.0f32; CHUNK], [0.0f32; CHUNK]);
    for piece in part_range(p.rows as usize * chunks, 4, part, parts) {
        let (row, first) = (piece / chunks, piece % chunks * CHUNK);
        let len = CHUNK.min(dim - first);
        let (sums, values) = (&mut sums[..len], &mut values[..len]);
        sums.fill(0.0);
        for term in row * terms..(row + 1) * terms {
            let weight = weights[term].to_f32();
            T::widen(&x[term * dim + first..][..len], values);
            sums.iter_mut().zip(&*values).for_each(|(s, v)| *s += weight * *v);
        }
        // SAFETY: these elements of the output are this part's alone.
        unsafe { output.store(row * dim + first, sums) };
    }
}
