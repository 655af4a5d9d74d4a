//! Many queries: flash attention in blocks, on a matrix tile of 6 rows.
//!
//! A work item is a block of positions for some heads that share a kv head. For each block of 64 keys it transposes the
//! keys and widens the values once, then multiplies for all its rows.

use std::f32::consts::LOG2_E;

use super::softmax::{BLOCK, Scratch, block_of_weights, rescale, widen_row};
use super::{Rows, Softmax};
use crate::backend::cpu::Output;
use crate::backend::cpu::simd::{Vector, Widen, vectorize};

/// Rows that a work item aims at.
const ITEM_ROWS: usize = 128;

/// How one kv head's queries are divided into items: from the shape alone.
#[derive(Clone, Copy)]
pub(super) struct Items {
    heads_per_item: usize,
    positions_per_item: usize,
    n_heads: usize,
    seq_len: usize,
}

impl Items {
    pub(super) fn new(n_heads: usize, seq_len: usize) -> Self {
        let heads_per_item = n_heads.clamp(1, 16);
        let positions_per_item = (ITEM_ROWS / heads_per_item).clamp(8, 64);
        Items { heads_per_item, positions_per_item, n_heads, seq_len }
    }

    /// Items of a kv head.
    pub(super) fn count(&self) -> usize {
        self.n_heads.div_ceil(self.heads_per_item) * self.seq_len.div_ceil(self.positions_per_item)
    }

    /// First head and number of heads, first position and number of positions of item `index`. Late positions, which see
    /// most, come first.
    fn get(&self, index: usize) -> (usize, usize, usize, usize) {
        let blocks = self.seq_len.div_ceil(self.positions_per_item);
        let head = index / blocks * self.heads_per_item;
        let position = (blocks - 1 - index % blocks) * self.positions_per_item;
        (
            head,
            self.heads_per_item.min(self.n_heads - head),
            position,
            self.positions_per_item.min(self.seq_len - position),
        )
    }
}

vectorize! {
    /// Computes item `index`; its output rows begin at `output_row`, counted from the kv head's first.
    ///
    /// # Safety
    /// The processor has the instruction set; nobody else uses the item's rows of `output`.
    pub(super) unsafe fn attend<T: Widen>(
        a: &Rows<'_, T>,
        items: &Items,
        index: usize,
        output: &Output<'_, T>,
        output_row: usize,
        scratch: &mut Scratch,
    ) = attend_with
}

/// [`attend`] with the vectors `V`.
///
/// # Safety
/// The processor has the instruction set of `V`; nobody else uses the item's rows of `output`.
#[inline(always)]
unsafe fn attend_with<V: Vector, T: Widen>(
    a: &Rows<'_, T>,
    items: &Items,
    index: usize,
    output: &Output<'_, T>,
    output_row: usize,
    scratch: &mut Scratch,
) {
    let (head, n_heads, position, n_positions) = items.get(index);
    let (d, stride) = (a.head_dim, a.head_dim.next_multiple_of(V::LANES));
    let n = n_heads * n_positions;
    let row_of = |i: usize| (head + i / n_positions) * a.seq_len + position + i % n_positions;
    let end = a.visible(position + n_positions - 1);
    let lengths = [n * stride, n * stride, n * BLOCK, stride * BLOCK, stride * BLOCK, n * 2];
    let [query, sums, weights, keys, values, states] = scratch.pieces(lengths);
    for (i, query) in query.chunks_exact_mut(stride).enumerate() {
        // SAFETY: the instruction set by the caller's word.
        unsafe {
            widen_row::<V, T>(&a.q[row_of(i) * d..][..d], query);
            rescale::<V>(query, a.scale * LOG2_E);
        }
    }
    sums.fill(0.0);
    for state in states.chunks_exact_mut(2) {
        state.copy_from_slice(&[Softmax::EMPTY.max, 0.0]);
    }
    for first in (0..end).step_by(BLOCK) {
        let n_keys = BLOCK.min(end - first);
        // SAFETY: the instruction set by the caller's word.
        unsafe {
            widen_rows::<V, T>(&a.k[first * d..][..n_keys * d], d, values, stride);
            transpose(&values[..n_keys * stride], stride, d, keys);
            widen_rows::<V, T>(&a.v[first * d..][..n_keys * d], d, values, stride);
        }
        // SAFETY: the instruction set by the caller's word; the matrices are pieces of these sizes.
        unsafe {
            let (q, kt, w) = (query.as_ptr(), keys.as_ptr(), weights.as_mut_ptr());
            multiply::<V, false>(Matrix(q, stride), Matrix(kt, BLOCK), n, BLOCK, d, w, BLOCK);
            for i in 0..n {
                let visible = a.visible(row_of(i)).saturating_sub(first).min(n_keys);
                let mut state = Softmax { max: states[2 * i], sum: states[2 * i + 1] };
                let keep = block_of_weights::<V>(&mut weights[i * BLOCK..][..BLOCK], visible, &mut state);
                states[2 * i..2 * i + 2].copy_from_slice(&[state.max, state.sum]);
                rescale::<V>(&mut sums[i * stride..][..stride], keep);
            }
            let (w, v) = (weights.as_ptr(), values.as_ptr());
            multiply::<V, true>(Matrix(w, BLOCK), Matrix(v, stride), n, stride, n_keys, sums.as_mut_ptr(), stride);
        }
    }
    for (i, sums) in sums.chunks_exact_mut(stride).enumerate() {
        let inverse = states[2 * i + 1].recip();
        sums.iter_mut().for_each(|o| *o *= inverse);
        // SAFETY: a row of this item, by the caller's word.
        unsafe { output.store((output_row + row_of(i)) * d, &sums[..d]) };
    }
}

