//! The order of each row's elements: `output[r, i]` is the column of the i-th.

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
use crate::dtype::DType;
use crate::encoder::{CommandEncoder, KernelArg, as_bytes};
use crate::error::Result;
use crate::registry::KernelRegistry;
use crate::metal::MTLSize;

/// The Metal text of the kernels `argsort_f32`, `argsort_f16`, `argsort_bf16`.
pub static ARGSORT_SHADER_SOURCE: &str = include_str!("argsort.metal");

pub(crate) static OP: Op = Op {
    name: "argsort",
    source: ARGSORT_SHADER_SOURCE,
    kernels: &[
        ("argsort_f32", cpu::argsort::<f32>),
        ("argsort_f16", cpu::argsort::<f16>),
        ("argsort_bf16", cpu::argsort::<bf16>),
    ],
};

/// Adds the kernels of this operator to a registry. A new registry has them already.
pub fn register(registry: &mut KernelRegistry) {
    registry.register_op(&OP);
}

/// What is sorted, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArgsortParams {
    /// Number of rows.
    pub rows: u32,
    /// Length of a row.
    pub cols: u32,
    /// Whether the greatest comes first.
    pub descending: bool,
    /// Of equals, whether the higher column comes first; otherwise the lower one does, and the order is stable.
    pub later_first: bool,
}

/// The kernels' parameter struct.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct KernelParams {
    rows: u32,
    cols: u32,
    descending: u32,
    later_first: u32,
}

/// Threads of a threadgroup, and elements of a tile: as the kernel has it.
const TILE: u32 = 256;

/// Records `output[r, ..]` = the columns of `x[r, ..]` in ascending or descending order of their elements.
///
/// `x` is f32, f16 or bf16 `[rows, cols]`, `output` u32 of the same extents: each row of it is a permutation, whatever `x`
/// holds. NaN is greater than everything, and all NaN are equal; zeros are equal whatever their signs. On a GPU a row of `n`
/// elements costs `n²` comparisons.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a zero size, more than 2^31
/// columns, a buffer that is too small, another dtype, or an `output` that shares memory with `x`.
pub fn argsort(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    x: &MlxBuffer,
    output: &MlxBuffer,
    params: &ArgsortParams,
) -> Result<()> {
    const OP: &str = "argsort";
    let ArgsortParams { rows, cols, .. } = *params;
    check::nonzero(OP, &[("rows", rows), ("cols", cols)])?;
    check::row_length(OP, "cols", cols)?;
    let len = check::product(OP, "x", &[rows, cols])?;
    let dtype = check::same_float(OP, &[("x", x)])?;
    check::dtype(OP, "output", output, &[DType::U32])?;
    check::holds(OP, "x", x, len)?;
    check::holds(OP, "output", output, len)?;
    check::disjoint(OP, ("output", output), &[("x", x)])?;
    let kernel = check::by_float(dtype, ["argsort_f32", "argsort_f16", "argsort_bf16"]);
    let pipeline = registry.get_pipeline(kernel, device)?;
    let params = KernelParams {
        rows,
        cols,
        descending: params.descending.into(),
        later_first: params.later_first.into(),
    };
    encoder.try_encode_threadgroups_with_args(
        pipeline,
        &[
            (0, KernelArg::Buffer(x)),
            (1, KernelArg::Buffer(output)),
            (2, KernelArg::Bytes(as_bytes(&params))),
        ],
        MTLSize::new(u64::from(cols.div_ceil(TILE)), u64::from(rows), 1),
        MTLSize::new(u64::from(TILE), 1, 1),
    )
}
