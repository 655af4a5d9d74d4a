//! Bodies of `copy` for the CPU.

use bytemuck::Pod;

use super::{CopyParams, StridedParams};
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

/// Side of the squares in which a transposing copy goes: reads and writes of one stay in the first cache.
const SQUARE: usize = 32;

pub(super) fn strided<Word: Pod>(launch: &Launch<'_>, part: usize, parts: usize) {
    let p: StridedParams = launch.params(2);
    let (x, output) = (launch.input::<Word>(0), launch.output::<Word>(1));
    let [d0, d1, d2, d3] = p.shape.map(|d| d as usize);
    let [s0, s1, s2, s3] = p.strides.map(|s| s as usize);
    let bands = d2.div_ceil(SQUARE);
    let granule = (GRANULE / (SQUARE * d3).max(1)).max(1);
    for i in part_range(d0 * d1 * bands, granule, part, parts) {
        let (plane, band) = (i / bands, i % bands * SQUARE);
        let from = plane / d1 * s0 + plane % d1 * s1;
        let rows = band..d2.min(band + SQUARE);
        // SAFETY: only this part touches these rows of this plane.
        let target = unsafe { output.slice_mut((plane * d2 + rows.start) * d3..(plane * d2 + rows.end) * d3) };
        if s3 == 1 {
            for (row, target) in rows.zip(target.chunks_exact_mut(d3)) {
                target.copy_from_slice(&x[from + row * s2..][..d3]);
            }
            continue;
        }
        for first in (0..d3).step_by(SQUARE) {
            for (row, target) in rows.clone().zip(target.chunks_exact_mut(d3)) {
                let columns = first..d3.min(first + SQUARE);
                for (c, t) in columns.clone().zip(&mut target[columns]) {
                    *t = x[from + row * s2 + c * s3];
                }
            }
        }
    }
}
