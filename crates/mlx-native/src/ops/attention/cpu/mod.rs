//! Bodies of `attention` for the CPU.
//!
//! The unit of work is a kv head of a sequence: its keys and values are read once for all queries that share it. The
//! family `Rows` cuts its keys in parts, `Tiles` its queries in blocks.
//!
//! `portable` is the text to read first. `few` and `many` are the fast bodies, for few and many queries, on vectors.

mod few;
mod group;
mod many;
mod portable;
mod softmax;

use std::cell::RefCell;
use std::f32::consts::LOG2_E;
use std::ops::Range;

use super::plan::PART;
use super::record::{DIRECT, Shape};
use crate::backend::cpu::simd::Widen;
use crate::backend::cpu::{Isa, IsaToken, Launch, part_range};
use group::{Group, Inputs, Sequences};
use many::Items;
use softmax::{Scratch, Softmax};

/// Queries that are computed together.
const ROWS_AT_ONCE: usize = 32;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Which rows of a sequence a dispatch of `Rows` has: as in the Metal text.
struct Rounds {
    first_seq: usize,
    first_row: usize,
    rows_here: usize,
    n_parts: usize,
    part: usize,
}

impl Rounds {
    fn of(p: &Shape) -> Self {
        Rounds {
            first_seq: p.first_seq as usize,
            first_row: p.first_row as usize,
            rows_here: p.rows_here as usize,
            n_parts: p.n_parts as usize,
            part: PART as usize,
        }
    }

    /// The rows of the sequence of `g` that this dispatch has.
    fn rows<T: Widen>(&self, g: &Group<'_, T>) -> Range<usize> {
        self.first_row.min(g.rows)..g.rows.min(self.first_row + self.rows_here)
    }

    /// The first part that these rows see, and how many there are.
    fn parts<T: Widen>(&self, g: &Group<'_, T>) -> (usize, usize) {
        let rows = self.rows(g);
        if rows.is_empty() {
            return (0, 0);
        }
        let first = g.visible(rows.start).start / self.part;
        let end = g.visible(rows.end - 1).end.div_ceil(self.part);
        (first, end.saturating_sub(first).min(self.n_parts))
    }

    /// Where a row has its parts, counted in parts.
    fn at(&self, sequence: usize, row: usize, head: usize, n_heads: usize) -> usize {
        (((sequence - self.first_seq) * self.rows_here + row - self.first_row) * n_heads + head) * self.n_parts
    }
}

