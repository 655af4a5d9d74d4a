//! The published 0.1 module `fused_residual_norm`: adapts [`fused_norm`](crate::ops::fused_norm_add::fused_norm).

use crate::buffer::MlxBuffer;
use crate::device::DeviceRef;
use crate::dtype::DType;
use crate::encoder::CommandEncoder;
use crate::error::Result;
use crate::registry::KernelRegistry;
use crate::ops::fused_norm_add::{self, FUSED_NORM_ADD_SHADER_SOURCE, Fused, Residual};

/// The Metal text of the kernel behind [`dispatch_fused_residual_norm_bf16`].
pub static FUSED_RESIDUAL_NORM_SHADER_SOURCE: &str = FUSED_NORM_ADD_SHADER_SOURCE;

/// Adds the kernels of this function to a registry. A new registry has them already.
pub fn register(registry: &mut KernelRegistry) {
    fused_norm_add::register(registry);
}

/// Records `normed_output = rms(residual + input)·weight` in bf16, and `sum_output = residual + input` if it is wanted. The
/// norm is that of the sum before it is rounded.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a zero size, shapes of another
/// number of elements, buffers of too few bytes, or buffers that overlap without being the same.
pub fn dispatch_fused_residual_norm_bf16(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &DeviceRef,
    residual: &MlxBuffer,
    input: &MlxBuffer,
    weight: &MlxBuffer,
    normed_output: &MlxBuffer,
    sum_output: Option<&MlxBuffer>,
    rows: u32,
    dim: u32,
    eps: f32,
) -> Result<()> {
    Fused { weight: Some(weight), sum_output, ..Fused::new("fused_residual_norm_bf16", DType::BF16, (residual, Residual::Before), input, ("normed_output", normed_output), (rows, dim, eps)) }
    .record(encoder, registry, device)
}
