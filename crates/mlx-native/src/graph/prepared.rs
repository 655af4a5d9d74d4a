//! A graph made ready to run again and again.

use std::fmt;
use std::sync::Arc;

use super::ComputeGraph;
use crate::backend::{Allocation, Backend, Submission, Timing, Use, Work, begin};
use crate::device::MlxDevice;
use crate::error::Result;

/// A graph that was checked, whose barriers are in place, and whose list the device keeps: a replay hands the list over
/// again. Only what can change between replays is looked at: bytes that the host holds, and work of other queues.
///
/// Everything that is bound is bound for good: buffers, sizes, inline bytes. What differs from one replay to the next lies
/// in buffers that kernels read, such as positions and ids.
///
/// ```
/// use mlx_native::{ComputeGraph, DType, MlxDevice, Recorder, ops::add::{AddParams, add}};
/// let device = MlxDevice::new()?;
/// let (mut x, y) = (device.alloc_tensor(DType::F32, &[2])?, device.alloc_tensor(DType::F32, &[2])?);
/// x.write(0, &[1.0f32, 2.0])?;
/// let mut recorder = Recorder::new(&device)?;
/// let step = recorder.capture(|encoder, registry, device| {
///     let params = AddParams { n_elements: 2, b_elements: 2 };
///     add(encoder, registry, device, &x, &x, &y, &params)?;
///     add(encoder, registry, device, &y, &y, &x, &params)
/// })?;
/// for _ in 0..3 {
///     step.replay()?.wait()?;
/// }
/// assert_eq!(x.read::<f32>()?, [64.0, 128.0]);
/// # Ok::<(), mlx_native::MlxError>(())
/// ```
pub struct PreparedGraph {
    backend: Arc<dyn Backend>,
    work: Arc<Work>,
    /// What the list uses, each allocation's uses merged.
    uses: Vec<Used>,
    dispatches: usize,
    barriers: usize,
}

/// Bytes of an allocation that are used.
struct Used {
    allocation: Arc<Allocation>,
    range: std::ops::Range<usize>,
    writes: bool,
}

/// A replay on its way.
#[derive(Debug)]
pub struct Replay(Arc<Submission>);

impl ComputeGraph {
    /// Checks the graph against `device` and makes it ready for replays. Explicit barriers are left out: barriers stand
    /// where hazards ask for them.
    ///
    /// # Errors
    /// As [`CommandEncoder::encode_with_args`](crate::CommandEncoder::encode_with_args).
    pub fn prepare(&self, device: &MlxDevice) -> Result<PreparedGraph> {
        let mut encoder = device.command_encoder()?;
        self.encode(&mut encoder)?;
        let (dispatches, barriers) = (encoder.recorded_dispatches(), encoder.recorded_barriers());
        let (backend, mut work) = encoder.into_work()?;
        work.repeats = true;
        Ok(PreparedGraph {
            uses: merged(&work),
            backend,
            work: Arc::new(work),
            dispatches,
            barriers,
        })
    }
}

impl PreparedGraph {
    /// Hands the list to the device and returns at once.
    ///
    /// # Errors
    /// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument) when the host holds bytes that the work uses, naming
    /// the buffer.
    pub fn replay(&self) -> Result<Replay> {
        let uses = self.uses.iter().map(|u| Use {
            allocation: &u.allocation,
            range: u.range.clone(),
            writes: u.writes,
        });
        let (submission, done) = begin(self.backend.queue(), uses)?;
        if self.work.commands.is_empty() {
            done.finish(Ok(()), Timing::default());
        } else {
            self.backend.submit(self.work.clone(), done);
        }
        Ok(Replay(submission))
    }

    /// Dispatches of a replay.
    #[must_use]
    pub fn dispatch_count(&self) -> usize {
        self.dispatches
    }

    /// Barriers of a replay.
    #[must_use]
    pub fn barrier_count(&self) -> usize {
        self.barriers
    }
}

impl fmt::Debug for PreparedGraph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PreparedGraph")
            .field("dispatches", &self.dispatches)
            .field("barriers", &self.barriers)
            .finish()
    }
}

impl Replay {
    /// Blocks until the work has ended.
    ///
    /// # Errors
    /// [`MlxError::CommandBufferError`](crate::MlxError::CommandBufferError) or
    /// [`MlxError::WorkFailed`](crate::MlxError::WorkFailed), when it failed.
    pub fn wait(&self) -> Result<()> {
        self.0.wait()
    }

    /// Whether the work has ended, well or not.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.0.is_done()
    }

    /// How long the device was busy, once the work has ended.
    #[must_use]
    pub fn timing(&self) -> Option<Timing> {
        self.0.timing()
    }
}

/// The uses of a list, without those of memory that nobody writes: for each allocation the ranges read and the ranges
/// written, neighbours and overlaps joined.
fn merged(work: &Work) -> Vec<Used> {
    let mut all: Vec<Used> = work
        .uses()
        .filter(|u| u.allocation.writable() && !u.range.is_empty())
        .map(|u| Used {
            allocation: u.allocation.clone(),
            range: u.range,
            writes: u.writes,
        })
        .collect();
    all.sort_by_key(|u| (u.allocation.base(), u.writes, u.range.start));
    all.dedup_by(|next, last| {
        let joins = Arc::ptr_eq(&next.allocation, &last.allocation)
            && next.writes == last.writes
            && next.range.start <= last.range.end;
        if joins {
            last.range.end = last.range.end.max(next.range.end);
        }
        joins
    });
    all
}
