//! Root-mean-square normalisation of rows: `output = x / sqrt(mean(x²) + eps) · weight`.
//!
//! As MLX does it: the row is normalised in f32, the result rounded to the dtype, and *then* multiplied by the weight in
//! the dtype, which rounds again. A norm of each head is the same with `rows = tokens · heads`, `dim = head_dim`.

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

/// The Metal text of the kernels `rms_norm_*` (a threadgroup for each row) and `rms_norm_rows_*` (a simdgroup for each),
/// in f32, f16 and bf16.
pub static RMS_NORM_SHADER_SOURCE: &str = include_str!("rms_norm.metal");

pub(crate) static OP: Op = Op {
    name: "rms_norm",
    source: RMS_NORM_SHADER_SOURCE,
    kernels: &[
        ("rms_norm_f32", cpu::rms_norm::<f32>),
        ("rms_norm_f16", cpu::rms_norm::<f16>),
        ("rms_norm_bf16", cpu::rms_norm::<bf16>),
        ("rms_norm_rows_f32", cpu::rms_norm::<f32>),
        ("rms_norm_rows_f16", cpu::rms_norm::<f16>),
        ("rms_norm_rows_bf16", cpu::rms_norm::<bf16>),
    ],
};

/// Adds the kernels of this operator to a registry. A new registry has them already.
pub fn register(registry: &mut KernelRegistry) {
    registry.register_op(&OP);
}

/// Sizes of a norm. Also the parameter struct of the kernels: `repr(C)`, 12 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct RmsNormParams {
    /// Rows of `x` and of `output`.
    pub rows: u32,
    /// Elements of a row, and of `weight`.
    pub dim: u32,
    /// Added to the mean of the squares.
    pub eps: f32,
}

/// Index of the function constant that says whether there is a weight.
const HAS_WEIGHT: u32 = 0;
/// Rows up to this length are normalised by one simdgroup each.
const SHORT_ROW: u32 = 256;
/// Rows that one threadgroup of the kernel for short rows normalises.
const ROWS_PER_GROUP: u32 = 8;

/// Records `output[row] = x[row] / sqrt(mean(x[row]²) + eps) · weight` for each of `rows` rows of `dim` elements.
///
/// `x` and `output` are `[rows, dim]`, `weight` is `[dim]` (none = ones), all of them f32, f16 or bf16, and the same. The
/// sum of squares is accumulated in f32; the normalised value is rounded to the dtype, and rounded again after the
/// product with the weight. `output` may be `x` itself.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a zero size, a `dim` beyond 2^31, an `eps` that is
/// negative or not finite, a buffer that is too small, an `output` that overlaps `x` without being it or overlaps
/// `weight`, or dtypes that are mixed or not floating-point.
pub fn rms_norm(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    x: &MlxBuffer,
    weight: Option<&MlxBuffer>,
    output: &MlxBuffer,
    params: &RmsNormParams,
) -> Result<()> {
    let RmsNormParams { rows, dim, .. } = *params;
    check_arguments(x, weight, output, params)?;
    let is_short = dim <= SHORT_ROW;
    let kernel = if is_short {
        check::by_float(x.dtype(), ["rms_norm_rows_f32", "rms_norm_rows_f16", "rms_norm_rows_bf16"])
    } else {
        check::by_float(x.dtype(), ["rms_norm_f32", "rms_norm_f16", "rms_norm_bf16"])
    };
    let pipeline =
        registry.get_pipeline_with_constants(kernel, device, &[(HAS_WEIGHT, weight.is_some().into())])?;
    let (groups, threads) = if is_short {
        (rows.div_ceil(ROWS_PER_GROUP), u64::from(ROWS_PER_GROUP * 32))
    } else {
        (rows, check::row_threads(dim))
    };
    encoder.set_op_kind(CapturedOpKind::RmsNorm);
    encoder.encode_threadgroups_with_args(
        pipeline,
        &[
            (0, KernelArg::Buffer(x)),
            // Something that is not read.
            (1, weight.map_or(KernelArg::Bytes(&[0; 16]), KernelArg::Buffer)),
            (2, KernelArg::Buffer(output)),
            (3, KernelArg::Bytes(as_bytes(params))),
        ],
        MTLSize::new(u64::from(groups), 1, 1),
        MTLSize::new(threads, 1, 1),
    )
}

fn check_arguments(
    x: &MlxBuffer,
    weight: Option<&MlxBuffer>,
    output: &MlxBuffer,
    params: &RmsNormParams,
) -> Result<()> {
    const OP: &str = "rms_norm";
    let RmsNormParams { rows, dim, eps } = *params;
    check::nonzero(OP, &[("rows", rows), ("dim", dim)])?;
    check::row_length(OP, "dim", dim)?;
    if !eps.is_finite() || eps < 0.0 {
        return invalid!("{OP}: eps is {eps}, it must be finite and not negative");
    }
    let len = check::product(OP, "x", &[rows, dim])?;
    check::same_float(OP, &[("x", x), ("weight", weight.unwrap_or(x)), ("output", output)])?;
    check::holds(OP, "x", x, len)?;
    if let Some(weight) = weight {
        check::holds(OP, "weight", weight, dim as usize)?;
    }
    check::holds(OP, "output", output, len)
}
