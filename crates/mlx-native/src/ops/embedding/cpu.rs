//! Bodies of `embedding` for the CPU.

use super::EmbeddingParams;
use crate::backend::cpu::{Element, Launch, part_range};

/// Elements that are widened to f32 at a time.
const CHUNK: usize = 512;
/// Elements below which a token is not worth another thread.
const GRANULE: usize = 8192;

pub(super) fn embedding<W: Element, T: Element>(launch: &Launch<'_>, part: usize, parts: usize) {
    let p: EmbeddingParams = launch.params(3);
    let (ids, table, output) = (launch.input::<u32>(0), launch.input::<W>(1), launch.output::<T>(2));
    let dim = p.embed_dim as usize;
    let mut values = [0.0; CHUNK];
    for token in part_range(p.n_tokens as usize, (GRANULE / dim.max(1)).max(1), part, parts) {
        let id = ids[token];
        // SAFETY: each token is one part's.
        let row = unsafe { output.slice_mut(token * dim..(token + 1) * dim) };
        if id >= p.vocab_size {
            row.fill(T::zeroed());
            continue;
        }
        let from = &table[id as usize * dim..(id as usize + 1) * dim];
        for (from, to) in from.chunks(CHUNK).zip(row.chunks_mut(CHUNK)) {
            let values = &mut values[..from.len()];
            W::widen(from, values);
            T::narrow(values, to);
        }
    }
}
