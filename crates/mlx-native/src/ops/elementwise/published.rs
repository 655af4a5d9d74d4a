//! The published 0.1 module `elementwise`: adapts [`add`](crate::ops::add::add), [`mul`], [`scale`] and
//! [`copy`](crate::ops::copy::copy).

use super::{MulParams, ScaleParams, mul, scale};
use crate::buffer::MlxBuffer;
use crate::device::DeviceRef;
use crate::dtype::DType;
use crate::encoder::CommandEncoder;
use crate::error::Result;
use crate::registry::KernelRegistry;
use crate::ops::add::{AddParams, add};
use crate::ops::copy::{CopyParams, copy};
use crate::ops::published::{float, handle, nonzero, operand, operand_at, product, u32_of};

/// Which cast [`cast`] makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CastDirection {
    /// f16 to f32, exact.
    F16ToF32,
    /// f32 to f16, to nearest even; too large becomes infinite.
    F32ToF16,
    /// bf16 to f32, exact.
    BF16ToF32,
    /// f32 to bf16, to nearest even.
    F32ToBF16,
}

/// Records `output[i] = a[i] + b[i]` for `n_elements` elements of `dtype`: f32, f16 or bf16, whatever the buffers' own
/// labels say. `output` may be `a`.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for no elements or more than
/// `u32::MAX`, a buffer of too few bytes, another dtype, or an `output` that overlaps an operand without being it.
pub fn elementwise_add(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &DeviceRef,
    a: &MlxBuffer,
    b: &MlxBuffer,
    output: &MlxBuffer,
    n_elements: usize,
    dtype: DType,
) -> Result<()> {
    const OP: &str = "elementwise_add";
    let (n, [a, b, output]) = three(OP, [("a", a), ("b", b), ("output", output)], n_elements, dtype)?;
    let params = AddParams { n_elements: n, b_elements: n };
    add(encoder, registry, &handle(device), &a, &b, &output, &params)
}

/// Records `output[i] = a[i] · b[i]` for `n_elements` elements of `dtype`: f32, f16 or bf16, whatever the buffers' own
/// labels say. `output` may be `a` or `b`.
///
/// # Errors
/// As [`elementwise_add`].
pub fn elementwise_mul(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &DeviceRef,
    a: &MlxBuffer,
    b: &MlxBuffer,
    output: &MlxBuffer,
    n_elements: usize,
    dtype: DType,
) -> Result<()> {
    const OP: &str = "elementwise_mul";
    let (n, [a, b, output]) = three(OP, [("a", a), ("b", b), ("output", output)], n_elements, dtype)?;
    let params = MulParams { n_elements: n, b_elements: n };
    mul(encoder, registry, &handle(device), &a, &b, &output, &params)
}

fn three(
    op: &str,
    buffers: [(&str, &MlxBuffer); 3],
    n_elements: usize,
    dtype: DType,
) -> Result<(u32, [MlxBuffer; 3])> {
    nonzero(op, &[("n_elements", n_elements)])?;
    let n = u32_of(op, "n_elements", n_elements)?;
    let [a, b, c] = buffers.map(|(name, buffer)| operand(op, name, buffer, dtype, n_elements));
    let views = [a?, b?, c?];
    float(op, dtype)?;
    Ok((n, views))
}

/// Records `output[i] = input[i] · scalar` in bf16, computed in f32.
///
/// # Errors
/// As [`scalar_mul_f32`].
pub fn scalar_mul_bf16(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &DeviceRef,
    input: &MlxBuffer,
    output: &MlxBuffer,
    n_elements: usize,
    scalar: f32,
) -> Result<()> {
    scalar_mul(encoder, registry, device, input, output, n_elements, scalar, DType::BF16)
}

/// Records `output[i] = input[i] · scalar` in f32.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for no elements or more than
/// `u32::MAX`, a buffer of too few bytes, or an `output` that overlaps `input` without being it.
pub fn scalar_mul_f32(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &DeviceRef,
    input: &MlxBuffer,
    output: &MlxBuffer,
    n_elements: usize,
    scalar: f32,
) -> Result<()> {
    scalar_mul(encoder, registry, device, input, output, n_elements, scalar, DType::F32)
}

