//! The published 0.1 module `transpose`: adapts [`copy_strided`](crate::ops::copy::copy_strided).

use crate::buffer::MlxBuffer;
use crate::device::DeviceRef;
use crate::dtype::DType;
use crate::encoder::CommandEncoder;
use crate::error::Result;
use crate::registry::KernelRegistry;
use crate::ops::copy::{StridedParams, copy_strided};
use crate::ops::published::{float, handle, nonzero, operand, product, u32_of};

/// Records the transpose of a matrix: `output[c · rows + r] = input[r · cols + c]`, in f32, f16 (the two of 0.1) or bf16.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a zero size, a size beyond 32
/// bits, another dtype, a buffer of too few bytes, or buffers that overlap.
pub fn transpose_2d(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &DeviceRef,
    input: &MlxBuffer,
    output: &MlxBuffer,
    rows: usize,
    cols: usize,
    dtype: DType,
) -> Result<()> {
    const OP: &str = "transpose_2d";
    nonzero(OP, &[("rows", rows), ("cols", cols)])?;
    float(OP, dtype)?;
    let params = StridedParams::transpose(1, u32_of(OP, "rows", rows)?, u32_of(OP, "cols", cols)?, 1)?;
    let len = product(OP, "input", &[rows, cols])?;
    let x = operand(OP, "input", input, dtype, len)?;
    let output = operand(OP, "output", output, dtype, len)?;
    copy_strided(encoder, registry, &handle(device), &x, &output, &params)
}

/// Records `[dim_a, dim_b, dim_c]` to `[dim_b, dim_a, dim_c]` for elements of 2 bytes. (The name says 021; what 0.1 does is
/// to swap the two outer axes.)
///
/// # Errors
/// As [`transpose_2d`].
pub fn permute_021_bf16(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &DeviceRef,
    input: &MlxBuffer,
    output: &MlxBuffer,
    dim_a: usize,
    dim_b: usize,
    dim_c: usize,
) -> Result<()> {
    const OP: &str = "permute_021_bf16";
    nonzero(OP, &[("dim_a", dim_a), ("dim_b", dim_b), ("dim_c", dim_c)])?;
    let [a, b, c] = [("dim_a", dim_a), ("dim_b", dim_b), ("dim_c", dim_c)].map(|(name, n)| u32_of(OP, name, n));
    let params = StridedParams::transpose(1, a?, b?, c?)?;
    let len = product(OP, "input", &[dim_a, dim_b, dim_c])?;
    let x = operand(OP, "input", input, DType::BF16, len)?;
    let output = operand(OP, "output", output, DType::BF16, len)?;
    copy_strided(encoder, registry, &handle(device), &x, &output, &params)
}
