//! The device contract: what a backend is given, and what it owes.
//!
//! Everything above this line is written once. An operator validates its arguments, picks kernels and records
//! dispatches; the [encoder](crate::CommandEncoder) finds the hazards between them; the graph reorders and replays them.
//! A backend never sees an operator. It sees memory, pipelines and a list of commands, and this is all there is to it:
//!
//! - [`Backend::allocate`] gives zeroed memory, [`Backend::wrap`] takes memory of the host in without a copy. All memory
//!   can be read and written by the host through [`Memory::host_ptr`]: the devices here share memory with the host.
//! - [`Backend::compile`] makes a pipeline of a kernel: its Metal text, its signature, its function constants, and for
//!   the `cpu` device a Rust function. [`Backend::supports`] says beforehand whether there is a body for it. A backend
//!   never replaces a kernel by another: what it cannot run, it refuses by name.
//! - [`Backend::submit`] runs a list of [`Command`]s, in order of submission. It may return before the work is done. It
//!   reports the end, and how it ended, exactly once through [`Submission::finish`], also when the work fails.
//!
//! # What a backend may assume
//! The encoder has checked, before a list gets here:
//! - every argument that the kernel's signature declares is bound, no other is, and the index is below 31;
//! - every buffer range lies inside its allocation, and its offset is aligned for the dtype of the buffer bound;
//! - a buffer bound to an argument that the kernel may write is writable;
//! - the threadgroup has between 1 and [`ComputePipelineStateRef::max_total_threads_per_threadgroup`] threads, no extent
//!   of the grid is zero, and threadgroup memory, declared and dynamic, is within [`Limits::max_threadgroup_memory`];
//! - the pipeline was compiled by a backend of the same [`Backend::pipeline_domain`], and the memory allocated by a
//!   backend that answers true to [`Backend::accepts`].
//!
//! It may *not* assume that contents are sensible: token ids, positions and lengths inside buffers are the caller's.
//! A kernel must stay inside its buffers whatever they hold.
//!
//! # What a backend owes
//! - Between two [`Command::Barrier`]s dispatches may overlap in any way; after a barrier every write before it is
//!   visible. A submission starts when all earlier ones of the same queue have ended, their writes visible.
//! - A failure of a dispatch fails the whole submission. It never aborts the process, and later submissions run.
//! - Buffers and pipelines are kept alive by the list: a backend drops the list only when the device is done with it.
//! - Contents of buffers are read when the work runs, inline bytes are in the list.
//!
//! # Where to start
//! `null` is a backend in fifty lines, [`cpu`] the one to read, `emulator` the one that proves the Metal text.

pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(feature = "emulator")]
pub mod emulator;
#[cfg(any(feature = "cuda", feature = "emulator"))]
pub(crate) mod fingerprint;
pub(crate) mod host;
pub mod metal;
pub(crate) mod null;
mod submission;

use std::any::Any;
use std::fmt;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

use smallvec::SmallVec;

pub use submission::{Submission, Timing};

use crate::buffer::Allocation;
use crate::device::DeviceKind;
use crate::error::Result;
use crate::kernel::{ComputePipelineState, ComputePipelineStateRef, ConstantValue, Kernel};

