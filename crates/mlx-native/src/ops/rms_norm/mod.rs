//! Root-mean-square normalisation of rows: `output = x / sqrt(mean(x²) + eps) · weight`.
//!
//! [`rms_norm_with`] has what fewer need: another factor, one rounding, an eps out of a buffer.
//!
//! As MLX does it: the row is normalised in f32, the result rounded to the dtype, and *then* multiplied by the weight in
//! the dtype, which rounds again. A norm of each head is the same with `rows = tokens · heads`, `dim = head_dim`.

mod cpu;
mod published;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod tests;

use bytemuck::{Pod, Zeroable};
use half::{bf16, f16};
use smallvec::{SmallVec, smallvec};

pub use published::*;

use super::{Op, check};
use crate::buffer::MlxBuffer;
use crate::device::MlxDevice;
use crate::dtype::DType;
use crate::encoder::{CapturedOpKind, CommandEncoder, KernelArg, as_bytes};
use crate::error::{Result, invalid};
use crate::registry::KernelRegistry;
use crate::metal::MTLSize;

/// The Metal text of the kernels `rms_norm_*` (a threadgroup for each row) and `rms_norm_rows_*` (a simdgroup for each),
/// in f32, f16 and bf16; `rms_norm_f16_f32` and so on have a weight of f32.
pub static RMS_NORM_SHADER_SOURCE: &str = include_str!("rms_norm.metal");

pub(crate) static OP: Op = Op {
    name: "rms_norm",
    source: RMS_NORM_SHADER_SOURCE,
    kernels: &[
        ("rms_norm_f32", cpu::rms_norm::<f32, f32>),
        ("rms_norm_f16", cpu::rms_norm::<f16, f16>),
        ("rms_norm_bf16", cpu::rms_norm::<bf16, bf16>),
        ("rms_norm_f16_f32", cpu::rms_norm::<f16, f32>),
        ("rms_norm_bf16_f32", cpu::rms_norm::<bf16, f32>),
        ("rms_norm_rows_f32", cpu::rms_norm::<f32, f32>),
        ("rms_norm_rows_f16", cpu::rms_norm::<f16, f16>),
        ("rms_norm_rows_bf16", cpu::rms_norm::<bf16, bf16>),
        ("rms_norm_rows_f16_f32", cpu::rms_norm::<f16, f32>),
        ("rms_norm_rows_bf16_f32", cpu::rms_norm::<bf16, f32>),
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

/// Indices of the function constants; the graph's fusion sets them too.
pub(crate) const HAS_WEIGHT: u32 = 0;
pub(crate) const ROUNDS_ONCE: u32 = 1;
pub(crate) const HAS_FACTOR: u32 = 2;
pub(crate) const HAS_EPS_BUFFER: u32 = 3;
pub(crate) const HAS_NORMED: u32 = 4;
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
    let options = RmsNormOptions { weight, ..RmsNormOptions::default() };
    rms_norm_with(encoder, registry, device, x, &options, output, params)
}

/// What a norm has besides its rows.
#[derive(Debug, Clone, Copy, Default)]
pub struct RmsNormOptions<'a> {
    /// `[dim]`, of the dtype of `x` or f32; none = ones.
    pub weight: Option<&'a MlxBuffer>,
    /// `[rows, dim]`, of the dtype of `x`: another factor, behind the weight; none = ones. `output` may be the same buffer.
    pub factor: Option<&'a MlxBuffer>,
    /// An f32 buffer whose first element counts instead of `params.eps`, read when the work runs.
    pub eps: Option<&'a MlxBuffer>,
    /// `[rows, dim]`, of the dtype of `x`: where the row is kept as it is before `factor`. Only with a factor.
    pub normed: Option<&'a MlxBuffer>,
    /// Whether everything is computed in f32 and rounded once; otherwise the normalised value is rounded, and again after each
    /// product, as MLX does it.
    pub rounds_once: bool,
}

