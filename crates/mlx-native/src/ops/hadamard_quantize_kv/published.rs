//! The published 0.1 function of the module `hadamard_quantize_kv`: adapts [`hadamard_quantize_kv`].

use super::{QuantizeKvParams, hadamard_quantize_kv};
use crate::buffer::MlxBuffer;
use crate::device::DeviceRef;
use crate::dtype::DType;
use crate::encoder::CommandEncoder;
use crate::error::{Result, invalid};
use crate::registry::KernelRegistry;
use crate::ops::published::{at_least, handle, nonzero, operand, product};

/// Records the quantised append of one token: `src` f32 `[num_kv_heads, head_dim]` to the place `write_pos` of `packed`, u8
/// `[num_kv_heads, cache_capacity, head_dim / 2]`, and of `norms`, f32 `[num_kv_heads, cache_capacity]`; modulo the capacity
/// if `is_sliding`. No heads or no coordinates record nothing.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a `head_dim` that is no power of
/// two from 2 to 4096, a `write_pos` beyond a cache that does not slide, a capacity of 0, too few elements or bytes in a
/// buffer, or buffers that overlap.
pub fn dispatch_hadamard_quantize_kv(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &DeviceRef,
    src: &MlxBuffer,
    packed: &MlxBuffer,
    norms: &MlxBuffer,
    num_kv_heads: u32,
    head_dim: u32,
    cache_capacity: u32,
    write_pos: u32,
    is_sliding: bool,
) -> Result<()> {
    const OP: &str = "hadamard_quantize_kv";
    if num_kv_heads == 0 || head_dim == 0 {
        return Ok(());
    }
    let (heads, dim, capacity) = (num_kv_heads as usize, head_dim as usize, cache_capacity as usize);
    if !head_dim.is_power_of_two() || head_dim < 2 {
        return invalid!("{OP}: head_dim is {head_dim}, it must be a power of two and even");
    }
    nonzero(OP, &[("cache_capacity", capacity)])?;
    if !is_sliding && write_pos >= cache_capacity {
        return invalid!("{OP}: write_pos {write_pos} is beyond cache_capacity {cache_capacity}");
    }
    let x = at_least(OP, "src", src, DType::F32, product(OP, "src", &[heads, dim])?)?;
    let packed = operand(OP, "packed", packed, DType::U8, product(OP, "packed", &[heads, capacity, dim / 2])?)?;
    let norms = at_least(OP, "norms", norms, DType::F32, product(OP, "norms", &[heads, capacity])?)?;
    let params = QuantizeKvParams {
        head_dim,
        n_kv_heads: num_kv_heads,
        position: write_pos,
        capacity: cache_capacity,
        is_ring: is_sliding,
        n_tokens: 1,
    };
    hadamard_quantize_kv(encoder, registry, &handle(device), &x, &packed, &norms, &params)
}
