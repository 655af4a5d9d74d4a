//! Bodies of `add` for the CPU. The compiler vectorises the loops; memory bounds them.

use half::{bf16, f16};

use super::AddParams;
use crate::backend::cpu::{Element, Launch, part_range};

/// Elements that are widened to f32 at a time, and the unit in which parts share the work.
const CHUNK: usize = 512;

pub(super) fn f32(launch: &Launch<'_>, part: usize, parts: usize) {
    add::<f32>(launch, part, parts);
}

pub(super) fn f16(launch: &Launch<'_>, part: usize, parts: usize) {
    add::<f16>(launch, part, parts);
}

pub(super) fn bf16(launch: &Launch<'_>, part: usize, parts: usize) {
    add::<bf16>(launch, part, parts);
}

fn add<T: Element>(launch: &Launch<'_>, part: usize, parts: usize) {
    let p: AddParams = launch.params(3);
    let (a, b, output) = (launch.output::<T>(0), launch.output::<T>(1), launch.output::<T>(2));
    let period = p.b_elements as usize;
    let (mut x, mut y) = ([0.0; CHUNK], [0.0; CHUNK]);
    for start in part_range(p.n_elements as usize, CHUNK, part, parts).step_by(CHUNK) {
        let len = CHUNK.min(p.n_elements as usize - start);
        let (x, y) = (&mut x[..len], &mut y[..len]);
        // SAFETY: only this part touches these elements of `output`, which may be `a`; nobody writes `b`.
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
                *x += *y;
            }
            output.store(start, x);
        }
    }
}
