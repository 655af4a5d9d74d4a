//! Many queries: flash attention in blocks, on a matrix tile of 6 rows.
//!
//! A work item is a block of positions for some heads that share a kv head. For each block of 64 keys it transposes the
//! keys and widens the values once, then multiplies for all its rows.

use std::f32::consts::LOG2_E;
use std::ops::Range;

use super::group::Group;
use super::softmax::{BLOCK, Scratch, Softmax, block_of_weights, rescale, widen_row};
use crate::backend::cpu::simd::{Vector, Widen, vectorize};

/// Rows that a work item aims at.
const ITEM_ROWS: usize = 128;

/// How one kv head's queries are divided into items: from their number alone.
#[derive(Clone, Copy)]
pub(super) struct Items {
    heads_per_item: usize,
    rows_per_item: usize,
    n_heads: usize,
    n_rows: usize,
}

impl Items {
    pub(super) fn new(n_heads: usize, n_rows: usize) -> Self {
        let heads_per_item = n_heads.clamp(1, 16);
        let rows_per_item = (ITEM_ROWS / heads_per_item).clamp(8, 64);
        Items { heads_per_item, rows_per_item, n_heads, n_rows }
    }

    /// Items of a kv head.
    pub(super) fn count(&self) -> usize {
        self.n_heads.div_ceil(self.heads_per_item) * self.n_rows.div_ceil(self.rows_per_item)
    }

    /// Heads and rows of item `index`. Late rows, which see most, come first.
    pub(super) fn get(&self, index: usize) -> (Range<usize>, Range<usize>) {
        let blocks = self.n_rows.div_ceil(self.rows_per_item);
        let head = index / blocks * self.heads_per_item;
        let row = (blocks - 1 - index % blocks) * self.rows_per_item;
        (head..self.n_heads.min(head + self.heads_per_item), row..self.n_rows.min(row + self.rows_per_item))
    }
}

vectorize! {
    /// Computes the queries `0..n`, which `row_of` turns into heads and rows of the sequence, and gives `put` the weighted
    /// sums of value rows and the state of each, maxima in units of ln 2.
    ///
    /// # Safety
    /// The processor has the instruction set.
    pub(super) unsafe fn attend<T: Widen>(
        g: &Group<'_, T>,
        n: usize,
        row_of: &dyn Fn(usize) -> (usize, usize),
        scratch: &mut Scratch,
        put: &mut dyn FnMut(usize, &mut [f32], Softmax),
    ) = attend_with
}

/// [`attend`] with the vectors `V`.
///
/// # Safety
/// The processor has the instruction set of `V`.
#[inline(always)]
unsafe fn attend_with<V: Vector, T: Widen>(
    g: &Group<'_, T>,
    n: usize,
    row_of: &dyn Fn(usize) -> (usize, usize),
    scratch: &mut Scratch,
    put: &mut dyn FnMut(usize, &mut [f32], Softmax),
) {
    let mut again = Vec::new();
    let mut put_finite = |r: usize, o: &mut [f32], state: Softmax| {
        if o.iter().all(|x| x.is_finite()) {
            put(r, o, state);
        } else {
            again.push(r);
        }
    };
    // SAFETY: by the caller's word.
    unsafe { walk::<V, T, false>(g, 0..n, row_of, scratch, &mut put_finite) };
    // As in `few`: what NaN or infinity has touched is done again with care.
    for r in again {
        // SAFETY: by the caller's word.
        unsafe { walk::<V, T, true>(g, r..r + 1, row_of, scratch, put) };
    }
}

