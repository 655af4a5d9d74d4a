//! Few queries: keys and values go by once, in blocks of 64, for all queries of a kv head.

use std::f32::consts::LOG2_E;
use std::ops::Range;

use super::group::Group;
use super::softmax::{BLOCK, Scratch, Softmax, block_of_weights, rescale, widen_row};
use crate::backend::cpu::simd::{Vector, Widen, vectorize};

vectorize! {
    /// As [`portable::attend`](super::portable::attend), but for maxima: they are in units of ln 2. `keys` begins at a
    /// multiple of 64.
    ///
    /// # Safety
    /// The processor has the instruction set.
    pub(super) unsafe fn attend<T: Widen>(
        g: &Group<'_, T>,
        rows: Range<usize>,
        row_of: &dyn Fn(usize) -> (usize, usize),
        keys: Range<usize>,
        o: &mut [f32],
        state: &mut [Softmax],
        scratch: &mut Scratch,
    ) = attend_with
}

/// [`attend`] with the vectors `V`.
///
/// # Safety
/// The processor has the instruction set of `V`.
#[inline(always)]
unsafe fn attend_with<V: Vector, T: Widen>(
    g: &Group<'_, T>,
    rows: Range<usize>,
    row_of: &dyn Fn(usize) -> (usize, usize),
    keys: Range<usize>,
    o: &mut [f32],
    state: &mut [Softmax],
    scratch: &mut Scratch,
) {
    // SAFETY: by the caller's word.
    unsafe { walk::<V, T, false>(g, rows.clone(), row_of, keys.clone(), o, state, scratch) };
    // Values that are NaN or infinite spoil the rows that see them, and, by a weight of zero, those that do not: what is not
    // finite is done again with care.
    for (i, r) in rows.enumerate() {
        let at = i * g.v_dim..(i + 1) * g.v_dim;
        if o[at.clone()].iter().all(|x| x.is_finite()) {
            continue;
        }
        let (o, state) = (&mut o[at], &mut state[i..=i]);
        // SAFETY: by the caller's word.
        unsafe { walk::<V, T, true>(g, r..r + 1, row_of, keys.clone(), o, state, scratch) };
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
    keys: Range<usize>,
    o: &mut [f32],
    state: &mut [Softmax],
    scratch: &mut Scratch,
) {
    let (d, stride) = (g.head_dim, g.head_dim.next_multiple_of(V::LANES));
    let (v_dim, v_stride) = (g.v_dim, g.v_dim.next_multiple_of(V::LANES));
    let n = rows.len();
    let (mut k_space, mut v_space) = (Vec::new(), Vec::new());
    let [query, sums, weights] = scratch.pieces([n * stride, n * v_stride, n * BLOCK]);
    for (r, query) in rows.clone().zip(query.chunks_exact_mut(stride)) {
        let (head, row) = row_of(r);
        // SAFETY: the instruction set by the caller's word.
        unsafe {
            widen_row::<V, T>(g.query(head, row), query);
            rescale::<V>(query, g.factor(LOG2_E));
        }
    }
    sums.fill(0.0);
    state.fill(Softmax::EMPTY);
    for first in keys.clone().step_by(BLOCK) {
        let n_keys = BLOCK.min(keys.end - first);
        let k = g.keys(first, n_keys, &mut k_space);
        let v = g.values(first, n_keys, &mut v_space);
        // SAFETY: the instruction set by the caller's word; the sizes are those of the pieces and slices above.
        unsafe {
            let mut r = 0;
            while r < n {
                let (q, w) = (query.as_ptr().add(r * stride), weights.as_mut_ptr().add(r * BLOCK));
                r += match n - r {
                    4.. => scores::<V, T, 4, 2>(q, stride, k, d, w),
                    2.. => scores::<V, T, 2, 2>(q, stride, k, d, w),
                    _ => scores::<V, T, 1, 4>(q, stride, k, d, w),
                };
            }
            for (i, r) in rows.clone().enumerate() {
                let (head, row) = row_of(r);
                let weights = &mut weights[i * BLOCK..][..BLOCK];
                if !g.is_plain() {
                    g.finish_scores(head, row, first, &mut weights[..n_keys], LOG2_E);
                }
                let seen = g.visible(row);
                let seen = seen.start.saturating_sub(first).min(n_keys)..seen.end.saturating_sub(first).min(n_keys);
                let keep = block_of_weights::<V>(weights, seen, &mut state[i]);
                rescale::<V>(&mut sums[i * v_stride..][..v_stride], keep);
            }
            if CAREFUL {
                for r in 0..n {
                    for key in (0..n_keys).filter(|key| weights[r * BLOCK + key] != 0.0) {
                        let (w, o) = (weights.as_ptr().add(r * BLOCK + key), sums.as_mut_ptr().add(r * v_stride));
                        add_values::<V, T, 1, 8>(w, &v[key * v_dim..][..v_dim], 1, v_dim, o, v_stride);
                    }
                }
                continue;
            }
            let mut r = 0;
            while r < n {
                let (w, o) = (weights.as_ptr().add(r * BLOCK), sums.as_mut_ptr().add(r * v_stride));
                r += match n - r {
                    4.. => add_values::<V, T, 4, 2>(w, v, n_keys, v_dim, o, v_stride),
                    2.. => add_values::<V, T, 2, 4>(w, v, n_keys, v_dim, o, v_stride),
                    _ => add_values::<V, T, 1, 8>(w, v, n_keys, v_dim, o, v_stride),
                };
            }
        }
    }
    for (o, sums) in o.chunks_exact_mut(v_dim).zip(sums.chunks_exact(v_stride)) {
        o.copy_from_slice(&sums[..v_dim]);
    }
}

/// Products of `R` queries with all keys of a block, `K` keys at a time; `R * K` is a multiple of 4. Gives `R`.
///
/// # Safety
/// `q` holds `R` rows of `stride`, padded with zeros; `w` has room for `R` rows of `BLOCK`.
#[inline(always)]
unsafe fn scores<V: Vector, T: Widen, const R: usize, const K: usize>(
    q: *const f32,
    stride: usize,
    k: &[T],
    d: usize,
    w: *mut f32,
) -> usize {
    // SAFETY: by the caller's word; key indices are clamped to those there are, columns to the head dimension.
    unsafe {
        let n_keys = k.len() / d;
        let whole = d / V::LANES * V::LANES;
        for first in (0..n_keys).step_by(K) {
            let mut rows = [k.as_ptr(); K];
            for j in 0..K {
                // The last key may be done twice.
                rows[j] = k.as_ptr().add((first + j).min(n_keys - 1) * d);
            }
            let mut sums = [[V::splat(0.0); K]; R];
            for at in (0..whole).step_by(V::LANES) {
                let mut x = [V::splat(0.0); K];
                for j in 0..K {
                    x[j] = T::load::<V>(rows[j].add(at));
                }
                add_products::<V, R, K>(q.add(at), stride, x, &mut sums);
            }
            if whole < d {
                let mut x = [V::splat(0.0); K];
                for j in 0..K {
                    x[j] = T::load_partial::<V>(rows[j].add(whole), d - whole);
                }
                add_products::<V, R, K>(q.add(whole), stride, x, &mut sums);
            }
            for i in (0..R * K).step_by(4) {
                let four = V::sum4([
                    sums[i / K][i % K],
                    sums[(i + 1) / K][(i + 1) % K],
                    sums[(i + 2) / K][(i + 2) % K],
                    sums[(i + 3) / K][(i + 3) % K],
                ]);
                for j in 0..4 {
                    // `BLOCK` is a multiple of `K`: inside the row.
                    *w.add((i + j) / K * BLOCK + first + (i + j) % K) = four[j];
                }
            }
        }
    }
    R
}

/// One vector of columns of [`scores`].
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn add_products<V: Vector, const R: usize, const K: usize>(
    q: *const f32,
    stride: usize,
    x: [V; K],
    sums: &mut [[V; K]; R],
) {
    for r in 0..R {
        // SAFETY: by the caller's word.
        unsafe {
            let q = V::load(q.add(r * stride));
            for j in 0..K {
                sums[r][j] = q.mul_add(x[j], sums[r][j]);
            }
        }
    }
}

/// Adds the weighted value rows of a block to `R` sums, `N` vectors of columns at a time. Gives `R`.
///
/// # Safety
/// `w` holds `R` rows of `BLOCK`, `v` at least `n_keys` rows, `o` `R` rows of `stride`.
#[inline(always)]
unsafe fn add_values<V: Vector, T: Widen, const R: usize, const N: usize>(
    w: *const f32,
    v: &[T],
    n_keys: usize,
    d: usize,
    o: *mut f32,
    stride: usize,
) -> usize {
    // SAFETY: by the caller's word; columns stay below `d`, and below `stride` in `o`.
    unsafe {
        let mut at = 0;
        while at + N * V::LANES <= d {
            add_columns::<V, T, R, N>(w, v.as_ptr().add(at), n_keys, d, o.add(at), stride);
            at += N * V::LANES;
        }
        while at + V::LANES <= d {
            add_columns::<V, T, R, 1>(w, v.as_ptr().add(at), n_keys, d, o.add(at), stride);
            at += V::LANES;
        }
        if at < d {
            for r in 0..R {
                let mut sum = V::load(o.add(r * stride + at));
                for key in 0..n_keys {
                    let x = T::load_partial::<V>(v.as_ptr().add(key * d + at), d - at);
                    sum = V::mul_add(V::splat(*w.add(r * BLOCK + key)), x, sum);
                }
                sum.store(o.add(r * stride + at));
            }
        }
    }
    R
}

/// The inner part of [`add_values`].
///
/// # Safety
/// As there, and `N` vectors fit behind `v` and `o`.
#[inline(always)]
unsafe fn add_columns<V: Vector, T: Widen, const R: usize, const N: usize>(
    w: *const f32,
    v: *const T,
    n_keys: usize,
    d: usize,
    o: *mut f32,
    stride: usize,
) {
    // SAFETY: by the caller's word.
    unsafe {
        let mut sums = [[V::splat(0.0); N]; R];
        for r in 0..R {
            for i in 0..N {
                sums[r][i] = V::load(o.add(r * stride + i * V::LANES));
            }
        }
        for key in 0..n_keys {
            let mut x = [V::splat(0.0); N];
            for i in 0..N {
                x[i] = T::load::<V>(v.add(key * d + i * V::LANES));
            }
            for r in 0..R {
                let weight = V::splat(*w.add(r * BLOCK + key));
                for i in 0..N {
                    sums[r][i] = weight.mul_add(x[i], sums[r][i]);
                }
            }
        }
        for r in 0..R {
            for i in 0..N {
                sums[r][i].store(o.add(r * stride + i * V::LANES));
            }
        }
    }
}
