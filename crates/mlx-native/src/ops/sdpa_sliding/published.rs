//! The published 0.1 module `sdpa_sliding`: adapts the attention behind [`sdpa`](crate::ops::sdpa::sdpa).

use crate::buffer::MlxBuffer;
use crate::device::MlxDevice;
use crate::encoder::CommandEncoder;
use crate::error::Result;
use crate::registry::KernelRegistry;
use crate::ops::sdpa::{self, SDPA_SHADER_SOURCE, SdpaParams, sdpa_windowed};

/// The Metal text of the kernels behind [`sdpa_sliding`].
pub static SDPA_SLIDING_SHADER_SOURCE: &str = SDPA_SHADER_SOURCE;

/// Adds the kernels of this function to a registry. A new registry has them already.
pub fn register(registry: &mut KernelRegistry) {
    sdpa::register(registry);
}

/// Sizes of [`sdpa_sliding`].
#[derive(Debug, Clone, Copy)]
pub struct SdpaSlidingParams {
    /// Heads of the queries; a multiple of `n_kv_heads`.
    pub n_heads: u32,
    /// Heads of keys and values.
    pub n_kv_heads: u32,
    /// Elements of a head's row, 1 to 576.
    pub head_dim: u32,
    /// Queries of a head.
    pub seq_len: u32,
    /// Keys that count.
    pub kv_seq_len: u32,
    /// Keys *before* its own that a query sees: `window_size + 1` keys in all. (`flash_attn_vec` counts its own key in.)
    pub window_size: u32,
    /// What scores are multiplied by.
    pub scale: f32,
    /// Positions that K and V have room for in each head; 0 for `kv_seq_len`.
    pub kv_capacity: u32,
}

/// Records causal attention over a sliding window: query `i` of `seq_len` is at position `p = kv_seq_len - seq_len + i`, and sees the
/// keys from `p - window_size` to `p`. Buffers and dtypes as in [`sdpa`](crate::ops::sdpa::sdpa).
///
/// # Errors
/// As [`sdpa`](crate::ops::sdpa::sdpa); also for a `window_size` of 0.
pub fn sdpa_sliding(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    q: &MlxBuffer,
    k: &MlxBuffer,
    v: &MlxBuffer,
    output: &MlxBuffer,
    params: &SdpaSlidingParams,
    batch_size: u32,
) -> Result<()> {
    let p = *params;
    let dense = SdpaParams {
        n_heads: p.n_heads,
        n_kv_heads: p.n_kv_heads,
        head_dim: p.head_dim,
        seq_len: p.seq_len,
        kv_seq_len: p.kv_seq_len,
        scale: p.scale,
        kv_capacity: p.kv_capacity,
    };
    sdpa_windowed("sdpa_sliding", encoder, registry, device, [q, k, v, output], &dense, batch_size, p.window_size)
}
