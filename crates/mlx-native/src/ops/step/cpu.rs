//! Body of `step_positions` for the CPU.

use super::{StepParams, sequence_of};
use crate::backend::cpu::Launch;

pub(super) fn positions(launch: &Launch<'_>, part: usize, _parts: usize) {
    // Less work than waking a second thread.
    if part != 0 {
        return;
    }
    let p: StepParams = launch.params(3);
    let (n_rows, n_seqs) = (p.n_rows as usize, p.n_seqs as usize);
    let starts = launch.input::<u32>(0);
    let (kv_lens, positions) = (launch.output::<u32>(1), launch.output::<u32>(2));
    // SAFETY: one part alone uses them.
    let (kv_lens, positions) = unsafe { (kv_lens.slice_mut(0..n_seqs), positions.slice_mut(0..n_rows)) };
    let starts = &starts[..n_seqs + 1];
    for (row, position) in (0u32..).zip(positions) {
        *position = sequence_of(starts, row).map_or(0, |s| {
            let from = starts[s + usize::from(p.advance == 0)];
            kv_lens[s].wrapping_add(row).wrapping_sub(from)
        });
    }
    if p.advance != 0 {
        for (len, ends) in kv_lens.iter_mut().zip(starts.windows(2)) {
            *len = len.wrapping_add(ends[1].saturating_sub(ends[0]));
        }
    }
}
