//! The Walsh-Hadamard transform of rows: `output[row] = H·x[row]·scale`, in natural order. With `scale = 1/√dim` it is
//! orthogonal and its own inverse.

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

/// The Metal text of the kernels `hadamard_f32`, `hadamard_f16`, `hadamard_bf16`.
pub static HADAMARD_SHADER_SOURCE: &str = include_str!("hadamard.metal");

pub(crate) static OP: Op = Op {
    name: "hadamard",
    source: HADAMARD_SHADER_SOURCE,
    kernels: &[
        ("hadamard_f32", cpu::hadamard::<f32>),
        ("hadamard_f16", cpu::hadamard::<f16>),
        ("hadamard_bf16", cpu::hadamard::<bf16>),
    ],
};

/// Adds the kernels of this operator to a registry. A new registry has them already.
pub fn register(registry: &mut KernelRegistry) {
    registry.register_op(&OP);
}

/// Extents of a transform. Also the parameter struct of the kernels: `repr(C)`, 12 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct HadamardParams {
    /// Number of rows.
    pub rows: u32,
    /// Elements of a row: a power of two, up to [`MAX_DIM`].
    pub dim: u32,
    /// What the result is multiplied by, at the end; `1/√dim` makes the transform orthogonal.
    pub scale: f32,
}

/// The longest row: one in f32 fills a threadgroup's memory.
pub const MAX_DIM: u32 = 8192;

impl HadamardParams {
    /// The orthogonal transform.
    #[must_use]
    pub fn orthogonal(rows: u32, dim: u32) -> Self {
        HadamardParams { rows, dim, scale: 1.0 / (dim as f32).sqrt() }
    }
}

/// Records `output[row] = H·x[row]·scale` for each of `rows` rows.
///
/// `x` and `output` are f32, f16 or bf16 `[rows, dim]`, both the same; everything is computed in f32 and rounded once.
/// `output` may be `x` itself.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a zero size, a `dim` that is no
/// power of two or beyond [`MAX_DIM`], a buffer that is too small, an `output` that overlaps `x` without being it, or dtypes
/// that differ or are not floating-point.
pub fn hadamard(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    x: &MlxBuffer,
    output: &MlxBuffer,
    params: &HadamardParams,
) -> Result<()> {
    const OP: &str = "hadamard";
    let HadamardParams { rows, dim, .. } = *params;
    check::nonzero(OP, &[("rows", rows), ("dim", dim)])?;
    if !dim.is_power_of_two() || dim > MAX_DIM {
        return invalid!("{OP}: dim is {dim}, it must be a power of two up to {MAX_DIM}");
    }
    let len = check::product(OP, "x", &[rows, dim])?;
    let dtype = check::same_float(OP, &[("x", x), ("output", output)])?;
    check::holds(OP, "x", x, len)?;
    check::holds(OP, "output", output, len)?;
    let kernel = check::by_float(dtype, ["hadamard_f32", "hadamard_f16", "hadamard_bf16"]);
    let pipeline = registry.get_pipeline(kernel, device)?;
    encoder.try_encode_threadgroups_with_args_and_shared(
        pipeline,
        &[
            (0, KernelArg::Buffer(x)),
            (1, KernelArg::Buffer(output)),
            (2, KernelArg::Bytes(as_bytes(params))),
        ],
        &[(0, (u64::from(dim) * 4).next_multiple_of(16))],
        MTLSize::new(u64::from(rows), 1, 1),
        MTLSize::new(u64::from(dim / 2).next_multiple_of(32).clamp(32, 512), 1, 1),
    )
}
