//! Bodies of `copy` for the CPU.

use bytemuck::Pod;

use super::CopyParams;
use crate::backend::cpu::{Element, Launch, part_range};

/// Elements that are widened to f32 at a time.
const CHUNK: usize = 512;
/// The unit in which parts share the work: less is not worth another thread.
const GRANULE: usize = 16 * CHUNK;

pub(super) fn cast<From: Element, To: Element>(launch: &Launch<'_>, part: usize, parts: usize) {
    let total = launch.params::<CopyParams>(2).n_elements as usize;
    let (x, output) = (launch.input::<From>(0), launch.output::<To>(1));
    let mut values = [0.0; CHUNK];
    let range = part_range(total, GRANULE, part, parts);
    for start in range.clone().step_by(CHUNK) {
        let end = range.end.min(start + CHUNK);
        let values = &mut values[..end - start];
        From::widen(&x[start..end], values);
        // SAFETY: only this part touches these elements.
        unsafe { output.store(start, values) };
    }
}

pub(super) fn bits<Word: Pod>(launch: &Launch<'_>, part: usize, parts: usize) {
    let total = launch.params::<CopyParams>(2).n_elements as usize;
    let (x, output) = (launch.input::<Word>(0), launch.output::<Word>(1));
    let range = part_range(total, GRANULE, part, parts);
    // SAFETY: only this part touches these elements.
    unsafe { output.slice_mut(range.clone()) }.copy_from_slice(&x[range]);
}
