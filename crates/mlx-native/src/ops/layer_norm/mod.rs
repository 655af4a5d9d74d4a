//! Layer normalisation of rows: `output = (x - mean) / sqrt(variance + eps) · weight + bias`.
//!
//! Everything is computed in f32, by two passes over the row, and rounded once, as MLX does it. Weight and bias may be
//! absent.

mod cpu;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod tests;

use bytemuck::{Pod, Zeroable};
use half::{bf16, f16};

use super::{Op, check};
use crate::buffer::MlxBuffer;
use crate::device::MlxDevice;
use crate::encoder::{CapturedOpKind, CommandEncoder, KernelArg, as_bytes};
use crate::error::{Result, invalid};
use crate::registry::KernelRegistry;
use crate::metal::MTLSize;

/// The Metal text of the kernels `layer_norm_f32`, `layer_norm_f16`, `layer_norm_bf16`.
pub static LAYER_NORM_SHADER_SOURCE: &str = include_str!("layer_norm.metal");

pub(crate) static OP: Op = Op {
    name: "layer_norm",
    source: LAYER_NORM_SHADER_SOURCE,
    kernels: &[
        ("layer_norm_f32", cpu::layer_norm::<f32>),
        ("layer_norm_f16", cpu::layer_norm::<f16>),
        ("layer_norm_bf16", cpu::layer_norm::<bf16>),
    ],
};

/// Adds the kernels of this operator to a registry. A new registry has them already.
pub fn register(registry: &mut KernelRegistry) {
    registry.register_op(&OP);
}

/// Sizes of a norm. Also the parameter struct of the kernels: `repr(C)`, 12 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct LayerNormParams {
    /// Rows of `x` and of `output`.
    pub rows: u32,
    /// Elements of a row, of `weight` and of `bias`.
    pub dim: u32,
    /// Added to the variance.
    pub eps: f32,
}

/// Function constants that say whether there is a weight, and a bias.
const HAS_WEIGHT: u32 = 0;
const HAS_BIAS: u32 = 1;

/// Records `output[row] = (x[row] - mean) / sqrt(variance + eps) · weight + bias` for each of `rows` rows of `dim`
/// elements.
///
/// `x` and `output` are `[rows, dim]`, `weight` and `bias` are `[dim]` (none = ones, zeros), all of them f32, f16 or bf16,
/// the same. `output` may be `x` itself.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a zero size, a `dim` beyond
/// 2^31, an `eps` that is negative or not finite, a buffer that is too small, an `output` that overlaps `x` without being
/// it or overlaps `weight` or `bias`, or dtypes that are mixed or not floating-point.
#[allow(clippy::too_many_arguments)]
pub fn layer_norm(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    x: &MlxBuffer,
    weight: Option<&MlxBuffer>,
    bias: Option<&MlxBuffer>,
    output: &MlxBuffer,
    params: &LayerNormParams,
) -> Result<()> {
    const OP: &str = "layer_norm";
    let LayerNormParams { rows, dim, eps } = *params;
    check::nonzero(OP, &[("rows", rows), ("dim", dim)])?;
    check::row_length(OP, "dim", dim)?;
    if !eps.is_finite() || eps < 0.0 {
        return invalid!("{OP}: eps is {eps}, it must be finite and not negative");
    }
    let len = check::product(OP, "x", &[rows, dim])?;
    let dtype = check::same_float(
        OP,
        &[("x", x), ("weight", weight.unwrap_or(x)), ("bias", bias.unwrap_or(x)), ("output", output)],
    )?;
    check::holds(OP, "x", x, len)?;
    for (name, vector) in [("weight", weight), ("bias", bias)] {
        if let Some(vector) = vector {
            check::holds(OP, name, vector, dim as usize)?;
        }
    }
    check::holds(OP, "output", output, len)?;
    let kernel = check::by_float(dtype, ["layer_norm_f32", "layer_norm_f16", "layer_norm_bf16"]);
    let constants = [(HAS_WEIGHT, weight.is_some().into()), (HAS_BIAS, bias.is_some().into())];
    let pipeline = registry.get_pipeline_with_constants(kernel, device, &constants)?;
    encoder.set_op_kind(CapturedOpKind::RmsNorm);
    encoder.try_encode_threadgroups_with_args(
        pipeline,
        &[
            (0, KernelArg::Buffer(x)),
            // Without them, something that is not read.
            (1, weight.map_or(KernelArg::Bytes(&[0; 16]), KernelArg::Buffer)),
            (2, bias.map_or(KernelArg::Bytes(&[0; 16]), KernelArg::Buffer)),
            (3, KernelArg::Buffer(output)),
            (4, KernelArg::Bytes(as_bytes(params))),
        ],
        MTLSize::new(u64::from(rows), 1, 1),
        MTLSize::new(check::row_threads(dim), 1, 1),
    )
}
