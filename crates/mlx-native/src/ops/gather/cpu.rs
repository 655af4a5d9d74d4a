//! Bodies of `gather` for the CPU.

use bytemuck::Pod;

use super::GatherParams;
use crate::backend::cpu::{Element, Launch, part_range};

/// Elements below which rows are not worth another thread.
const GRANULE: usize = 4096;

pub(super) fn gather<Word: Pod>(launch: &Launch<'_>, part: usize, parts: usize) {
    let p: GatherParams = launch.params(3);
    let (src, indices, output) = (launch.input::<Word>(0), launch.input::<u32>(1), launch.output::<Word>(2));
    let width = p.row_width as usize;
    for row in part_range(p.n_indices as usize, (GRANULE / width.max(1)).max(1), part, parts) {
        let from = indices[row].min(p.src_rows.saturating_sub(1)) as usize * width;
        // SAFETY: only this part touches this row of `output`.
        unsafe { output.slice_mut(row * width..(row + 1) * width) }.copy_from_slice(&src[from..from + width]);
    }
}

pub(super) fn codes_4<T: Element>(launch: &Launch<'_>, part: usize, parts: usize) {
    let p: GatherParams = launch.params(3);
    let (codes, table, output) = (launch.input::<u8>(0), launch.input::<T>(1), launch.output::<T>(2));
    let width = p.row_width as usize;
    for row in part_range(p.n_indices as usize, (GRANULE / width.max(1)).max(1), part, parts) {
        let codes = &codes[row * (width / 2)..][..width / 2];
        // SAFETY: only this part touches this row of `output`.
        let output = unsafe { output.slice_mut(row * width..(row + 1) * width) };
        for (i, (pair, code)) in output.as_chunks_mut::<2>().0.iter_mut().zip(codes).enumerate() {
            pair[0] = table[usize::from(code & 15) * width + 2 * i];
            pair[1] = table[usize::from(code >> 4) * width + 2 * i + 1];
        }
    }
}
