//! Body of `softcap` for the CPU.

use super::SoftcapParams;
use crate::backend::cpu::math::tanh;
use crate::vector::Vectorised;
use crate::backend::cpu::{Element, Launch, part_range};

/// Elements that are widened to f32 at a time.
const CHUNK: usize = 512;
/// The unit in which parts share the work: less is not worth another thread.
const GRANULE: usize = 8 * CHUNK;

pub(super) fn softcap<T: Element>(launch: &Launch<'_>, part: usize, parts: usize) {
    let p: SoftcapParams = launch.params(2);
    let (x, output) = (launch.output::<T>(0), launch.output::<T>(1));
    let mut values = [0.0; CHUNK];
    let range = part_range(p.n_elements as usize, GRANULE, part, parts);
    for start in range.clone().step_by(CHUNK) {
        let values = &mut values[..CHUNK.min(range.end - start)];
        // SAFETY: only this part touches these elements of `output`, which may be `x`.
        unsafe {
            x.load(start, values);
            launch.isa().run(Cap { values, cap: p.cap });
            output.store(start, values);
        }
    }
}

struct Cap<'a> {
    values: &'a mut [f32],
    cap: f32,
}

impl Vectorised for Cap<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        self.values.iter_mut().for_each(|v| *v = tanh(*v / self.cap) * self.cap);
    }
}
