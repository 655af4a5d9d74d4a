//! The published 0.1 module `quantized_matmul`: adapts [`linear`](crate::ops::linear::linear) where that computes the same, and
//! [`decoded_matmul`](crate::ops::decoded_matmul::decoded_matmul), which rounds as 0.1 does and takes groups of any length.
//!
//! Weights are MLX's affine codes with scales and biases of bf16. The input is rounded to bf16 first, as in 0.1; the weight is
//! rounded to bf16 too where 0.1 does it, in all functions but those called `simd`.

use crate::buffer::MlxBuffer;
use crate::device::MlxDevice;
use crate::dtype::DType;
use crate::encoder::CommandEncoder;
use crate::error::{MlxError, Result, invalid};
use crate::registry::KernelRegistry;
use crate::ops::decoded_matmul::{Coded, DecodedMatmulParams, affine_row_bytes, decoded_matmul};
use crate::ops::linear::{LinearParams, linear};
use crate::ops::published::{nonzero, operand, operand_at, product};
use crate::quant::{Weight, WeightFormat};

/// Sizes of a product with affine codes.
#[derive(Debug, Clone, Copy)]
pub struct QuantizedMatmulParams {
    /// Rows of the input.
    pub m: u32,
    /// Columns of the input and of the weight.
    pub k: u32,
    /// Rows of the weight.
    pub n: u32,
    /// Codes that share a scale. Any number; a row that is no multiple of it ends in a short group.
    pub group_size: u32,
    /// 4, 6 or 8.
    pub bits: u32,
}

impl QuantizedMatmulParams {
    fn check(&self, op: &str) -> Result<()> {
        if !matches!(self.bits, 4 | 6 | 8) {
            return invalid!("{op}: bits is {}, possible: 4, 6, 8", self.bits);
        }
        let sizes = [("m", self.m), ("k", self.k), ("n", self.n), ("group_size", self.group_size)];
        nonzero(op, &sizes.map(|(name, size)| (name, size as usize)))
    }

    /// Bytes of the codes, and elements of scales and biases, of `stack` matrices.
    pub(crate) fn weight_sizes(&self, op: &str, stack: usize) -> Result<(usize, usize)> {
        let overflow = || MlxError::InvalidArgument(format!("{op}: the size of a row of {} codes overflows", self.k));
        let row_bytes = affine_row_bytes(self.bits, self.k).ok_or_else(overflow)?;
        let groups = self.k.div_ceil(self.group_size);
        Ok((
            product(op, "weight", &[stack, self.n as usize, row_bytes as usize])?,
            product(op, "scales", &[stack, self.n as usize, groups as usize])?,
        ))
    }

    /// Whether 0.1 has a simd kernel for it, whose rows are a multiple of `k4` for 4 bits, of 256 for 8.
    fn has_simd(&self, k4: u32) -> bool {
        let wanted = match self.bits {
            4 => k4,
            8 => 256,
            _ => return false,
        };
        self.n.is_multiple_of(8) && self.k.is_multiple_of(wanted)
    }
}

/// A product: what is bound, with byte offsets into the three parts of the weight.
struct Product<'a> {
    op: &'static str,
    input: &'a MlxBuffer,
    weight: [(&'a MlxBuffer, usize); 3],
    params: &'a QuantizedMatmulParams,
    dtype: DType,
    rounds_weight: bool,
}

impl Product<'_> {
    /// The weight's format, if [`linear`] knows it and computes the same: neither weight nor input is rounded, since the
    /// input is bf16 already.
    fn format(&self) -> Option<WeightFormat> {
        let QuantizedMatmulParams { k, group_size, bits, .. } = *self.params;
        if self.rounds_weight || self.dtype != DType::BF16 || k % group_size != 0 {
            return None;
        }
        WeightFormat::affine(bits, group_size, DType::BF16).ok()
    }

    fn record(
        self,
        encoder: &mut CommandEncoder,
        registry: &mut KernelRegistry,
        device: &MlxDevice,
    ) -> Result<MlxBuffer> {
        let op = self.op;
        let QuantizedMatmulParams { m, k, n, group_size, bits } = *self.params;
        let (codes_len, groups) = self.params.weight_sizes(op, 1)?;
        let x_len = product(op, "input", &[m as usize, k as usize])?;
        let x = operand(op, "input", self.input, self.dtype, x_len)?;
        let [(codes, codes_at), (scales, scales_at), (biases, biases_at)] = self.weight;
        let output_shape = [m as usize, n as usize];
        if let Some(format) = self.format().filter(|_| codes_at.is_multiple_of(4)) {
            let weight = Weight::new(
                format,
                vec![
                    operand_at(op, "weight", codes, codes_at, DType::U32, codes_len / 4)?,
                    operand_at(op, "scales", scales, scales_at, DType::BF16, groups)?,
                    operand_at(op, "biases", biases, biases_at, DType::BF16, groups)?,
                ],
                &[n as usize, k as usize],
            )?;
            product(op, "output", &[m as usize, n as usize, 4])?;
            let output = device.alloc_tensor(self.dtype, &output_shape)?;
            linear(encoder, registry, device, &x, &weight, None, &output, &LinearParams { m })?;
            return Ok(output);
        }
        let codes = operand_at(op, "weight", codes, codes_at, DType::U8, codes_len)?;
        let scales = operand_at(op, "scales", scales, scales_at, DType::BF16, groups)?;
        let biases = operand_at(op, "biases", biases, biases_at, DType::BF16, groups)?;
        product(op, "output", &[m as usize, n as usize, 4])?;
        let output = device.alloc_tensor(self.dtype, &output_shape)?;
        let weight = Coded::Affine {
            bits,
            group_size,
            codes: &codes,
            scales: &scales,
            biases: &biases,
            rounds_weight: self.rounds_weight,
        };
        let params = DecodedMatmulParams { m, n, k, rows_per_x: 1, n_matrices: 1 };
        decoded_matmul(encoder, registry, device, &x, weight, None, &output, &params)?;
        Ok(output)
    }
}

