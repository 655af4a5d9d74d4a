//! The device contract: what a backend is given, and what it owes.
//!
//! Everything above this line is written once. An operator validates its arguments, picks kernels and records
//! dispatches; the [encoder](crate::CommandEncoder) finds the hazards between them; the graph reorders and replays them.
//! A backend never sees an operator. It sees memory, pipelines and a list of commands, and this is all there is to it:
//!
//! - [`Backend::allocate`] gives zeroed memory, [`Backend::wrap`] takes memory of the host in. See *Memory* below.
//! - [`Backend::compile`] makes a pipeline of a kernel: its Metal text, its signature, its function constants, and and
//!   the [`Bodies`](crate::kernel::Bodies) registered for it, of which a device finds its own: the `cpu` a Rust function. [`Backend::supports`] says beforehand whether there is a body for it. A backend
//!   never replaces a kernel by another: what it cannot run, it refuses by name.
//! - [`Backend::submit`] runs a list of [`Command`]s, in order of submission. It may return before the work is done. It
//!   reports the end, and how it ended, through the [`Completion`] it was given: a value that reports a failure when it is
//!   dropped, so that a backend cannot forget.
//!
//! # Memory
//! The library speaks of bytes as *(allocation, byte range)*: hazards compare that, arguments are bound by that. A
//! [`Memory`] is what a backend made of it, and need not have an address that the host can use:
//!
//! - [`Memory::host_view`] is an address at which the host sees the same bytes as the device, for as long as the memory
//!   lives. `cpu`, `emulator`, `null` and `metal` (whose GPU shares memory with the processor) offer it; a device with
//!   memory of its own gives `None`. Nothing above needs it: host slices are then lent from a mirror.
//! - [`Memory::download`] and [`Memory::upload`] move bytes between host and device, at once: they return when the bytes
//!   are there. They need no place in the queue, because the layer above has waited for every unfinished submission that
//!   conflicts, and holds back new ones meanwhile ([`Allocation`]). A backend may run them on any stream of its own. It must
//!   not submit work or wait for other work of the library in them: the caller holds a lock.
//! - [`Command::Copy`] and [`Command::Fill`] move and set bytes on the device. They are steps of a list, ordered with its
//!   dispatches by the same barriers, so that growing or zeroing a cache never leaves the device.
//! - [`Backend::accepts`] says whether memory that another backend made can be bound: where both see the host's memory it
//!   can; a device with memory of its own takes its own only.
//!
//! What a backend with separate memory (CUDA) does, then: `allocate` is device memory, zeroed; `host_view` is `None`;
//! `upload` and `download` are synchronous copies; mirrors of the host are made above, lazily, and live only as long as a
//! guard or slice of the caller. `wrap` of a mapped file copies: all bytes must be on the device before the first work
//! that reads them, the owner may be dropped as soon as they are; where the device can map the pages instead, it may. The
//! result is read-only either way. The emulator's [`separate_memory`](crate::EmulatorConfig::separate_memory) is such a
//! device, on every machine.
//!
//! The owner of a wrapped region is the caller's: its `Drop` may panic, and may hold the last handle of the device. So a
//! backend lets go of a list through `submission::release`, reports a panic as a failure of the work, and a thread of the
//! device never waits for its own end.
//!
//! # Queues
//! An allocation knows the device that made it ([`Backend::id`]), a submission its queue ([`Backend::queue`]). Two devices
//! may share a queue. A submission starts when all earlier ones of the same queue have ended. Across queues the layer above
//! orders by waiting: work that conflicts with unfinished work of another queue is submitted only when that has ended.
//!
//! # What a backend may assume
//! The encoder has checked, before a list gets here:
//! - every argument that the kernel's signature declares is bound, no other is, and the index is below 31;
//! - every buffer range lies inside its allocation, and its offset is aligned for the dtype of the buffer bound;
//! - a buffer bound to an argument that the kernel may write is writable;
//! - the threadgroup has between 1 and [`ComputePipelineStateRef::max_total_threads_per_threadgroup`] threads, no extent
//!   of the grid is zero, and threadgroup memory, declared and dynamic, is within [`Limits::max_threadgroup_memory`];
//! - the pipeline was compiled by a backend of the same [`Backend::pipeline_domain`], and the backend accepts the memory;
//! - ranges of copies and fills lie inside, are not empty, and those of a copy do not overlap.
//!
//! It may *not* assume that contents are sensible: token ids, positions and lengths inside buffers are the caller's.
//! A kernel must stay inside its buffers whatever they hold.
//!
//! # What a backend owes
//! - Between two [`Command::Barrier`]s commands may overlap in any way; after a barrier every write before it is
//!   visible. A submission starts when all earlier ones of the same queue have ended, their writes visible.
//! - A failure of a command fails the whole submission. It never aborts the process, and later submissions run.
//! - Buffers and pipelines are kept alive by the list: a backend drops its share of the list only when the device is done
//!   with it, and before it reports the end. A list may be submitted again: others may share it.
//! - Contents of buffers are read when the work runs, inline bytes are in the list.
//!
//! # Where to start
//! `null` is a backend in fifty lines, [`cpu`] the one to read, `emulator` the one that proves the Metal text.

mod allocation;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(feature = "emulator")]
pub mod emulator;
#[cfg(any(feature = "cuda", feature = "emulator"))]
pub(crate) mod fingerprint;
pub(crate) mod host;
mod memory;
pub mod metal;
pub(crate) mod null;
pub(crate) mod submission;
mod work;

use std::fmt;
use std::sync::Arc;

pub use crate::kernel::PipelineBody;
pub use allocation::Allocation;
pub(crate) use allocation::{Use, begin};
pub use memory::{DeviceId, HostRegion, Memory, QueueId};
pub use submission::{Completion, Submission, Timing};
pub use work::{Arg, Binding, Command, CopyBytes, Dispatch, FillBytes, Grid, Place, Work};

use crate::device_kind::DeviceKind;
use crate::error::Result;
use crate::kernel::{ComputePipelineStateRef, ConstantValue, Kernel};
use crate::profile::{DeviceProfile, GpuArchitecture};

/// One way to run kernels. See the [module documentation](self) for the contract.
pub trait Backend: Send + Sync + fmt::Debug + 'static {
    /// Which kind of device this is.
    fn kind(&self) -> DeviceKind;

    /// A name for people: the processor or GPU.
    fn name(&self) -> String;

    /// What the device can take.
    fn limits(&self) -> &Limits;

    /// Which opened device this is.
    fn id(&self) -> DeviceId;

    /// The queue that work is submitted to.
    fn queue(&self) -> QueueId;

    /// A number that two backends share when a pipeline compiled by one runs on the other.
    fn pipeline_domain(&self) -> u64;

    /// Whether memory that another backend made can be bound here.
    fn accepts(&self, memory: &dyn Memory) -> bool;

    /// `byte_len` (> 0) bytes of zeroed memory, aligned to at least 64 bytes.
    ///
    /// # Errors
    /// [`MlxError::BufferAllocationError`](crate::MlxError::BufferAllocationError).
    fn allocate(&self, byte_len: usize) -> Result<Arc<dyn Memory>>;

    /// Memory of the host: used in place where the device can, copied where it has memory of its own.
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

    /// Runs `work` after everything submitted to the queue before, and reports its end through `done`.
    fn submit(&self, work: Arc<Work>, done: Completion);
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
    pub gpu: Option<GpuArchitecture>,
    /// What tables of thresholds ask.
    pub profile: DeviceProfile,
}

#[allow(unused_imports)] // named in the documentation above
use ComputePipelineStateRef as _;
