//! Recording work for a device.
//!
//! A [`CommandEncoder`] collects dispatches; nothing runs before [`try_commit`](CommandEncoder::try_commit). Inline bytes are
//! copied when they are recorded; buffers are kept alive, and their contents are read when the work runs. Between two
//! dispatches the encoder puts a barrier exactly where one touches bytes that an earlier, unfenced one wrote, or writes
//! bytes that one read: kernels say by their signature what they write. Everything else may overlap.

mod capture;
mod check;
mod counters;
mod hazards;
mod published;
mod transfer;

use std::fmt;
use std::sync::Arc;

use smallvec::SmallVec;

pub use crate::label::CapturedOpKind;
pub use capture::{CapturedNode, DispatchKind, RecordedBinding, Transfer};
pub use counters::{dispatch_count, reset_counters, sync_count};
pub(crate) use hazards::HazardTracker;

use crate::backend::{Arg, Backend, Binding, Command, Dispatch, Grid, Submission, Timing, Work, begin};
use crate::buffer::{MemRange, MlxBuffer};
use crate::error::{Result, invalid};
use crate::kernel::{ComputePipelineState, ComputePipelineStateRef};
use crate::metal::MTLSize;
use published::Held;

/// One argument of a dispatch.
#[derive(Debug, Clone, Copy)]
pub enum KernelArg<'a> {
    /// A whole buffer or view.
    Buffer(&'a MlxBuffer),
    /// A buffer from a byte offset on.
    BufferWithOffset(&'a MlxBuffer, u64),
    /// Bytes, copied now: parameters.
    Bytes(&'a [u8]),
}

/// The bytes of a plain value, for [`KernelArg::Bytes`].
pub fn as_bytes<T: bytemuck::NoUninit>(value: &T) -> &[u8] {
    bytemuck::bytes_of(value)
}

/// A list of work for one device. `Send`; dropping it before a commit drops the work.
///
/// ```
/// use mlx_native::{DType, KernelRegistry, MlxDevice, ops};
/// let device = MlxDevice::new()?;
/// let mut registry = KernelRegistry::new();
/// let mut x = device.alloc_tensor(DType::F32, &[4])?;
/// x.write(0, &[1f32, 2.0, 3.0, 4.0])?;
/// let y = device.alloc_tensor(DType::F32, &[4])?;
/// let mut encoder = device.command_encoder()?;
/// ops::add::add(&mut encoder, &mut registry, &device, &x, &x, &y, &ops::add::AddParams { n_elements: 4, b_elements: 4 })?;
/// encoder.commit_and_wait()?;
/// assert_eq!(y.read::<f32>()?, [2.0, 4.0, 6.0, 8.0]);
/// # Ok::<(), mlx_native::MlxError>(())
/// ```
pub struct CommandEncoder {
    backend: Arc<dyn Backend>,
    work: Work,
    hazards: HazardTracker,
    capture: Option<Vec<CapturedNode>>,
    op_kind: CapturedOpKind,
    pending: (Vec<MemRange>, Vec<MemRange>),
    submission: Option<Arc<Submission>>,
    /// The first error of the published methods, which return none.
    held: Held,
    dispatches: usize,
    barriers: usize,
}

/// A dispatch as it comes in, before it is checked.
struct Request<'a> {
    pipeline: ComputePipelineState,
    bindings: &'a [(u64, KernelArg<'a>)],
    grid: Grid,
    group: [u32; 3],
    threadgroup_memory: SmallVec<[(u32, u32); 2]>,
}

impl CommandEncoder {
    pub(crate) fn new(backend: Arc<dyn Backend>) -> Self {
        CommandEncoder {
            backend,
            work: Work::default(),
            hazards: HazardTracker::default(),
            capture: None,
            op_kind: CapturedOpKind::Other,
            pending: Default::default(),
            submission: None,
            held: Held::default(),
            dispatches: 0,
            barriers: 0,
        }
    }

    // --- recording -------------------------------------------------------------------------------------------------

