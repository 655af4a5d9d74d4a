//! The device behind the contract of backends.

use std::fmt;
use std::sync::Arc;

use super::compile::{Compiler, Finder};
use super::driver::{CudaGpu, Driver};
use super::gpu::Gpu;
use super::health::Health;
use super::memory::{Allocator, CudaMemory};
use super::nvrtc::Nvrtc;
use super::nvrtc::TextCompiler;
use super::queue::Queue;
use crate::backend::{
    Backend, Completion, DeviceId, HostRegion, Limits, Memory, PipelineBody, QueueId, Work,
};
use crate::config::Config;
use crate::device_kind::DeviceKind;
use crate::error::{MlxError, Result};
use crate::kernel::{ConstantValue, Kernel};
use crate::profile::{Bandwidth, DeviceProfile};

/// A warp.
const SIMD_WIDTH: u32 = 32;

/// A GPU.
pub(super) struct CudaBackend<G: Gpu> {
    id: DeviceId,
    queue_id: QueueId,
    gpu: Arc<G>,
    limits: Limits,
    allocator: Allocator<G>,
    compiler: Arc<Compiler<G>>,
    queue: Queue<G>,
}

/// Opens the GPU that `config` names.
///
/// # Errors
/// [`MlxError::DeviceUnavailable`] with the reason.
pub(crate) fn open(config: &Config) -> Result<Arc<dyn Backend>> {
    let none = |why: String| MlxError::DeviceUnavailable(format!("cuda: {why}"));
    let driver = Driver::load().map_err(none)?;
    let gpu = CudaGpu::open(&driver, config.cuda.device).map_err(none)?;
    let path = config.cuda.nvrtc.clone();
    let find: Finder = Box::new(move || {
        let nvrtc = Nvrtc::load(path.as_deref()).map_err(|why| {
            format!(
                "NVRTC, the compiler of the CUDA toolkit, cannot be loaded: {why}. `pip install \
                 nvidia-cuda-nvrtc-cu12` is enough; Config::cuda.nvrtc says where it is"
            )
        })?;
        tracing::debug!(path = %nvrtc.path.display(), version = ?nvrtc.version, "cuda: NVRTC loaded");
        Ok(Box::new(nvrtc) as Box<dyn TextCompiler>)
    });
    Ok(Arc::new(CudaBackend::new(gpu, config, find)?))
}

impl<G: Gpu> CudaBackend<G> {
    pub fn new(gpu: G, config: &Config, find: Finder) -> Result<Self> {
        let gpu = Arc::new(gpu);
        let facts = gpu.facts();
        tracing::debug!(
            name = facts.name,
            capability = facts.capability,
            driver = ?facts.driver,
            "cuda: device opened"
        );
        let health = Arc::new(Health::new(format!(
            "cuda device {} ({})",
            facts.ordinal, facts.name
        )));
        let free = gpu.free_memory().unwrap_or(facts.memory);
        let limit = config.cuda.memory_limit.unwrap_or(usize::MAX);
        let limits = Limits {
            max_threads_per_threadgroup: facts.max_threads,
            max_threadgroup_memory: facts.max_shared_memory,
            max_buffer_len: facts.memory,
            max_working_set: Some(limit.min(free)),
            simd_width: SIMD_WIDTH,
            // The cards that these kernels are for have HBM or GDDR of some hundred GB/s and more.
            profile: DeviceProfile::cuda(Bandwidth::High),
            gpu: None,
        };
        let cache = config.cuda.cache.then(|| config.cache_dir());
        let queue = Queue::new(gpu.clone(), health.clone(), limits.clone(), &config.cuda)?;
        Ok(CudaBackend {
            id: DeviceId::unique(),
            queue_id: QueueId::unique(),
            allocator: Allocator::new(gpu.clone(), health, limit),
            compiler: Arc::new(Compiler::new(gpu.clone(), cache.as_deref(), find)),
            queue,
            limits,
            gpu,
        })
    }
}

impl<G: Gpu> Drop for CudaBackend<G> {
    fn drop(&mut self) {
        self.compiler.end();
    }
}

impl<G: Gpu> fmt::Debug for CudaBackend<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CudaBackend")
            .field("gpu", self.gpu.facts())
            .field("allocated", &self.allocator.used())
            .finish()
    }
}

impl<G: Gpu> Backend for CudaBackend<G> {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Cuda
    }

    fn name(&self) -> String {
        self.gpu.facts().name.clone()
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn id(&self) -> DeviceId {
        self.id
    }

    fn queue(&self) -> QueueId {
        self.queue_id
    }

    fn pipeline_domain(&self) -> u64 {
        // A loaded function belongs to one device's context, which all who open the device share.
        DeviceKind::Cuda as u64 | (self.gpu.facts().ordinal as u64) << 8
    }

    fn accepts(&self, memory: &dyn Memory) -> bool {
        let memory = memory.as_any().downcast_ref::<CudaMemory<G>>();
        memory.is_some_and(|m| m.ordinal() == self.gpu.facts().ordinal)
    }

    fn allocate(&self, byte_len: usize) -> Result<Arc<dyn Memory>> {
        self.allocator.allocate(byte_len)
    }

    fn wrap(&self, region: HostRegion) -> Result<Arc<dyn Memory>> {
        self.allocator.wrap(region)
    }

    fn supports(&self, kernel: &Kernel) -> std::result::Result<(), String> {
        kernel.source.flat().map(|_| ())
    }

    fn compile(&self, kernel: &Kernel, constants: &[(u32, ConstantValue)]) -> Result<Arc<dyn PipelineBody>> {
        Ok(Arc::new(self.compiler.compile(
            kernel,
            constants,
            &self.limits,
        )?))
    }

    fn submit(&self, work: Arc<Work>, done: Completion) {
        self.queue.submit(work, done);
    }
}
