//! Encoder, registry and device in one hand.

use crate::device::MlxDevice;
use crate::encoder::{CommandEncoder, KernelArg};
use crate::error::{Result, invalid};
use crate::graph::{ComputeGraph, PreparedGraph};
use crate::kernel::ComputePipelineState;
use crate::metal::MTLSize;
use crate::registry::KernelRegistry;

/// Threads of a threadgroup, at most, where the caller leaves it to the recorder.
const GROUP: u64 = 256;

/// What recording needs: a device, the kernels, and the list being recorded. After a commit it begins a new list.
///
/// Operators take the three apart ([`parts`](Self::parts)), kernels of one's own go by name
/// ([`dispatch`](Self::dispatch)).
#[derive(Debug)]
pub struct Recorder {
    device: MlxDevice,
    registry: KernelRegistry,
    encoder: CommandEncoder,
}

impl Recorder {
    /// A recorder for `device` that knows the kernels of this library.
    ///
    /// # Errors
    /// As [`MlxDevice::command_encoder`].
    pub fn new(device: &MlxDevice) -> Result<Self> {
        Self::with_registry(device, KernelRegistry::new())
    }

    /// A recorder for `device` that knows the kernels of `registry`.
    ///
    /// # Errors
    /// As [`MlxDevice::command_encoder`].
    pub fn with_registry(device: &MlxDevice, registry: KernelRegistry) -> Result<Self> {
        Ok(Recorder {
            device: device.clone(),
            registry,
            encoder: device.command_encoder()?,
        })
    }

    /// What operators take: `add(encoder, registry, device, …)`.
    pub fn parts(&mut self) -> (&mut CommandEncoder, &mut KernelRegistry, &MlxDevice) {
        (&mut self.encoder, &mut self.registry, &self.device)
    }

    /// The kernels, to register some of one's own.
    pub fn registry_mut(&mut self) -> &mut KernelRegistry {
        &mut self.registry
    }

    /// The list being recorded.
    pub fn encoder_mut(&mut self) -> &mut CommandEncoder {
        &mut self.encoder
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &MlxDevice {
        &self.device
    }

    /// The pipeline of kernel `name`.
    ///
    /// # Errors
    /// As [`KernelRegistry::get_pipeline`].
    pub fn pipeline(&self, name: &str) -> Result<ComputePipelineState> {
        self.registry.pipeline(name, &self.device, &[])
    }

    /// Records kernel `name` over `threads` threads along x, y, z, with `args` for its arguments in ascending order of
    /// index. The recorder chooses the threadgroup: along x, up to 256 threads.
    ///
    /// # Errors
    /// As [`KernelRegistry::get_pipeline`] and [`CommandEncoder::try_encode_with_args`];
    /// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument) when there are more arguments than the kernel has.
    pub fn dispatch(&mut self, name: &str, threads: [u64; 3], args: &[KernelArg<'_>]) -> Result<()> {
        let pipeline = self.pipeline(name)?;
        let declared = &pipeline.kernel().signature.bindings;
        if args.len() > declared.len() {
            return invalid!(
                "{name}: {} arguments, the kernel has {}",
                args.len(),
                declared.len()
            );
        }
        let bindings: Vec<_> = declared
            .iter()
            .zip(args)
            .map(|(declared, arg)| (u64::from(declared.index), *arg))
            .collect();
        let most = u64::from(pipeline.max_total_threads_per_threadgroup()).min(GROUP);
        let [x, y, z] = threads;
        let group = MTLSize::new(x.clamp(1, most), 1, 1);
        self.encoder
            .try_encode_with_args(&pipeline, &bindings, MTLSize::new(x, y, z), group)
    }

    /// Captures what `record` records, and makes it ready for replays. What was recorded before stays recorded.
    ///
    /// # Errors
    /// What `record` gives, and as [`ComputeGraph::prepare`];
    /// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument) when a capture is under way.
    pub fn capture(
        &mut self,
        record: impl FnOnce(&mut CommandEncoder, &mut KernelRegistry, &MlxDevice) -> Result<()>,
    ) -> Result<PreparedGraph> {
        if self.encoder.is_capturing() {
            return invalid!("capture: this recorder is capturing");
        }
        self.encoder.start_capture();
        let result = record(&mut self.encoder, &mut self.registry, &self.device);
        let nodes = self.encoder.take_capture().unwrap_or_default();
        result?;
        ComputeGraph::from_nodes(nodes).prepare(&self.device)
    }

    /// Hands the list to the device and begins a new one. The encoder that was committed is given, to wait on.
    ///
    /// # Errors
    /// As [`CommandEncoder::try_commit`]; the list stays recorded then.
    pub fn commit(&mut self) -> Result<CommandEncoder> {
        let next = self.device.command_encoder()?;
        self.encoder.try_commit()?;
        Ok(std::mem::replace(&mut self.encoder, next))
    }

    /// [`commit`](Self::commit), and waits for the end.
    ///
    /// # Errors
    /// As `commit`, and what the work ended with.
    pub fn commit_and_wait(&mut self) -> Result<()> {
        self.commit()?.wait_until_completed()
    }
}
