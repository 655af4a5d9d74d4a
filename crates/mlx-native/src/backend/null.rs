//! A device that records and runs nothing: host cost stays measurable, and the contract has a smallest example.

use std::any::Any;
use std::sync::Arc;

use super::host::{HostMemory, physical_memory};
use super::{Backend, Completion, DeviceId, HostRegion, Limits, Memory, PipelineBody, QueueId, Timing, Work};
use crate::device_kind::DeviceKind;
use crate::error::Result;
use crate::kernel::{ConstantValue, Kernel};
use crate::profile::DeviceProfile;

#[derive(Debug)]
pub(crate) struct NullBackend {
    id: DeviceId,
    queue: QueueId,
    limits: Limits,
}

struct Nothing;

impl PipelineBody for Nothing {
    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl NullBackend {
    pub(crate) fn new() -> Self {
        NullBackend {
            id: DeviceId::unique(),
            queue: QueueId::unique(),
            limits: Limits {
                max_threads_per_threadgroup: 1024,
                max_threadgroup_memory: 32 * 1024,
                max_buffer_len: physical_memory().unwrap_or(usize::MAX),
                max_working_set: physical_memory(),
                simd_width: 32,
                gpu: None,
                profile: DeviceProfile::gpu(),
            },
        }
    }
}

impl Backend for NullBackend {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Null
    }
    fn name(&self) -> String {
        "null (records, runs nothing)".to_owned()
    }
    fn limits(&self) -> &Limits {
        &self.limits
    }
    fn id(&self) -> DeviceId {
        self.id
    }
    fn queue(&self) -> QueueId {
        self.queue
    }
    fn pipeline_domain(&self) -> u64 {
        DeviceKind::Null as u64
    }
    fn accepts(&self, _memory: &dyn Memory) -> bool {
        true
    }
    fn allocate(&self, byte_len: usize) -> Result<Arc<dyn Memory>> {
        HostMemory::allocate(byte_len, self.limits.max_buffer_len)
    }
    fn wrap(&self, region: HostRegion) -> Result<Arc<dyn Memory>> {
        Ok(HostMemory::wrap(region))
    }
    fn supports(&self, _kernel: &Kernel) -> std::result::Result<(), String> {
        Ok(())
    }
    fn compile(
        &self,
        _kernel: &Kernel,
        _constants: &[(u32, ConstantValue)],
    ) -> Result<Arc<dyn PipelineBody>> {
        Ok(Arc::new(Nothing))
    }
    fn submit(&self, _work: Arc<Work>, done: Completion) {
        done.finish(Ok(()), Timing::default());
    }
}
