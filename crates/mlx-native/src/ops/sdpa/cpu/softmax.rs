//! The online softmax on a block of keys, and the memory that threads keep for such blocks.

use super::Softmax;
use super::simd::Simd;

/// Keys of a block; a multiple of every vector length.
pub(super) const BLOCK: usize = 64;

/// Memory of one thread, kept from launch to launch: some hundred KiB.
#[derive(Default)]
pub(super) struct Scratch(Vec<f32>);

impl Scratch {
    /// Disjoint pieces of these lengths, with anything in them.
    pub(super) fn pieces<const N: usize>(&mut self, lengths: [usize; N]) -> [&mut [f32]; N] {
        let total = lengths.iter().sum();
        if self.0.len() < total {
            self.0.resize(total, 0.0);
        }
        let mut rest = &mut self.0[..];
        lengths.map(|n| {
            let (piece, tail) = std::mem::take(&mut rest).split_at_mut(n);
            rest = tail;
            piece
        })
    }
}

/// Turns a row of scores into weights: those of the first `visible` keys `2^(score - max)`, the others 0. Gives what
/// the sums so far must be multiplied by.
///
/// # Safety
/// The processor has the instruction set of `S`.
#[inline(always)]
pub(super) unsafe fn block_of_weights<S: Simd>(scores: &mut [f32], visible: usize, state: &mut Softmax) -> f32 {
    debug_assert_eq!(scores.len(), BLOCK);
    scores[visible..].fill(f32::NEG_INFINITY);
    // SAFETY: the instruction set by the caller's word; vectors stay inside the row.
    unsafe {
        let at = scores.as_mut_ptr();
        let mut max = S::splat(state.max);
        for i in (0..visible).step_by(S::LANES) {
            max = S::max(max, S::load(at.add(i)));
        }
        let max = S::greatest(max);
        let mut sum = S::splat(0.0);
        let minus = S::splat(-max);
        for i in (0..visible).step_by(S::LANES) {
            let weight = S::exp2(S::add(S::load(at.add(i)), minus));
            sum = S::add(sum, weight);
            S::store(at.add(i), weight);
        }
        scores[visible.next_multiple_of(S::LANES)..].fill(0.0);
        let keep = (state.max - max).exp2();
        *state = Softmax { max, sum: state.sum * keep + S::sum(sum) };
        keep
    }
}

/// Multiplies a row.
///
/// # Safety
/// The processor has the instruction set of `S`; the row is whole vectors.
#[inline(always)]
pub(super) unsafe fn rescale<S: Simd>(row: &mut [f32], factor: f32) {
    if factor == 1.0 {
        return;
    }
    // SAFETY: by the caller's word.
    unsafe {
        let factor = S::splat(factor);
        for i in (0..row.len()).step_by(S::LANES) {
            let at = row.as_mut_ptr().add(i);
            S::store(at, S::mul(S::load(at), factor));
        }
    }
}