/// Widens rows of `d` to rows of `stride`, whole vectors.
///
/// # Safety
/// The processor has the instruction set of `V`; `to` has room.
#[inline(always)]
unsafe fn widen_rows<V: Vector, T: Widen>(from: &[T], d: usize, to: &mut [f32], stride: usize) {
    for (from, to) in from.chunks_exact(d).zip(to.chunks_exact_mut(stride)) {
        // SAFETY: by the caller's word.
        unsafe { widen_row::<V, T>(from, to) };
    }
}

/// Rows of `stride`, of which `d` columns count, to `[d, BLOCK]`; zeros for the keys that are missing.
#[inline(always)]
fn transpose(rows: &[f32], stride: usize, d: usize, to: &mut [f32]) {
    let n_keys = rows.len() / stride;
    if n_keys < BLOCK {
        to.fill(0.0);
    }
    // By 8 keys and columns: what is read and written stays in the nearest cache.
    for first in (0..n_keys).step_by(8) {
        for column in (0..d).step_by(8) {
            for key in first..n_keys.min(first + 8) {
                for c in column..d.min(column + 8) {
                    to[c * BLOCK + key] = rows[key * stride + c];
                }
            }
        }
    }
}

/// First element, and elements from row to row.
#[derive(Clone, Copy)]
struct Matrix(*const f32, usize);

/// `c (+)= a b`, where `a` is `n x k`, `b` is `k x m`; `m` is whole vectors.
///
/// # Safety
/// The matrices are that large; the processor has the instruction set of `V`.
#[inline(always)]
unsafe fn multiply<V: Vector, const ADD: bool>(
    a: Matrix,
    b: Matrix,
    n: usize,
    m: usize,
    k: usize,
    c: *mut f32,
    c_stride: usize,
) {
    // SAFETY: by the caller's word.
    unsafe {
        let mut column = 0;
        while column < m {
            let many = V::REGISTERS >= 32 && m - column >= 4 * V::LANES;
            let vectors = if many { 4 } else { 2.min((m - column) / V::LANES) };
            let mut row = 0;
            while row < n {
                let rows = [6, 4, 2, 1].into_iter().find(|&r| n - row >= r).unwrap_or(1);
                let (a, b) = (Matrix(a.0.add(row * a.1), a.1), Matrix(b.0.add(column), b.1));
                let c = c.add(row * c_stride + column);
                match (rows, vectors) {
                    (6, 4) => tile::<V, ADD, 6, 4>(a, b, k, c, c_stride),
                    (4, 4) => tile::<V, ADD, 4, 4>(a, b, k, c, c_stride),
                    (2, 4) => tile::<V, ADD, 2, 4>(a, b, k, c, c_stride),
                    (_, 4) => tile::<V, ADD, 1, 4>(a, b, k, c, c_stride),
                    (6, 2) => tile::<V, ADD, 6, 2>(a, b, k, c, c_stride),
                    (4, 2) => tile::<V, ADD, 4, 2>(a, b, k, c, c_stride),
                    (2, 2) => tile::<V, ADD, 2, 2>(a, b, k, c, c_stride),
                    (_, 2) => tile::<V, ADD, 1, 2>(a, b, k, c, c_stride),
                    (6, _) => tile::<V, ADD, 6, 1>(a, b, k, c, c_stride),
                    (4, _) => tile::<V, ADD, 4, 1>(a, b, k, c, c_stride),
                    (2, _) => tile::<V, ADD, 2, 1>(a, b, k, c, c_stride),
                    _ => tile::<V, ADD, 1, 1>(a, b, k, c, c_stride),
                }
                row += rows;
            }
            column += vectors * V::LANES;
        }
    }
}

/// `R` rows and `N` vectors of columns of [`multiply`], in registers.
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn tile<V: Vector, const ADD: bool, const R: usize, const N: usize>(
    a: Matrix,
    b: Matrix,
    k: usize,
    c: *mut f32,
    c_stride: usize,
) {
    // SAFETY: by the caller's word.
    unsafe {
        let mut sums = [[V::splat(0.0); N]; R];
        if ADD {
            for r in 0..R {
                for i in 0..N {
                    sums[r][i] = V::load(c.add(r * c_stride + i * V::LANES));
                }
            }
        }
        for j in 0..k {
            let mut x = [V::splat(0.0); N];
            for i in 0..N {
                x[i] = V::load(b.0.add(j * b.1 + i * V::LANES));
            }
            for r in 0..R {
                let factor = V::splat(*a.0.add(r * a.1 + j));
                for i in 0..N {
                    sums[r][i] = factor.mul_add(x[i], sums[r][i]);
                }
            }
        }
        for r in 0..R {
            for i in 0..N {
                sums[r][i].store(c.add(r * c_stride + i * V::LANES));
            }
        }
    }
}
