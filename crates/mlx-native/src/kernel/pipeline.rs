//! A kernel made ready by a device.

use std::any::Any;
use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, Weak};

use super::constant::{ConstantValue, Constants};
use super::definition::Kernel;
use super::msl::Access;
use crate::error::{MlxError, Result};

/// What a backend made of a kernel.
pub trait PipelineBody: Send + Sync + 'static {
    /// For the backend to find its own type again.
    fn as_any(&self) -> &dyn Any;
    /// The most threads of a threadgroup that this pipeline can run with, where the device says so.
    fn max_threads(&self) -> Option<u32> {
        None
    }
    /// The most threads of a threadgroup that a list may be recorded with. A device that compiles while lists are recorded
    /// answers at once, and refuses what is too many when the list is submitted.
    fn accepted_threads(&self) -> Option<u32> {
        self.max_threads()
    }
}

/// A kernel made ready to run by one device.
#[derive(Clone)]
pub struct ComputePipelineState(Arc<ComputePipelineStateRef>);

/// What a [`ComputePipelineState`] points to.
pub struct ComputePipelineStateRef {
    /// What owns it.
    this: Weak<ComputePipelineStateRef>,
    kernel: Kernel,
    constants: Constants,
    /// Bit `i` is set when argument `i` is declared; when it must be bound; when the kernel may write it.
    declared: u64,
    required: u64,
    written: u64,
    body: Arc<dyn PipelineBody>,
    /// What a list may be recorded with, and what the kernel and the device allow at most.
    accepted_threads: u32,
    limit: u32,
    domain: u64,
}

impl ComputePipelineState {
    pub(crate) fn new(
        kernel: Kernel,
        constants: Constants,
        body: Arc<dyn PipelineBody>,
        limit: u32,
        domain: u64,
    ) -> Self {
        let (mut declared, mut required, mut written) = (0u64, 0u64, 0u64);
        for binding in &kernel.signature.bindings {
            declared |= 1 << (binding.index & 63);
            if !binding.optional {
                required |= 1 << (binding.index & 63);
            }
            if binding.access == Access::ReadWrite {
                written |= 1 << (binding.index & 63);
            }
        }
        let limit = kernel.signature.max_threads.map_or(limit, |m| m.min(limit));
        let accepted_threads = body.accepted_threads().map_or(limit, |m| m.min(limit));
        ComputePipelineState(Arc::new_cyclic(|this| ComputePipelineStateRef {
            this: this.clone(),
            kernel,
            constants,
            declared,
            required,
            written,
            body,
            accepted_threads,
            limit,
            domain,
        }))
    }
}

impl ComputePipelineStateRef {
    /// A handle of this pipeline.
    pub(crate) fn handle(&self) -> Result<ComputePipelineState> {
        // Whoever has a reference got it from a handle.
        self.this
            .upgrade()
            .map(ComputePipelineState)
            .ok_or_else(|| MlxError::KernelNotFound(self.label().to_owned()))
    }

    /// The kernel's name.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.kernel.name
    }

    /// The kernel this was made of.
    #[must_use]
    pub fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// The function constants baked in.
    #[must_use]
    pub fn constants(&self) -> &[(u32, ConstantValue)] {
        &self.constants
    }

    /// What the backend made of the kernel.
    #[must_use]
    pub fn body(&self) -> &dyn PipelineBody {
        &*self.body
    }

    /// The most threads that one threadgroup of this pipeline may have.
    #[must_use]
    pub fn max_total_threads_per_threadgroup(&self) -> u32 {
        self.body.max_threads().map_or(self.limit, |m| m.min(self.limit))
    }

    /// The most threads that a threadgroup may be recorded with; see [`PipelineBody::accepted_threads`].
    pub(crate) fn accepted_threads(&self) -> u32 {
        self.accepted_threads
    }

    /// Whether nothing but `pipelines` pipelines holds the kernel's text: no registry can ask for it any more.
    pub(crate) fn is_forgotten(&self, pipelines: usize) -> bool {
        Arc::strong_count(&self.kernel.source) <= pipelines
    }

    /// Pipelines of one domain run on every device of that domain.
    pub(crate) fn domain(&self) -> u64 {
        self.domain
    }

    /// Bit mask of the declared argument indices.
    pub(crate) fn declared(&self) -> u64 {
        self.declared
    }

    /// Bit mask of the arguments that must be bound: all but those that a function constant may leave out.
    pub(crate) fn required(&self) -> u64 {
        self.required
    }

    /// Bit mask of the arguments the kernel may write.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }
}

impl Deref for ComputePipelineState {
    type Target = ComputePipelineStateRef;
    fn deref(&self) -> &ComputePipelineStateRef {
        &self.0
    }
}

impl fmt::Debug for ComputePipelineState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ComputePipelineState")
            .field("name", &self.kernel.name)
            .field("constants", &self.constants)
            .finish()
    }
}
