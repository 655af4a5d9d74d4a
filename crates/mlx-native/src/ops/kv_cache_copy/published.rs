//! The published 0.1 functions of the module `kv_cache_copy`: they adapt [`kv_cache_copy`].

use super::{KvCacheCopyParams, kv_cache_copy};
use crate::buffer::MlxBuffer;
use crate::device::DeviceRef;
use crate::dtype::DType;
use crate::encoder::CommandEncoder;
use crate::error::{Result, invalid};
use crate::registry::KernelRegistry;
use crate::ops::published::{at_least, handle, nonzero, operand, product};

/// Records `cache[(write_pos + t) · row_size + e] = src[t · row_size + e]` for `n_new` rows of elements of 2 bytes, bit by
/// bit; rows modulo `cache_cap` if `is_sliding`, the last ones of more than fit. Nothing to copy records nothing.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for rows beyond a cache that does
/// not slide, a capacity of 0, too few elements or bytes in a buffer, or buffers that overlap.
pub fn dispatch_kv_cache_copy(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &DeviceRef,
    src: &MlxBuffer,
    cache: &MlxBuffer,
    write_pos: u32,
    row_size: u32,
    n_new: u32,
    cache_cap: u32,
    is_sliding: bool,
) -> Result<()> {
    let sizes = [write_pos, row_size, n_new, cache_cap];
    rows("kv_cache_copy", encoder, registry, device, src, cache, sizes, is_sliding, DType::U16)
}

/// [`dispatch_kv_cache_copy`] for f32.
///
/// # Errors
/// As [`dispatch_kv_cache_copy`].
pub fn dispatch_kv_cache_copy_f32(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &DeviceRef,
    src: &MlxBuffer,
    cache: &MlxBuffer,
    write_pos: u32,
    row_size: u32,
    n_new: u32,
    cache_cap: u32,
    is_sliding: bool,
) -> Result<()> {
    let sizes = [write_pos, row_size, n_new, cache_cap];
    rows("kv_cache_copy_f32", encoder, registry, device, src, cache, sizes, is_sliding, DType::F32)
}

fn rows(
    op: &str,
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &DeviceRef,
    src: &MlxBuffer,
    cache: &MlxBuffer,
    [position, head_dim, n_tokens, capacity]: [u32; 4],
    is_ring: bool,
    dtype: DType,
) -> Result<()> {
    if n_tokens == 0 || head_dim == 0 {
        return Ok(());
    }
    let len = product(op, "src", &[n_tokens as usize, head_dim as usize])?;
    let src = at_least(op, "src", src, dtype, len)?;
    nonzero(op, &[("cache_cap", capacity as usize)])?;
    if !is_ring && position.checked_add(n_tokens).is_none_or(|end| end > capacity) {
        return invalid!("{op}: write_pos {position} + n_new {n_tokens} is beyond cache_cap {capacity}");
    }
    let len = product(op, "cache", &[capacity as usize, head_dim as usize])?;
    let cache = operand(op, "cache", cache, dtype, len)?;
    let params = KvCacheCopyParams { n_heads: 1, head_dim, n_tokens, capacity, position, is_ring };
    kv_cache_copy(encoder, registry, &handle(device), &src, &cache, &params)
}

/// Records `cache[h, seq_pos] = src[h]` for all heads: `src` f32 `[n_heads, head_dim]`, `cache` f32
/// `[n_heads, capacity, head_dim]`. No heads or no elements record nothing.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a `seq_pos` beyond the
/// capacity, too few elements or bytes in a buffer, or buffers that overlap.
pub fn dispatch_kv_cache_copy_batch_f32(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &DeviceRef,
    src: &MlxBuffer,
    cache: &MlxBuffer,
    n_heads: u32,
    head_dim: u32,
    capacity: u32,
    seq_pos: u32,
) -> Result<()> {
    let sizes = [n_heads, head_dim, capacity, seq_pos];
    heads("kv_cache_copy_batch_f32", encoder, registry, device, src, cache, sizes, DType::F32)
}

/// [`dispatch_kv_cache_copy_batch_f32`] into a cache of f16, rounded to nearest even.
///
/// # Errors
/// As [`dispatch_kv_cache_copy_batch_f32`].
pub fn dispatch_kv_cache_copy_batch_f32_to_f16(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &DeviceRef,
    src: &MlxBuffer,
    cache: &MlxBuffer,
    n_heads: u32,
    head_dim: u32,
    capacity: u32,
    seq_pos: u32,
) -> Result<()> {
    let sizes = [n_heads, head_dim, capacity, seq_pos];
    heads("kv_cache_copy_batch_f32_to_f16", encoder, registry, device, src, cache, sizes, DType::F16)
}

fn heads(
    op: &str,
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &DeviceRef,
    src: &MlxBuffer,
    cache: &MlxBuffer,
    [n_heads, head_dim, capacity, position]: [u32; 4],
    dtype: DType,
) -> Result<()> {
    if n_heads == 0 || head_dim == 0 {
        return Ok(());
    }
    let (heads, dim) = (n_heads as usize, head_dim as usize);
    let src = at_least(op, "src", src, DType::F32, product(op, "src", &[heads, dim])?)?;
    if position >= capacity {
        return invalid!("{op}: seq_pos {position} is beyond capacity {capacity}");
    }
    let len = product(op, "cache", &[heads, capacity as usize, dim])?;
    let cache = operand(op, "cache", cache, dtype, len)?;
    let params = KvCacheCopyParams { n_heads, head_dim, n_tokens: 1, capacity, position, is_ring: false };
    kv_cache_copy(encoder, registry, &handle(device), &src, &cache, &params)
}
