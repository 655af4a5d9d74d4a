//! The processor as a device: every machine has it, and its kernels are the readable twins of the Metal text.

mod event;
mod failure;
pub(crate) mod gemm;
mod launch;
pub(crate) mod math;
mod pipeline;
mod pool;
pub(crate) mod prefetch;
mod primitives;
pub(crate) mod simd;
mod transfer;

use std::fmt;
use std::sync::Arc;

pub use crate::element::Element;
pub use crate::isa::{Isa, IsaToken};
pub use launch::{CpuBody, Launch, Output, part_range};
use pipeline::CpuPipeline;
use pool::Pool;

use super::host::{HostMemory, physical_memory};
use super::{Backend, Completion, DeviceId, HostRegion, Limits, Memory, PipelineBody, QueueId, Work};
use crate::config::Config;
use crate::device_kind::DeviceKind;
use crate::error::{MlxError, Result, invalid};
use crate::kernel::{ConstantValue, Kernel};
use crate::profile::DeviceProfile;

const NO_BODY: &str = "there is Metal text for it, but no Rust body; KernelRegistry::register_body takes one";

/// More threads than this are a slip of the pen.
const MAX_THREADS: usize = 1024;

pub(crate) struct CpuBackend {
    id: DeviceId,
    pool: Arc<Pool>,
    isa: IsaToken,
    threads: usize,
    limits: Limits,
}

impl CpuBackend {
    pub(crate) fn new(config: &Config) -> Result<Self> {
        let threads = config
            .threads
            .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get().min(MAX_THREADS)));
        if threads == 0 || threads > MAX_THREADS {
            return invalid!("cpu: {threads} threads, 1 to {MAX_THREADS} are possible");
        }
        let wanted = config.isa.unwrap_or_else(Isa::best);
        let Some(isa) = wanted.token() else {
            return invalid!("cpu: this machine lacks {wanted}, its best is {}", Isa::best());
        };
        let limits = Limits {
            max_threads_per_threadgroup: 1024,
            max_threadgroup_memory: 32 * 1024,
            max_buffer_len: physical_memory().unwrap_or(usize::MAX),
            max_working_set: physical_memory(),
            simd_width: 32,
            gpu: None,
            profile: DeviceProfile::processor(),
        };
        Ok(CpuBackend {
            id: DeviceId::unique(),
            pool: Pool::shared(threads)?,
            isa,
            threads,
            limits,
        })
    }
}

impl fmt::Debug for CpuBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CpuBackend")
            .field("isa", &self.isa)
            .field("threads", &self.threads)
            .finish()
    }
}

impl Backend for CpuBackend {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Cpu
    }

    fn name(&self) -> String {
        format!("cpu ({}, {} threads)", self.isa, self.threads)
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn id(&self) -> DeviceId {
        self.id
    }

    fn queue(&self) -> QueueId {
        self.pool.queue()
    }

    fn pipeline_domain(&self) -> u64 {
        DeviceKind::Cpu as u64
    }

    fn accepts(&self, memory: &dyn Memory) -> bool {
        memory.host_view().is_some()
    }

    fn allocate(&self, byte_len: usize) -> Result<Arc<dyn Memory>> {
        HostMemory::allocate(byte_len, self.limits.max_buffer_len)
    }

    fn wrap(&self, region: HostRegion) -> Result<Arc<dyn Memory>> {
        Ok(HostMemory::wrap(region))
    }

    fn supports(&self, kernel: &Kernel) -> std::result::Result<(), String> {
        match kernel.bodies.get::<CpuBody>() {
            Some(_) => Ok(()),
            None => Err(NO_BODY.to_owned()),
        }
    }

    fn compile(&self, kernel: &Kernel, _constants: &[(u32, ConstantValue)]) -> Result<Arc<dyn PipelineBody>> {
        match kernel.bodies.get::<CpuBody>() {
            Some(body) => Ok(Arc::new(CpuPipeline::new(*body))),
            None => Err(MlxError::Unsupported(format!(
                "kernel {:?} on the cpu: {NO_BODY}",
                kernel.name
            ))),
        }
    }

    fn submit(&self, work: Arc<Work>, done: Completion) {
        self.pool.submit(work, self.isa, done);
    }
}
