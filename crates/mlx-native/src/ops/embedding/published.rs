//! The published 0.1 function of the module `embedding`: adapts [`decoded_rows`](crate::ops::decoded_matmul::decoded_rows).

use crate::buffer::MlxBuffer;
use crate::device::DeviceRef;
use crate::dtype::DType;
use crate::encoder::CommandEncoder;
use crate::error::{Result, invalid};
use crate::registry::KernelRegistry;
use crate::ops::decoded_matmul::{Coded, affine_row_bytes, decoded_rows};
use crate::ops::published::{handle, nonzero, operand, product, u32_of};

/// Sizes of [`embedding_gather`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmbeddingGatherParams {
    /// Elements of a row.
    pub embed_dim: usize,
    /// Codes that share a scale; divides `embed_dim`.
    pub group_size: usize,
    /// 4 or 6, the two of 0.1, or 8.
    pub bits: u8,
    /// Number of ids.
    pub n_tokens: usize,
}

/// Records `output[t, c] = code · scale + bias` for the row `token_ids[t]` of a table of MLX's affine codes, in f32: `scales` and
/// `biases` bf16 `[rows, embed_dim / group_size]`, `token_ids` u32 `[n_tokens]`, `output` f32 `[n_tokens, embed_dim]`.
///
/// The table has as many rows as whole ones fit in all three of its buffers; an id beyond gives a row of zeros.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for `bits` other than 4, 6 and 8, a zero
/// size, a `group_size` that does not divide `embed_dim`, buffers of too few bytes, or an `output` that overlaps another operand.
pub fn embedding_gather(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &DeviceRef,
    weight_packed: &MlxBuffer,
    scales: &MlxBuffer,
    biases: &MlxBuffer,
    token_ids: &MlxBuffer,
    output: &MlxBuffer,
    params: &EmbeddingGatherParams,
) -> Result<()> {
    const OP: &str = "embedding_gather";
    let EmbeddingGatherParams { embed_dim, group_size, bits, n_tokens } = *params;
    if !matches!(bits, 4 | 6 | 8) {
        return invalid!("{OP}: bits is {bits}, possible: 4, 6, 8");
    }
    nonzero(OP, &[("embed_dim", embed_dim), ("group_size", group_size)])?;
    if embed_dim % group_size != 0 {
        return invalid!("{OP}: embed_dim {embed_dim} is not divisible by group_size {group_size}");
    }
    nonzero(OP, &[("n_tokens", n_tokens)])?;
    let k = u32_of(OP, "embed_dim", embed_dim)?;
    let tokens = u32_of(OP, "n_tokens", n_tokens)?;
    let output = operand(OP, "output", output, DType::F32, product(OP, "output", &[n_tokens, embed_dim])?)?;
    let ids = operand(OP, "token_ids", token_ids, DType::U32, n_tokens)?;
    let Some(row_bytes) = affine_row_bytes(u32::from(bits), k) else {
        return invalid!("{OP}: the size of a row of {embed_dim} codes overflows");
    };
    let (row_bytes, groups) = (row_bytes as usize, embed_dim / group_size);
    let fits = |buffer: &MlxBuffer, row: usize| buffer.byte_len() / row;
    let rows = fits(weight_packed, row_bytes).min(fits(scales, 2 * groups)).min(fits(biases, 2 * groups));
    if rows == 0 {
        return invalid!("{OP}: weight_packed, scales or biases hold no whole row of {embed_dim} codes");
    }
    let n_rows = u32::try_from(rows).unwrap_or(u32::MAX);
    let rows = n_rows as usize;
    let codes = operand(OP, "weight_packed", weight_packed, DType::U8, product(OP, "weight_packed", &[rows, row_bytes])?)?;
    let scales = operand(OP, "scales", scales, DType::BF16, product(OP, "scales", &[rows, groups])?)?;
    let biases = operand(OP, "biases", biases, DType::BF16, product(OP, "biases", &[rows, groups])?)?;
    let weight = Coded::Affine {
        bits: u32::from(bits),
        group_size: u32_of(OP, "group_size", group_size)?,
        codes: &codes,
        scales: &scales,
        biases: &biases,
        rounds_weight: false,
    };
    decoded_rows(encoder, registry, &handle(device), &ids, weight, &output, tokens, n_rows, k)
}
