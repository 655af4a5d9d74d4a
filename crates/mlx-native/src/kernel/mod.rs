//! What a kernel is: a name, a binding layout and a launch shape, declared once by its Metal signature.
//!
//! - [`msl`] reads signatures out of Metal Shading Language text.
//! - [`Kernel`] is a name with its text, its signature, and the bodies that devices bring besides the text.
//! - [`ComputePipelineState`] is a kernel made ready by one device, with its function constants baked in.
//!
//! Nothing here knows a device. [`KernelRegistry`](crate::KernelRegistry), above, maps names to kernels.

mod constant;
mod definition;
mod headers;
pub mod msl;
mod pipeline;
mod source;

pub use constant::{ConstantValue, Constants};
pub use definition::{Bodies, Kernel};
pub use pipeline::{ComputePipelineState, ComputePipelineStateRef, PipelineBody};
pub(crate) use source::SourceText;
