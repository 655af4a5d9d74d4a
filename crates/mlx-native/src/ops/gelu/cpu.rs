//! Body of `gelu` for the CPU.

use super::{GeluParams, HAS_UP};
use crate::backend::cpu::math::gelu_tanh;
use crate::vector::Vectorised;
use crate::backend::cpu::{Element, Launch, part_range};

/// Elements that are widened to f32 at a time.
const CHUNK: usize = 512;
/// Chunks below which the work is not worth another thread.
const GRANULE: usize = 4;

pub(super) fn gelu<T: Element>(launch: &Launch<'_>, part: usize, parts: usize) {
    let p: GeluParams = launch.params(3);
    let (x, output) = (launch.output::<T>(0), launch.output::<T>(2));
    let up = launch.flag(HAS_UP).then(|| launch.output::<T>(1));
    let (rows, cols) = (p.rows as usize, p.cols as usize);
    let chunks = cols.div_ceil(CHUNK);
    let (mut values, mut factors) = ([0.0; CHUNK], [0.0; CHUNK]);
    for i in part_range(rows * chunks, GRANULE, part, parts) {
        let (row, c) = (i / chunks, i % chunks * CHUNK);
        let len = CHUNK.min(cols - c);
        let (values, factors) = (&mut values[..len], &mut factors[..len]);
        // SAFETY: only this part touches these elements of `output`, which may be `x` or `up`.
        unsafe {
            x.load(row * p.x_stride as usize + c, values);
            if let Some(up) = up {
                up.load(row * p.up_stride as usize + c, factors);
            }
            launch.isa().run(Gelu { values, factors: up.is_some().then_some(&*factors) });
            output.store(row * cols + c, values);
        }
    }
}

struct Gelu<'a> {
    values: &'a mut [f32],
    factors: Option<&'a [f32]>,
}

impl Vectorised for Gelu<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        match self.factors {
            Some(factors) => {
                for (v, f) in self.values.iter_mut().zip(factors) {
                    *v = gelu_tanh(*v) * *f;
                }
            }
            None => self.values.iter_mut().for_each(|v| *v = gelu_tanh(*v)),
        }
    }
}
