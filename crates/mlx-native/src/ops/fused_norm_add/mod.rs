//! The RMS norm of a row with the addition of a residual, before it or behind it, in one pass:
//! `output = rms(residual + x)·weight·scalar` or `output = (residual + rms(x)·weight)·scalar`.

mod cpu;
mod published;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod tests;

use bytemuck::{Pod, Zeroable};
use half::{bf16, f16};

pub use published::*;

use super::{Op, check};
use crate::buffer::MlxBuffer;
use crate::device::MlxDevice;
use crate::encoder::{CommandEncoder, KernelArg, as_bytes};
use crate::error::{Result, invalid};
use crate::registry::KernelRegistry;
use crate::metal::MTLSize;

/// The Metal text of the kernels `fused_norm_f32`, `fused_norm_f16`, `fused_norm_bf16`.
pub static FUSED_NORM_ADD_SHADER_SOURCE: &str = include_str!("fused_norm.metal");

pub(crate) static OP: Op = Op {
    name: "fused_norm_add",
    source: FUSED_NORM_ADD_SHADER_SOURCE,
    kernels: &[
        ("fused_norm_f32", cpu::fused_norm::<f32>),
        ("fused_norm_f16", cpu::fused_norm::<f16>),
        ("fused_norm_bf16", cpu::fused_norm::<bf16>),
    ],
};

/// Adds the kernels of this operator to a registry. A new registry has them already.
pub fn register(registry: &mut KernelRegistry) {
    registry.register_op(&OP);
}

/// Indices of the function constants.
const OF_SUM: u32 = 0;
const HAS_WEIGHT: u32 = 1;
const WRITES_SUM: u32 = 2;
const HAS_SCALAR: u32 = 3;

/// Where the residual is added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Residual {
    /// Before: the sum is normalised.
    Before,
    /// Behind: it is added to what was normalised.
    Behind,
}

/// Sizes of a fused norm.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FusedNormParams {
    /// Rows of the operands.
    pub rows: u32,
    /// Elements of a row, and of the weight.
    pub dim: u32,
    /// Added to the mean of the squares.
    pub eps: f32,
    /// Where the residual is added.
    pub residual: Residual,
}

/// The operands of a fused norm besides the two that are added; all of one dtype.
#[derive(Debug, Clone, Copy)]
pub struct FusedNormOperands<'a> {
    /// `[dim]`; none = ones.
    pub weight: Option<&'a MlxBuffer>,
    /// A factor of the result: one element for all, or `[dim]`; none = 1.
    pub scalar: Option<&'a MlxBuffer>,
    /// Whether `scalar` is `[dim]`.
    pub scalar_is_vector: bool,
    /// `[rows, dim]`: the result.
    pub output: &'a MlxBuffer,
    /// `[rows, dim]`: where `residual + x` goes, if anybody wants it. Only with [`Residual::Before`].
    pub sum: Option<&'a MlxBuffer>,
}

/// The kernels' parameter struct.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct KernelParams {
    rows: u32,
    dim: u32,
    eps: f32,
    scalar_is_vector: u32,
}

/// Records `output = rms(residual + x)·weight·scalar` ([`Residual::Before`], `sum = residual + x`) or
/// `output = (residual + rms(x)·weight)·scalar` ([`Residual::Behind`]), row by row, with
/// `rms(v) = v / √(mean(v²) + eps)`.
///
/// `residual` and `x` are `[rows, dim]`; all operands are f32, f16 or bf16, and the same. Everything is computed in f32 and
/// rounded once; the norm is that of the sum before it is rounded. `output` or `sum` may be `residual` or `x` itself.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a zero size, a `dim` beyond
/// 2^31, an `eps` that is negative or not finite, a buffer that is too small, a `sum` that is asked for where none is made,
/// buffers that overlap in another way, or dtypes that are mixed or not floating-point.
pub fn fused_norm(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    residual: &MlxBuffer,
    x: &MlxBuffer,
    operands: &FusedNormOperands<'_>,
    params: &FusedNormParams,
) -> Result<()> {
    check_arguments(residual, x, operands, params)?;
    let FusedNormOperands { weight, scalar, output, sum, .. } = *operands;
    let FusedNormParams { rows, dim, eps, .. } = *params;
    let kernel = check::by_float(x.dtype(), ["fused_norm_f32", "fused_norm_f16", "fused_norm_bf16"]);
    let constants = [
        (OF_SUM, (params.residual == Residual::Before).into()),
        (HAS_WEIGHT, weight.is_some().into()),
        (WRITES_SUM, sum.is_some().into()),
        (HAS_SCALAR, scalar.is_some().into()),
    ];
    let pipeline = registry.get_pipeline_with_constants(kernel, device, &constants)?;
    let kernel_params = KernelParams { rows, dim, eps, scalar_is_vector: operands.scalar_is_vector.into() };
    let mut bindings = vec![
        (0, KernelArg::Buffer(residual)),
        (1, KernelArg::Buffer(x)),
        (3, KernelArg::Buffer(output)),
        (6, KernelArg::Bytes(as_bytes(&kernel_params))),
    ];
    let optional = [(2, weight), (4, sum), (5, scalar)];
    bindings.extend(optional.into_iter().filter_map(|(i, b)| Some((i, KernelArg::Buffer(b?)))));
    encoder.try_encode_threadgroups_with_args(
        pipeline,
        &bindings,
        MTLSize::new(u64::from(rows), 1, 1),
        MTLSize::new(check::row_threads(dim), 1, 1),
    )
}

fn check_arguments(
    residual: &MlxBuffer,
    x: &MlxBuffer,
    operands: &FusedNormOperands<'_>,
    params: &FusedNormParams,
) -> Result<()> {
    const OP: &str = "fused_norm";
    let FusedNormOperands { weight, scalar, scalar_is_vector, output, sum } = *operands;
    let FusedNormParams { rows, dim, eps, .. } = *params;
    check::nonzero(OP, &[("rows", rows), ("dim", dim)])?;
    check::row_length(OP, "dim", dim)?;
    if !eps.is_finite() || eps < 0.0 {
        return invalid!("{OP}: eps is {eps}, it must be finite and not negative");
    }
    if sum.is_some() && params.residual == Residual::Behind {
        return invalid!("{OP}: sum: there is none where the residual is added behind the norm");
    }
    let len = check::product(OP, "x", &[rows, dim])?;
    let scalars = if scalar_is_vector { dim as usize } else { 1 };
    let mut all = vec![("x", x, len), ("residual", residual, len), ("output", output, len)];
    all.extend(sum.map(|b| ("sum", b, len)));
    all.extend(weight.map(|b| ("weight", b, dim as usize)));
    all.extend(scalar.map(|b| ("scalar", b, scalars)));
    check::same_float(OP, &all.iter().map(|(name, b, _)| (*name, *b)).collect::<Vec<_>>())?;
    for &(name, buffer, len) in &all {
        check::holds(OP, name, buffer, len)?;
    }
    Ok(())
}
