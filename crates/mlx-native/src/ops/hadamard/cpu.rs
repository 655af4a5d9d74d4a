//! Body of `hadamard` for the CPU.

use super::HadamardParams;
use crate::backend::cpu::{Element, Launch, part_range};
use crate::turboquant::butterflies;

/// Elements below which rows are not worth another thread.
const GRANULE: usize = 4096;

pub(super) fn hadamard<T: Element>(launch: &Launch<'_>, part: usize, parts: usize) {
    let p: HadamardParams = launch.params(2);
    let (x, output) = (launch.output::<T>(0), launch.output::<T>(1));
    let dim = p.dim as usize;
    let mut values = vec![0.0; dim];
    for row in part_range(p.rows as usize, (GRANULE / dim.max(1)).max(1), part, parts) {
        // SAFETY: only this part touches this row of `output`, which may be `x`.
        unsafe {
            x.load(row * dim, &mut values);
            launch.isa().run(Rotate { values: &mut values, scale: p.scale });
            output.store(row * dim, &values);
        }
    }
}

struct Rotate<'a> {
    values: &'a mut [f32],
    scale: f32,
}

impl crate::vector::Vectorised for Rotate<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        butterflies(self.values);
        self.values.iter_mut().for_each(|v| *v *= self.scale);
    }
}
