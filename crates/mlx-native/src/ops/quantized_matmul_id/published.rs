//! The published 0.1 module `quantized_matmul_id`: adapts [`decoded_matmul`](crate::ops::decoded_matmul::decoded_matmul).

use crate::buffer::MlxBuffer;
use crate::device::MlxDevice;
use crate::dtype::DType;
use crate::encoder::CommandEncoder;
use crate::error::{Result, invalid};
use crate::registry::KernelRegistry;
use crate::ops::decoded_matmul::{Coded, DecodedMatmulParams, decoded_matmul};
use crate::ops::published::{nonzero, operand, product, u32_of};
use crate::ops::quantized_matmul::QuantizedMatmulParams;

/// Sizes of [`quantized_matmul_id`].
#[derive(Debug, Clone, Copy)]
pub struct QuantizedMatmulIdParams {
    /// Rows of the input.
    pub m: u32,
    /// Columns of the input and of the weight.
    pub k: u32,
    /// Rows of an expert's weight.
    pub n: u32,
    /// Codes that share a scale.
    pub group_size: u32,
    /// 4, 6 or 8.
    pub bits: u32,
    /// Experts of a row of the input.
    pub n_expert_used: u32,
    /// Experts in the stack.
    pub num_experts: u32,
}

/// Records `y[r, u, c] = Σₖ w[ids[r, u]][c, k] · x[r, k]` into a new f32 buffer `[m, n_expert_used, n]`, which is returned: `input`
/// f32 `[m, k]`, weight, scales and biases as in [`quantized_matmul`](crate::ops::quantized_matmul::quantized_matmul), one
/// expert's behind the other's, `ids` u32 `[m, n_expert_used]`. Input and weight are rounded to bf16. A row whose id is no expert
/// is zeros.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for `bits` other than 4, 6 and 8, a zero
/// size, or buffers of too few bytes; what the device says to the allocation.
pub fn quantized_matmul_id(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    input: &MlxBuffer,
    weight: &MlxBuffer,
    scales: &MlxBuffer,
    biases: &MlxBuffer,
    ids: &MlxBuffer,
    params: &QuantizedMatmulIdParams,
) -> Result<MlxBuffer> {
    const OP: &str = "quantized_matmul_id";
    let QuantizedMatmulIdParams { m, k, n, group_size, bits, n_expert_used, num_experts } = *params;
    if !matches!(bits, 4 | 6 | 8) {
        return invalid!("{OP}: bits is {bits}, possible: 4, 6, 8");
    }
    let sizes = [
        ("m", m),
        ("k", k),
        ("n", n),
        ("group_size", group_size),
        ("n_expert_used", n_expert_used),
        ("num_experts", num_experts),
    ];
    nonzero(OP, &sizes.map(|(name, size)| (name, size as usize)))?;
    let single = QuantizedMatmulParams { m, k, n, group_size, bits };
    let (codes_len, groups) = single.weight_sizes(OP, num_experts as usize)?;
    let x = operand(OP, "input", input, DType::F32, product(OP, "input", &[m as usize, k as usize])?)?;
    let codes = operand(OP, "weight", weight, DType::U8, codes_len)?;
    let scales = operand(OP, "scales", scales, DType::BF16, groups)?;
    let biases = operand(OP, "biases", biases, DType::BF16, groups)?;
    let rows = product(OP, "ids", &[m as usize, n_expert_used as usize])?;
    let ids = operand(OP, "ids", ids, DType::U32, rows)?;
    let out_rows = u32_of(OP, "m · n_expert_used", rows)?;
    product(OP, "output", &[rows, n as usize, 4])?;
    let output = device.alloc_tensor(DType::F32, &[m as usize, n_expert_used as usize, n as usize])?;
    let weight = Coded::Affine {
        bits,
        group_size,
        codes: &codes,
        scales: &scales,
        biases: &biases,
        rounds_weight: true,
    };
    let params =
        DecodedMatmulParams { m: out_rows, n, k, rows_per_x: n_expert_used, n_matrices: num_experts };
    decoded_matmul(encoder, registry, device, &x, weight, Some(&ids), &output, &params)?;
    Ok(output)
}
