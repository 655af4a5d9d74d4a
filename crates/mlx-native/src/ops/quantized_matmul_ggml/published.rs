//! The published 0.1 module `quantized_matmul_ggml`: adapts [`decoded_matmul`](crate::ops::decoded_matmul::decoded_matmul).

use crate::buffer::MlxBuffer;
use crate::device::MlxDevice;
use crate::dtype::DType;
use crate::encoder::CommandEncoder;
use crate::error::{Result, invalid};
use crate::registry::KernelRegistry;
use crate::ops::decoded_matmul::{Coded, DecodedMatmulParams, decoded_matmul};
use crate::ops::published::{nonzero, operand, product};

pub use crate::quant::GgmlType;

/// Sizes of [`quantized_matmul_ggml`].
#[derive(Debug, Clone, Copy)]
pub struct GgmlQuantizedMatmulParams {
    /// Rows of the input.
    pub m: u32,
    /// Rows of the weight.
    pub n: u32,
    /// Columns of both.
    pub k: u32,
    /// How the weight is stored: Q4_0, Q8_0 or Q6_K, the three of 0.1, or Q4_K.
    pub ggml_type: GgmlType,
}

/// Records `output[r, c] = Σₖ w[c, k] · input[r, k]`: `input` f32 `[m, k]`, `weight` blocks `[n, k]`, `output` f32 `[m, n]`.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for another type, a zero size, a `k` that
/// is no whole number of blocks, buffers of too few bytes, or an `output` that overlaps another operand.
pub fn quantized_matmul_ggml(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    input: &MlxBuffer,
    weight: &MlxBuffer,
    output: &mut MlxBuffer,
    params: &GgmlQuantizedMatmulParams,
) -> Result<()> {
    const OP: &str = "quantized_matmul_ggml";
    let GgmlQuantizedMatmulParams { m, n, k, ggml_type } = *params;
    check_type(OP, ggml_type)?;
    let (rows, columns, depth) = (m as usize, n as usize, k as usize);
    nonzero(OP, &[("m", rows), ("n", columns), ("k", depth)])?;
    let row_bytes = row_bytes(OP, ggml_type, k)?;
    let blocks = operand(OP, "weight", weight, DType::U8, product(OP, "weight", &[columns, row_bytes])?)?;
    let x = operand(OP, "input", input, DType::F32, product(OP, "input", &[rows, depth])?)?;
    let output = operand(OP, "output", output, DType::F32, product(OP, "output", &[rows, columns])?)?;
    let params = DecodedMatmulParams { m, n, k, rows_per_x: 1, n_matrices: 1 };
    let weight = Coded::Blocks { ggml_type, blocks: &blocks, stride: None };
    decoded_matmul(encoder, registry, device, &x, weight, None, &output, &params)
}

pub(crate) fn check_type(op: &str, ggml_type: GgmlType) -> Result<()> {
    match ggml_type {
        GgmlType::Q4_0 | GgmlType::Q8_0 | GgmlType::Q4_K | GgmlType::Q6_K => Ok(()),
        other => invalid!("{op}: ggml_type is {other}, possible: Q4_0, Q8_0, Q4_K, Q6_K"),
    }
}

/// Bytes of a row of `k` values.
pub(crate) fn row_bytes(op: &str, ggml_type: GgmlType, k: u32) -> Result<usize> {
    let values = ggml_type.block_values();
    if k % values != 0 {
        return invalid!("{op}: k {k} is not divisible by the {values} values of a block of {ggml_type}");
    }
    product(op, "a row of the weight", &[(k / values) as usize, ggml_type.block_bytes() as usize])
}
