//! The published 0.1 functions of the module `flash_attn_vec_tq`: they adapt [`sdpa_tq`].

use super::{QuantizedCache, SdpaTqParams, partial_elements, sdpa_tq};
use crate::buffer::MlxBuffer;
use crate::device::MlxDevice;
use crate::dtype::DType;
use crate::encoder::CommandEncoder;
use crate::error::{Result, invalid};
use crate::registry::KernelRegistry;
use crate::ops::published::{nonzero, operand, product};

/// Sizes of [`flash_attn_vec_tq`].
#[derive(Debug, Clone, Copy)]
pub struct FlashAttnVecTqParams {
    /// Heads of the query.
    pub num_heads: u32,
    /// Heads of the cache.
    pub num_kv_heads: u32,
    /// Coordinates of a head. 0.1 took 256 and 512; here it is any power of two from 2 to 4096.
    pub head_dim: u32,
    /// Keys in the cache.
    pub kv_seq_len: u32,
    /// Positions that the cache has for each head.
    pub kv_capacity: u32,
    /// What scores are multiplied by.
    pub scale: f32,
    /// 0 and 1: all keys. 2: the last `sliding_window` of them.
    pub mask_type: u32,
    /// Keys that a query sees with `mask_type` 2; 0 = all.
    pub sliding_window: u32,
    /// Soft cap of the scores; 0 = none. 0.1 took it and did nothing.
    pub softcap: f32,
}

/// Records the attention of one query position over a cache of 4 bits a coordinate: `q` and `output` f32
/// `[num_heads, head_dim]`, packed keys and values u8 `[num_kv_heads, kv_capacity, head_dim / 2]`, norms f32
/// `[num_kv_heads, kv_capacity]`, `tmp` of at least [`tmp_buffer_bytes`].
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a zero size, a `head_dim` that is
/// no such power, heads that do not divide, more keys than the capacity, another `mask_type`, a `scale` or `softcap` that is not
/// finite, buffers of too few bytes, or buffers that overlap.
pub fn flash_attn_vec_tq(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    q: &MlxBuffer,
    k_packed: &MlxBuffer,
    k_norms: &MlxBuffer,
    v_packed: &MlxBuffer,
    v_norms: &MlxBuffer,
    output: &MlxBuffer,
    tmp: &MlxBuffer,
    params: &FlashAttnVecTqParams,
) -> Result<()> {
    const OP: &str = "flash_attn_vec_tq";
    let p = *params;
    nonzero(
        OP,
        &[
            ("head_dim", p.head_dim as usize),
            ("num_heads", p.num_heads as usize),
            ("num_kv_heads", p.num_kv_heads as usize),
            ("kv_seq_len", p.kv_seq_len as usize),
        ],
    )?;
    if p.kv_capacity < p.kv_seq_len {
        return invalid!("{OP}: kv_capacity {} is below kv_seq_len {}", p.kv_capacity, p.kv_seq_len);
    }
    if p.mask_type > 2 {
        return invalid!("{OP}: mask_type is {}, known are 0, 1 and 2", p.mask_type);
    }
    let window = if p.mask_type == 2 && p.sliding_window > 0 { p.sliding_window } else { u32::MAX };
    let (heads, kv_heads, dim) = (p.num_heads as usize, p.num_kv_heads as usize, p.head_dim as usize);
    let capacity = p.kv_capacity as usize;
    let codes = product(OP, "k_packed", &[kv_heads, capacity, dim / 2])?;
    let slots = product(OP, "k_norms", &[kv_heads, capacity])?;
    let len = product(OP, "q", &[heads, dim])?;
    let q = operand(OP, "q", q, DType::F32, len)?;
    let k_packed = operand(OP, "k_packed", k_packed, DType::U8, codes)?;
    let k_norms = operand(OP, "k_norms", k_norms, DType::F32, slots)?;
    let v_packed = operand(OP, "v_packed", v_packed, DType::U8, codes)?;
    let v_norms = operand(OP, "v_norms", v_norms, DType::F32, slots)?;
    let output = operand(OP, "output", output, DType::F32, len)?;
    let tmp = operand(OP, "tmp", tmp, DType::F32, partial_elements(p.num_heads, p.head_dim))?;
    let params = SdpaTqParams {
        n_heads: p.num_heads,
        n_kv_heads: p.num_kv_heads,
        head_dim: p.head_dim,
        first_key: p.kv_seq_len.saturating_sub(window),
        end_key: p.kv_seq_len,
        capacity: p.kv_capacity,
        scale: p.scale,
        softcap: p.softcap,
    };
    let keys = QuantizedCache { packed: &k_packed, norms: &k_norms };
    let values = QuantizedCache { packed: &v_packed, norms: &v_norms };
    sdpa_tq(encoder, registry, device, &q, keys, values, &output, &tmp, &params)
}

/// Bytes that `tmp` must have: `num_heads · 32 · (head_dim + 2) · 4`.
#[must_use]
pub fn tmp_buffer_bytes(num_heads: u32, head_dim: u32) -> usize {
    partial_elements(num_heads, head_dim).saturating_mul(4)
}
