//! A device with one encoder at a time, recorded or direct.

use std::time::Instant;

use super::ComputeGraph;
use super::tracker::{ConflictTracker, ranges};
use crate::buffer::MlxBuffer;
use crate::device::{DeviceRef, MlxDevice};
use crate::encoder::CommandEncoder;
use crate::error::Result;
use crate::registry::KernelRegistry;

/// Owns a device and opens sessions on it.
#[derive(Debug)]
pub struct GraphExecutor {
    device: MlxDevice,
}

/// One encoder's worth of work. Dropping it without a `finish` runs nothing.
///
/// The encoder finds hazards itself: [`barrier`](Self::barrier) and [`barrier_between`](Self::barrier_between) are for callers who
/// put barriers by hand, as programs of 0.1 do; what they forget costs nothing.
#[derive(Debug)]
pub struct GraphSession<'a> {
    device: &'a MlxDevice,
    encoder: CommandEncoder,
    recording: bool,
    tracker: ConflictTracker,
    barriers: u32,
    /// Dispatches told of since the last barrier.
    group: usize,
    /// How many groups had 1, 2, … 7, and 8 or more dispatches.
    groups: [u32; 8],
}

impl GraphExecutor {
    /// An executor on `device`.
    #[must_use]
    pub fn new(device: MlxDevice) -> Self {
        GraphExecutor { device }
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &MlxDevice {
        &self.device
    }

    /// A session whose dispatches are recorded for the device as they come.
    ///
    /// # Errors
    /// As [`MlxDevice::command_encoder`].
    pub fn begin(&self) -> Result<GraphSession<'_>> {
        Ok(GraphSession {
            device: &self.device,
            encoder: self.device.command_encoder()?,
            recording: false,
            tracker: ConflictTracker::default(),
            barriers: 0,
            group: 0,
            groups: [0; 8],
        })
    }

    /// A session whose dispatches are captured, and replayed when it is finished.
    ///
    /// # Errors
    /// As [`MlxDevice::command_encoder`].
    pub fn begin_recorded(&self) -> Result<GraphSession<'_>> {
        let mut session = self.begin()?;
        session.encoder.start_capture();
        session.recording = true;
        Ok(session)
    }
}

