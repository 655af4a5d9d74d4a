//! The device behind the contract of backends.

use std::fmt;
use std::sync::Arc;

use crate::profile::{CommandBounds, GpuArchitecture};
use super::gpu::{Facts, Gpu};
use super::memory::{Allocator, MetalMemory};
use super::pipeline::{self, Compiler};
use super::queue::Queue;
use crate::backend::host::physical_memory;
use crate::backend::{
    Backend, Completion, DeviceId, HostRegion, Limits, Memory, PipelineBody, QueueId, Work,
};
use crate::config::Config;
use crate::device_kind::DeviceKind;
use crate::error::{MlxError, Result, invalid};
use crate::kernel::{ConstantValue, Kernel};
use crate::profile::DeviceProfile;

/// Lanes of a simdgroup on every Apple GPU; the kernels are written for it.
const SIMD_WIDTH: u32 = 32;
/// The highest share of the recommended working set, in percent, that may be kept resident.
const MAX_RESIDENT_PERCENT: u8 = 75;

/// A GPU.
pub(super) struct MetalBackend<G: Gpu> {
    id: DeviceId,
    queue_id: QueueId,
    name: String,
    architecture: GpuArchitecture,
    limits: Limits,
    fast_math: bool,
    allocator: Allocator<G>,
    compiler: Compiler<G>,
    queue: Queue<G>,
}

impl<G: Gpu> MetalBackend<G> {
    pub fn new(gpu: G, config: &Config) -> Result<Self> {
        let gpu = Arc::new(gpu);
        let facts = gpu.facts();
        let settings = &config.metal;
        check(facts, config)?;
        let architecture = architecture(facts, settings.architecture.as_deref());
        let limits = limits(facts, architecture);
        // Virtual machines may recommend nothing at all.
        let memory_limit = settings
            .memory_limit
            .or(limits.max_working_set)
            .or_else(physical_memory)
            .unwrap_or(usize::MAX);
        let resident = facts.recommended_working_set / 100 * usize::from(settings.resident_percent);
        let cache = settings.archives.then(|| config.cache_dir());
        let bounds = settings.bounds.unwrap_or(CommandBounds::of(architecture.class));
        Ok(MetalBackend {
            id: DeviceId::unique(),
            queue_id: QueueId::unique(),
            name: facts.name.clone(),
            architecture,
            limits,
            fast_math: settings.fast_math,
            allocator: Allocator::new(gpu.clone(), memory_limit, resident, settings.wired),
            compiler: Compiler::new(gpu.clone(), settings.fast_math, cache.as_deref()),
            queue: Queue::new(gpu.clone(), bounds, settings.trace.clone()),
        })
    }
}

fn check(facts: &Facts, config: &Config) -> Result<()> {
    let settings = &config.metal;
    if !facts.unified_memory {
        return Err(MlxError::DeviceUnavailable(format!(
            "metal: {} does not share its memory with the processor, which this library builds on",
            facts.name
        )));
    }
    if settings.resident_percent > MAX_RESIDENT_PERCENT {
        return invalid!(
            "metal: resident_percent is {}, 0 to {MAX_RESIDENT_PERCENT} are possible",
            settings.resident_percent
        );
    }
    if settings.trace.is_some() && !facts.traces {
        return invalid!(
            "metal: this process may not write a trace of the GPU: set METAL_CAPTURE_ENABLED=1 in its environment"
        );
    }
    if let Some(bounds) = settings.bounds {
        let CommandBounds {
            first_dispatches,
            dispatches,
            bytes,
            in_flight,
        } = bounds;
        if first_dispatches == 0 || dispatches == 0 || bytes == 0 || !(1..64).contains(&in_flight) {
            return invalid!("metal: {bounds:?}: none may be 0, and in_flight at most 63");
        }
    }
    Ok(())
}

fn architecture(facts: &Facts, instead: Option<&str>) -> GpuArchitecture {
    let name = instead.unwrap_or(&facts.architecture);
    // What the families promise, not what the name suggests: a paravirtual GPU may have less than the one beneath it.
    GpuArchitecture::from_name(name, facts.apple7, facts.apple7 || facts.metal3)
}

fn limits(facts: &Facts, architecture: GpuArchitecture) -> Limits {
    let u32_of = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Limits {
        max_threads_per_threadgroup: u32_of(facts.max_threads),
        max_threadgroup_memory: u32_of(facts.max_threadgroup_memory),
        max_buffer_len: facts.max_buffer_len,
        max_working_set: Some(facts.recommended_working_set).filter(|n| *n > 0),
        simd_width: SIMD_WIDTH,
        gpu: Some(architecture),
        profile: DeviceProfile::apple(architecture),
    }
}

impl<G: Gpu> fmt::Debug for MetalBackend<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetalBackend")
            .field("name", &self.name)
            .field("architecture", &self.architecture)
            .field("allocated", &self.allocator.budget().used())
            .finish()
    }
}

impl<G: Gpu> Backend for MetalBackend<G> {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Metal
    }

    fn name(&self) -> String {
        self.name.clone()
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
        // All devices of a process are the one GPU; what divides them is how kernels are compiled.
        DeviceKind::Metal as u64 | u64::from(self.fast_math) << 8
    }

    fn accepts(&self, memory: &dyn Memory) -> bool {
        memory.as_any().is::<MetalMemory<G>>()
    }

    fn allocate(&self, byte_len: usize) -> Result<Arc<dyn Memory>> {
        self.allocator.allocate(byte_len)
    }

    fn wrap(&self, region: HostRegion) -> Result<Arc<dyn Memory>> {
        self.allocator.wrap(region)
    }

    fn supports(&self, kernel: &Kernel) -> std::result::Result<(), String> {
        pipeline::supports(kernel, &self.architecture)
    }

    fn compile(&self, kernel: &Kernel, constants: &[(u32, ConstantValue)]) -> Result<Arc<dyn PipelineBody>> {
        Ok(Arc::new(self.compiler.compile(kernel, constants, &self.limits)?))
    }

    fn submit(&self, work: Arc<Work>, done: Completion) {
        self.queue.submit(work, done);
    }
}
