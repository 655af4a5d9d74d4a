//! Bodies of `silu_mul` for the CPU.

use super::SiluMulParams;
use crate::backend::cpu::math::sigmoid;
use crate::vector::Vectorised;
use crate::backend::cpu::{Element, Launch, part_range};

/// Elements that are widened to f32 at a time.
const CHUNK: usize = 512;
/// The unit in which parts share the work: less is not worth another thread.
const GRANULE: usize = 16 * CHUNK;

pub(super) fn silu_mul<T: Element>(launch: &Launch<'_>, part: usize, parts: usize) {
    let total = launch.params::<SiluMulParams>(3).n_elements as usize;
    let (gate, up, output) = (launch.output::<T>(0), launch.output::<T>(1), launch.output::<T>(2));
    let (mut x, mut y) = ([0.0; CHUNK], [0.0; CHUNK]);
    let range = part_range(total, GRANULE, part, parts);
    for start in range.clone().step_by(CHUNK) {
        let len = CHUNK.min(range.end - start);
        let (x, y) = (&mut x[..len], &mut y[..len]);
        // SAFETY: only this part touches these elements of `output`, which may be `gate` or `up`.
        unsafe {
            gate.load(start, x);
            up.load(start, y);
            launch.isa().run(Gate { x, y });
            output.store(start, x);
        }
    }
}

/// `x = silu(x) · y`
struct Gate<'a> {
    x: &'a mut [f32],
    y: &'a [f32],
}

impl Vectorised for Gate<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        for (x, y) in self.x.iter_mut().zip(self.y) {
            *x = *x * sigmoid(*x) * *y;
        }
    }
}
