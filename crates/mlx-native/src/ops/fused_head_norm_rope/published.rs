//! The published 0.1 functions of the module `fused_head_norm_rope`: they adapt [`head_norm_rope`].

use super::{Angles, HeadNorm, HeadNormRopeParams, Pairs, Theta, head_norm_rope};
use crate::buffer::MlxBuffer;
use crate::device::DeviceRef;
use crate::dtype::DType;
use crate::encoder::CommandEncoder;
use crate::error::{Result, invalid};
use crate::registry::KernelRegistry;
use crate::ops::published::{at_least, counted, handle, nonzero, operand, product};

/// Records, in bf16 and for one token, the norm of each head (`norm_weight` `[head_dim]`, none = ones), then the rotation of
/// the pairs `(i, i + half_rope_dim)` by the angles whose cosines and sines are given in f32. Other features are only
/// normalised.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a zero size, a `half_rope_dim`
/// beyond half a head, shapes of another number of elements, buffers of too few bytes, or an `output` that overlaps another
/// operand without being `input`.
pub fn dispatch_fused_head_norm_rope_bf16(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &DeviceRef,
    input: &MlxBuffer,
    output: &MlxBuffer,
    norm_weight: Option<&MlxBuffer>,
    cos_cache: &MlxBuffer,
    sin_cache: &MlxBuffer,
    n_heads: u32,
    head_dim: u32,
    half_rope_dim: u32,
    eps: f32,
) -> Result<()> {
    const OP: &str = "fused_head_norm_rope_bf16";
    let len = check_sizes(OP, n_heads, head_dim, half_rope_dim)?;
    let half = half_rope_dim as usize;
    let x = counted(OP, "input", input, DType::BF16, len)?;
    let output = counted(OP, "output", output, DType::BF16, len)?;
    let weight = norm_weight
        .map(|w| operand(OP, "norm_weight", w, DType::BF16, head_dim as usize))
        .transpose()?;
    let cosines = at_least(OP, "cos_cache", cos_cache, DType::F32, half)?;
    let sines = at_least(OP, "sin_cache", sin_cache, DType::F32, half)?;
    let params = HeadNormRopeParams {
        n_tokens: 1,
        n_heads,
        head_dim,
        n_pairs: half_rope_dim,
        pairs: Pairs::Apart(half_rope_dim),
    };
    let norm = Some(HeadNorm { weight: weight.as_ref(), eps });
    let angles = Angles::Tables { cosines: &cosines, sines: &sines };
    head_norm_rope(encoder, registry, &handle(device), &x, norm, angles, &output, &params)
}

/// Records, in f32 and for one token, the norm of each head (`norm_weight` `[head_dim]`, none = ones), then the rotation of
/// the pairs `(i, i + head_dim / 2)`, `i < half_rope_dim`, by `positions_buf[0] / theta^(2i / head_dim)`, divided by
/// `freq_factors[i]` if there are any. Other features are only normalised. Mind that the pairs are not those of the bf16
/// function when the rotation is partial.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a zero size, an odd `head_dim`,
/// a `half_rope_dim` beyond half a head, buffers of too few bytes, or an `output` that overlaps another operand without being
/// `input`.
pub fn dispatch_fused_head_norm_rope_f32(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &DeviceRef,
    input: &MlxBuffer,
    output: &MlxBuffer,
    norm_weight: Option<&MlxBuffer>,
    positions_buf: &MlxBuffer,
    freq_factors: Option<&MlxBuffer>,
    n_heads: u32,
    head_dim: u32,
    half_rope_dim: u32,
    eps: f32,
    theta: f32,
) -> Result<()> {
    const OP: &str = "fused_head_norm_rope_f32";
    let len = check_sizes(OP, n_heads, head_dim, half_rope_dim)?;
    let x = operand(OP, "input", input, DType::F32, len)?;
    let output = operand(OP, "output", output, DType::F32, len)?;
    let weight = norm_weight
        .map(|w| operand(OP, "norm_weight", w, DType::F32, head_dim as usize))
        .transpose()?;
    let positions = operand(OP, "positions_buf", positions_buf, DType::U32, 1)?;
    let factors = freq_factors
        .filter(|_| half_rope_dim > 0)
        .map(|f| operand(OP, "freq_factors", f, DType::F32, half_rope_dim as usize))
        .transpose()?;
    let params = HeadNormRopeParams {
        n_tokens: 1,
        n_heads,
        head_dim,
        n_pairs: half_rope_dim,
        pairs: Pairs::Apart(head_dim / 2),
    };
    let norm = Some(HeadNorm { weight: weight.as_ref(), eps });
    let angles =
        Angles::Computed { positions: &positions, theta: Theta::Value(theta), factors: factors.as_ref() };
    head_norm_rope(encoder, registry, &handle(device), &x, norm, angles, &output, &params)
}

fn check_sizes(op: &str, n_heads: u32, head_dim: u32, half_rope_dim: u32) -> Result<usize> {
    nonzero(op, &[("n_heads", n_heads as usize), ("head_dim", head_dim as usize)])?;
    if half_rope_dim > head_dim / 2 {
        return invalid!("{op}: half_rope_dim {half_rope_dim} is beyond half of head_dim {head_dim}");
    }
    product(op, "input", &[n_heads as usize, head_dim as usize])
}