/// The body of `attention_rows`: threads take parts of the keys of kv heads.
pub(super) fn rows<T: Widen>(launch: &Launch<'_>, _part: usize, _parts: usize) {
    let p: Shape = launch.params(4);
    if p.head_dim == 0 || p.n_kv_heads == 0 {
        return;
    }
    let inputs = Inputs::<T>::of(launch, &p);
    let rounds = Rounds::of(&p);
    let here = launch.threadgroups()[0] as usize / (p.slots_per_seq as usize).max(1);
    let sequences = Sequences::of(&inputs, rounds.first_seq..rounds.first_seq + here, |g| {
        let is_direct = launch.flag(DIRECT) && !rounds.rows(g).is_empty();
        g.kv_heads() * if is_direct { 1 } else { rounds.parts(g).1 }
    });
    let mut o = vec![0.0; ROWS_AT_ONCE * p.v_dim as usize];
    while let Some(item) = launch.next_chunk(sequences.n_items(), 1) {
        let (sequence, item) = sequences.find(item.start);
        let g = inputs.group(sequence, item % p.n_kv_heads as usize);
        let (rows, part) = (rounds.rows(&g), item / p.n_kv_heads as usize);
        let first_part = rounds.parts(&g).0 + part;
        let keys = first_part * rounds.part..(first_part + 1) * rounds.part;
        let keys = keys.start.min(g.kv_len)..keys.end.min(g.visible(rows.end - 1).end);
        let n = g.heads * rows.len();
        for first in (0..n).step_by(ROWS_AT_ONCE) {
            let list = first..n.min(first + ROWS_AT_ONCE);
            let row_of = |r: usize| (r / rows.len(), rows.start + r % rows.len());
            let mut state = [Softmax::EMPTY; ROWS_AT_ONCE];
            let (o, state) = (&mut o[..list.len() * g.v_dim], &mut state[..list.len()]);
            attend(launch.isa(), &g, list.clone(), &row_of, keys.clone(), o, state);
            for ((r, o), state) in list.zip(o.chunks_exact_mut(g.v_dim)).zip(&*state) {
                let (head, row) = row_of(r);
                if launch.flag(DIRECT) {
                    state.finish(o);
                    // SAFETY: this row and head belong to this item, which one part has claimed; ranges of sequences are
                    // disjoint.
                    unsafe { launch.output::<T>(3).store(g.output_at(head, row), o) };
                    continue;
                }
                let at = rounds.at(sequence, row, g.first_head() + head, p.n_heads as usize) + part;
                let (sums, states) = (launch.output::<f32>(9), launch.output::<f32>(10));
                // SAFETY: this part of this row and head belongs to this item, which one part of the launch has claimed.
                unsafe {
                    sums.slice_mut(at * g.v_dim..(at + 1) * g.v_dim).copy_from_slice(o);
                    states.slice_mut(at * 2..at * 2 + 2).copy_from_slice(&[state.max, state.sum]);
                }
            }
        }
    }
}

/// The body of `attention_merge`: threads take rows.
pub(super) fn merge<T: Widen>(launch: &Launch<'_>, part: usize, parts: usize) {
    let p: Shape = launch.params(3);
    if p.head_dim == 0 || p.n_kv_heads == 0 {
        return;
    }
    let (sums, states) = (launch.input::<f32>(0), launch.input::<f32>(1));
    let sinks = if p.has_sinks != 0 { launch.input::<f32>(6) } else { &[] };
    let output = launch.output::<T>(2);
    let inputs = Inputs::<T>::without_keys(launch, &p, [4, 5]);
    let (rounds, n_heads, v_dim) = (Rounds::of(&p), p.n_heads as usize, p.v_dim as usize);
    // Maxima are in the unit that `attend` uses for this instruction set.
    let unit = if launch.isa() == Isa::Portable { 1.0 } else { LOG2_E };
    let weight = |difference| weight_of(launch.isa(), difference);
    let mut o = vec![0.0f32; v_dim];
    let here = rounds.first_seq..rounds.first_seq + launch.threadgroups()[2] as usize;
    let sequences = Sequences::of(&inputs, here, |g| rounds.rows(g).len() * n_heads);
    let group = n_heads / p.n_kv_heads as usize;
    for item in part_range(sequences.n_items(), 1, part, parts) {
        let (sequence, item) = sequences.find(item);
        let head = item % n_heads;
        let g = inputs.group(sequence, head / group);
        let row = rounds.first_row + item / n_heads;
        let first_part = rounds.parts(&g).0;
        let n = g.visible(row).end.div_ceil(rounds.part).saturating_sub(first_part).min(rounds.n_parts);
        let at = rounds.at(sequence, row, head, n_heads);
        let states = &states[at * 2..][..n * 2];
        let sink = sinks.get(head).map(|s| s * unit);
        let max = states.iter().step_by(2).fold(sink.unwrap_or(Softmax::EMPTY.max), |m, s| m.max(*s));
        let mut all = Softmax { max, sum: 0.0 };
        o.fill(0.0);
        for (i, state) in states.chunks_exact(2).enumerate() {
            let weight = weight(state[0] - max);
            all.sum += weight * state[1];
            for (o, s) in o.iter_mut().zip(&sums[(at + i) * v_dim..][..v_dim]) {
                *o += weight * s;
            }
        }
        all.sum += sink.map_or(0.0, |s| weight(s - max));
        all.finish(&mut o);
        // SAFETY: a row and head belongs to one part; ranges of sequences are disjoint.
        unsafe { output.store(g.output_at(head % group, row), &o) };
    }
}

