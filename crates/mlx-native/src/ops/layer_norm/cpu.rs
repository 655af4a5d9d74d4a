//! Bodies of `layer_norm` for the CPU: rows are shared among the parts.

use super::{HAS_BIAS, HAS_WEIGHT, LayerNormParams};
use crate::vector::Vectorised;
use crate::backend::cpu::{Element, Launch, part_range};

/// Elements that are widened to f32 at a time.
const CHUNK: usize = 512;
/// Elements below which rows are not worth another thread.
const GRANULE: usize = 8192;
/// Independent sums: as many as the widest vectors hold.
const LANES: usize = 16;

pub(super) fn layer_norm<T: Element>(launch: &Launch<'_>, part: usize, parts: usize) {
    let p: LayerNormParams = launch.params(4);
    let (x, output) = (launch.output::<T>(0), launch.output::<T>(3));
    let weight = launch.flag(HAS_WEIGHT).then(|| launch.input::<T>(1));
    let bias = launch.flag(HAS_BIAS).then(|| launch.input::<T>(2));
    let dim = p.dim as usize;
    let (mut values, mut factors) = ([0.0; CHUNK], [0.0; CHUNK]);
    for row in part_range(p.rows as usize, (GRANULE / dim.max(1)).max(1), part, parts) {
        let start = row * dim;
        let chunks = || (0..dim).step_by(CHUNK).map(|done| (done, CHUNK.min(dim - done)));
        let mut sum = |mean: f32, square: bool| {
            let mut sums = [0.0; LANES];
            for (done, len) in chunks() {
                let values = &mut values[..len];
                // SAFETY: this row is only this part's, in `output` and in `x`, which may be `output`.
                unsafe { x.load(start + done, values) };
                launch.isa().run(Add { values, mean, square, sums: &mut sums });
            }
            tree(sums) / p.dim as f32
        };
        let mean = sum(0.0, false);
        let inverse = 1.0 / (sum(mean, true) + p.eps).sqrt();
        for (done, len) in chunks() {
            let (values, factors) = (&mut values[..len], &mut factors[..len]);
            // SAFETY: as above.
            unsafe { x.load(start + done, values) };
            values.iter_mut().for_each(|v| *v = (*v - mean) * inverse);
            if let Some(weight) = weight {
                T::widen(&weight[done..done + len], factors);
                values.iter_mut().zip(&*factors).for_each(|(v, w)| *v *= *w);
            }
            if let Some(bias) = bias {
                T::widen(&bias[done..done + len], factors);
                values.iter_mut().zip(&*factors).for_each(|(v, b)| *v += *b);
            }
            // SAFETY: as above.
            unsafe { output.store(start + done, values) };
        }
    }
}

/// The sum of all lanes, by halves.
fn tree(mut sums: [f32; LANES]) -> f32 {
    for width in [8, 4, 2, 1] {
        for i in 0..width {
            sums[i] += sums[i + width];
        }
    }
    sums[0]
}

/// Adds values less their mean, or the squares of these.
struct Add<'a> {
    values: &'a [f32],
    mean: f32,
    square: bool,
    sums: &'a mut [f32; LANES],
}

impl Vectorised for Add<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let mut sums = *self.sums;
        let term = |v: f32| {
            let d = v - self.mean;
            if self.square { d * d } else { d }
        };
        let (whole, rest) = self.values.as_chunks::<LANES>();
        for chunk in whole {
            for (sum, v) in sums.iter_mut().zip(chunk) {
                *sum += term(*v);
            }
        }
        for (sum, v) in sums.iter_mut().zip(rest) {
            *sum += term(*v);
        }
        *self.sums = sums;
    }
}
