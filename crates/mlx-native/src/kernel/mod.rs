//! What a kernel is: a name, a binding layout and a launch shape, declared once by its Metal signature.
//!
//! - [`msl`] reads signatures out of Metal Shading Language text.
//! - [`KernelRegistry`] maps names to texts and caches what a device made of them.
//! - [`ComputePipelineState`] is a kernel made ready by one device, with its function constants baked in.

mod headers;
pub mod msl;
mod registry;
mod source;

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, Weak};

use smallvec::SmallVec;

pub use registry::KernelRegistry;
pub(crate) use source::SourceText;

use crate::backend::PipelineBody;
use crate::backend::cpu::CpuBody;
use crate::error::{MlxError, Result};
use msl::{Access, KernelSignature};

/// The value of one function constant, `constant T name [[function_constant(index)]]` in the kernel's text.
///
/// Floating-point constants are kept by their bits, so that a set of constants can key a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ConstantValue {
    /// `bool`
    Bool(bool),
    /// `uint`
    U32(u32),
    /// `int`
    I32(i32),
    /// `float`, as its bits
    F32Bits(u32),
}

impl From<bool> for ConstantValue {
    fn from(v: bool) -> Self {
        ConstantValue::Bool(v)
    }
}
impl From<u32> for ConstantValue {
    fn from(v: u32) -> Self {
        ConstantValue::U32(v)
    }
}
impl From<i32> for ConstantValue {
    fn from(v: i32) -> Self {
        ConstantValue::I32(v)
    }
}
impl From<f32> for ConstantValue {
    fn from(v: f32) -> Self {
        ConstantValue::F32Bits(v.to_bits())
    }
}

/// Function constants of one specialisation: `(index, value)`.
pub type Constants = SmallVec<[(u32, ConstantValue); 6]>;

/// Everything a device needs to make a pipeline of a kernel.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// Name: the host name in the Metal text.
    pub name: Arc<str>,
    /// The text it is defined in, includes flattened.
    pub source: Arc<SourceText>,
    /// Its signature, one of `source.module()`.
    pub signature: Arc<KernelSignature>,
    /// The body for the `cpu` device, for kernels of this library.
    pub cpu: Option<CpuBody>,
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
    max_threads: u32,
    domain: u64,
}

impl ComputePipelineState {
    pub(crate) fn new(
        kernel: Kernel,
        constants: Constants,
        body: Arc<dyn PipelineBody>,
        max_threads: u32,
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
        let max_threads = kernel
            .signature
            .max_threads
            .map_or(max_threads, |m| m.min(max_threads));
        ComputePipelineState(Arc::new_cyclic(|this| ComputePipelineStateRef {
            this: this.clone(),
            kernel,
            constants,
            declared,
            required,
            written,
            body,
            max_threads,
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
        self.max_threads
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
