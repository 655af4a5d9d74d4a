//! A device with one encoder at a time, recorded or direct.

use std::time::{Duration, Instant};

use super::ComputeGraph;
use crate::device::MlxDevice;
use crate::encoder::CommandEncoder;
use crate::error::Result;

/// Owns a device and opens sessions on it.
#[derive(Debug)]
pub struct GraphExecutor {
    device: MlxDevice,
}

/// One encoder's worth of work. Dropping it without a `finish` runs nothing.
#[derive(Debug)]
pub struct GraphSession<'a> {
    device: &'a MlxDevice,
    encoder: CommandEncoder,
    recording: bool,
}

/// What the optimising finish did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Optimized {
    /// Positions that hold another dispatch than as recorded.
    pub reordered: u32,
    /// Barriers that were left.
    pub barriers: u32,
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
    }

    /// Number of barriers recorded so far for the device.
    #[must_use]
    pub fn barrier_count(&self) -> u32 {
        u32::try_from(self.encoder.recorded_barriers()).unwrap_or(u32::MAX)
    }

    /// Runs the work and waits for it.
    ///
    /// # Errors
    /// What recording a captured dispatch, or the work itself, ended with.
    pub fn finish(mut self) -> Result<()> {
        self.replay_capture()?;
        self.encoder.commit_and_wait()
    }

    /// Starts the work and gives the encoder, to wait on.
    ///
    /// # Errors
    /// What recording a captured dispatch ended with.
    pub fn commit(mut self) -> Result<CommandEncoder> {
        self.replay_capture()?;
        self.encoder.commit()?;
        Ok(self.encoder)
    }

    /// [`finish`](Self::finish), and how long it took from `begin` to the commit, and from there to the end.
    ///
    /// # Errors
    /// As `finish`.
    pub fn finish_with_timing(mut self, begin: Instant) -> Result<(Duration, Duration)> {
        self.replay_capture()?;
        self.encoder.commit()?;
        let committed = Instant::now();
        self.encoder.wait_until_completed()?;
        Ok((committed - begin, committed.elapsed()))
    }

    /// [`finish`](Self::finish) with the captured dispatches reordered first. A direct session is just finished.
    ///
    /// # Errors
    /// As `finish`.
    pub fn finish_optimized(mut self) -> Result<Optimized> {
        let mut done = Optimized::default();
        if let Some(nodes) = self.encoder.take_capture() {
            let mut graph = ComputeGraph::from_nodes(nodes);
            done.reordered = graph.reorder();
            done.barriers = graph.encode_with_barriers(&mut self.encoder)?;
        }
        self.encoder.commit_and_wait()?;
        Ok(done)
    }

    fn replay_capture(&mut self) -> Result<()> {
        if let Some(nodes) = self.encoder.take_capture() {
            ComputeGraph::from_nodes(nodes).encode_sequential(&mut self.encoder)?;
        }
        Ok(())
    }
}
