//! Few queries: keys and values go by once, in blocks of 64, for all queries of a kv head.

use std::f32::consts::LOG2_E;
use std::ops::Range;

use super::softmax::{BLOCK, Scratch, block_of_weights, rescale, widen_row};
use super::{Rows, Softmax};
use crate::backend::cpu::simd::{Vector, Widen, vectorize};

vectorize! {
    /// As [`portable::attend`](super::portable::attend), but for maxima: they are in units of ln 2.
    ///
    /// # Safety
    /// The processor has the instruction set.
    pub(super) unsafe fn attend<T: Widen>(
        a: &Rows<'_, T>,
        rows: Range<usize>,
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
    a: &Rows<'_, T>,
    rows: Range<usize>,
    keys: Range<usize>,
    o: &mut [f32],
    state: &mut [Softmax],
    scratch: &mut Scratch,
) {
    let (d, stride) = (a.head_dim, a.head_dim.next_multiple_of(V::LANES));
    let n = rows.len();
    let [query, sums, weights] = scratch.pieces([n * stride, n * stride, n * BLOCK]);
    for (row, query) in rows.clone().zip(query.chunks_exact_mut(stride)) {
        // SAFETY: the instruction set by the caller's word.
        unsafe {
            widen_row::<V, T>(&a.q[row * d..][..d], query);
            rescale::<V>(query, a.scale * LOG2_E);
        }
    }
    sums.fill(0.0);
    state.fill(Softmax::EMPTY);
    for first in keys.clone().step_by(BLOCK) {
        let n_keys = BLOCK.min(keys.end - first);
        let (k, v) = (&a.k[first * d..][..n_keys * d], &a.v[first * d..][..n_keys * d]);
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
            let mut full = true;
            for (i, row) in rows.clone().enumerate() {
                let visible = a.visible(row).saturating_sub(first).min(n_keys);
                full &= visible == n_keys;
                let keep = block_of_weights::<V>(&mut weights[i * BLOCK..][..BLOCK], visible, &mut state[i]);
                rescale::<V>(&mut sums[i * stride..][..stride], keep);
            }
            if full {
                let mut r = 0;
                while r < n {
                    let (w, o) = (weights.as_ptr().add(r * BLOCK), sums.as_mut_ptr().add(r * stride));
                    r += match n - r {
                        4.. => add_values::<V, T, 4, 2>(w, v, n_keys, d, o, stride),
                        2.. => add_values::<V, T, 2, 4>(w, v, n_keys, d, o, stride),
                        _ => add_values::<V, T, 1, 8>(w, v, n_keys, d, o, stride),
                    };
                }
            } else {
                // Near the end rows see different keys; what a row must not see does not come near it, be it NaN.
                for (i, row) in rows.clone().enumerate() {
                    let visible = a.visible(row).saturating_sub(first).min(n_keys);
                    let (w, o) = (weights.as_ptr().add(i * BLOCK), sums.as_mut_ptr().add(i * stride));
                    add_values::<V, T, 1, 8>(w, v, visible, d, o, stride);
                }
            }
        }
    }
    for (o, sums) in o.chunks_exact_mut(d).zip(sums.chunks_exact(stride)) {
        o.copy_from_slice(&sums[..d]);
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
