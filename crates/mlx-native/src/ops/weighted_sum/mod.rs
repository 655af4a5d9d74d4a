//! The sum of some rows, each times its weight: `output[r] = Σ_j weights[r][j] · x[r][j]`, in f32, rounded once.

mod cpu;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod tests;

use bytemuck::{Pod, Zeroable};
use half::{bf16, f16};

use super::{Op, check};
use crate::buffer::MlxBuffer;
use crate::device::MlxDevice;
use crate::encoder::{CommandEncoder, KernelArg, as_bytes};
use crate::error::Result;
use crate::registry::KernelRegistry;
use crate::metal::MTLSize;

/// The Metal text of the kernels `weighted_sum_f32`, `weighted_sum_f16`, `weighted_sum_bf16`.
pub static WEIGHTED_SUM_SHADER_SOURCE: &str = include_str!("weighted_sum.metal");

pub(crate) static OP: Op = Op {
    name: "weighted_sum",
    source: WEIGHTED_SUM_SHADER_SOURCE,
    kernels: &[
        ("weighted_sum_f32", cpu::weighted_sum::<f32>),
        ("weighted_sum_f16", cpu::weighted_sum::<f16>),
        ("weighted_sum_bf16", cpu::weighted_sum::<bf16>),
    ],
};

/// Adds the kernels of this operator to a registry. A new registry has them already.
pub fn register(registry: &mut KernelRegistry) {
    registry.register_op(&OP);
}

/// Sizes. Also the parameter struct of the kernels: `repr(C)`, 12 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct WeightedSumParams {
    /// Sums.
    pub rows: u32,
    /// Rows of each sum.
    pub terms: u32,
    /// Elements of a row.
    pub dim: u32,
}

/// Records `output[r] = Σ_j weights[r][j] · x[r][j]`.
///
/// `x` is `[rows, terms, dim]`, `weights` `[rows, terms]`, `output` `[rows, dim]`; f32, f16 or bf16, all the same.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a zero size, a buffer that is
/// too small, mixed dtypes, or an `output` that shares memory with an input.
pub fn weighted_sum(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    x: &MlxBuffer,
    weights: &MlxBuffer,
    output: &MlxBuffer,
    params: &WeightedSumParams,
) -> Result<()> {
    const OP: &str = "weighted_sum";
    let WeightedSumParams { rows, terms, dim } = *params;
    check::nonzero(OP, &[("rows", rows), ("terms", terms), ("dim", dim)])?;
    let dtype = check::same_float(OP, &[("x", x), ("weights", weights), ("output", output)])?;
    check::holds(OP, "x", x, check::product(OP, "x", &[rows, terms, dim])?)?;
    check::holds(OP, "weights", weights, check::product(OP, "weights", &[rows, terms])?)?;
    check::holds(OP, "output", output, check::product(OP, "output", &[rows, dim])?)?;
    check::disjoint(OP, ("output", output), &[("x", x), ("weights", weights)])?;
    let kernel = check::by_float(dtype, ["weighted_sum_f32", "weighted_sum_f16", "weighted_sum_bf16"]);
    let pipeline = registry.get_pipeline(kernel, device)?;
    encoder.try_encode_with_args(
        pipeline,
        &[
            (0, KernelArg::Buffer(x)),
            (1, KernelArg::Buffer(weights)),
            (2, KernelArg::Buffer(output)),
            (3, KernelArg::Bytes(as_bytes(params))),
        ],
        MTLSize::new(u64::from(dim), u64::from(rows), 1),
        MTLSize::new(u64::from(dim.min(256)), 1, 1),
    )
}
