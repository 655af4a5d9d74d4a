//! The published 0.1 methods of the encoder that return no error: the first one is held, and reported by the next commit, or by
//! the wait for one.

use std::sync::{Mutex, PoisonError};

use super::{CommandEncoder, DispatchKind, KernelArg, RecordedBinding, whole};
use crate::buffer::MlxBuffer;
use crate::error::{MlxError, Result};
use crate::kernel::ComputePipelineStateRef;
use crate::metal::{CommandBuffer, MTLSize};

/// The first error of methods that return none.
#[derive(Debug, Default)]
pub(super) struct Held(Mutex<Option<MlxError>>);

impl Held {
    /// Keeps an error, unless there is one already.
    pub(super) fn keep(&self, result: Result<()>) {
        if let Err(error) = result {
            self.0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .get_or_insert(error);
        }
    }

    pub(super) fn get(&self) -> Option<MlxError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn take(&mut self) -> Option<MlxError> {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner).take()
    }
}

static COMMAND_BUFFER: CommandBuffer = CommandBuffer::new();

impl CommandEncoder {
    /// [`try_encode_with_args`](Self::try_encode_with_args) for whole buffers; an error is held until the commit.
    pub fn encode(
        &mut self,
        pipeline: &ComputePipelineStateRef,
        buffers: &[(u64, &MlxBuffer)],
        grid_size: MTLSize,
        threadgroup_size: MTLSize,
    ) {
        self.encode_with_args(pipeline, &whole(buffers), grid_size, threadgroup_size);
    }

    /// [`try_encode_threadgroups_with_args`](Self::try_encode_threadgroups_with_args) for whole buffers; an error is held until
    /// the commit.
    pub fn encode_threadgroups(
        &mut self,
        pipeline: &ComputePipelineStateRef,
        buffers: &[(u64, &MlxBuffer)],
        threadgroups: MTLSize,
        threadgroup_size: MTLSize,
    ) {
        self.encode_threadgroups_with_args(pipeline, &whole(buffers), threadgroups, threadgroup_size);
    }

    /// [`try_encode_threadgroups_with_args_and_shared`](Self::try_encode_threadgroups_with_args_and_shared) for whole buffers; an
    /// error is held until the commit.
    pub fn encode_threadgroups_with_shared(
        &mut self,
        pipeline: &ComputePipelineStateRef,
        buffers: &[(u64, &MlxBuffer)],
        threadgroup_mem: &[(u64, u64)],
        threadgroups: MTLSize,
        threadgroup_size: MTLSize,
    ) {
        self.encode_threadgroups_with_args_and_shared(
            pipeline,
            &whole(buffers),
            threadgroup_mem,
            threadgroups,
            threadgroup_size,
        );
    }

    /// [`try_encode_with_args`](Self::try_encode_with_args); an error is held until the commit.
    pub fn encode_with_args(
        &mut self,
        pipeline: &ComputePipelineStateRef,
        bindings: &[(u64, KernelArg<'_>)],
        grid_size: MTLSize,
        threadgroup_size: MTLSize,
    ) {
        let result = self.try_encode_with_args(pipeline, bindings, grid_size, threadgroup_size);
        self.held.keep(result);
    }

    /// [`try_encode_threadgroups_with_args`](Self::try_encode_threadgroups_with_args); an error is held until the commit.
    pub fn encode_threadgroups_with_args(
        &mut self,
        pipeline: &ComputePipelineStateRef,
        bindings: &[(u64, KernelArg<'_>)],
        threadgroups: MTLSize,
        threadgroup_size: MTLSize,
    ) {
        let result =
            self.try_encode_threadgroups_with_args(pipeline, bindings, threadgroups, threadgroup_size);
        self.held.keep(result);
    }

    /// [`try_encode_threadgroups_with_args_and_shared`](Self::try_encode_threadgroups_with_args_and_shared); an error is held
    /// until the commit.
    pub fn encode_threadgroups_with_args_and_shared(
        &mut self,
        pipeline: &ComputePipelineStateRef,
        bindings: &[(u64, KernelArg<'_>)],
        threadgroup_mem: &[(u64, u64)],
        threadgroups: MTLSize,
        threadgroup_size: MTLSize,
    ) {
        let result = self.try_encode_threadgroups_with_args_and_shared(
            pipeline,
            bindings,
            threadgroup_mem,
            threadgroups,
            threadgroup_size,
        );
        self.held.keep(result);
    }

    /// [`try_replay_dispatch`](Self::try_replay_dispatch); an error is held until the commit.
    pub fn replay_dispatch(
        &mut self,
        pipeline: &ComputePipelineStateRef,
        bindings: &[(u64, RecordedBinding)],
        threadgroup_memory: &[(u64, u64)],
        threads_per_grid: MTLSize,
        threads_per_threadgroup: MTLSize,
        dispatch_kind: DispatchKind,
    ) {
        let result = self.try_replay_dispatch(
            pipeline,
            bindings,
            threadgroup_memory,
            threads_per_grid,
            threads_per_threadgroup,
            dispatch_kind,
        );
        self.held.keep(result);
    }

    /// [`try_commit`](Self::try_commit); an error is held, and reported by [`wait_until_completed`](Self::wait_until_completed).
    pub fn commit(&mut self) {
        let result = self.try_commit();
        self.held.keep(result);
    }

    /// Takes a pipeline for [`dispatch_threads`](Self::dispatch_threads), which records nothing.
    pub fn set_pipeline(&mut self, pipeline: &ComputePipelineStateRef) {
        let _ = pipeline;
    }

    /// Takes a buffer for [`dispatch_threads`](Self::dispatch_threads), which records nothing.
    pub fn set_buffer(&self, index: u64, buffer: &MlxBuffer) {
        let _ = (index, buffer);
    }

    /// Records nothing, as in 0.1; there in silence, here the commit reports it. [`encode`](Self::encode) takes the pipeline, the
    /// buffers and the grid in one call.
    pub fn dispatch_threads(&self, grid_size: MTLSize, threadgroup_size: MTLSize) {
        let _ = (grid_size, threadgroup_size);
        self.held.keep(Err(MlxError::InvalidArgument(
            "dispatch_threads records nothing; encode takes the pipeline, the buffers and the grid"
                .to_owned(),
        )));
    }

    /// Stands for the command buffer.
    #[must_use]
    pub fn metal_command_buffer(&self) -> &CommandBuffer {
        &COMMAND_BUFFER
    }

    /// Keeps an error of a step that returns none.
    pub(crate) fn hold(&self, result: Result<()>) {
        self.held.keep(result);
    }
}