/// [`scalar_mul_bf16`] with the number of elements in 32 bits.
///
/// # Errors
/// As [`scalar_mul_f32`].
pub fn dispatch_scalar_mul_bf16_with_encoder(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &DeviceRef,
    input: &MlxBuffer,
    output: &MlxBuffer,
    n_elements: u32,
    scalar: f32,
) -> Result<()> {
    scalar_mul_bf16(encoder, registry, device, input, output, n_elements as usize, scalar)
}

fn scalar_mul(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &DeviceRef,
    input: &MlxBuffer,
    output: &MlxBuffer,
    n_elements: usize,
    scalar: f32,
    dtype: DType,
) -> Result<()> {
    let op = if dtype == DType::F32 { "scalar_mul_f32" } else { "scalar_mul_bf16" };
    nonzero(op, &[("n_elements", n_elements)])?;
    let params = ScaleParams { n_elements: u32_of(op, "n_elements", n_elements)?, scalar };
    let input = operand(op, "input", input, dtype, n_elements)?;
    let output = operand(op, "output", output, dtype, n_elements)?;
    scale(encoder, registry, &handle(device), &input, &output, &params)
}

/// Records `output[i] = embed_table[token_id · hidden_size + i] · scale` in f32: one row of a table of f32.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a `hidden_size` of 0, a
/// `token_id` whose row lies beyond the table, or an `output` of too few bytes.
pub fn embedding_gather_scale_f32(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &DeviceRef,
    embed_table: &MlxBuffer,
    output: &MlxBuffer,
    token_id: u32,
    hidden_size: usize,
    scale: f32,
) -> Result<()> {
    const OP: &str = "embedding_gather_scale_f32";
    nonzero(OP, &[("hidden_size", hidden_size)])?;
    let n_elements = u32_of(OP, "hidden_size", hidden_size)?;
    let start = product(OP, "the rows before token_id", &[token_id as usize, hidden_size, 4])?;
    let row = operand_at(OP, "embed_table, at the row of token_id,", embed_table, start, DType::F32, hidden_size)?;
    let output = operand(OP, "output", output, DType::F32, hidden_size)?;
    let params = ScaleParams { n_elements, scalar: scale };
    super::scale(encoder, registry, &handle(device), &row, &output, &params)
}

/// Records a cast of `n_elements` elements; to nearest even, too large for f16 becomes infinite.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for no elements or more than
/// `u32::MAX`, a buffer of too few bytes, or buffers that overlap.
pub fn cast(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &DeviceRef,
    input: &MlxBuffer,
    output: &MlxBuffer,
    n_elements: usize,
    direction: CastDirection,
) -> Result<()> {
    const OP: &str = "cast";
    let (from, to) = match direction {
        CastDirection::F16ToF32 => (DType::F16, DType::F32),
        CastDirection::F32ToF16 => (DType::F32, DType::F16),
        CastDirection::BF16ToF32 => (DType::BF16, DType::F32),
        CastDirection::F32ToBF16 => (DType::F32, DType::BF16),
    };
    nonzero(OP, &[("n_elements", n_elements)])?;
    let params = CopyParams { n_elements: u32_of(OP, "n_elements", n_elements)? };
    let input = operand(OP, "input", input, from, n_elements)?;
    let output = operand(OP, "output", output, to, n_elements)?;
    copy(encoder, registry, &handle(device), &input, &output, &params)
}

/// [`cast`] from f32 to bf16.
///
/// # Errors
/// As [`cast`].
pub fn dispatch_cast_f32_to_bf16_with_encoder(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &DeviceRef,
    input: &MlxBuffer,
    output: &MlxBuffer,
    n_elements: u32,
) -> Result<()> {
    cast(encoder, registry, device, input, output, n_elements as usize, CastDirection::F32ToBF16)
}

/// [`cast`] from bf16 to f32.
///
/// # Errors
/// As [`cast`].
pub fn dispatch_cast_bf16_to_f32_with_encoder(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &DeviceRef,
    input: &MlxBuffer,
    output: &MlxBuffer,
    n_elements: u32,
) -> Result<()> {
    cast(encoder, registry, device, input, output, n_elements as usize, CastDirection::BF16ToF32)
}
