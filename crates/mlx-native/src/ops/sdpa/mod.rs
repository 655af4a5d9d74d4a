//! Scaled dot-product attention, causal, with grouped heads and a dense key-value cache.
//!
//! A dense cache is a pool of blocks whose table is 0, 1, 2, …: this is [`attention`](super::attention) on it, the same
//! kernels and the same bits.

#[cfg(any(test, feature = "testing"))]
pub(crate) mod tests;

use super::attention::{Buffers, Dense, Extras, Family, Layout, check_heads, check_scale, record};
use super::{Op, check};
use crate::buffer::MlxBuffer;
use crate::device::MlxDevice;
use crate::dtype::DType;
use crate::encoder::CommandEncoder;
use crate::error::{Result, invalid};
use crate::registry::KernelRegistry;

pub use super::attention::{ATTENTION_SHADER_SOURCE as SDPA_SHADER_SOURCE, FUSED_HEAD_DIMS, MAX_HEAD_DIM};

/// No kernels of its own.
pub(crate) static OP: Op = Op { name: "sdpa", source: SDPA_SHADER_SOURCE, kernels: &[] };

/// Adds the kernels of this operator to a registry. A new registry has them already.
pub fn register(registry: &mut KernelRegistry) {
    super::attention::register(registry);
}

/// Sizes of an attention.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SdpaParams {
    /// Heads of the queries; a multiple of `n_kv_heads`.
    pub n_heads: u32,
    /// Heads of keys and values. Query head `h` attends to kv head `h / (n_heads / n_kv_heads)`.
    pub n_kv_heads: u32,
    /// Elements of a head's row, 1 to 576.
    pub head_dim: u32,
    /// Queries of a head.
    pub seq_len: u32,
    /// Keys that count. The last query is at the last of them, so that `seq_len <= kv_seq_len`.
    pub kv_seq_len: u32,
    /// What scores are multiplied by: `1 / sqrt(head_dim)` mostly, 1 for models that normalise queries and keys.
    pub scale: f32,
    /// Positions that K and V have room for in each head; 0 for `kv_seq_len`.
    pub kv_capacity: u32,
}

/// Records `output = softmax(scale * q k^T) v`, causal: query `i` of `seq_len` sees the keys up to and including
/// `kv_seq_len - seq_len + i`.
///
/// | buffer | shape |
/// |---|---|
/// | `q`, `output` | `[batch_size, n_heads, seq_len, head_dim]` |
/// | `k`, `v` | `[batch_size, n_kv_heads, kv_capacity, head_dim]`, the first `kv_seq_len` positions count |
///
/// All are f32, f16 or bf16, the same; everything is computed in f32 and rounded once. Buffers may be larger. Positions
/// of K and V from `kv_seq_len` on are not looked at. `output` must not share memory with the inputs.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a zero size, a `head_dim`
/// beyond 576, `n_heads` not divisible by `n_kv_heads`, `seq_len > kv_seq_len`, a `kv_capacity` that is less than
/// `kv_seq_len` and not 0, sizes that overflow, a `scale` that is not finite; then for dtypes that are mixed or not
/// floating-point, a buffer that is too small, or an `output` that shares memory with an input.
pub fn sdpa(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    q: &MlxBuffer,
    k: &MlxBuffer,
    v: &MlxBuffer,
    output: &MlxBuffer,
    params: &SdpaParams,
    batch_size: u32,
) -> Result<()> {
    dense("sdpa", encoder, registry, device, [q, k, v, output], params, batch_size, 0, 0.0)
}

/// [`sdpa`] over a sliding window, for the published function of that name: a query sees `window_size` keys before its own.
pub(crate) fn sdpa_windowed(
    op: &'static str,
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    buffers: [&MlxBuffer; 4],
    params: &SdpaParams,
    batch_size: u32,
    window_size: u32,
) -> Result<()> {
    check_heads(op, params.n_heads, params.n_kv_heads, params.head_dim)?;
    if window_size == 0 {
        return invalid!("{op}: window_size is 0, it must be at least 1");
    }
    // A window of all 32-bit positions is none.
    let window = window_size.checked_add(1).filter(|w| *w < params.kv_seq_len).unwrap_or(0);
    dense(op, encoder, registry, device, buffers, params, batch_size, window, 0.0)
}

/// Attention of one query position over the last `window` keys, or all with 0, for the published `flash_attn_vec`.
pub(crate) fn sdpa_decode(
    op: &'static str,
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    buffers: [&MlxBuffer; 4],
    params: &SdpaParams,
    window: u32,
    softcap: f32,
) -> Result<()> {
    check_scale(op, params.scale, softcap)?;
    let window = if window < params.kv_seq_len { window } else { 0 };
    dense(op, encoder, registry, device, buffers, params, 1, window, softcap)
}

fn dense(
    op: &'static str,
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    [q, k, v, output]: [&MlxBuffer; 4],
    params: &SdpaParams,
    batch_size: u32,
    window: u32,
    softcap: f32,
) -> Result<()> {
    let (p, dtype) = validate(op, [q, k, v, output], params, batch_size)?;
    let extras = Extras::default();
    let dense = Dense {
        batch_size,
        n_heads: p.n_heads,
        n_kv_heads: p.n_kv_heads,
        head_dim: p.head_dim,
        v_dim: p.head_dim,
        rows: p.seq_len,
        keys: p.kv_seq_len,
        capacity: p.kv_capacity,
        scale: p.scale,
        softcap,
        window,
        causal: true,
        family: Family::Auto,
    };
    let buffers = Buffers { q, k, v, output, extras, state: None };
    record(encoder, registry, device, &buffers, dtype, &Layout::dense(&dense, &extras)?)
}

/// Checks everything. Gives the parameters with `kv_capacity` filled in, and the dtype.
fn validate(
    op: &'static str,
    [q, k, v, output]: [&MlxBuffer; 4],
    params: &SdpaParams,
    batch_size: u32,
) -> Result<(SdpaParams, DType)> {
    let SdpaParams { n_heads, n_kv_heads, head_dim, seq_len, kv_seq_len, scale, kv_capacity } = *params;
    check_heads(op, n_heads, n_kv_heads, head_dim)?;
    check::nonzero(op, &[("seq_len", seq_len), ("kv_seq_len", kv_seq_len), ("batch_size", batch_size)])?;
    if seq_len > kv_seq_len {
        return invalid!("{op}: seq_len {seq_len} exceeds kv_seq_len {kv_seq_len}, the keys must include the queries' own");
    }
    let kv_capacity = if kv_capacity == 0 { kv_seq_len } else { kv_capacity };
    if kv_capacity < kv_seq_len {
        return invalid!("{op}: kv_capacity {kv_capacity} is less than kv_seq_len {kv_seq_len}");
    }
    check_scale(op, scale, 0.0)?;
    let n_q = check::product(op, "q (batch_size, n_heads, seq_len, head_dim)", &[batch_size, n_heads, seq_len, head_dim])?;
    let n_kv = check::product(
        op,
        "k and v (batch_size, n_kv_heads, kv_capacity, head_dim)",
        &[batch_size, n_kv_heads, kv_capacity, head_dim],
    )?;
    let dtype = check::same_float(op, &[("q", q), ("k", k), ("v", v), ("output", output)])?;
    for (name, buffer, elements) in [("q", q, n_q), ("k", k, n_kv), ("v", v, n_kv), ("output", output, n_q)] {
        check::holds(op, name, buffer, elements)?;
    }
    Ok((SdpaParams { kv_capacity, ..*params }, dtype))
}
