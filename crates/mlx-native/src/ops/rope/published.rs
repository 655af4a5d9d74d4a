//! The published 0.1 functions of the module `rope`: they adapt
//! [`head_norm_rope`](crate::ops::fused_head_norm_rope::head_norm_rope), with the norm left out.
//!
//! In 0.1 the kernels took base and sizes from `params_buf`, f32 `[theta, head_dim, rope_dim, 0]`. Here the sizes are those of the
//! call; `theta` is read from the buffer when the work runs, so that it may be filled until the commit.

use crate::buffer::MlxBuffer;
use crate::device::DeviceRef;
use crate::dtype::DType;
use crate::encoder::CommandEncoder;
use crate::error::{Result, invalid};
use crate::registry::KernelRegistry;
use crate::ops::fused_head_norm_rope::{Angles, HeadNormRopeParams, Pairs, Theta, head_norm_rope};
use crate::ops::published::{counted, float, handle, nonzero, operand, product};

/// What a call binds, by its published names.
struct Rotation<'a> {
    op: &'static str,
    dtype: DType,
    input: &'a MlxBuffer,
    output: &'a MlxBuffer,
    params_buf: &'a MlxBuffer,
    positions_buf: &'a MlxBuffer,
    freq_factors: Option<&'a MlxBuffer>,
    params: HeadNormRopeParams,
}

impl Rotation<'_> {
    fn record(
        self,
        encoder: &mut CommandEncoder,
        registry: &mut KernelRegistry,
        device: &DeviceRef,
    ) -> Result<()> {
        let op = self.op;
        let HeadNormRopeParams { n_tokens, n_heads, head_dim, n_pairs, .. } = self.params;
        let sizes = [("seq_len", n_tokens), ("n_heads", n_heads), ("head_dim", head_dim)];
        nonzero(op, &sizes.map(|(name, size)| (name, size as usize)))?;
        let len = product(op, "input", &sizes.map(|s| s.1 as usize))?;
        let x = counted(op, "input", self.input, self.dtype, len)?;
        let output = counted(op, "output", self.output, self.dtype, len)?;
        let theta = operand(op, "params_buf", self.params_buf, DType::F32, 1)?;
        let positions = operand(op, "positions_buf", self.positions_buf, DType::U32, n_tokens as usize)?;
        let factors = self
            .freq_factors
            .filter(|_| n_pairs > 0)
            .map(|f| operand(op, "freq_factors", f, DType::F32, n_pairs as usize))
            .transpose()?;
        let angles = Angles::Computed {
            positions: &positions,
            theta: Theta::Buffer(&theta),
            factors: factors.as_ref(),
        };
        head_norm_rope(encoder, registry, &handle(device), &x, None, angles, &output, &self.params)
    }
}

/// Records the rotation of the neighbouring pairs `(2i, 2i + 1)` of `seq_len` rows of `head_dim` features, in the dtype of `input`:
/// f32, f16 or bf16, by the angle `position / theta^(2i / head_dim)`. `positions_buf` is u32 `[seq_len]`.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a zero size, an odd `head_dim`, another
/// dtype, shapes of another number of elements, buffers of too few bytes, or an `output` that overlaps another operand without being
/// `input`.
pub fn dispatch_rope(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &DeviceRef,
    input: &MlxBuffer,
    output: &MlxBuffer,
    params_buf: &MlxBuffer,
    positions_buf: &MlxBuffer,
    seq_len: u32,
    head_dim: u32,
) -> Result<()> {
    const OP: &str = "rope";
    if head_dim % 2 != 0 {
        return invalid!("{OP}: head_dim is {head_dim}, it must be even");
    }
    let params = HeadNormRopeParams {
        n_tokens: seq_len,
        n_heads: 1,
        head_dim,
        n_pairs: head_dim / 2,
        pairs: Pairs::Interleaved,
    };
    let dtype = float(OP, input.dtype())?;
    Rotation { op: OP, dtype, input, output, params_buf, positions_buf, freq_factors: None, params }
        .record(encoder, registry, device)
}

/// Records the rotation of the pairs `(i, i + head_dim / 2)`, `i < rope_dim / 2`, of `n_heads` heads of `seq_len` tokens in bf16, by
/// the angle `position / theta^(2i / head_dim)`; the other features keep their bits. A `rope_dim` of 0 copies.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a zero size, an odd `rope_dim` or one
/// beyond `head_dim`, shapes of another number of elements, buffers of too few bytes, or an `output` that overlaps another operand
/// without being `input`.
pub fn dispatch_rope_neox_bf16(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &DeviceRef,
    input: &MlxBuffer,
    output: &MlxBuffer,
    params_buf: &MlxBuffer,
    positions_buf: &MlxBuffer,
    seq_len: u32,
    n_heads: u32,
    head_dim: u32,
    rope_dim: u32,
) -> Result<()> {
    const OP: &str = "rope_neox_bf16";
    let params = neox(OP, seq_len, n_heads, head_dim, rope_dim)?;
    let dtype = DType::BF16;
    Rotation { op: OP, dtype, input, output, params_buf, positions_buf, freq_factors: None, params }
        .record(encoder, registry, device)
}

/// [`dispatch_rope_neox_bf16`] in f32, the angle divided by `freq_factors[i]` if there are any: f32 `[rope_dim / 2]`.
///
/// # Errors
/// As [`dispatch_rope_neox_bf16`].
pub fn dispatch_rope_neox_f32(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &DeviceRef,
    input: &MlxBuffer,
    output: &MlxBuffer,
    params_buf: &MlxBuffer,
    positions_buf: &MlxBuffer,
    freq_factors: Option<&MlxBuffer>,
    seq_len: u32,
    n_heads: u32,
    head_dim: u32,
    rope_dim: u32,
) -> Result<()> {
    const OP: &str = "rope_neox_f32";
    let params = neox(OP, seq_len, n_heads, head_dim, rope_dim)?;
    let dtype = DType::F32;
    Rotation { op: OP, dtype, input, output, params_buf, positions_buf, freq_factors, params }
        .record(encoder, registry, device)
}

fn neox(op: &str, n_tokens: u32, n_heads: u32, head_dim: u32, rope_dim: u32) -> Result<HeadNormRopeParams> {
    if rope_dim % 2 != 0 {
        return invalid!("{op}: rope_dim is {rope_dim}, it must be even");
    }
    if rope_dim > head_dim {
        return invalid!("{op}: rope_dim {rope_dim} is beyond head_dim {head_dim}");
    }
    let pairs = Pairs::Apart(head_dim / 2);
    Ok(HeadNormRopeParams { n_tokens, n_heads, head_dim, n_pairs: rope_dim / 2, pairs })
}
