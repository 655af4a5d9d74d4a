//! Few rows of `x` by a transposed weight: each packed row is read once, in place.

use std::cell::RefCell;

use super::Args;
use super::codes::{Codes, Unpack, Width, arrange};
use crate::backend::cpu::Launch;
use crate::backend::cpu::prefetch::prefetch;
use crate::backend::cpu::simd::{Vector, Widen, vectorize};

/// Rows of `x`, at most.
pub(super) const MAX_ROWS: usize = 8;
/// Rows of the weight that a part claims at a time.
const CLAIM: usize = 32;
/// Rows of the weight whose scales are widened at a time.
const BATCH: usize = 4;
/// Bytes of the weight that are asked for before they are needed, at least: the time that they take is that of memory.
const AHEAD: usize = 4096;
/// Values of `x` in a block, at most.
const BLOCK_VALUES: usize = 8192;

thread_local! {
    /// Widened rows of `x`, and behind them the scales and biases of a batch of rows.
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

type Sums = [[f32; CLAIM]; MAX_ROWS];

/// The share of one part in `output = x · Wᵀ`, up to [`MAX_ROWS`] rows of `x`.
pub(super) fn gemv<T: Widen, S: Widen, B: Width>(launch: &Launch<'_>, a: &Args<'_, T, S>) {
    let (groups, row_words) = (a.k / a.group_size, a.k * B::BITS / 32);
    assert!(a.m <= MAX_ROWS && [32, 64, 128].contains(&a.group_size) && a.k.is_multiple_of(a.group_size));
    assert!(a.x.len() >= a.m * a.k && a.weight.len() >= a.n * row_words);
    assert!(a.scales.len() >= a.n * groups && a.biases.len() >= a.n * groups);
    let claim = if a.is_small() { a.n } else { CLAIM };
    let blocks = Blocks::new(a.m, a.k);
    SCRATCH.with_borrow_mut(|scratch| {
        let (x_size, wide_size) = (blocks.count() * blocks.size(), 2 * BATCH * (blocks.len / a.group_size + 1));
        if scratch.len() < x_size + wide_size {
            scratch.resize(x_size + wide_size, 0.0);
        }
        let (x, wide) = scratch.split_at_mut(x_size);
        let mut is_arranged = false;
        while let Some(claim) = launch.next_chunk(a.n, claim) {
            if !is_arranged {
                blocks.arrange::<T, B>(launch, a.x, x);
                is_arranged = true;
            }
            for first in claim.clone().step_by(CLAIM) {
                let last = claim.end.min(first + CLAIM);
                let mut sums = [[0.0; CLAIM]; MAX_ROWS];
                for (block, x) in x.chunks_exact(blocks.size()).enumerate() {
                    let start = block * blocks.len;
                    let dots = Dots {
                        x,
                        pitch: blocks.pitch(),
                        len: blocks.len.min(a.k - start),
                        group_size: a.group_size,
                        weight: &a.weight[first * row_words + start * B::BITS / 32..last * row_words],
                        row_words,
                        scales: &a.scales[first * groups + start / a.group_size..last * groups],
                        biases: &a.biases[first * groups + start / a.group_size..last * groups],
                        row_groups: groups,
                        count: last - first,
                    };
                    // SAFETY: the launch's level is there; the slices are cut as `dots` wants them.
                    unsafe { dots_on::<S, B>(launch.isa(), a.m, &dots, wide, &mut sums) };
                }
                for (row, sums) in sums.iter().take(a.m).enumerate() {
                    // SAFETY: this part claimed these columns.
                    unsafe { a.output.store(row * a.n + first, &sums[..last - first]) };
                }
            }
        }
    });
}

/// K in blocks whose rows of `x` fit into the first-level cache together. Sums of blocks are added up in order.
struct Blocks {
    m: usize,
    k: usize,
    /// Elements of a block, but for the last one: a multiple of every group size.
    len: usize,
}

impl Blocks {
    fn new(m: usize, k: usize) -> Self {
        Blocks { m, k, len: (BLOCK_VALUES / m / 128 * 128).min(k) }
    }

    fn count(&self) -> usize {
        self.k.div_ceil(self.len)
    }

    /// Distance of the rows of a block: not a power of two, so that they do not compete for the same cache sets.
    fn pitch(&self) -> usize {
        self.len + 16
    }

    /// Distance of the blocks.
    fn size(&self) -> usize {
        self.m * self.pitch()
    }

    /// Widens `x`, `[m, k]`, into blocks.
    fn arrange<T: Widen, B: Width>(&self, launch: &Launch<'_>, x: &[T], out: &mut [f32]) {
        for (block, out) in out.chunks_exact_mut(self.size()).enumerate() {
            let start = block * self.len;
            let len = self.len.min(self.k - start);
            for (row, out) in out.chunks_exact_mut(self.pitch()).enumerate() {
                let x = &x[row * self.k + start..][..len];
                // SAFETY: the launch's level is there; a block is a multiple of 32, and both slices are that long.
                unsafe { arrange::<T, B>(launch.isa(), x, &mut out[..len]) };
            }
        }
    }
}

/// Rows of a packed weight against rows of `x`, over one block of K.
struct Dots<'a, S> {
    /// `m` rows, `pitch` apart, arranged for the width of the codes.
    x: &'a [f32],
    pitch: usize,
    /// Elements of the block: whole groups.
    len: usize,
    group_size: usize,
    /// The block in the first row; rows are `row_words` apart.
    weight: &'a [u32],
    row_words: usize,
    /// Of the block in the first row; rows are `row_groups` apart.
    scales: &'a [S],
    biases: &'a [S],
    row_groups: usize,
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
    let groups = dots.len / dots.group_size;
    // SAFETY: the caller's word.
    unsafe {
        for first in (0..dots.count).step_by(BATCH) {
            let last = dots.count.min(first + BATCH);
            let (scales, biases) = wide.split_at_mut(BATCH * groups);
            for row in first..last {
                let (at, to) = (row * dots.row_groups, (row - first) * groups);
                widen::<V, S>(&dots.scales[at..at + groups], &mut scales[to..to + groups]);
                widen::<V, S>(&dots.biases[at..at + groups], &mut biases[to..to + groups]);
            }
            let mut row = first;
            while row + R <= last {
                some_rows::<V, S, B, M, R, U>(dots, row, row - first, scales, biases, sums);
                row += R;
            }
            while row < last {
                some_rows::<V, S, B, M, 1, U>(dots, row, row - first, scales, biases, sums);
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

/// How far ahead of itself a walk along rows that take `batch` bytes together asks for memory: at the rows that come after
/// them where rows are short, in the same rows where they are long.
fn distance(batch: usize) -> usize {
    let later_rows = batch.max(1) * AHEAD.div_ceil(batch.max(1));
    if later_rows <= 4 * AHEAD { later_rows } else { AHEAD / 4 }
}

/// `R` rows of the weight from `row` on; of which it is number `in_batch` in `scales` and `biases`. What is
/// added when depends on `M` and `U` only, not on `R`.
#[inline(always)]
unsafe fn some_rows<V: Codes, S: Widen, B: Width, const M: usize, const R: usize, const U: usize>(
    dots: &Dots<'_, S>,
    row: usize,
    in_batch: usize,
    scales: &[f32],
    biases: &[f32],
    sums: &mut Sums,
) {
    let group_size = dots.group_size;
    let groups = dots.len / group_size;
    let row_bytes = dots.row_words * 4;
    let x = dots.x.as_ptr();
    // SAFETY: the caller's word: all addresses lie inside the rows; a group is a multiple of 32, so of `U` vectors.
    unsafe {
        let weight = dots.weight.as_ptr().cast::<u8>().add(row * row_bytes);
        let (scales, biases) = (scales.as_ptr().add(in_batch * groups), biases.as_ptr().add(in_batch * groups));
        let mut partial = [[[V::splat(0.0); U]; M]; R];
        let ahead = distance(R * row_bytes);
        for group in 0..groups {
            let mut unpack = [B::Of::<V>::new(0.0, 0.0); R];
            for r in 0..R {
                prefetch(weight.wrapping_add(ahead + r * row_bytes + group * group_size * B::BITS / 8));
                unpack[r] = B::Of::<V>::new(*scales.add(r * groups + group), *biases.add(r * groups + group));
            }
            let mut at = group * group_size;
            while at < (group + 1) * group_size {
                for u in 0..U {
                    let at = at + u * V::LANES;
                    for r in 0..R {
                        let w = unpack[r].weights(weight.add(r * row_bytes + at * B::BITS / 8));
                        for i in 0..M {
                            partial[r][i][u] = w.mul_add(V::load(x.add(i * dots.pitch + at)), partial[r][i][u]);
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
                sums[i][row + r] += sum.sum();
            }
        }
    }
}