    /// Records `pipeline` over `grid` threads in groups of `group` threads. Each pair is an argument index and what is
    /// bound to it.
    ///
    /// # Errors
    /// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the kernel, when the encoder was committed,
    /// an argument is missing, unknown, out of bounds or read-only where the kernel writes, or grid or group do not fit.
    pub fn try_encode_with_args(
        &mut self,
        pipeline: &ComputePipelineStateRef,
        bindings: &[(u64, KernelArg<'_>)],
        grid: MTLSize,
        group: MTLSize,
    ) -> Result<()> {
        self.record(pipeline, bindings, &[], grid, group, DispatchKind::Threads)
    }

    /// Like [`try_encode_with_args`](Self::try_encode_with_args), with the grid in threadgroups.
    ///
    /// # Errors
    /// As [`try_encode_with_args`](Self::try_encode_with_args).
    pub fn try_encode_threadgroups_with_args(
        &mut self,
        pipeline: &ComputePipelineStateRef,
        bindings: &[(u64, KernelArg<'_>)],
        threadgroups: MTLSize,
        group: MTLSize,
    ) -> Result<()> {
        self.record(
            pipeline,
            bindings,
            &[],
            threadgroups,
            group,
            DispatchKind::ThreadGroups,
        )
    }

    /// Like [`try_encode_threadgroups_with_args`](Self::try_encode_threadgroups_with_args), with dynamic threadgroup memory:
    /// `(index, bytes)`.
    ///
    /// # Errors
    /// As [`try_encode_with_args`](Self::try_encode_with_args).
    pub fn try_encode_threadgroups_with_args_and_shared(
        &mut self,
        pipeline: &ComputePipelineStateRef,
        bindings: &[(u64, KernelArg<'_>)],
        threadgroup_memory: &[(u64, u64)],
        threadgroups: MTLSize,
        group: MTLSize,
    ) -> Result<()> {
        self.record(
            pipeline,
            bindings,
            threadgroup_memory,
            threadgroups,
            group,
            DispatchKind::ThreadGroups,
        )
    }

    /// Makes everything recorded later see everything recorded before. Rarely needed: the encoder finds hazards itself.
    pub fn memory_barrier(&mut self) {
        if let Some(capture) = &mut self.capture {
            capture.push(CapturedNode::Barrier);
        } else if !self.hazards.is_empty() {
            self.barrier();
        }
    }

    /// Tags the next dispatch with what it is, for the graph's passes.
    pub fn set_op_kind(&mut self, kind: CapturedOpKind) {
        self.op_kind = kind;
    }

    /// Adds byte ranges that the next dispatch reads or writes beyond its arguments.
    pub fn set_pending_buffer_ranges(&mut self, reads: Vec<MemRange>, writes: Vec<MemRange>) {
        self.pending = (reads, writes);
    }

    /// Number of dispatches recorded for the device (captured ones do not count, nor do copies and fills).
    #[must_use]
    pub fn recorded_dispatches(&self) -> usize {
        self.dispatches
    }

    /// Number of barriers recorded for the device, those that the encoder put itself included.
    #[must_use]
    pub fn recorded_barriers(&self) -> usize {
        self.barriers
    }

    /// Names of the kernels recorded for the device, in order.
    pub fn recorded_kernels(&self) -> impl Iterator<Item = &str> {
        self.work.commands.iter().filter_map(|command| match command {
            Command::Dispatch(dispatch) => Some(dispatch.pipeline.label()),
            Command::Barrier | Command::Copy(_) | Command::Fill(_) => None,
        })
    }

    // --- capture ---------------------------------------------------------------------------------------------------

    /// From now on dispatches are collected instead of recorded for the device. A second call drops what was collected.
    pub fn start_capture(&mut self) {
        self.capture = Some(Vec::new());
    }

    /// Whether dispatches are being collected.
    #[must_use]
    pub fn is_capturing(&self) -> bool {
        self.capture.is_some()
    }

    /// Ends the capture and gives what was collected; `None` when not capturing.
    pub fn take_capture(&mut self) -> Option<Vec<CapturedNode>> {
        self.capture.take()
    }

    /// Records a captured dispatch; its hazards are found anew.
    ///
    /// # Errors
    /// As [`try_encode_with_args`](Self::try_encode_with_args).
    pub fn try_replay_dispatch(
        &mut self,
        pipeline: &ComputePipelineStateRef,
        bindings: &[(u64, RecordedBinding)],
        threadgroup_memory: &[(u64, u64)],
        grid: MTLSize,
        group: MTLSize,
        kind: DispatchKind,
    ) -> Result<()> {
        let args: SmallVec<[(u64, KernelArg<'_>); 8]> =
            bindings.iter().map(|(i, b)| (*i, b.as_arg())).collect();
        let request = Request::new(pipeline, &args, threadgroup_memory, grid, group, kind)?;
        self.push(&request)
    }

    // --- running ---------------------------------------------------------------------------------------------------

    /// Hands the work to the device and returns at once. An empty list is fine.
    ///
    /// Where the work conflicts with unfinished work of another queue, that is waited for first. After an error the
    /// encoder still holds the work: once the cause is gone it can be committed.
    ///
    /// # Errors
    /// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument) when it was committed before, when it is capturing
    /// (take or drop the capture first: captured work would not run), or when the host holds bytes that the work uses,
    /// naming the buffer; the first error of the methods that return none, which is then forgotten. What goes wrong in the work itself is reported by
    /// [`wait_until_completed`](Self::wait_until_completed) and by the buffers it writes.
    pub fn try_commit(&mut self) -> Result<()> {
        if let Some(error) = self.held.take() {
            return Err(error);
        }
        if self.submission.is_some() {
            return invalid!("commit: this encoder was committed before");
        }
        if let Some(capture) = &self.capture {
            return invalid!(
                "commit: the encoder is capturing, {} captured nodes would not run; call take_capture first",
                capture.len()
            );
        }
        let (submission, done) = begin(self.backend.queue(), self.work.uses())?;
        let work = std::mem::take(&mut self.work);
        self.hazards.clear();
        self.submission = Some(submission);
        if work.commands.is_empty() {
            done.finish(Ok(()), Timing::default());
        } else {
            self.backend.submit(Arc::new(work), done);
        }
        Ok(())
    }

    /// The list as it stands, for somebody who submits it himself.
    ///
    /// # Errors
    /// As [`try_commit`](Self::try_commit), for an encoder that was committed or is capturing.
    pub(crate) fn into_work(self) -> Result<(Arc<dyn Backend>, Work)> {
        if self.submission.is_some() || self.capture.is_some() {
            return invalid!("prepare: the encoder was committed, or is capturing");
        }
        Ok((self.backend, self.work))
    }

    /// [`try_commit`](Self::try_commit), then [`wait_until_completed`](Self::wait_until_completed).
    ///
    /// # Errors
    /// As the two.
    pub fn commit_and_wait(&mut self) -> Result<()> {
        counters::count_sync();
        self.try_commit()?;
        self.wait_until_completed()
    }

    /// Blocks until the committed work has ended.
    ///
    /// # Errors
    /// [`MlxError::CommandBufferError`](crate::MlxError::CommandBufferError) when it failed;
    /// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument) when nothing was committed.
    pub fn wait_until_completed(&self) -> Result<()> {
        if let Some(error) = self.held.get() {
            return Err(error);
        }
        match &self.submission {
            Some(submission) => submission.wait(),
            None => invalid!("wait_until_completed: this encoder was not committed"),
        }
    }

    /// How long the device was busy with the committed work, once it has ended.
    #[must_use]
    pub fn timing(&self) -> Option<Timing> {
        self.submission.as_ref()?.timing()
    }

    // --- inside ----------------------------------------------------------------------------------------------------

    fn record(
        &mut self,
        pipeline: &ComputePipelineStateRef,
        bindings: &[(u64, KernelArg<'_>)],
        threadgroup_memory: &[(u64, u64)],
        grid: MTLSize,
        group: MTLSize,
        kind: DispatchKind,
    ) -> Result<()> {
        counters::count_dispatch();
        let request = Request::new(pipeline, bindings, threadgroup_memory, grid, group, kind)?;
        if self.capture.is_none() {
            return self.push(&request);
        }
        let (mut reads, mut writes) = self.check(&request)?;
        let op_kind = std::mem::replace(&mut self.op_kind, CapturedOpKind::Other);
        let pending = std::mem::take(&mut self.pending);
        reads.extend(pending.0);
        writes.extend(pending.1);
        let node = CapturedNode::Dispatch {
            pipeline: request.pipeline.clone(),
            bindings: bindings
                .iter()
                .map(|(i, arg)| (*i, RecordedBinding::of(arg)))
                .collect(),
            threads_per_grid: grid,
            threads_per_threadgroup: group,
            threadgroup_memory: threadgroup_memory.to_vec(),
            dispatch_kind: kind,
            op_kind,
            reads: reads.into_vec(),
            writes: writes.into_vec(),
        };
        if let Some(capture) = &mut self.capture {
            capture.push(node);
        }
        Ok(())
    }

    fn push(&mut self, request: &Request<'_>) -> Result<()> {
        let (mut reads, mut writes) = self.check(request)?;
        self.op_kind = CapturedOpKind::Other;
        if !(self.pending.0.is_empty() && self.pending.1.is_empty()) {
            let pending = std::mem::take(&mut self.pending);
            reads.extend(pending.0);
            writes.extend(pending.1);
        }
        if self.hazards.conflicts(&reads, &writes) {
            self.barrier();
        }
        self.hazards.add(&reads, &writes);
        let work = &mut self.work;
        let first = work.bindings.len() as u32;
        for (index, arg) in request.bindings {
            let arg = match *arg {
                KernelArg::Buffer(b) => buffer_arg(b, 0),
                KernelArg::BufferWithOffset(b, offset) => buffer_arg(b, offset as usize),
                KernelArg::Bytes(bytes) => {
                    let start = work.bytes.len();
                    work.bytes.extend_from_slice(bytes);
                    work.bytes.resize(work.bytes.len().next_multiple_of(16), 0);
                    Arg::Bytes {
                        start: start as u32,
                        byte_len: bytes.len() as u32,
                    }
                }
            };
            work.bindings.push(Binding {
                index: *index as u32,
                arg,
            });
        }
        work.commands.push(Command::Dispatch(Dispatch {
            pipeline: request.pipeline.clone(),
            bindings: first..work.bindings.len() as u32,
            grid: request.grid,
            group: request.group,
            threadgroup_memory: request.threadgroup_memory.clone(),
        }));
        self.dispatches += 1;
        Ok(())
    }

    fn barrier(&mut self) {
        self.work.commands.push(Command::Barrier);
        self.barriers += 1;
        self.hazards.clear();
    }
}

impl<'a> Request<'a> {
    fn new(
        pipeline: &ComputePipelineStateRef,
        bindings: &'a [(u64, KernelArg<'a>)],
        threadgroup_memory: &[(u64, u64)],
        grid: MTLSize,
        group: MTLSize,
        kind: DispatchKind,
    ) -> Result<Self> {
        let pipeline = pipeline.handle()?;
        let name = pipeline.label();
        let extents = |size: MTLSize| -> Result<[u32; 3]> {
            let all = [size.width, size.height, size.depth];
            match all.map(u32::try_from) {
                [Ok(w), Ok(h), Ok(d)] => Ok([w, h, d]),
                _ => invalid!("{name}: the extents {all:?} exceed 32 bits"),
            }
        };
        let mut memory = SmallVec::new();
        for (index, bytes) in threadgroup_memory {
            match (u32::try_from(*index), u32::try_from(*bytes)) {
                (Ok(index), Ok(bytes)) => memory.push((index, bytes)),
                _ => return invalid!("{name}: threadgroup memory {index} of {bytes} bytes"),
            }
        }
        let (grid, group) = (extents(grid)?, extents(group)?);
        let grid = match kind {
            DispatchKind::Threads => Grid::Threads(grid),
            DispatchKind::ThreadGroups => Grid::Threadgroups(grid),
        };
        Ok(Request {
            pipeline,
            bindings,
            grid,
            group,
            threadgroup_memory: memory,
        })
    }
}

/// Whether two ranges share a byte.
pub(crate) fn overlap(a: MemRange, b: MemRange) -> bool {
    a.0 < b.1 && b.0 < a.1
}

fn whole<'a>(buffers: &[(u64, &'a MlxBuffer)]) -> SmallVec<[(u64, KernelArg<'a>); 8]> {
    buffers.iter().map(|(i, b)| (*i, KernelArg::Buffer(b))).collect()
}

fn buffer_arg(b: &MlxBuffer, offset: usize) -> Arg {
    Arg::Buffer {
        allocation: b.allocation().clone(),
        offset: b.byte_offset() + offset,
        byte_len: b.byte_len() - offset,
    }
}

impl fmt::Debug for CommandEncoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CommandEncoder")
            .field("device", &self.backend.kind())
            .field("dispatches", &self.recorded_dispatches())
            .field("barriers", &self.barriers)
            .field("committed", &self.submission.is_some())
            .finish()
    }
}
