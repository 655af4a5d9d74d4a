//! What a body sees of a step: sequences, and in each the queries that share a kv head, with their keys and values.

use std::ops::Range;

use bytemuck::cast_slice;

use super::super::record::Shape;
use crate::backend::cpu::Launch;
use crate::backend::cpu::simd::Widen;
use crate::ops::step::rows_of_sequences;

/// The arguments of a launch.
pub(super) struct Inputs<'a, T> {
    shape: &'a Shape,
    q: &'a [T],
    k: &'a [T],
    v: &'a [T],
    table: &'a [u32],
    lens: &'a [u32],
    mask: &'a [u8],
    /// Rows of each sequence, disjoint; empty for a dense cache.
    rows: Vec<Range<usize>>,
}

impl<'a, T: Widen> Inputs<'a, T> {
    pub(super) fn of(launch: &Launch<'a>, shape: &'a Shape) -> Self {
        let mut inputs = Self::without_keys(launch, shape, [6, 7]);
        [inputs.q, inputs.k, inputs.v] = [0, 1, 2].map(|i| launch.input::<T>(i));
        if shape.dense == 0 {
            inputs.table = launch.input::<u32>(5);
        }
        if shape.mask_kind != 0 {
            inputs.mask = launch.input::<u8>(8);
        }
        inputs
    }

    /// Only the state, whose starts and lengths are these arguments.
    pub(super) fn without_keys(launch: &Launch<'a>, shape: &'a Shape, [starts, lens]: [u32; 2]) -> Self {
        let (mut rows, mut kv_lens) = (Vec::new(), &[][..]);
        if shape.dense == 0 {
            let n_seqs = shape.n_seqs as usize;
            rows = rows_of_sequences(&launch.input::<u32>(starts)[..n_seqs + 1], shape.n_rows).collect();
            kv_lens = launch.input::<u32>(lens);
        }
        Inputs { shape, q: &[], k: &[], v: &[], table: &[], lens: kv_lens, mask: &[], rows }
    }

    /// The queries of kv head `kv_head` of sequence `index`; none if the sequence is not this kernel's.
    pub(super) fn group(&self, index: usize, kv_head: usize) -> Group<'_, T> {
        let p = self.shape;
        let (start, rows, kv_len) = if p.dense != 0 {
            (index * p.dense_start as usize, p.dense_rows as usize, p.max_kv_len as usize)
        } else {
            let rows = &self.rows[index];
            (rows.start, rows.len(), self.lens[index].min(p.max_kv_len) as usize)
        };
        let is_mine = (p.min_rows as usize..=p.max_rows as usize).contains(&rows);
        Group {
            inputs: self,
            index,
            kv_head,
            start,
            rows: if is_mine { rows } else { 0 },
            kv_len,
            heads: (p.n_heads / p.n_kv_heads) as usize,
            head_dim: p.head_dim as usize,
            v_dim: p.v_dim as usize,
        }
    }
}

/// How many items of work each of some sequences has.
pub(super) struct Sequences {
    first: usize,
    /// Items up to and including each sequence.
    ends: Vec<usize>,
}

impl Sequences {
    pub(super) fn of<'a, T: Widen>(
        inputs: &'a Inputs<'_, T>,
        indices: Range<usize>,
        items: impl Fn(&Group<'a, T>) -> usize,
    ) -> Self {
        let end = indices.end.min(inputs.shape.n_seqs as usize);
        let ends = (indices.start..end).scan(0, |sum, s| {
            *sum += items(&inputs.group(s, 0));
            Some(*sum)
        });
        Sequences { first: indices.start, ends: ends.collect() }
    }

    pub(super) fn n_items(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    /// The sequence that item `item` is of, and its index there.
    pub(super) fn find(&self, item: usize) -> (usize, usize) {
        let at = self.ends.partition_point(|end| *end <= item);
        let before = at.checked_sub(1).map_or(0, |i| self.ends[i]);
        (self.first + at, item - before)
    }
}

/// The queries of a sequence that share a kv head, and its keys and values.
pub(super) struct Group<'a, T> {
    inputs: &'a Inputs<'a, T>,
    index: usize,
    kv_head: usize,
    /// First row.
    start: usize,
    /// Rows of the sequence.
    pub rows: usize,
    /// Keys of the sequence.
    pub kv_len: usize,
    /// Query heads.
    pub heads: usize,
    pub head_dim: usize,
    pub v_dim: usize,
}

