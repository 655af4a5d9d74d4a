//! Body of `fused_norm` for the CPU: rows are shared among the parts.

use super::{HAS_SCALAR, HAS_WEIGHT, KernelParams, OF_SUM, WRITES_SUM};
use crate::vector::Vectorised;
use crate::backend::cpu::{Element, Launch, part_range};

/// Elements below which rows are not worth another thread.
const GRANULE: usize = 8192;
/// Independent sums of squares: as many as the widest vectors hold.
const LANES: usize = 16;

pub(super) fn fused_norm<T: Element>(launch: &Launch<'_>, part: usize, parts: usize) {
    let p: KernelParams = launch.params(6);
    let (residual, x, output) = (launch.output::<T>(0), launch.output::<T>(1), launch.output::<T>(3));
    let sum = launch.flag(WRITES_SUM).then(|| launch.output::<T>(4));
    let of_sum = launch.flag(OF_SUM);
    let dim = p.dim as usize;
    let widened = |index: u32, len: usize| {
        let mut values = vec![1.0; dim];
        let source = &launch.input::<T>(index)[..len];
        T::widen(source, &mut values[..len]);
        if len == 1 {
            let only = values[0];
            values.fill(only);
        }
        values
    };
    let weight = launch.flag(HAS_WEIGHT).then(|| widened(2, dim));
    let scalar = launch.flag(HAS_SCALAR).then(|| widened(5, if p.scalar_is_vector != 0 { dim } else { 1 }));
    let (mut r, mut v) = (vec![0.0; dim], vec![0.0; dim]);
    for row in part_range(p.rows as usize, (GRANULE / dim.max(1)).max(1), part, parts) {
        let start = row * dim;
        // SAFETY: this row is only this part's, in the outputs and in the operands, which may be the same memory; all of it
        // is read before any of it is written.
        unsafe {
            residual.load(start, &mut r);
            x.load(start, &mut v);
            if of_sum {
                v.iter_mut().zip(&r).for_each(|(v, r)| *v += *r);
                if let Some(sum) = &sum {
                    sum.store(start, &v);
                }
            }
            let mean = launch.isa().run(SumOfSquares(&v)) / p.dim as f32;
            let inverse = 1.0 / (mean + p.eps).sqrt();
            v.iter_mut().for_each(|v| *v *= inverse);
            if let Some(weight) = &weight {
                v.iter_mut().zip(weight).for_each(|(v, w)| *v *= *w);
            }
            if !of_sum {
                v.iter_mut().zip(&r).for_each(|(v, r)| *v += *r);
            }
            if let Some(scalar) = &scalar {
                v.iter_mut().zip(scalar).for_each(|(v, s)| *v *= *s);
            }
            output.store(start, &v);
        }
    }
}

struct SumOfSquares<'a>(&'a [f32]);

impl Vectorised for SumOfSquares<'_> {
    type Output = f32;
    #[inline(always)]
    fn run(self) -> f32 {
        let mut sums = [0.0; LANES];
        let (whole, rest) = self.0.as_chunks::<LANES>();
        for chunk in whole {
            for (sum, v) in sums.iter_mut().zip(chunk) {
                *sum += v * v;
            }
        }
        for (sum, v) in sums.iter_mut().zip(rest) {
            *sum += v * v;
        }
        // By halves, as a tree.
        for width in [8, 4, 2, 1] {
            for i in 0..width {
                sums[i] += sums[i + width];
            }
        }
        sums[0]
    }
}
