//! Few rows of `x` by a transposed weight: each packed row is read once, in place.

use std::cell::RefCell;

use super::Args;
use super::codes::{Codes, Unpack, Width, arrange};
use crate::backend::cpu::Launch;
use crate::backend::cpu::simd::{Vector, Widen, vectorize};

/// Rows of `x`, at most.
pub(super) const MAX_ROWS: usize = 8;
/// Rows of the weight that a part claims at a time.
const CLAIM: usize = 32;
/// Rows of the weight whose scales are widened at a time.
const BATCH: usize = 4;

thread_local! {
    /// Widened rows of `x`, and behind them the scales and biases of a batch of rows.
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

type Sums = [[f32; CLAIM]; MAX_ROWS];

/// The share of one part in `output = x · Wᵀ`, up to [`MAX_ROWS`] rows of `x`.
pub(super) fn gemv<T: Widen, S: Widen, B: Width>(launch: &Launch<'_>, a: &Args<'_, T, S>) {
    let (groups, row_words) = (a.k / a.group_size, a.k * B::BITS / 32);
    assert!(a.m <= MAX_ROWS && a.k % a.group_size == 0 && a.group_size % 32 == 0);
    assert!(a.x.len() >= a.m * a.k && a.weight.len() >= a.n * row_words);
    assert!(a.scales.len() >= a.n * groups && a.biases.len() >= a.n * groups);
    let claim = if a.is_small() { a.n } else { CLAIM };
    SCRATCH.with_borrow_mut(|scratch| {
        let size = a.m * a.k + 2 * BATCH * groups;
        if scratch.len() < size {
            scratch.resize(size, 0.0);
        }
        let (x, scales) = scratch.split_at_mut(a.m * a.k);
        let mut is_arranged = false;
        while let Some(claim) = launch.next_chunk(a.n, claim) {
            if !is_arranged {
                // SAFETY: the launch's level is there; a row is a multiple of 32, both slices have `m` rows.
                unsafe { arrange::<T, B>(launch.isa(), &a.x[..a.m * a.k], x) };
                is_arranged = true;
            }
            for first in claim.clone().step_by(CLAIM) {
                let last = claim.end.min(first + CLAIM);
                let dots = Dots {
                    x,
                    k: a.k,
                    group_size: a.group_size,
                    weight: &a.weight[first * row_words..last * row_words],
                    scales: &a.scales[first * groups..last * groups],
                    biases: &a.biases[first * groups..last * groups],
                    count: last - first,
                };
                let mut sums = [[0.0; CLAIM]; MAX_ROWS];
                // SAFETY: the launch's level is there; the slices are cut as `dots` wants them.
                unsafe { dots_on::<S, B>(launch.isa(), a.m, &dots, scales, &mut sums) };
                for (row, sums) in sums.iter().take(a.m).enumerate() {
                    // SAFETY: this part claimed these columns.
                    unsafe { a.output.store(row * a.n + first, &sums[..last - first]) };
                }
            }
        }
    });
}

/// Rows of a packed weight against rows of `x`.
struct Dots<'a, S> {
    /// `m` rows, arranged for the width of the codes.
    x: &'a [f32],
    k: usize,
    group_size: usize,
    weight: &'a [u32],
    scales: &'a [S],
    biases: &'a [S],
    /// Rows of the weight, up to `CLAIM`.
    count: usize,
}