impl<T: Widen> Group<'_, T> {
    pub(super) fn kv_heads(&self) -> usize {
        self.inputs.shape.n_kv_heads as usize
    }

    /// The first of the query heads.
    pub(super) fn first_head(&self) -> usize {
        self.kv_head * self.heads
    }

    /// The keys that row `i` of the sequence sees, but for the mask.
    pub(super) fn visible(&self, i: usize) -> Range<usize> {
        let p = self.inputs.shape;
        let end = if p.causal == 0 { self.kv_len } else { (self.kv_len + i + 1).saturating_sub(self.rows) };
        let low = if p.window == 0 { 0 } else { end.saturating_sub(p.window as usize) };
        low..end
    }

    /// The query of head `head` of the group at row `i`.
    pub(super) fn query(&self, head: usize, i: usize) -> &[T] {
        let p = self.inputs.shape;
        let at = (self.start + i) * p.q_row_stride as usize + (self.first_head() + head) * p.q_head_stride as usize;
        &self.inputs.q[at..at + self.head_dim]
    }

    /// Where its output is.
    pub(super) fn output_at(&self, head: usize, i: usize) -> usize {
        let p = self.inputs.shape;
        (self.start + i) * p.out_row_stride as usize + (self.first_head() + head) * p.out_head_stride as usize
    }

    /// What a product of query and key is multiplied by: to a score, if `unit` is 1, unless a cap comes between.
    pub(super) fn factor(&self, unit: f32) -> f32 {
        let p = self.inputs.shape;
        if p.softcap == 0.0 { p.scale * unit } else { p.scale }
    }

    /// Whether [`finish_scores`](Self::finish_scores) has anything to do.
    pub(super) fn is_plain(&self) -> bool {
        self.inputs.shape.softcap == 0.0 && self.inputs.shape.mask_kind == 0
    }

    /// Cap and mask, for scores of keys from `first_key` on; those that the mask hides become -infinity. `unit` is what
    /// scores are multiplied by in the end.
    pub(super) fn finish_scores(&self, head: usize, i: usize, first_key: usize, scores: &mut [f32], unit: f32) {
        let p = self.inputs.shape;
        if p.softcap != 0.0 {
            for score in &mut *scores {
                *score = p.softcap * (*score / p.softcap).tanh() * unit;
            }
        }
        let at = self.index * p.mask_seq_stride as usize
            + (self.first_head() + head) * p.mask_head_stride as usize
            + i * p.mask_row_stride as usize
            + first_key;
        match p.mask_kind {
            0 => {}
            1 => {
                for (score, mask) in scores.iter_mut().zip(&self.inputs.mask[at..]) {
                    *score = if *mask != 0 { *score } else { f32::NEG_INFINITY };
                }
            }
            _ => {
                let mask: &[T] = cast_slice(&self.inputs.mask[at * size_of::<T>()..][..scores.len() * size_of::<T>()]);
                for (score, mask) in scores.iter_mut().zip(mask) {
                    *score += mask.to_f32() * unit;
                }
            }
        }
    }

    /// Rows of keys from `first` on, `n` of them, side by side: where they lie, or copied to `space`.
    pub(super) fn keys<'s>(&'s self, first: usize, n: usize, space: &'s mut Vec<T>) -> &'s [T] {
        self.rows_of(self.inputs.k, self.head_dim, first, n, space)
    }

    /// As [`keys`](Self::keys), of values.
    pub(super) fn values<'s>(&'s self, first: usize, n: usize, space: &'s mut Vec<T>) -> &'s [T] {
        self.rows_of(self.inputs.v, self.v_dim, first, n, space)
    }

    fn rows_of<'s>(&'s self, pool: &'s [T], dim: usize, first: usize, n: usize, space: &'s mut Vec<T>) -> &'s [T] {
        let p = self.inputs.shape;
        let block_rows = 1usize << p.block_shift;
        let piece = |at: usize, n: usize| &pool[self.pool_row(at) * dim..][..n * dim];
        if first % block_rows + n <= block_rows {
            return piece(first, n);
        }
        space.clear();
        let mut at = first;
        while at < first + n {
            let here = (block_rows - at % block_rows).min(first + n - at);
            space.extend_from_slice(piece(at, here));
            at += here;
        }
        space
    }

    /// The row of the pool that holds a position of this kv head.
    fn pool_row(&self, position: usize) -> usize {
        let p = self.inputs.shape;
        let block = if p.dense != 0 {
            self.index
        } else {
            let entry = (position >> p.block_shift) % p.blocks_per_seq as usize;
            self.inputs.table[self.index * p.blocks_per_seq as usize + entry].min(p.n_blocks - 1) as usize
        };
        (block * p.n_kv_heads as usize + self.kv_head) * p.head_rows as usize + (position & ((1 << p.block_shift) - 1))
    }
}
