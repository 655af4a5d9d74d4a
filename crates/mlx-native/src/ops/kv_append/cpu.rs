//! Bodies of `kv_append` for the CPU: one copy for each token and head.

use bytemuck::Pod;

use super::KvAppendParams;
use crate::backend::cpu::{Launch, part_range};

/// Elements below which a token is not worth another thread.
const GRANULE: usize = 8192;

pub(super) fn kv_append<Word: Pod>(launch: &Launch<'_>, part: usize, parts: usize) {
    let p: KvAppendParams = launch.params(2);
    let (x, cache) = (launch.input::<Word>(0), launch.output::<Word>(1));
    let (heads, dim) = (p.n_kv_heads as usize, p.head_dim as usize);
    let granule = (GRANULE / (heads * dim).max(1)).max(1);
    for token in part_range(p.n_tokens as usize, granule, part, parts) {
        for head in 0..heads {
            let from = (token * heads + head) * dim;
            let to = (head * p.capacity as usize + p.position as usize + token) * dim;
            // SAFETY: each token is one part's, and its rows of the cache with it.
            unsafe { cache.slice_mut(to..to + dim) }.copy_from_slice(&x[from..from + dim]);
        }
    }
}
