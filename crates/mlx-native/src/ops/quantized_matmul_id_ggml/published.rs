//! The published 0.1 module `quantized_matmul_id_ggml`: adapts [`decoded_matmul`](crate::ops::decoded_matmul::decoded_matmul).

use crate::buffer::MlxBuffer;
use crate::device::MlxDevice;
use crate::dtype::DType;
use crate::encoder::CommandEncoder;
use crate::error::{Result, invalid};
use crate::registry::KernelRegistry;
use crate::ops::decoded_matmul::{Coded, DecodedMatmulParams, decoded_matmul};
use crate::ops::published::{nonzero, operand, product, u32_of};
use crate::ops::quantized_matmul_ggml::{GgmlType, check_type, row_bytes};

/// Sizes of [`quantized_matmul_id_ggml`].
#[derive(Debug, Clone, Copy)]
pub struct GgmlQuantizedMatmulIdParams {
    /// Rows of the input.
    pub n_tokens: u32,
    /// Experts of a token.
    pub top_k: u32,
    /// Rows of an expert's weight.
    pub n: u32,
    /// Columns of the input and of the weight.
    pub k: u32,
    /// Experts in the stack.
    pub n_experts: u32,
    /// Bytes from one expert to the next.
    pub expert_stride: u64,
    /// How the weight is stored: Q4_0, Q8_0 or Q6_K, the three of 0.1, or Q4_K.
    pub ggml_type: GgmlType,
}

/// Records `output[r, c] = Σₖ w[ids[r]][c, k] · input[r / top_k, k]` for `n_tokens · top_k` rows `r`: `input` f32
/// `[n_tokens, k]`, `weight` blocks of `n_experts` matrices `[n, k]`, `ids` u32 and `output` f32 `[n_tokens · top_k, n]`. The
/// result is bit for bit that of [`quantized_matmul_ggml`](crate::ops::quantized_matmul_ggml::quantized_matmul_ggml) with the
/// expert's matrix. A row whose id is no expert is zeros.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for another type, a zero size, a `k` that
/// is no whole number of blocks, an `expert_stride` below the bytes of an expert, buffers of too few bytes, or an `output` that
/// overlaps another operand.
pub fn quantized_matmul_id_ggml(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    input: &MlxBuffer,
    weight: &MlxBuffer,
    ids: &MlxBuffer,
    output: &mut MlxBuffer,
    params: &GgmlQuantizedMatmulIdParams,
) -> Result<()> {
    const OP: &str = "quantized_matmul_id_ggml";
    let GgmlQuantizedMatmulIdParams { n_tokens, top_k, n, k, n_experts, expert_stride, ggml_type } = *params;
    let sizes = [("n_tokens", n_tokens), ("top_k", top_k), ("n", n), ("k", k), ("n_experts", n_experts)];
    nonzero(OP, &sizes.map(|(name, size)| (name, size as usize)))?;
    check_type(OP, ggml_type)?;
    let expert_bytes = product(OP, "an expert", &[n as usize, row_bytes(OP, ggml_type, k)?])?;
    if expert_stride < expert_bytes as u64 {
        return invalid!("{OP}: expert_stride {expert_stride} is below the {expert_bytes} bytes of an expert");
    }
    let rows = product(OP, "output", &[n_tokens as usize, top_k as usize])?;
    let before_last = usize::try_from(expert_stride).ok().and_then(|s| s.checked_mul(n_experts as usize - 1));
    let Some(reach) = before_last.and_then(|before| before.checked_add(expert_bytes)) else {
        return invalid!("{OP}: the size of weight, {n_experts} experts {expert_stride} bytes apart, overflows");
    };
    let x = operand(OP, "input", input, DType::F32, product(OP, "input", &[n_tokens as usize, k as usize])?)?;
    let blocks = operand(OP, "weight", weight, DType::U8, reach)?;
    let ids = operand(OP, "ids", ids, DType::U32, rows)?;
    let output = operand(OP, "output", output, DType::F32, product(OP, "output", &[rows, n as usize])?)?;
    let m = u32_of(OP, "n_tokens · top_k", rows)?;
    let params = DecodedMatmulParams { m, n, k, rows_per_x: top_k, n_matrices: n_experts };
    let weight = Coded::Blocks { ggml_type, blocks: &blocks, stride: Some(expert_stride) };
    decoded_matmul(encoder, registry, device, &x, weight, Some(&ids), &output, &params)
}
