//! What the fast bodies need of a processor's vectors: one text for all instruction sets.
//!
//! Functions that use a [`Simd`] are `inline(always)` and are called from a function with the target feature of the
//! instruction set, into which they disappear.

use std::f32::consts::LN_2;

use half::{bf16, f16};

use crate::backend::cpu::Element;

/// Vectors of f32.
///
/// # Safety
/// Every function needs a processor with the instruction set; pointers must be valid for [`LANES`](Self::LANES) elements,
/// aligned or not.
pub(in crate::ops::sdpa) trait Simd: Copy {
    type V: Copy;
    /// Elements of a vector.
    const LANES: usize;
    /// Vectors side by side in a tile of 6 rows that fits the registers.
    const TILE_VECTORS: usize;

    unsafe fn splat(x: f32) -> Self::V;
    unsafe fn load(from: *const f32) -> Self::V;
    unsafe fn load_f16(from: *const f16) -> Self::V;
    unsafe fn load_bf16(from: *const bf16) -> Self::V;
    unsafe fn store(to: *mut f32, x: Self::V);
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, rounded once.
    unsafe fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sum(x: Self::V) -> f32;
    /// The sums of four vectors.
    unsafe fn sum4(x: [Self::V; 4]) -> [f32; 4];
    unsafe fn greatest(x: Self::V) -> f32;
    /// The nearest whole numbers.
    unsafe fn round(x: Self::V) -> Self::V;
    /// 2 to the power of whole numbers from -126 to 127; anything for others.
    unsafe fn power_of_2(whole: Self::V) -> Self::V;
    /// `y`, but 0 where `x < limit`.
    unsafe fn zero_below(x: Self::V, limit: f32, y: Self::V) -> Self::V;

    /// `2^x` for `x <= 0` or NaN, within 2 units in the last place; 0 below -126.
    #[inline(always)]
    unsafe fn exp2(x: Self::V) -> Self::V {
        // SAFETY: by the caller's word.
        unsafe {
            let whole = Self::round(x);
            let rest = Self::mul_add(whole, Self::splat(-1.0), x);
            // The series of e^(rest ln 2); |rest| <= 1/2, so that the term left out is below 6e-9.
            let mut y = Self::splat(EXP2_SERIES[0]);
            for c in &EXP2_SERIES[1..] {
                y = Self::mul_add(y, rest, Self::splat(*c));
            }
            Self::zero_below(x, -126.0, Self::mul(y, Self::power_of_2(whole)))
        }
    }
}

/// `ln(2)^n / n!` for n from 7 down to 0.
const EXP2_SERIES: [f32; 8] = {
    let mut terms = [1.0f32; 8];
    let (mut n, mut term) = (1, 1.0f64);
    while n < 8 {
        term = term * std::f64::consts::LN_2 / n as f64;
        terms[7 - n] = term as f32;
        n += 1;
    }
    terms
};

const _: () = assert!(EXP2_SERIES[6] == LN_2);

/// Elements that load as vectors of f32.
pub(in crate::ops::sdpa) trait Widen: Element {
    /// `LANES` elements.
    ///
    /// # Safety
    /// As [`Simd`].
    unsafe fn load<S: Simd>(from: *const Self) -> S::V;

    /// The first `n < LANES` elements, and zeros.
    ///
    /// # Safety
    /// As [`Simd`], but `from` need only be valid for `n` elements.
    #[inline(always)]
    unsafe fn load_first<S: Simd>(from: *const Self, n: usize) -> S::V {
        let mut all = [Self::zeroed(); 16];
        // SAFETY: `n < LANES <= 16` elements are there, by the caller's word.
        unsafe {
            std::ptr::copy_nonoverlapping(from, all.as_mut_ptr(), n);
            Self::load::<S>(all.as_ptr())
        }
    }
}

impl Widen for f32 {
    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const Self) -> S::V {
        // SAFETY: by the caller's word.
        unsafe { S::load(from) }
    }
}

impl Widen for f16 {
    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const Self) -> S::V {
        // SAFETY: by the caller's word.
        unsafe { S::load_f16(from) }
    }
}

impl Widen for bf16 {
    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const Self) -> S::V {
        // SAFETY: by the caller's word.
        unsafe { S::load_bf16(from) }
    }
}

/// Widens a row to whole vectors, the last padded with zeros.
///
/// # Safety
/// The processor has the instruction set of `S`; `to` is `from.len()` rounded up to whole vectors.
#[inline(always)]
pub(super) unsafe fn widen_row<S: Simd, T: Widen>(from: &[T], to: &mut [f32]) {
    debug_assert_eq!(to.len(), from.len().next_multiple_of(S::LANES));
    // SAFETY: by the caller's word.
    unsafe {
        let (source, target) = (from.as_ptr(), to.as_mut_ptr());
        let whole = from.len() / S::LANES * S::LANES;
        for at in (0..whole).step_by(S::LANES) {
            S::store(target.add(at), T::load::<S>(source.add(at)));
        }
        if whole < from.len() {
            S::store(target.add(whole), T::load_first::<S>(source.add(whole), from.len() - whole));
        }
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::super::x86::{Avx2, Avx512};
    use super::Simd;
    use crate::backend::cpu::Isa;

    /// `2^x` of one value, by a whole vector of it.
    ///
    /// # Safety
    /// The processor has the instruction set of `S`.
    unsafe fn exp2<S: Simd>(x: f32) -> f32 {
        let mut y = [0.0; 16];
        // SAFETY: by the caller's word; a vector has at most 16 elements.
        unsafe { S::store(y.as_mut_ptr(), S::exp2(S::splat(x))) };
        y[0]
    }

    fn check(exp2: impl Fn(f32) -> f32) {
        for i in 0..40_000 {
            let x = -(i as f32) * 0.003_147;
            let (got, want) = (f64::from(exp2(x)), f64::from(x).exp2());
            assert!((got - want).abs() <= 2.0 * f64::from(f32::EPSILON) * want, "2^{x}: {got}, not {want}");
        }
        assert_eq!(exp2(0.0), 1.0);
        assert_eq!((exp2(-126.5), exp2(-3.0e38), exp2(f32::NEG_INFINITY)), (0.0, 0.0, 0.0));
        assert!(exp2(f32::NAN).is_nan());
    }

    #[test]
    fn powers_of_two() {
        if Isa::available().contains(&Isa::Avx2) {
            // SAFETY: the processor has it.
            check(|x| unsafe { exp2::<Avx2>(x) });
        }
        if Isa::available().contains(&Isa::Avx512) {
            // SAFETY: the processor has it.
            check(|x| unsafe { exp2::<Avx512>(x) });
        }
    }
}