/// One way to run kernels. See the [module documentation](self) for the contract.
pub trait Backend: Send + Sync + fmt::Debug + 'static {
    /// Which kind of device this is.
    fn kind(&self) -> DeviceKind;

    /// A name for people: the processor or GPU.
    fn name(&self) -> String;

    /// What the device can take.
    fn limits(&self) -> &Limits;

    /// A number that two backends share when a pipeline compiled by one runs on the other.
    fn pipeline_domain(&self) -> u64;

    /// Whether memory allocated by a backend of kind `kind` can be bound here.
    fn accepts(&self, kind: DeviceKind) -> bool;

    /// `byte_len` (> 0) bytes of zeroed memory, aligned to at least 64 bytes.
    ///
    /// # Errors
    /// [`MlxError::BufferAllocationError`](crate::MlxError::BufferAllocationError).
    fn allocate(&self, byte_len: usize) -> Result<Arc<dyn Memory>>;

    /// Memory of the host, used in place.
    ///
    /// # Errors
    /// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument) where the device cannot take it, naming why.
    fn wrap(&self, region: HostRegion) -> Result<Arc<dyn Memory>>;

    /// Whether there is a body for `kernel` here; the reason if not.
    ///
    /// # Errors
    /// The reason, as the end of a sentence.
    fn supports(&self, kernel: &Kernel) -> std::result::Result<(), String>;

    /// Makes a pipeline of `kernel`.
    ///
    /// # Errors
    /// [`MlxError::ShaderCompilationError`](crate::MlxError::ShaderCompilationError) with the compiler's words.
    fn compile(&self, kernel: &Kernel, constants: &[(u32, ConstantValue)]) -> Result<Arc<dyn PipelineBody>>;

    /// Runs `work` after everything submitted before, and calls [`Submission::finish`] on `done` once, at its end.
    fn submit(&self, work: Work, done: Arc<Submission>);
}

/// What a device can take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Threads of one threadgroup.
    pub max_threads_per_threadgroup: u32,
    /// Bytes of threadgroup memory of one threadgroup.
    pub max_threadgroup_memory: u32,
    /// Bytes of one buffer.
    pub max_buffer_len: usize,
    /// Bytes that all buffers together should stay below, where the device says so.
    pub max_working_set: Option<usize>,
    /// Lanes of a simdgroup.
    pub simd_width: u32,
    /// What kind of GPU it is, for tables of thresholds; `None` where it is none of Apple's.
    pub gpu: Option<metal::GpuArchitecture>,
}

/// Memory of a device that the host can address.
pub trait Memory: Send + Sync + 'static {
    /// The kind of the backend that made it.
    fn kind(&self) -> DeviceKind;
    /// First byte. Valid for `byte_len` bytes as long as the object lives.
    fn host_ptr(&self) -> NonNull<u8>;
    /// Bytes.
    fn byte_len(&self) -> usize;
    /// Whether anybody may write it.
    fn writable(&self) -> bool;
    /// For the backend to find its own type again.
    fn as_any(&self) -> &dyn Any;
}

/// Memory of the host to be wrapped.
pub struct HostRegion {
    /// First byte.
    pub ptr: NonNull<u8>,
    /// Bytes from there; more than zero.
    pub byte_len: usize,
    /// Whether the device may write it.
    pub writable: bool,
    /// Keeps the memory valid; dropped when the device is done with it.
    pub owner: Arc<dyn Any + Send + Sync>,
}

/// What a backend made of a kernel.
pub trait PipelineBody: Send + Sync + 'static {
    /// For the backend to find its own type again.
    fn as_any(&self) -> &dyn Any;
    /// The most threads of a threadgroup that this pipeline can run with, where the device says so.
    fn max_threads(&self) -> Option<u32> {
        None
    }
}

/// A list of commands, with everything they refer to.
#[derive(Debug, Default)]
pub struct Work {
    /// What to do, in order.
    pub commands: Vec<Command>,
    /// Arguments of all dispatches; each has a range of them.
    pub bindings: Vec<Binding>,
    /// Inline bytes of all dispatches, each piece at a multiple of 16.
    pub bytes: Vec<u8>,
}

impl Work {
    /// The arguments of a dispatch.
    #[must_use]
    pub fn bindings(&self, dispatch: &Dispatch) -> &[Binding] {
        &self.bindings[dispatch.bindings.start as usize..dispatch.bindings.end as usize]
    }
}

/// One step of a list.
#[derive(Debug)]
pub enum Command {
    /// Runs a kernel.
    Dispatch(Dispatch),
    /// What comes later sees what came before.
    Barrier,
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

#[allow(unused_imports)] // named in the documentation above
use ComputePipelineStateRef as _;