/// The body of `attention_tiles`: threads take blocks of queries.
pub(super) fn tiles<T: Widen>(launch: &Launch<'_>, _part: usize, _parts: usize) {
    let p: Shape = launch.params(4);
    if p.head_dim == 0 || p.n_kv_heads == 0 {
        return;
    }
    let inputs = Inputs::<T>::of(launch, &p);
    let sinks = if p.has_sinks != 0 { launch.input::<f32>(9) } else { &[] };
    let output = launch.output::<T>(3);
    let sequences = Sequences::of(&inputs, 0..p.n_seqs as usize, |g| g.kv_heads() * Items::new(g.heads, g.rows).count());
    let unit = if launch.isa() == Isa::Portable { 1.0 } else { LOG2_E };
    while let Some(claimed) = launch.next_chunk(sequences.n_items(), 1) {
        // The kv head varies fastest, so that items begin with the longest of all heads.
        let (sequence, item) = sequences.find(claimed.start);
        let g = inputs.group(sequence, item % p.n_kv_heads as usize);
        let (heads, rows) = Items::new(g.heads, g.rows).get(item / p.n_kv_heads as usize);
        let row_of = |r: usize| (heads.start + r / rows.len(), rows.start + r % rows.len());
        let mut put = |r: usize, o: &mut [f32], mut state: Softmax| {
            let (head, row) = row_of(r);
            if let Some(sink) = sinks.get(g.first_head() + head) {
                let max = state.max.max(sink * unit);
                let keep = weight_of(launch.isa(), state.max - max);
                o.iter_mut().for_each(|o| *o *= keep);
                state = Softmax { max, sum: state.sum * keep + weight_of(launch.isa(), sink * unit - max) };
            }
            state.finish(o);
            // SAFETY: this row and head belong to this item, which one part has claimed; ranges of sequences are disjoint.
            unsafe { output.store(g.output_at(head, row), o) };
        };
        let n = heads.len() * rows.len();
        if launch.isa() == Isa::Portable {
            let keys = g.visible(rows.start).start..g.visible(rows.end - 1).end;
            let (mut o, mut state) = (vec![0.0; n * g.v_dim], vec![Softmax::EMPTY; n]);
            portable::attend(&g, 0..n, &row_of, keys, &mut o, &mut state);
            for (r, (o, state)) in o.chunks_exact_mut(g.v_dim).zip(state).enumerate() {
                put(r, o, state);
            }
            continue;
        }
        // SAFETY: a launch's instruction set is one that the processor has.
        SCRATCH.with_borrow_mut(|scratch| unsafe {
            many::attend(launch.isa(), &g, n, &row_of, scratch, &mut put);
        });
    }
}

/// [`portable::attend`], by the best body for `isa`; the maxima are in units that [`weight_of`] knows.
fn attend<T: Widen>(
    isa: IsaToken,
    g: &Group<'_, T>,
    rows: Range<usize>,
    row_of: &dyn Fn(usize) -> (usize, usize),
    keys: Range<usize>,
    o: &mut [f32],
    state: &mut [Softmax],
) {
    match isa.level() {
        Isa::Portable => portable::attend(g, rows, row_of, keys, o, state),
        // SAFETY: a launch's instruction set is one that the processor has.
        _ => SCRATCH.with_borrow_mut(|scratch| unsafe { few::attend(isa, g, rows, row_of, keys, o, state, scratch) }),
    }
}

/// What a sum is worth whose maximum differs by `difference` from the greatest.
fn weight_of(isa: IsaToken, difference: f32) -> f32 {
    match isa.level() {
        Isa::Portable => difference.exp(),
        _ => difference.exp2(),
    }
}
