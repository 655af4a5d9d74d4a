//! What the CPU makes of a kernel.

use std::any::Any;

use super::launch::CpuBody;
use crate::kernel::{ComputePipelineState, PipelineBody};

/// A CPU pipeline is the body that the kernel already carries.
pub(super) struct CpuPipeline(CpuBody);

impl CpuPipeline {
    pub(super) fn new(body: CpuBody) -> Self {
        CpuPipeline(body)
    }

    /// The body of a pipeline that a CPU device made.
    pub(super) fn body_of(pipeline: &ComputePipelineState) -> Option<CpuBody> {
        pipeline
            .body()
            .as_any()
            .downcast_ref()
            .map(|CpuPipeline(body)| *body)
    }
}

impl PipelineBody for CpuPipeline {
    fn as_any(&self) -> &dyn Any {
        self
    }
}
