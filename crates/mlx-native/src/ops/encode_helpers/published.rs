//! The published 0.1 module `encode_helpers`: the encoder's methods as functions.

use crate::encoder::CommandEncoder;
use crate::kernel::ComputePipelineStateRef;
use crate::metal::MTLSize;

pub use crate::encoder::{KernelArg, as_bytes};

/// [`CommandEncoder::encode_with_args`].
pub fn encode_with_args(
    encoder: &mut CommandEncoder,
    pipeline: &ComputePipelineStateRef,
    bindings: &[(u64, KernelArg<'_>)],
    grid_size: MTLSize,
    threadgroup_size: MTLSize,
) {
    encoder.encode_with_args(pipeline, bindings, grid_size, threadgroup_size);
}

/// [`CommandEncoder::encode_threadgroups_with_args`].
pub fn encode_threadgroups_with_args(
    encoder: &mut CommandEncoder,
    pipeline: &ComputePipelineStateRef,
    bindings: &[(u64, KernelArg<'_>)],
    threadgroups: MTLSize,
    threadgroup_size: MTLSize,
) {
    encoder.encode_threadgroups_with_args(pipeline, bindings, threadgroups, threadgroup_size);
}

/// [`CommandEncoder::encode_threadgroups_with_args_and_shared`].
pub fn encode_threadgroups_with_args_and_shared(
    encoder: &mut CommandEncoder,
    pipeline: &ComputePipelineStateRef,
    bindings: &[(u64, KernelArg<'_>)],
    threadgroup_mem: &[(u64, u64)],
    threadgroups: MTLSize,
    threadgroup_size: MTLSize,
) {
    encoder.encode_threadgroups_with_args_and_shared(
        pipeline,
        bindings,
        threadgroup_mem,
        threadgroups,
        threadgroup_size,
    );
}
