//! The published 0.1 module `flash_attn_vec`: adapts the attention behind [`sdpa`](crate::ops::sdpa::sdpa), and
//! [`copy`](crate::ops::copy::copy) where keys and values are f16.

use crate::buffer::MlxBuffer;
use crate::device::MlxDevice;
use crate::dtype::DType;
use crate::encoder::CommandEncoder;
use crate::error::{Result, invalid};
use crate::registry::KernelRegistry;
use crate::ops::copy::{CopyParams, copy};
use crate::ops::published::{nonzero, operand, operand_at, product, u32_of};
use crate::ops::sdpa::{self, SDPA_SHADER_SOURCE, SdpaParams, sdpa_decode};

/// The Metal text of the kernels behind [`flash_attn_vec`].
pub static FLASH_ATTN_VEC_SHADER_SOURCE: &str = SDPA_SHADER_SOURCE;

/// Adds the kernels of this function to a registry. A new registry has them already.
pub fn register(registry: &mut KernelRegistry) {
    sdpa::register(registry);
}

/// Sizes of [`flash_attn_vec`].
#[derive(Debug, Clone, Copy)]
pub struct FlashAttnVecParams {
    /// Heads of the query; a multiple of `num_kv_heads`.
    pub num_heads: u32,
    /// Heads of keys and values.
    pub num_kv_heads: u32,
    /// Elements of a head. 0.1 took 256 and 512; here it is 1 to 576.
    pub head_dim: u32,
    /// Keys that count.
    pub kv_seq_len: u32,
    /// Positions that K and V have room for in each head.
    pub kv_capacity: u32,
    /// What scores are multiplied by.
    pub scale: f32,
    /// 0 and 1: all keys. 2: the last `sliding_window` of them.
    pub mask_type: u32,
    /// Keys that the query sees with `mask_type` 2, its own included; 0 = all. (`sdpa_sliding` sees one more for the same number.)
    pub sliding_window: u32,
    /// Soft cap of the scores, `softcap · tanh(score / softcap)`; 0 = none. 0.1 took it and did nothing.
    pub softcap: f32,
}

/// Records the attention of one query position: `q` and `output` f32 `[num_heads, head_dim]`, `k` and `v`
/// `[num_kv_heads, kv_capacity, head_dim]`, both f16 if the dtype of `k` is, else f32; `tmp` of at least [`tmp_buffer_bytes`].
/// Positions from `kv_seq_len` on are not looked at. With f16 the query is rounded to f16, as in 0.1, and so is the result, on its
/// way to f32.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a zero size, a `head_dim` beyond 576,
/// heads that do not divide, more keys than the capacity, another `mask_type`, a `scale` or `softcap` that is not finite, buffers of
/// too few bytes, or buffers that overlap.
pub fn flash_attn_vec(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    q: &MlxBuffer,
    k: &MlxBuffer,
    v: &MlxBuffer,
    output: &MlxBuffer,
    tmp: &MlxBuffer,
    params: &FlashAttnVecParams,
) -> Result<()> {
    const OP: &str = "flash_attn_vec";
    let p = *params;
    let sizes = [
        ("head_dim", p.head_dim),
        ("num_heads", p.num_heads),
        ("num_kv_heads", p.num_kv_heads),
        ("kv_seq_len", p.kv_seq_len),
    ];
    nonzero(OP, &sizes.map(|(name, size)| (name, size as usize)))?;
    if p.kv_capacity < p.kv_seq_len {
        return invalid!("{OP}: kv_capacity {} is below kv_seq_len {}", p.kv_capacity, p.kv_seq_len);
    }
    if p.mask_type > 2 {
        return invalid!("{OP}: mask_type is {}, known are 0, 1 and 2", p.mask_type);
    }
    let window = if p.mask_type == 2 { p.sliding_window } else { 0 };
    let dtype = if k.dtype() == DType::F16 { DType::F16 } else { DType::F32 };
    let len = product(OP, "q", &[p.num_heads as usize, p.head_dim as usize])?;
    let extents = [p.num_kv_heads as usize, p.kv_capacity as usize, p.head_dim as usize];
    let kv_len = product(OP, "k", &extents)?;
    let q = operand(OP, "q", q, DType::F32, len)?;
    let k = operand(OP, "k", k, dtype, kv_len)?;
    let v = operand(OP, "v", v, dtype, kv_len)?;
    let output = operand(OP, "output", output, DType::F32, len)?;
    let tmp_bytes = tmp_buffer_bytes(p.num_heads, p.head_dim);
    let tmp = operand(OP, "tmp", tmp, DType::U8, tmp_bytes)?;
    let dense = SdpaParams {
        n_heads: p.num_heads,
        n_kv_heads: p.num_kv_heads,
        head_dim: p.head_dim,
        seq_len: 1,
        kv_seq_len: p.kv_seq_len,
        scale: p.scale,
        kv_capacity: p.kv_capacity,
    };
    if dtype == DType::F32 {
        return sdpa_decode(OP, encoder, registry, device, [&q, &k, &v, &output], &dense, window, p.softcap);
    }
    // All operands of the attention have one dtype.
    let n = CopyParams { n_elements: u32_of(OP, "num_heads · head_dim", len)? };
    let half_q = operand(OP, "tmp", &tmp, DType::F16, len)?;
    let half_output = operand_at(OP, "tmp", &tmp, 2 * len, DType::F16, len)?;
    copy(encoder, registry, device, &q, &half_q, &n)?;
    let halves = [&half_q, &k, &v, &half_output];
    sdpa_decode(OP, encoder, registry, device, halves, &dense, window, p.softcap)?;
    copy(encoder, registry, device, &half_output, &output, &n)
}

/// Bytes that `tmp` must have: `num_heads · 32 · (head_dim + 2) · 4`.
#[must_use]
pub fn tmp_buffer_bytes(num_heads: u32, head_dim: u32) -> usize {
    crate::ops::flash_attn_vec_tq::tmp_buffer_bytes(num_heads, head_dim)
}
