//! Bodies of `sdpa` for the CPU.
//!
//! The queries that share a kv head lie in a row in memory: head after head, position after position. So the unit of
//! work is a kv head, whose keys and values are read once for all its queries.

mod portable;

use half::{bf16, f16};

use super::SdpaParams;
use crate::backend::cpu::{Element, Launch};

/// The online softmax of one query: the greatest score, and the sum of `exp(score - max)`.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Softmax {
    max: f32,
    sum: f32,
}

impl Softmax {
    /// Of no scores. The maximum is finite, so that differences of maxima are.
    const EMPTY: Softmax = Softmax { max: -3.0e38, sum: 0.0 };
}

/// The queries of one kv head, and its keys and values.
struct Rows<'a, T> {
    /// `[n_rows, head_dim]`, row `h * seq_len + s` for query `s` of the group's head `h`.
    q: &'a [T],
    /// `[kv_seq_len, head_dim]`.
    k: &'a [T],
    /// As `k`.
    v: &'a [T],
    n_rows: usize,
    head_dim: usize,
    seq_len: usize,
    kv_seq_len: usize,
    scale: f32,
}

impl<'a, T> Rows<'a, T> {
    /// Kv head `index`, counted over the batch.
    fn of(p: &SdpaParams, q: &'a [T], k: &'a [T], v: &'a [T], index: usize) -> Self {
        let (head_dim, seq_len, kv_seq_len) = (p.head_dim as usize, p.seq_len as usize, p.kv_seq_len as usize);
        let n_rows = (p.n_heads / p.n_kv_heads) as usize * seq_len;
        let kv = index * p.kv_capacity as usize * head_dim..;
        Rows {
            q: &q[index * n_rows * head_dim..][..n_rows * head_dim],
            k: &k[kv.clone()][..kv_seq_len * head_dim],
            v: &v[kv][..kv_seq_len * head_dim],
            n_rows,
            head_dim,
            seq_len,
            kv_seq_len,
            scale: p.scale,
        }
    }

    /// How many keys row `row` sees.
    fn visible(&self, row: usize) -> usize {
        self.kv_seq_len - self.seq_len + row % self.seq_len + 1
    }
}

/// The body of the kernels without a split: each part takes kv heads.
fn decode<T: Element>(launch: &Launch<'_>, _part: usize, _parts: usize) {
    let p: SdpaParams = launch.params(4);
    if p.head_dim == 0 {
        return;
    }
    let (q, k, v) = (launch.input::<T>(0), launch.input::<T>(1), launch.input::<T>(2));
    let output = launch.output::<T>(3);
    let n_items = p.n_kv_heads as usize * launch.threadgroups()[2] as usize;
    let mut o = vec![0.0; ROWS_AT_ONCE * p.head_dim as usize];
    while let Some(items) = launch.next_chunk(n_items, 1) {
        let a = Rows::of(&p, q, k, v, items.start);
        for first in (0..a.n_rows).step_by(ROWS_AT_ONCE) {
            let rows = first..a.n_rows.min(first + ROWS_AT_ONCE);
            let mut state = [Softmax::EMPTY; ROWS_AT_ONCE];
            let (o, state) = (&mut o[..rows.len() * a.head_dim], &mut state[..rows.len()]);
            portable::attend(&a, rows, 0..a.kv_seq_len, o, state);
            for (o, state) in o.chunks_exact_mut(a.head_dim).zip(&*state) {
                let inverse = state.sum.recip();
                o.iter_mut().for_each(|o| *o *= inverse);
            }
            // SAFETY: these rows belong to this item, which this part alone has claimed.
            unsafe { output.store((items.start * a.n_rows + first) * a.head_dim, o) };
        }
    }
}

/// Queries that are computed together.
const ROWS_AT_ONCE: usize = 32;

pub(super) fn general_f32(launch: &Launch<'_>, part: usize, parts: usize) {
    decode::<f32>(launch, part, parts);
}

pub(super) fn general_f16(launch: &Launch<'_>, part: usize, parts: usize) {
    decode::<f16>(launch, part, parts);
}

pub(super) fn general_bf16(launch: &Launch<'_>, part: usize, parts: usize) {
    decode::<bf16>(launch, part, parts);
}
