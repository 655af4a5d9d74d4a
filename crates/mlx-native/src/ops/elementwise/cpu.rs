//! Bodies of the elementwise kernels for the CPU. The compiler vectorises the loops; memory bounds them.

use super::{MulParams, ScaleKernelParams};
use crate::backend::cpu::{Element, Launch, part_range};

/// Elements that are widened to f32 at a time.
const CHUNK: usize = 512;
/// The unit in which parts share the work: less is not worth another thread.
const GRANULE: usize = 16 * CHUNK;

pub(super) fn mul<T: Element>(launch: &Launch<'_>, part: usize, parts: usize) {
    let p: MulParams = launch.params(3);
    let (a, b, output) = (launch.output::<T>(0), launch.output::<T>(1), launch.output::<T>(2));
    let period = p.b_elements as usize;
    let (mut x, mut y) = ([0.0; CHUNK], [0.0; CHUNK]);
    let range = part_range(p.n_elements as usize, GRANULE, part, parts);
    for start in range.clone().step_by(CHUNK) {
        let len = CHUNK.min(range.end - start);
        let (x, y) = (&mut x[..len], &mut y[..len]);
        // SAFETY: only this part touches these elements of `output`, which may be `a`, or `b` of the same elements; nobody
        // writes others of `b`.
        unsafe {
            a.load(start, x);
            let mut done = 0;
            while done < len {
                let at = (start + done) % period;
                let run = (period - at).min(len - done);
                b.load(at, &mut y[done..done + run]);
                done += run;
            }
            for (x, y) in x.iter_mut().zip(y) {
                *x *= *y;
            }
            output.store(start, x);
        }
    }
}

pub(super) fn scale<T: Element>(launch: &Launch<'_>, part: usize, parts: usize) {
    let p: ScaleKernelParams = launch.params(2);
    let (x, output) = (launch.output::<T>(0), launch.output::<T>(1));
    let n = p.n_elements as usize;
    let from = p.row as usize * n;
    let mut values = [0.0; CHUNK];
    let range = part_range(n, GRANULE, part, parts);
    for start in range.clone().step_by(CHUNK) {
        let values = &mut values[..CHUNK.min(range.end - start)];
        // SAFETY: only this part touches these elements of `output`, which may be `x`.
        unsafe {
            x.load(from + start, values);
            values.iter_mut().for_each(|v| *v *= p.scalar);
            output.store(start, values);
        }
    }
}
