//! Dispatches as data: what capture collects and a graph is made of.

use super::KernelArg;
use crate::backend::{CopyBytes, FillBytes, Place};
use crate::buffer::MemRange;
use crate::kernel::ComputePipelineState;
use crate::label::CapturedOpKind;
use crate::metal::{self, MTLSize};

/// What is bound to an argument of a captured dispatch.
#[derive(Debug)]
pub enum RecordedBinding {
    /// A buffer from a byte offset on; its memory is kept alive.
    Buffer {
        /// The memory, from the first byte of the buffer or view that was bound.
        metal_buffer: metal::Buffer,
        /// First byte in it.
        offset: u64,
    },
    /// Inline bytes.
    Bytes(Vec<u8>),
}

impl RecordedBinding {
    pub(crate) fn of(arg: &KernelArg<'_>) -> Self {
        match arg {
            KernelArg::Buffer(b) => RecordedBinding::Buffer {
                metal_buffer: metal::Buffer::of(b),
                offset: 0,
            },
            KernelArg::BufferWithOffset(b, offset) => RecordedBinding::Buffer {
                metal_buffer: metal::Buffer::of(b),
                offset: *offset,
            },
            KernelArg::Bytes(bytes) => RecordedBinding::Bytes(bytes.to_vec()),
        }
    }

    pub(crate) fn as_arg(&self) -> KernelArg<'_> {
        match self {
            RecordedBinding::Buffer { metal_buffer, offset } => {
                KernelArg::BufferWithOffset(metal_buffer.handle(), *offset)
            }
            RecordedBinding::Bytes(bytes) => KernelArg::Bytes(bytes),
        }
    }
}

impl Clone for RecordedBinding {
    fn clone(&self) -> Self {
        Self::of(&self.as_arg())
    }
}

/// Whether a captured grid is in threads or in threadgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DispatchKind {
    /// In threads.
    Threads,
    /// In threadgroups.
    ThreadGroups,
}

/// One step of a captured list.
#[derive(Clone, Debug)]
pub enum CapturedNode {
    /// A dispatch, with everything needed to record it again.
    Dispatch {
        /// The kernel.
        pipeline: ComputePipelineState,
        /// Argument index and what is bound to it.
        bindings: Vec<(u64, RecordedBinding)>,
        /// Extent of the grid, in the unit of `dispatch_kind`.
        threads_per_grid: MTLSize,
        /// Threads of a threadgroup.
        threads_per_threadgroup: MTLSize,
        /// Dynamic threadgroup memory, `(index, bytes)`.
        threadgroup_memory: Vec<(u64, u64)>,
        /// The unit of the grid.
        dispatch_kind: DispatchKind,
        /// What it is.
        op_kind: CapturedOpKind,
        /// Byte ranges it reads.
        reads: Vec<MemRange>,
        /// Byte ranges it writes.
        writes: Vec<MemRange>,
    },
    /// A copy or a fill.
    Transfer(Transfer),
    /// An explicit barrier.
    Barrier,
}

/// A captured copy or fill.
#[derive(Clone, Debug)]
pub enum Transfer {
    /// A copy.
    Copy(CopyBytes),
    /// A fill.
    Fill(FillBytes),
}

impl Transfer {
    /// What it reads and what it writes.
    pub(crate) fn places(&self) -> (&[Place], &[Place]) {
        use std::slice::from_ref;
        match self {
            Transfer::Copy(copy) => (from_ref(&copy.from), from_ref(&copy.to)),
            Transfer::Fill(fill) => (&[], from_ref(&fill.to)),
        }
    }
}