impl GraphSession<'_> {
    /// The encoder, for any operator.
    pub fn encoder_mut(&mut self) -> &mut CommandEncoder {
        &mut self.encoder
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &MlxDevice {
        self.device
    }

    /// Whether dispatches are captured.
    #[must_use]
    pub fn is_recording(&self) -> bool {
        self.recording
    }

    /// An explicit barrier. Rarely needed: the encoder finds hazards itself.
    pub fn barrier(&mut self) {
        self.encoder.memory_barrier();
        self.close_group();
    }

    /// To be called before a dispatch: a barrier, if what it reads was written, or what it writes was read or written, since the
    /// last one.
    pub fn barrier_between(&mut self, reads: &[&MlxBuffer], writes: &[&MlxBuffer]) {
        let (reads, writes) = (ranges(reads), ranges(writes));
        if self.recording {
            self.encoder
                .set_pending_buffer_ranges(reads.clone(), writes.clone());
        }
        if self.tracker.conflicts(&reads, &writes) {
            self.barrier();
        }
        self.group += 1;
        self.tracker.add(&reads, &writes);
    }

    /// Tells what a dispatch reads and writes, without a barrier.
    pub fn track_dispatch(&mut self, reads: &[&MlxBuffer], writes: &[&MlxBuffer]) {
        self.tracker.add(&ranges(reads), &ranges(writes));
    }

    fn close_group(&mut self) {
        self.tracker.clear();
        self.barriers = self.barriers.saturating_add(1);
        if self.group > 0 {
            self.groups[self.group.min(8) - 1] += 1;
        }
        self.group = 0;
    }

    /// Number of barriers that this session put: by [`barrier`](Self::barrier) and [`barrier_between`](Self::barrier_between).
    #[must_use]
    pub fn barrier_count(&self) -> u32 {
        self.barriers
    }

    /// Always 0: kept for programs of 0.1.
    #[must_use]
    pub fn tracker_overhead_ns(&self) -> u64 {
        0
    }

    /// Logs how many groups of dispatches between barriers had how many members, at level `info`.
    pub fn dump_group_stats(&self) {
        tracing::info!(groups = ?self.groups, open = self.group, barriers = self.barriers, "groups of 1 to 8 and more dispatches");
    }

    /// Runs the work and waits for it.
    ///
    /// # Errors
    /// What recording a captured dispatch, or the work itself, ended with.
    pub fn finish(mut self) -> Result<()> {
        self.replay_capture();
        self.encoder.commit_and_wait()
    }

    /// Starts the work and gives the encoder, to wait on. An error is reported by the wait.
    #[must_use]
    pub fn commit(mut self) -> CommandEncoder {
        self.replay_capture();
        self.encoder.commit();
        self.encoder
    }

    /// [`finish`](Self::finish), and the nanoseconds from `session_begin` to the commit, and from there to the end.
    ///
    /// # Errors
    /// As [`finish`](Self::finish).
    pub fn finish_with_timing(mut self, session_begin: Instant) -> Result<(u64, u64)> {
        self.replay_capture();
        self.timed(session_begin)
    }

    /// [`finish`](Self::finish) with what was captured fused first; returns how many pairs. A direct session is just finished.
    ///
    /// # Errors
    /// As [`finish`](Self::finish), and as [`ComputeGraph::fuse`].
    pub fn finish_with_fusion(mut self, registry: &mut KernelRegistry, device: &DeviceRef) -> Result<u32> {
        let fused = self.replay_fused(registry, device)?;
        self.encoder.commit_and_wait()?;
        Ok(fused)
    }

    /// [`finish_with_fusion`](Self::finish_with_fusion) with the times of [`finish_with_timing`](Self::finish_with_timing) before.
    ///
    /// # Errors
    /// As [`finish_with_fusion`](Self::finish_with_fusion).
    pub fn finish_with_fusion_and_timing(
        mut self,
        registry: &mut KernelRegistry,
        device: &DeviceRef,
        session_begin: Instant,
    ) -> Result<(u64, u64, u32)> {
        let fused = self.replay_fused(registry, device)?;
        let (recorded, ran) = self.timed(session_begin)?;
        Ok((recorded, ran, fused))
    }

    /// [`finish`](Self::finish) with what was captured fused and reordered first; returns the pairs, and the positions that hold
    /// another dispatch than before.
    ///
    /// # Errors
    /// As [`finish_with_fusion`](Self::finish_with_fusion).
    pub fn finish_with_fusion_and_reorder(
        mut self,
        registry: &mut KernelRegistry,
        device: &DeviceRef,
    ) -> Result<(u32, u32)> {
        let done = self.replay_reordered(registry, device)?;
        self.encoder.commit_and_wait()?;
        Ok(done)
    }

    /// [`finish_with_fusion_and_reorder`](Self::finish_with_fusion_and_reorder) with the times of
    /// [`finish_with_timing`](Self::finish_with_timing) before.
    ///
    /// # Errors
    /// As [`finish_with_fusion`](Self::finish_with_fusion).
    pub fn finish_with_fusion_reorder_and_timing(
        mut self,
        registry: &mut KernelRegistry,
        device: &DeviceRef,
        session_begin: Instant,
    ) -> Result<(u64, u64, u32, u32)> {
        let (fused, reordered) = self.replay_reordered(registry, device)?;
        let (recorded, ran) = self.timed(session_begin)?;
        Ok((recorded, ran, fused, reordered))
    }

    /// [`finish_with_fusion_and_reorder`](Self::finish_with_fusion_and_reorder) on two encoders, so that the device starts before
    /// everything is recorded: [`ComputeGraph::encode_dual_buffer`]. Returns pairs, positions, and the barriers of both. The
    /// status of both is looked at.
    ///
    /// # Errors
    /// As [`finish_with_fusion`](Self::finish_with_fusion).
    pub fn finish_optimized(
        self,
        registry: &mut KernelRegistry,
        device: &DeviceRef,
    ) -> Result<(u32, u32, u32, u32)> {
        let (_, _, fused, reordered, barriers0, barriers1) =
            self.finish_optimized_with_timing(registry, device, Instant::now())?;
        Ok((fused, reordered, barriers0, barriers1))
    }

    /// [`finish_optimized`](Self::finish_optimized) with the times of [`finish_with_timing`](Self::finish_with_timing) before.
    /// Nothing is reordered if there is a dispatch of which nothing is known that it reads or writes.
    ///
    /// # Errors
    /// As [`finish_with_fusion`](Self::finish_with_fusion).
    pub fn finish_optimized_with_timing(
        mut self,
        registry: &mut KernelRegistry,
        device: &DeviceRef,
        session_begin: Instant,
    ) -> Result<(u64, u64, u32, u32, u32, u32)> {
        let Some(nodes) = self.encoder.take_capture() else {
            let (recorded, ran) = self.timed(session_begin)?;
            return Ok((recorded, ran, 0, 0, 0, 0));
        };
        let mut graph = ComputeGraph::from_nodes(nodes);
        let fused = graph.fuse(registry, device)?;
        let reordered = if graph.unannotated_dispatch_count() == 0 {
            graph.reorder()
        } else {
            0
        };
        // What the session recorded before its capture began comes first.
        self.encoder.try_commit()?;
        let (mut first, mut second) = (self.device.command_encoder()?, self.device.command_encoder()?);
        let (barriers0, barriers1) = graph.encode_dual_buffer(&mut first, &mut second);
        second.commit();
        let committed = Instant::now();
        self.encoder.wait_until_completed()?;
        first.wait_until_completed()?;
        second.wait_until_completed()?;
        Ok((
            nanoseconds(committed.duration_since(session_begin)),
            nanoseconds(committed.elapsed()),
            fused,
            reordered,
            barriers0,
            barriers1,
        ))
    }

    /// Commits, waits, and gives the nanoseconds from `begin` to the commit, and from there to the end.
    fn timed(&mut self, begin: Instant) -> Result<(u64, u64)> {
        self.encoder.try_commit()?;
        let committed = Instant::now();
        self.encoder.wait_until_completed()?;
        Ok((
            nanoseconds(committed.duration_since(begin)),
            nanoseconds(committed.elapsed()),
        ))
    }

    fn replay_capture(&mut self) {
        if let Some(nodes) = self.encoder.take_capture() {
            ComputeGraph::from_nodes(nodes).encode_sequential(&mut self.encoder);
        }
    }

    fn replay_fused(&mut self, registry: &mut KernelRegistry, device: &DeviceRef) -> Result<u32> {
        let Some(nodes) = self.encoder.take_capture() else {
            return Ok(0);
        };
        let mut graph = ComputeGraph::from_nodes(nodes);
        let fused = graph.fuse(registry, device)?;
        graph.encode_sequential(&mut self.encoder);
        Ok(fused)
    }

    fn replay_reordered(&mut self, registry: &mut KernelRegistry, device: &DeviceRef) -> Result<(u32, u32)> {
        let Some(nodes) = self.encoder.take_capture() else {
            return Ok((0, 0));
        };
        let mut graph = ComputeGraph::from_nodes(nodes);
        let fused = graph.fuse(registry, device)?;
        let reordered = graph.reorder();
        graph.encode_with_barriers(&mut self.encoder);
        Ok((fused, reordered))
    }
}

fn nanoseconds(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