vectorize! {
    /// # Safety
    /// This machine has `isa`; `dots` holds `m` rows of `x` and `count` rows of the weight, scales and biases; `wide` has
    /// room for the scales and biases of `BATCH` rows.
    unsafe fn dots_on<S: Widen, B: Width>(m: usize, dots: &Dots<'_, S>, wide: &mut [f32], sums: &mut Sums) = dots_body
}

#[inline(always)]
unsafe fn dots_body<V: Codes, S: Widen, B: Width>(m: usize, dots: &Dots<'_, S>, wide: &mut [f32], sums: &mut Sums) {
    // Rows of `x`, rows of the weight at once, vectors of each in flight: enough sums that no multiply-add waits for the one
    // before, and few enough for the registers.
    // SAFETY: the caller's word.
    unsafe {
        match m {
            1 => all_rows::<V, S, B, 1, 4, 2>(dots, wide, sums),
            2 => all_rows::<V, S, B, 2, 4, 1>(dots, wide, sums),
            3 => all_rows::<V, S, B, 3, 2, 2>(dots, wide, sums),
            4 => all_rows::<V, S, B, 4, 2, 1>(dots, wide, sums),
            5 => all_rows::<V, S, B, 5, 2, 1>(dots, wide, sums),
            6 => all_rows::<V, S, B, 6, 2, 1>(dots, wide, sums),
            7 => all_rows::<V, S, B, 7, 2, 1>(dots, wide, sums),
            _ => all_rows::<V, S, B, 8, 2, 1>(dots, wide, sums),
        }
    }
}

#[inline(always)]
unsafe fn all_rows<V: Codes, S: Widen, B: Width, const M: usize, const R: usize, const U: usize>(
    dots: &Dots<'_, S>,
    wide: &mut [f32],
    sums: &mut Sums,
) {
    let groups = dots.k / dots.group_size;
    // SAFETY: the caller's word.
    unsafe {
        for first in (0..dots.count).step_by(BATCH) {
            let last = dots.count.min(first + BATCH);
            let (scales, biases) = wide.split_at_mut(BATCH * groups);
            widen::<V, S>(&dots.scales[first * groups..last * groups], scales);
            widen::<V, S>(&dots.biases[first * groups..last * groups], biases);
            let mut row = first;
            while row + R <= last {
                some_rows::<V, S, B, M, R, U>(dots, row, first, scales, biases, sums);
                row += R;
            }
            while row < last {
                some_rows::<V, S, B, M, 1, U>(dots, row, first, scales, biases, sums);
                row += 1;
            }
        }
    }
}

#[inline(always)]
unsafe fn widen<V: Vector, S: Widen>(source: &[S], target: &mut [f32]) {
    let whole = source.len() / V::LANES * V::LANES;
    for at in (0..whole).step_by(V::LANES) {
        // SAFETY: inside both slices; the rest is the caller's word.
        unsafe { S::load::<V>(source[at..].as_ptr()).store(target[at..].as_mut_ptr()) };
    }
    for at in whole..source.len() {
        target[at] = source[at].to_f32();
    }
}

/// `R` rows of the weight from `row` on; `scales` and `biases` begin with those of row `wide_row`. What is added when
/// depends on `M` and `U` only, not on `R`.
#[inline(always)]
unsafe fn some_rows<V: Codes, S: Widen, B: Width, const M: usize, const R: usize, const U: usize>(
    dots: &Dots<'_, S>,
    row: usize,
    wide_row: usize,
    scales: &[f32],
    biases: &[f32],
    sums: &mut Sums,
) {
    let (k, group_size) = (dots.k, dots.group_size);
    let groups = k / group_size;
    let row_bytes = k * B::BITS / 8;
    let x = dots.x.as_ptr();
    // SAFETY: the caller's word: all addresses lie inside the rows; a group is a multiple of 32, so of `U` vectors.
    unsafe {
        let weight = dots.weight.as_ptr().cast::<u8>().add(row * row_bytes);
        let (scales, biases) = (
            scales.as_ptr().add((row - wide_row) * groups),
            biases.as_ptr().add((row - wide_row) * groups),
        );
        let mut partial = [[[V::splat(0.0); U]; M]; R];
        for group in 0..groups {
            let mut unpack = [B::Of::<V>::new(0.0, 0.0); R];
            for r in 0..R {
                unpack[r] = B::Of::<V>::new(*scales.add(r * groups + group), *biases.add(r * groups + group));
            }
            let mut at = group * group_size;
            while at < (group + 1) * group_size {
                for u in 0..U {
                    let at = at + u * V::LANES;
                    for r in 0..R {
                        let w = unpack[r].weights(weight.add(r * row_bytes + at * B::BITS / 8));
                        for i in 0..M {
                            partial[r][i][u] = w.mul_add(V::load(x.add(i * k + at)), partial[r][i][u]);
                        }
                    }
                }
                at += U * V::LANES;
            }
        }
        for r in 0..R {
            for i in 0..M {
                let mut sum = partial[r][i][0];
                for u in 1..U {
                    sum = sum.add(partial[r][i][u]);
                }
                sums[i][row + r] = sum.sum();
            }
        }
    }
}
