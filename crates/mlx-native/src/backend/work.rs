//! Lists of commands: what a backend is given to run.

use std::ops::Range;
use std::sync::Arc;

use smallvec::SmallVec;

use super::allocation::{Allocation, Use};
use crate::kernel::ComputePipelineState;

/// A list of commands, with everything they refer to.
#[derive(Debug, Default)]
pub struct Work {
    /// What to do, in order.
    pub commands: Vec<Command>,
    /// Arguments of all dispatches; each has a range of them.
    pub bindings: Vec<Binding>,
    /// Inline bytes of all dispatches, each piece at a multiple of 16.
    pub bytes: Vec<u8>,
    /// Whether this very list will be submitted again: what a backend makes of it is worth keeping.
    pub repeats: bool,
}

impl Work {
    /// The arguments of a dispatch.
    #[must_use]
    pub fn bindings(&self, dispatch: &Dispatch) -> &[Binding] {
        &self.bindings[dispatch.bindings.start as usize..dispatch.bindings.end as usize]
    }

    /// What the commands use of which allocation.
    pub(crate) fn uses(&self) -> impl Iterator<Item = Use<'_>> {
        self.commands.iter().flat_map(|command| {
            let (bindings, written, read_by_copy, written_by_copy) = match command {
                Command::Dispatch(dispatch) => {
                    (self.bindings(dispatch), dispatch.pipeline.written(), None, None)
                }
                Command::Barrier => (&[][..], 0, None, None),
                Command::Copy(copy) => (&[][..], 0, Some(copy.from.used(false)), Some(copy.to.used(true))),
                Command::Fill(fill) => (&[][..], 0, None, Some(fill.to.used(true))),
            };
            let bound = bindings.iter().filter_map(move |binding| match &binding.arg {
                Arg::Buffer {
                    allocation,
                    offset,
                    byte_len,
                } => Some(Use {
                    allocation,
                    range: *offset..*offset + *byte_len,
                    writes: written >> binding.index & 1 != 0,
                }),
                Arg::Bytes { .. } => None,
            });
            bound.chain(read_by_copy).chain(written_by_copy)
        })
    }
}

/// One step of a list.
#[derive(Debug)]
pub enum Command {
    /// Runs a kernel.
    Dispatch(Dispatch),
    /// What comes later sees what came before.
    Barrier,
    /// Copies bytes of one place to another on the device.
    Copy(CopyBytes),
    /// Sets bytes on the device.
    Fill(FillBytes),
}

/// A copy on the device, ordered with dispatches as a dispatch is. The two ranges do not overlap.
#[derive(Debug, Clone)]
pub struct CopyBytes {
    /// Where the bytes come from.
    pub from: Place,
    /// Where they go; as many bytes.
    pub to: Place,
}

/// A fill on the device, ordered with dispatches as a dispatch is.
#[derive(Debug, Clone)]
pub struct FillBytes {
    /// What to fill.
    pub to: Place,
    /// What every byte becomes.
    pub value: u8,
}

/// A byte range of an allocation; at least one byte.
#[derive(Debug, Clone)]
pub struct Place {
    /// The memory.
    pub allocation: Arc<Allocation>,
    /// First byte.
    pub offset: usize,
    /// Bytes from there.
    pub byte_len: usize,
}

impl Place {
    /// The bytes in the space that hazards are found in.
    pub(crate) fn mem_range(&self) -> (usize, usize) {
        let start = self.allocation.base() + self.offset;
        (start, start + self.byte_len)
    }

    fn used(&self, writes: bool) -> Use<'_> {
        Use {
            allocation: &self.allocation,
            range: self.offset..self.offset + self.byte_len,
            writes,
        }
    }
}

/// One run of a kernel over a grid.
#[derive(Debug)]
pub struct Dispatch {
    /// The kernel, ready to run.
    pub pipeline: ComputePipelineState,
    /// Its arguments, as a range of [`Work::bindings`].
    pub bindings: Range<u32>,
    /// How many threads or threadgroups.
    pub grid: Grid,
    /// Threads of one threadgroup, along x, y, z.
    pub group: [u32; 3],
    /// Dynamic threadgroup memory: `(index, bytes)`.
    pub threadgroup_memory: SmallVec<[(u32, u32); 2]>,
}

/// The extent of a dispatch along x, y, z; no extent is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grid {
    /// In threads: the kernel sees exactly that many, the last groups may be partial.
    Threads([u32; 3]),
    /// In threadgroups.
    Threadgroups([u32; 3]),
}

impl Grid {
    /// The number of threadgroups of `group` threads along each axis.
    #[must_use]
    pub fn threadgroups(self, group: [u32; 3]) -> [u32; 3] {
        match self {
            Grid::Threadgroups(n) => n,
            Grid::Threads(n) => [0, 1, 2].map(|i| n[i].div_ceil(group[i])),
        }
    }
}

/// One argument of a dispatch.
#[derive(Debug, Clone)]
pub struct Binding {
    /// Argument index in the kernel's signature.
    pub index: u32,
    /// What is bound.
    pub arg: Arg,
}

/// What is bound to an argument.
#[derive(Debug, Clone)]
pub enum Arg {
    /// `byte_len` bytes of an allocation from `offset`.
    Buffer {
        /// The memory.
        allocation: Arc<Allocation>,
        /// First byte.
        offset: usize,
        /// Bytes from there.
        byte_len: usize,
    },
    /// A piece of [`Work::bytes`].
    Bytes {
        /// First byte.
        start: u32,
        /// Bytes from there.
        byte_len: u32,
    },
}
