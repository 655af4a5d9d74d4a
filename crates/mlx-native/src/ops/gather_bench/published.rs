//! The published 0.1 module `gather_bench`: adapts [`gather_codes_4`](crate::ops::gather::gather_codes_4) and
//! [`copy`](crate::ops::copy::copy).

use crate::buffer::MlxBuffer;
use crate::device::DeviceRef;
use crate::dtype::DType;
use crate::encoder::CommandEncoder;
use crate::error::{Result, invalid};
use crate::registry::KernelRegistry;
use crate::ops::copy::{self, CopyParams};
use crate::ops::gather::{self, GATHER_SHADER_SOURCE, GatherParams, gather_codes_4};
use crate::ops::published::{handle, operand, product, u32_of};

/// The Metal text of the kernel behind [`dispatch_gather_nibble`].
pub static GATHER_BENCH_SHADER_SOURCE: &str = GATHER_SHADER_SOURCE;

/// Adds the kernels of these functions to a registry. A new registry has them already.
pub fn register(registry: &mut KernelRegistry) {
    gather::register(registry);
    copy::register(registry);
}

/// Records `out[p, c] = centroids[code(p, c), c]`: `packed` u8 `[capacity, head_dim / 2]`, the even column in the low half
/// of a byte, `centroids` f32 `[16, head_dim]`, `out` f32 `[capacity, head_dim]`. A zero size records nothing.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for an odd `head_dim`, a buffer of
/// too few bytes, or an `out` that overlaps an input.
pub fn dispatch_gather_nibble(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &DeviceRef,
    packed: &MlxBuffer,
    centroids: &MlxBuffer,
    out: &MlxBuffer,
    capacity: u32,
    head_dim: u32,
) -> Result<()> {
    const OP: &str = "gather_nibble";
    if capacity == 0 || head_dim == 0 {
        return Ok(());
    }
    if head_dim % 2 != 0 {
        return invalid!("{OP}: head_dim is {head_dim}, it must be even");
    }
    let (rows, dim) = (capacity as usize, head_dim as usize);
    let codes = operand(OP, "packed", packed, DType::U8, product(OP, "packed", &[rows, dim / 2])?)?;
    let table = operand(OP, "centroids", centroids, DType::F32, product(OP, "centroids", &[16, dim])?)?;
    let out = operand(OP, "out", out, DType::F32, product(OP, "out", &[rows, dim])?)?;
    let params = GatherParams { row_width: head_dim, n_indices: capacity, src_rows: 16 };
    gather_codes_4(encoder, registry, &handle(device), &codes, &table, &out, &params)
}

/// Records a cast of `cache`, f16 `[capacity, head_dim]`, to `out`, f32 of the same extents. A zero size records nothing.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for more than `u32::MAX` elements,
/// a buffer of too few bytes, or buffers that overlap.
pub fn dispatch_gather_f16_seq(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &DeviceRef,
    cache: &MlxBuffer,
    out: &MlxBuffer,
    capacity: u32,
    head_dim: u32,
) -> Result<()> {
    const OP: &str = "gather_f16_seq";
    if capacity == 0 || head_dim == 0 {
        return Ok(());
    }
    let len = product(OP, "cache", &[capacity as usize, head_dim as usize])?;
    let params = CopyParams { n_elements: u32_of(OP, "capacity · head_dim", len)? };
    let cache = operand(OP, "cache", cache, DType::F16, len)?;
    let out = operand(OP, "out", out, DType::F32, len)?;
    copy::copy(encoder, registry, &handle(device), &cache, &out, &params)
}