/// The way over the keys. `CAREFUL`: values of weight zero are not looked at.
///
/// # Safety
/// The processor has the instruction set of `V`.
#[inline(always)]
unsafe fn walk<V: Vector, T: Widen, const CAREFUL: bool>(
    g: &Group<'_, T>,
    rows: Range<usize>,
    row_of: &dyn Fn(usize) -> (usize, usize),
    scratch: &mut Scratch,
    put: &mut dyn FnMut(usize, &mut [f32], Softmax),
) {
    let n = rows.len();
    let (d, stride) = (g.head_dim, g.head_dim.next_multiple_of(V::LANES));
    let (v_dim, v_stride) = (g.v_dim, g.v_dim.next_multiple_of(V::LANES));
    let seen = rows.clone().map(|r| g.visible(row_of(r).1));
    let (start, end) = seen.fold((usize::MAX, 0), |(low, end), r| (low.min(r.start), end.max(r.end)));
    let (mut k_space, mut v_space) = (Vec::new(), Vec::new());
    let lengths = [n * stride, n * v_stride, n * BLOCK, d * BLOCK, stride.max(v_stride) * BLOCK, n * 2];
    let [query, sums, weights, keys, values, states] = scratch.pieces(lengths);
    for (r, query) in rows.clone().zip(query.chunks_exact_mut(stride)) {
        let (head, row) = row_of(r);
        // SAFETY: the instruction set by the caller's word.
        unsafe {
            widen_row::<V, T>(g.query(head, row), query);
            rescale::<V>(query, g.factor(LOG2_E));
        }
    }
    sums.fill(0.0);
    for state in states.chunks_exact_mut(2) {
        state.copy_from_slice(&[Softmax::EMPTY.max, 0.0]);
    }
    for first in (start / BLOCK * BLOCK..end).step_by(BLOCK) {
        let n_keys = BLOCK.min(end - first);
        // SAFETY: the instruction set by the caller's word; the matrices are pieces of these sizes.
        unsafe {
            widen_rows::<V, T>(g.keys(first, n_keys, &mut k_space), d, values, stride);
            transpose(&values[..n_keys * stride], stride, d, keys);
            widen_rows::<V, T>(g.values(first, n_keys, &mut v_space), v_dim, values, v_stride);
            let (q, kt, w) = (query.as_ptr(), keys.as_ptr(), weights.as_mut_ptr());
            multiply::<V, false>(Matrix(q, stride), Matrix(kt, BLOCK), n, BLOCK, d, w, BLOCK);
            for (i, r) in rows.clone().enumerate() {
                let (head, row) = row_of(r);
                let weights = &mut weights[i * BLOCK..][..BLOCK];
                if !g.is_plain() {
                    g.finish_scores(head, row, first, &mut weights[..n_keys], LOG2_E);
                }
                let seen = g.visible(row);
                let seen = seen.start.saturating_sub(first).min(n_keys)..seen.end.saturating_sub(first).min(n_keys);
                let mut state = Softmax { max: states[2 * i], sum: states[2 * i + 1] };
                let keep = block_of_weights::<V>(weights, seen, &mut state);
                states[2 * i..2 * i + 2].copy_from_slice(&[state.max, state.sum]);
                rescale::<V>(&mut sums[i * v_stride..][..v_stride], keep);
            }
            let (w, v, o) = (weights.as_ptr(), values.as_ptr(), sums.as_mut_ptr());
            if CAREFUL {
                for i in 0..n {
                    for key in (0..n_keys).filter(|key| weights[i * BLOCK + key] != 0.0) {
                        let (w, v) = (Matrix(w.add(i * BLOCK + key), BLOCK), Matrix(v.add(key * v_stride), v_stride));
                        multiply::<V, true>(w, v, 1, v_stride, 1, o.add(i * v_stride), v_stride);
                    }
                }
            } else {
                multiply::<V, true>(Matrix(w, BLOCK), Matrix(v, v_stride), n, v_stride, n_keys, o, v_stride);
            }
        }
    }
    let states: Vec<Softmax> = states.chunks_exact(2).map(|s| Softmax { max: s[0], sum: s[1] }).collect();
    for ((r, sums), state) in rows.zip(sums.chunks_exact_mut(v_stride)).zip(states) {
        put(r, &mut sums[..v_dim], state);
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
