//! Memory that a thread keeps for its panels.

use std::cell::RefCell;

use bytemuck::{Pod, Zeroable};

use super::micro::MAX_COLUMNS;
use super::{GROUP, PITCH, ROW_CHUNK};
use crate::backend::cpu::simd::MAX_LANES;

/// What one thread works in: 0.8 MB, allocated at the first product and kept.
pub(super) struct Scratch {
    /// Rows of `x`, widened, `PITCH` apart.
    pub a: Lines,
    /// The panel: `DEPTH` rows of the micro-kernel's width.
    pub b: Lines,
    /// Sums of the task's block, rows `GROUP` apart.
    pub c: Lines,
    /// Columns of `B` on their way into the panel.
    pub staging: Lines,
}

/// f32s from the start of a cache line.
pub(super) struct Lines(Vec<Line>);

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([f32; 16]);

impl Lines {
    fn new(len: usize) -> Self {
        Lines(vec![Line([0.0; 16]); len.div_ceil(16)])
    }
}

impl std::ops::Deref for Lines {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        bytemuck::cast_slice(&self.0)
    }
}

impl std::ops::DerefMut for Lines {
    fn deref_mut(&mut self) -> &mut [f32] {
        bytemuck::cast_slice_mut(&mut self.0)
    }
}

thread_local! {
    static SCRATCH: RefCell<Option<Scratch>> = const { RefCell::new(None) };
}

/// Calls `work` with this thread's scratch; what is in it is left over from earlier.
pub(super) fn with_scratch(work: impl FnOnce(&mut Scratch)) {
    SCRATCH.with_borrow_mut(|slot| {
        work(slot.get_or_insert_with(|| Scratch {
            a: Lines::new(ROW_CHUNK * PITCH),
            b: Lines::new(super::DEPTH * MAX_COLUMNS),
            c: Lines::new(ROW_CHUNK * GROUP),
            staging: Lines::new(MAX_LANES * PITCH),
        }));
    });
}
