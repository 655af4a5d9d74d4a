//! Copies of keys or values into a cache that may be a ring and of another dtype:
//! `cache[head][(position + token) mod capacity] = x[token][head]`.

mod cpu;
mod published;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod tests;

use bytemuck::{Pod, Zeroable};
use half::{bf16, f16};

pub use published::*;

use super::{Op, check};
use crate::buffer::MlxBuffer;
use crate::device::MlxDevice;
use crate::dtype::DType;
use crate::encoder::{CommandEncoder, KernelArg, as_bytes};
use crate::error::{Result, invalid};
use crate::registry::KernelRegistry;
use crate::metal::MTLSize;

/// The Metal text of the kernels `kv_cache_copy_8`, `_16`, `_32`, named by the bits of an element, and of the casts
/// `kv_cache_copy_f32_f16` and `kv_cache_copy_f32_bf16`.
pub static KV_CACHE_COPY_SHADER_SOURCE: &str = include_str!("kv_cache_copy.metal");

pub(crate) static OP: Op = Op {
    name: "kv_cache_copy",
    source: KV_CACHE_COPY_SHADER_SOURCE,
    kernels: &[
        ("kv_cache_copy_8", cpu::bits::<u8>),
        ("kv_cache_copy_16", cpu::bits::<u16>),
        ("kv_cache_copy_32", cpu::bits::<u32>),
        ("kv_cache_copy_f32_f16", cpu::cast::<f16>),
        ("kv_cache_copy_f32_bf16", cpu::cast::<bf16>),
    ],
};

/// Adds the kernels of this operator to a registry. A new registry has them already.
pub fn register(registry: &mut KernelRegistry) {
    registry.register_op(&OP);
}

/// Sizes of a copy into a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvCacheCopyParams {
    /// Heads of `x` and of the cache.
    pub n_heads: u32,
    /// Elements of a row.
    pub head_dim: u32,
    /// Tokens in `x`.
    pub n_tokens: u32,
    /// Positions that the cache has for each head.
    pub capacity: u32,
    /// Position of the first token.
    pub position: u32,
    /// Whether positions are taken modulo the capacity: a sliding window. Of more tokens than places the last ones stay.
    pub is_ring: bool,
}

/// The kernels' parameter struct.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct KernelParams {
    n_heads: u32,
    head_dim: u32,
    n_tokens: u32,
    capacity: u32,
    position: u32,
    is_ring: u32,
}

/// Elements that one thread copies.
const PER_THREAD: u32 = 4;

/// Records `cache[head, position + token] = x[token, head]` for all tokens and heads; nothing else of the cache is touched.
///
/// `x` is `[n_tokens, n_heads, head_dim]`, `cache` `[n_heads, capacity, head_dim]`. Of one dtype, whichever, bits are copied;
/// f32 into f16 or bf16 is rounded to nearest even.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a zero size, tokens that go
/// beyond the capacity of a cache that is no ring, a buffer that is too small, another pair of dtypes, or an `x` inside the
/// cache.
pub fn kv_cache_copy(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    x: &MlxBuffer,
    cache: &MlxBuffer,
    params: &KvCacheCopyParams,
) -> Result<()> {
    const OP: &str = "kv_cache_copy";
    let KvCacheCopyParams { n_heads, head_dim, n_tokens, capacity, position, is_ring } = *params;
    check::nonzero(
        OP,
        &[("n_heads", n_heads), ("head_dim", head_dim), ("n_tokens", n_tokens), ("capacity", capacity)],
    )?;
    check::row_length(OP, "head_dim", head_dim)?;
    if !is_ring && position.checked_add(n_tokens).is_none_or(|end| end > capacity) {
        return invalid!("{OP}: position {position} + n_tokens {n_tokens} is beyond capacity {capacity}");
    }
    let kernel = match (x.dtype(), cache.dtype()) {
        (DType::F32, DType::F16) => "kv_cache_copy_f32_f16",
        (DType::F32, DType::BF16) => "kv_cache_copy_f32_bf16",
        (from, to) if from != to => {
            return invalid!("{OP}: x is {from}, cache is {to}; f32 into f16 or bf16, or equal dtypes are possible");
        }
        (dtype, _) => match dtype.size_of() {
            1 => "kv_cache_copy_8",
            2 => "kv_cache_copy_16",
            _ => "kv_cache_copy_32",
        },
    };
    check::holds(OP, "x", x, check::product(OP, "x", &[n_tokens, n_heads, head_dim])?)?;
    check::holds(OP, "cache", cache, check::product(OP, "cache", &[n_heads, capacity, head_dim])?)?;
    check::disjoint(OP, ("cache", cache), &[("x", x)])?;
    let pipeline = registry.get_pipeline(kernel, device)?;
    let params = KernelParams { n_heads, head_dim, n_tokens, capacity, position, is_ring: is_ring.into() };
    encoder.try_encode_with_args(
        pipeline,
        &[
            (0, KernelArg::Buffer(x)),
            (1, KernelArg::Buffer(cache)),
            (2, KernelArg::Bytes(as_bytes(&params))),
        ],
        MTLSize::new(u64::from(head_dim.div_ceil(PER_THREAD)), u64::from(n_heads), u64::from(n_tokens)),
        MTLSize::new(32, 4, 2),
    )
}
