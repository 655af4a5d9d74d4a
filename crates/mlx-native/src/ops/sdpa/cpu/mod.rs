//! Bodies of `sdpa` for the CPU.
//!
//! The queries that share a kv head lie in a row in memory: head after head, position after position. So the unit of
//! work is a kv head, whose keys and values are read once for all its queries.
//!
//! `portable` is the text to read first. `few` and `many` are the fast bodies, for few and many queries, on vectors.

mod few;
mod many;
mod portable;
mod softmax;

use std::cell::RefCell;
use std::ops::Range;

use super::{SdpaParams, SdpaSplit};
use crate::backend::cpu::simd::Widen;
use crate::backend::cpu::{Isa, IsaToken, Launch, part_range};
use many::Items;
use softmax::Scratch;

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

/// The bodies of `sdpa` and `sdpa_decode`: parts take kv heads.
pub(super) fn decode<T: Widen>(launch: &Launch<'_>, _part: usize, _parts: usize) {
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
            attend(launch.isa(), &a, rows, 0..a.kv_seq_len, o, state);
            for (o, state) in o.chunks_exact_mut(a.head_dim).zip(&*state) {
                let inverse = state.sum.recip();
                o.iter_mut().for_each(|o| *o *= inverse);
            }
            // SAFETY: these rows belong to this item, which this part alone has claimed.
            unsafe { output.store((items.start * a.n_rows + first) * a.head_dim, o) };
        }
    }
}

/// The body of `sdpa_split`: parts take ranges of the keys of kv heads.
pub(super) fn split<T: Widen>(launch: &Launch<'_>, _part: usize, _parts: usize) {
    let (p, cut): (SdpaParams, SdpaSplit) = (launch.params(4), launch.params(5));
    if p.head_dim == 0 || cut.n_splits == 0 {
        return;
    }
    let (q, k, v) = (launch.input::<T>(0), launch.input::<T>(1), launch.input::<T>(2));
    let (sums, states) = (launch.output::<f32>(3), launch.output::<f32>(6));
    let (n_splits, split_len) = (cut.n_splits as usize, cut.split_len as usize);
    let n_items = p.n_kv_heads as usize * launch.threadgroups()[2] as usize * n_splits;
    let mut o = vec![0.0; ROWS_AT_ONCE * p.head_dim as usize];
    while let Some(items) = launch.next_chunk(n_items, 1) {
        let (head, split) = (items.start / n_splits, items.start % n_splits);
        let a = Rows::of(&p, q, k, v, head);
        let keys = split * split_len..a.kv_seq_len.min((split + 1) * split_len);
        for first in (0..a.n_rows).step_by(ROWS_AT_ONCE) {
            let rows = first..a.n_rows.min(first + ROWS_AT_ONCE);
            let mut state = [Softmax::EMPTY; ROWS_AT_ONCE];
            let (o, state) = (&mut o[..rows.len() * a.head_dim], &mut state[..rows.len()]);
            attend(launch.isa(), &a, rows.clone(), keys.clone(), o, state);
            for ((row, o), state) in rows.zip(o.chunks_exact(a.head_dim)).zip(&*state) {
                let at = (head * a.n_rows + row) * n_splits + split;
                // SAFETY: this row of this split belongs to this item, which this part alone has claimed.
                unsafe {
                    sums.slice_mut(at * a.head_dim..(at + 1) * a.head_dim).copy_from_slice(o);
                    states.slice_mut(at * 2..at * 2 + 2).copy_from_slice(&[state.max, state.sum]);
                }
            }
        }
    }
}

/// The body of `sdpa_merge`: parts take rows.
pub(super) fn merge<T: Widen>(launch: &Launch<'_>, part: usize, parts: usize) {
    let (p, cut): (SdpaParams, SdpaSplit) = (launch.params(3), launch.params(4));
    let (sums, states) = (launch.input::<f32>(0), launch.input::<f32>(1));
    let output = launch.output::<T>(2);
    let (n_splits, head_dim) = (cut.n_splits as usize, p.head_dim as usize);
    let n_rows = launch.threadgroups()[2] as usize * p.n_heads as usize * p.seq_len as usize;
    let mut o = vec![0.0f32; head_dim];
    for row in part_range(n_rows, 1, part, parts) {
        let states = &states[row * n_splits * 2..][..n_splits * 2];
        let max = states.iter().step_by(2).fold(Softmax::EMPTY.max, |m, s| m.max(*s));
        o.fill(0.0);
        let mut sum = 0.0;
        for (i, state) in states.chunks_exact(2).enumerate() {
            // The maxima are in the unit that `attend` uses for this launch's instruction set.
            let weight = weight_of(launch.isa(), state[0] - max);
            sum += weight * state[1];
            for (o, s) in o.iter_mut().zip(&sums[(row * n_splits + i) * head_dim..][..head_dim]) {
                *o += weight * s;
            }
        }
        o.iter_mut().for_each(|o| *o /= sum);
        // SAFETY: a row belongs to one part.
        unsafe { output.store(row * head_dim, &o) };
    }
}

/// The body of `sdpa_prefill`: parts take blocks of queries.
pub(super) fn prefill<T: Widen>(launch: &Launch<'_>, part: usize, parts: usize) {
    if launch.isa() == Isa::Portable {
        return decode::<T>(launch, part, parts);
    }
    let p: SdpaParams = launch.params(4);
    if p.head_dim == 0 {
        return;
    }
    let (q, k, v) = (launch.input::<T>(0), launch.input::<T>(1), launch.input::<T>(2));
    let output = launch.output::<T>(3);
    let items = Items::new((p.n_heads / p.n_kv_heads) as usize, p.seq_len as usize);
    let n_heads = p.n_kv_heads as usize * launch.threadgroups()[2] as usize;
    while let Some(claimed) = launch.next_chunk(items.count() * n_heads, 1) {
        // The kv head varies fastest, so that items begin with the longest of all heads.
        let (head, item) = (claimed.start % n_heads, claimed.start / n_heads);
        let a = Rows::of(&p, q, k, v, head);
        // SAFETY: a launch's instruction set is one that the processor has; an item is claimed by one part.
        SCRATCH.with_borrow_mut(|scratch| unsafe {
            many::attend(launch.isa(), &a, &items, item, &output, head * a.n_rows, scratch);
        });
    }
}

/// Queries that are computed together.
const ROWS_AT_ONCE: usize = 32;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// [`portable::attend`], by the best body for `isa`; the maxima are in units that [`weight_of`] knows.
fn attend<T: Widen>(
    isa: IsaToken,
    a: &Rows<'_, T>,
    rows: Range<usize>,
    keys: Range<usize>,
    o: &mut [f32],
    state: &mut [Softmax],
) {
    match isa.level() {
        Isa::Portable => portable::attend(a, rows, keys, o, state),
        // SAFETY: a launch's instruction set is one that the processor has.
        _ => SCRATCH.with_borrow_mut(|scratch| unsafe { few::attend(isa, a, rows, keys, o, state, scratch) }),
    }
}

/// What a sum is worth whose maximum differs by `difference` from the greatest.
fn weight_of(isa: IsaToken, difference: f32) -> f32 {
    match isa.level() {
        Isa::Portable => difference.exp(),
        _ => difference.exp2(),
    }
}
