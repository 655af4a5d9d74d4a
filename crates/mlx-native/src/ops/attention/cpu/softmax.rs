//! The online softmax on a block of keys, and the memory that threads keep for such blocks.

use std::ops::Range;

use crate::backend::cpu::simd::{Vector, Widen};

/// The online softmax of one query: the greatest score, and the sum of `exp(score - max)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Softmax {
    pub max: f32,
    pub sum: f32,
}

impl Softmax {
    /// Of no scores. The maximum is finite, so that differences of maxima are.
    pub(super) const EMPTY: Softmax = Softmax { max: -3.0e38, sum: 0.0 };

    /// Divides the weighted sums by the sum of weights; zeros where there is no weight.
    pub(super) fn finish(self, o: &mut [f32]) {
        let inverse = if self.sum == 0.0 { 0.0 } else { self.sum.recip() };
        o.iter_mut().for_each(|o| *o *= inverse);
    }
}

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

/// Turns a row of scores into weights: those of the keys `visible` `2^(score - max)`, the others 0. Gives what the sums so
/// far must be multiplied by.
///
/// # Safety
/// The processor has the instruction set of `V`.
#[inline(always)]
pub(super) unsafe fn block_of_weights<V: Vector>(scores: &mut [f32], visible: Range<usize>, state: &mut Softmax) -> f32 {
    debug_assert!(scores.len() == BLOCK && visible.end <= BLOCK);
    if visible.is_empty() {
        scores.fill(0.0);
        return 1.0;
    }
    scores[..visible.start].fill(f32::NEG_INFINITY);
    scores[visible.end..].fill(f32::NEG_INFINITY);
    // SAFETY: the instruction set by the caller's word; vectors stay inside the row.
    unsafe {
        let at = scores.as_mut_ptr();
        let mut max = V::splat(state.max);
        for i in (0..visible.end).step_by(V::LANES) {
            max = max.max(V::load(at.add(i)));
        }
        let max = max.greatest();
        let mut sum = V::splat(0.0);
        let minus = V::splat(-max);
        for i in (0..visible.end).step_by(V::LANES) {
            let weight = V::load(at.add(i)).add(minus).exp2();
            sum = sum.add(weight);
            weight.store(at.add(i));
        }
        scores[visible.end.next_multiple_of(V::LANES)..].fill(0.0);
        let keep = (state.max - max).exp2();
        *state = Softmax { max, sum: state.sum * keep + sum.sum() };
        keep
    }
}

/// Multiplies a row.
///
/// # Safety
/// The processor has the instruction set of `V`; the row is whole vectors.
#[inline(always)]
pub(super) unsafe fn rescale<V: Vector>(row: &mut [f32], factor: f32) {
    if factor == 1.0 {
        return;
    }
    // SAFETY: by the caller's word.
    unsafe {
        let factor = V::splat(factor);
        for i in (0..row.len()).step_by(V::LANES) {
            let at = row.as_mut_ptr().add(i);
            V::load(at).mul(factor).store(at);
        }
    }
}

/// Widens a row to whole vectors, the last padded with zeros.
///
/// # Safety
/// The processor has the instruction set of `V`; `to` is `from.len()` rounded up to whole vectors.
#[inline(always)]
pub(super) unsafe fn widen_row<V: Vector, T: Widen>(from: &[T], to: &mut [f32]) {
    debug_assert_eq!(to.len(), from.len().next_multiple_of(V::LANES));
    // SAFETY: by the caller's word.
    unsafe {
        let (source, target) = (from.as_ptr(), to.as_mut_ptr());
        let whole = from.len() / V::LANES * V::LANES;
        for at in (0..whole).step_by(V::LANES) {
            T::load::<V>(source.add(at)).store(target.add(at));
        }
        if whole < from.len() {
            T::load_partial::<V>(source.add(whole), from.len() - whole).store(target.add(whole));
        }
    }
}