/// Records `y[r, c] = Σₖ w[c, k] · x[r, k]` into a new f32 buffer `[m, n]`, which is returned: `input` f32 `[m, k]`, `weight` packed
/// codes, `scales` and `biases` bf16 `[n, ceil(k / group_size)]`. Input and weight are rounded to bf16, sums are in f32.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for `bits` other than 4, 6 and 8, a zero
/// size, or buffers of too few bytes; what the device says to the allocation.
pub fn quantized_matmul(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    input: &MlxBuffer,
    weight: &MlxBuffer,
    scales: &MlxBuffer,
    biases: &MlxBuffer,
    params: &QuantizedMatmulParams,
) -> Result<MlxBuffer> {
    const OP: &str = "quantized_matmul";
    params.check(OP)?;
    let weight = [(weight, 0), (scales, 0), (biases, 0)];
    Product { op: OP, input, weight, params, dtype: DType::F32, rounds_weight: true }.record(encoder, registry, device)
}

/// [`quantized_matmul`] whose weight is not rounded, where 0.1 has a kernel for it: `n` a multiple of 8, `k` of 256, 4 or 8 bits.
/// Elsewhere it is [`quantized_matmul`].
///
/// # Errors
/// As [`quantized_matmul`].
pub fn quantized_matmul_simd(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    input: &MlxBuffer,
    weight: &MlxBuffer,
    scales: &MlxBuffer,
    biases: &MlxBuffer,
    params: &QuantizedMatmulParams,
) -> Result<MlxBuffer> {
    const OP: &str = "quantized_matmul_simd";
    params.check(OP)?;
    let weight = [(weight, 0), (scales, 0), (biases, 0)];
    let rounds_weight = !params.has_simd(256);
    Product { op: OP, input, weight, params, dtype: DType::F32, rounds_weight }.record(encoder, registry, device)
}

/// [`quantized_matmul_simd`] with input and output of bf16; `k` a multiple of 512 for 4 bits. Where 0.1 has no kernel for it, the
/// weight is rounded as in [`quantized_matmul`].
///
/// # Errors
/// As [`quantized_matmul`].
pub fn dispatch_quantized_matmul_simd_bf16(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    input: &MlxBuffer,
    packed_weights: &MlxBuffer,
    scales: &MlxBuffer,
    biases: &MlxBuffer,
    params: &QuantizedMatmulParams,
) -> Result<MlxBuffer> {
    const OP: &str = "quantized_matmul_simd_bf16";
    params.check(OP)?;
    let weight = [(packed_weights, 0), (scales, 0), (biases, 0)];
    let rounds_weight = !params.has_simd(512);
    Product { op: OP, input, weight, params, dtype: DType::BF16, rounds_weight }.record(encoder, registry, device)
}

/// [`dispatch_quantized_matmul_simd_bf16`] of one expert of stacked weights, which begin at the byte offsets given. There is no
/// rounding of the weight.
///
/// # Errors
/// As [`quantized_matmul`]; also for sizes that 0.1 has no kernel for: `n` no multiple of 8, `k` no multiple of 512 (4 bits) or 256
/// (8 bits), 6 bits; and for an odd offset of scales or biases.
pub fn dispatch_quantized_matmul_simd_bf16_expert(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    input: &MlxBuffer,
    packed_weights: &MlxBuffer,
    scales: &MlxBuffer,
    biases: &MlxBuffer,
    params: &QuantizedMatmulParams,
    expert_offset_bytes: u32,
    scales_offset_bytes: u32,
    biases_offset_bytes: u32,
) -> Result<MlxBuffer> {
    const OP: &str = "quantized_matmul_simd_bf16_expert";
    params.check(OP)?;
    if !params.has_simd(512) {
        let QuantizedMatmulParams { n, k, bits, .. } = *params;
        return invalid!(
            "{OP}: n {n} must be a multiple of 8, and k {k} of 512 with 4 bits, of 256 with 8; bits is {bits}"
        );
    }
    let weight = [
        (packed_weights, expert_offset_bytes as usize),
        (scales, scales_offset_bytes as usize),
        (biases, biases_offset_bytes as usize),
    ];
    Product { op: OP, input, weight, params, dtype: DType::BF16, rounds_weight: false }
        .record(encoder, registry, device)
}
