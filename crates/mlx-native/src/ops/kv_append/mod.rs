//! Appends keys or values to a cache, `cache[head][position + token] = x[token][head]`: a dense one by
//! [`kv_cache_copy`](super::kv_cache_copy), a pool of blocks by kernels of its own.

mod paged;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod tests;

pub use paged::{PagedAppendParams, kv_append_paged};

use super::kv_cache_copy::{KvCacheCopyParams, kv_cache_copy};
use super::{Op, check};
use crate::buffer::MlxBuffer;
use crate::device::MlxDevice;
use crate::encoder::CommandEncoder;
use crate::error::{Result, invalid};
use crate::registry::KernelRegistry;

/// The Metal text of the kernels `kv_append_paged_8`, `_16` and `_32`, named by the bits of an element.
pub static KV_APPEND_SHADER_SOURCE: &str = include_str!("kv_append.metal");

pub(crate) static OP: Op = Op {
    name: "kv_append",
    source: KV_APPEND_SHADER_SOURCE,
    kernels: &[
        ("kv_append_paged_8", paged::body::<u8>),
        ("kv_append_paged_16", paged::body::<u16>),
        ("kv_append_paged_32", paged::body::<u32>),
    ],
};

/// Adds the kernels of this operator to a registry. A new registry has them already.
pub fn register(registry: &mut KernelRegistry) {
    registry.register_op(&OP);
}

/// Sizes of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvAppendParams {
    /// Heads of `x` and of the cache.
    pub n_kv_heads: u32,
    /// Features of a head.
    pub head_dim: u32,
    /// Tokens in `x`.
    pub n_tokens: u32,
    /// Positions that the cache has for each head.
    pub capacity: u32,
    /// Position of the first token.
    pub position: u32,
}

/// Features that one thread copies.
const PER_THREAD: u32 = 4;

/// Records `cache[head][position + token] = x[token][head]` for all tokens and heads; nothing else of the cache is
/// touched.
///
/// `x` is `[n_tokens, n_kv_heads, head_dim]`, as a projection gives it; `cache` is `[n_kv_heads, capacity, head_dim]`, as
/// `sdpa` reads it. Both have the same dtype, whichever; bits are copied.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a zero size, tokens that go
/// beyond the capacity, a buffer that is too small, dtypes that differ, or an `x` inside the cache.
pub fn kv_append(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    x: &MlxBuffer,
    cache: &MlxBuffer,
    params: &KvAppendParams,
) -> Result<()> {
    const OP: &str = "kv_append";
    let KvAppendParams { n_kv_heads, head_dim, n_tokens, capacity, position } = *params;
    check::nonzero(
        OP,
        &[
            ("n_kv_heads", n_kv_heads),
            ("head_dim", head_dim),
            ("n_tokens", n_tokens),
            ("capacity", capacity),
        ],
    )?;
    if position.checked_add(n_tokens).is_none_or(|end| end > capacity) {
        return invalid!("{OP}: position {position} + n_tokens {n_tokens} is beyond capacity {capacity}");
    }
    let x_len = check::product(OP, "x", &[n_tokens, n_kv_heads, head_dim])?;
    let cache_len = check::product(OP, "cache", &[n_kv_heads, capacity, head_dim])?;
    if x.dtype() != cache.dtype() {
        return invalid!("{OP}: dtype of cache is {}, it must be {} as that of x", cache.dtype(), x.dtype());
    }
    check::holds(OP, "x", x, x_len)?;
    check::holds(OP, "cache", cache, cache_len)?;
    let params = KvCacheCopyParams { n_heads: n_kv_heads, head_dim, n_tokens, capacity, position, is_ring: false };
    kv_cache_copy(encoder, registry, device, x, cache, &params)
}