/// [`rms_norm`] with everything that it can do.
///
/// # Errors
/// As [`rms_norm`], for all operands.
pub fn rms_norm_with(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    x: &MlxBuffer,
    options: &RmsNormOptions<'_>,
    output: &MlxBuffer,
    params: &RmsNormParams,
) -> Result<()> {
    let RmsNormParams { rows, dim, .. } = *params;
    check_arguments(x, options, output, params)?;
    let RmsNormOptions { weight, factor, eps, normed, rounds_once } = *options;
    let is_short = dim <= SHORT_ROW;
    let is_mixed = weight.is_some_and(|w| w.dtype() != x.dtype());
    let names = match (is_short, is_mixed) {
        (false, false) => ["rms_norm_f32", "rms_norm_f16", "rms_norm_bf16"],
        (false, true) => ["rms_norm_f32", "rms_norm_f16_f32", "rms_norm_bf16_f32"],
        (true, false) => ["rms_norm_rows_f32", "rms_norm_rows_f16", "rms_norm_rows_bf16"],
        (true, true) => ["rms_norm_rows_f32", "rms_norm_rows_f16_f32", "rms_norm_rows_bf16_f32"],
    };
    let constants = [
        (HAS_WEIGHT, weight.is_some().into()),
        (ROUNDS_ONCE, rounds_once.into()),
        (HAS_FACTOR, factor.is_some().into()),
        (HAS_EPS_BUFFER, eps.is_some().into()),
        (HAS_NORMED, normed.is_some().into()),
    ];
    let pipeline =
        registry.get_pipeline_with_constants(check::by_float(x.dtype(), names), device, &constants)?;
    let (groups, threads) = if is_short {
        (rows.div_ceil(ROWS_PER_GROUP), u64::from(ROWS_PER_GROUP * 32))
    } else {
        (rows, check::row_threads(dim))
    };
    let mut bindings: SmallVec<[(u64, KernelArg<'_>); 7]> = smallvec![
        (0, KernelArg::Buffer(x)),
        // Something that is not read.
        (1, weight.map_or(KernelArg::Bytes(&[0; 16]), KernelArg::Buffer)),
        (2, KernelArg::Buffer(output)),
        (3, KernelArg::Bytes(as_bytes(params))),
    ];
    bindings.extend(eps.map(|b| (4, KernelArg::Buffer(b))));
    bindings.extend(factor.map(|b| (5, KernelArg::Buffer(b))));
    bindings.extend(normed.map(|b| (6, KernelArg::Buffer(b))));
    if weight.is_some() && factor.is_none() {
        encoder.set_op_kind(CapturedOpKind::RmsNorm);
    }
    encoder.try_encode_threadgroups_with_args(
        pipeline,
        &bindings,
        MTLSize::new(u64::from(groups), 1, 1),
        MTLSize::new(threads, 1, 1),
    )
}

fn check_arguments(
    x: &MlxBuffer,
    options: &RmsNormOptions<'_>,
    output: &MlxBuffer,
    params: &RmsNormParams,
) -> Result<()> {
    const OP: &str = "rms_norm";
    let RmsNormParams { rows, dim, eps } = *params;
    check::nonzero(OP, &[("rows", rows), ("dim", dim)])?;
    check::row_length(OP, "dim", dim)?;
    if options.eps.is_none() && (!eps.is_finite() || eps < 0.0) {
        return invalid!("{OP}: eps is {eps}, it must be finite and not negative");
    }
    let len = check::product(OP, "x", &[rows, dim])?;
    let dtype = check::same_float(OP, &[("x", x), ("factor", options.factor.unwrap_or(x)), ("output", output)])?;
    check::holds(OP, "x", x, len)?;
    if let Some(weight) = options.weight {
        check::dtype(OP, "weight", weight, &[dtype, DType::F32])?;
        check::holds(OP, "weight", weight, dim as usize)?;
    }
    if let Some(factor) = options.factor {
        check::holds(OP, "factor", factor, len)?;
        if output.mem_range() != factor.mem_range() {
            check::disjoint(OP, ("output", output), &[("factor", factor)])?;
        }
    }
    if let Some(normed) = options.normed {
        if options.factor.is_none() {
            return invalid!("{OP}: normed: it is what the output is without a factor");
        }
        check::dtype(OP, "normed", normed, &[dtype])?;
        check::holds(OP, "normed", normed, len)?;
    }
    if let Some(eps) = options.eps {
        check::dtype(OP, "eps", eps, &[DType::F32])?;
        check::holds(OP, "eps", eps, 1)?;
        check::disjoint(OP, ("output", output), &[("eps", eps)])?;
    }
    check::holds(OP, "output", output, len)
}
