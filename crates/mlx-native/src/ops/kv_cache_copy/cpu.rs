//! Bodies of `kv_cache_copy` for the CPU.

use bytemuck::Pod;

use super::KernelParams;
use crate::backend::cpu::{Element, Launch, part_range};

/// Elements below which rows are not worth another thread.
const GRANULE: usize = 4096;

pub(super) fn bits<Word: Pod>(launch: &Launch<'_>, part: usize, parts: usize) {
    rows::<Word, Word>(launch, part, parts, |from, to| to.copy_from_slice(from));
}

pub(super) fn cast<To: Element>(launch: &Launch<'_>, part: usize, parts: usize) {
    rows::<f32, To>(launch, part, parts, |from, to| To::narrow(from, to));
}

fn rows<From: Pod, To: Pod>(launch: &Launch<'_>, part: usize, parts: usize, copy: impl Fn(&[From], &mut [To])) {
    let p: KernelParams = launch.params(2);
    let (x, cache) = (launch.input::<From>(0), launch.output::<To>(1));
    let (heads, dim, capacity) = (p.n_heads as usize, p.head_dim as usize, p.capacity as usize);
    for i in part_range(p.n_tokens as usize * heads, (GRANULE / dim.max(1)).max(1), part, parts) {
        let (token, head) = (i / heads, i % heads);
        // Of more tokens than a ring has places, only the last ones stay.
        if p.is_ring != 0 && token + capacity < p.n_tokens as usize {
            continue;
        }
        let position = p.position as usize + token;
        let position = if p.is_ring != 0 { position % capacity } else { position };
        let to = (head * capacity + position) * dim;
        // SAFETY: no two rows have the same place, and each row is one part's.
        copy(&x[i * dim..(i + 1) * dim], unsafe { cache.slice_mut(to..to + dim) });
    }
}
