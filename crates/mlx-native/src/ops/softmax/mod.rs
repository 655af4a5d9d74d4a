//! Softmax of each row: `output[r, c] = exp(x[r, c]) / Σ exp(x[r, ..])`, the row's maximum subtracted first.

mod cpu;
mod published;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod tests;

use bytemuck::{Pod, Zeroable};

pub use published::*;

use super::{Op, check};
use crate::buffer::MlxBuffer;
use crate::device::MlxDevice;
use crate::encoder::{CapturedOpKind, CommandEncoder, KernelArg, as_bytes};
use crate::error::Result;
use crate::registry::KernelRegistry;
use crate::metal::MTLSize;

/// The Metal text of the kernels `softmax_f32`, `softmax_f16`, `softmax_bf16`.
pub static SOFTMAX_SHADER_SOURCE: &str = include_str!("softmax.metal");

pub(crate) static OP: Op = Op {
    name: "softmax",
    source: SOFTMAX_SHADER_SOURCE,
    kernels: &[
        ("softmax_f32", cpu::softmax::<f32>),
        ("softmax_f16", cpu::softmax::<half::f16>),
        ("softmax_bf16", cpu::softmax::<half::bf16>),
    ],
};

/// Adds the kernels of this operator to a registry. A new registry has them already.
pub fn register(registry: &mut KernelRegistry) {
    registry.register_op(&OP);
}

/// Extents of a softmax. Also the parameter struct of the kernels: `repr(C)`, 8 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct SoftmaxParams {
    /// Number of rows.
    pub rows: u32,
    /// Length of a row, up to 2^31.
    pub cols: u32,
}

/// Records the softmax of each row of `x[rows, cols]`.
///
/// `x` and `output` are f32, f16 or bf16, both the same; everything is computed in f32 and rounded once (MLX's `precise`).
/// `output` may be `x` itself. A row that holds NaN or +infinity becomes NaN; a row of nothing but -infinity, a fully
/// masked one, becomes zeros, where MLX gives NaN.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a zero size, more than 2^31
/// columns, a buffer that is too small, an `output` that overlaps `x` in part, or dtypes that are mixed or not
/// floating-point.
pub fn softmax(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    x: &MlxBuffer,
    output: &MlxBuffer,
    params: &SoftmaxParams,
) -> Result<()> {
    let SoftmaxParams { rows, cols } = *params;
    check::nonzero("softmax", &[("rows", rows), ("cols", cols)])?;
    check::row_length("softmax", "cols", cols)?;
    let len = check::product("softmax", "x", &[rows, cols])?;
    let dtype = check::same_float("softmax", &[("x", x), ("output", output)])?;
    check::holds("softmax", "x", x, len)?;
    check::holds("softmax", "output", output, len)?;
    let kernel = check::by_float(dtype, ["softmax_f32", "softmax_f16", "softmax_bf16"]);
    let pipeline = registry.get_pipeline(kernel, device)?;
    encoder.set_op_kind(CapturedOpKind::Softmax);
    encoder.try_encode_threadgroups_with_args(
        pipeline,
        &[
            (0, KernelArg::Buffer(x)),
            (1, KernelArg::Buffer(output)),
            (2, KernelArg::Bytes(as_bytes(params))),
        ],
        MTLSize::new(u64::from(rows), 1, 1),
        MTLSize::new(check::row_threads(cols), 1, 1),
    )
}
