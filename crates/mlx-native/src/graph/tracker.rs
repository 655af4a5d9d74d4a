//! Which bytes dispatches touched since the last barrier, for callers who put barriers themselves.

use crate::buffer::{MemRange, MlxBuffer};
use crate::encoder::HazardTracker;

/// The reads and writes of a session since its last barrier, as told by its caller.
#[derive(Debug, Default)]
pub struct ConflictTracker(HazardTracker);

impl ConflictTracker {
    pub(super) fn conflicts(&self, reads: &[MemRange], writes: &[MemRange]) -> bool {
        self.0.conflicts(reads, writes)
    }

    pub(super) fn add(&mut self, reads: &[MemRange], writes: &[MemRange]) {
        self.0.add(reads, writes);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

/// The bytes of buffers.
pub(super) fn ranges(buffers: &[&MlxBuffer]) -> Vec<MemRange> {
    buffers.iter().map(|b| b.mem_range()).collect()
}
