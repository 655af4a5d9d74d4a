//! Vectors of f32 behind one trait, so that a loop is written once and compiled for every instruction set.
//!
//! A generic function over [`Vector`] is marked `#[inline(always)]` and called from a small function per instruction set
//! that enables it (`#[target_feature]`): the intrinsics are then inlined into it. [`vectorize!`] writes these functions.
//! With `Lanes8`, plain arrays, the same text is the portable body.

#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(target_arch = "aarch64")]
pub(crate) use neon::Neon;
pub(crate) use portable::Lanes8;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};

use half::{bf16, f16};

use super::Element;

/// The widest vector, in lanes.
pub(crate) const MAX_LANES: usize = 16;

/// `LANES` values of f32.
///
/// # Safety
/// All functions: the processor must have the instructions of the type, and pointers must be valid for `LANES` elements
/// (any alignment that the element type allows).
pub(crate) trait Vector: Copy {
    /// Number of values.
    const LANES: usize;
    /// How many of them the processor's registers hold.
    const REGISTERS: usize;
    unsafe fn splat(value: f32) -> Self;
    unsafe fn load(p: *const f32) -> Self;
    unsafe fn load_f16(p: *const f16) -> Self;
    unsafe fn load_bf16(p: *const bf16) -> Self;
    unsafe fn store(self, p: *mut f32);
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    /// The greater of each two; where one is NaN, either.
    unsafe fn max(self, other: Self) -> Self;
    /// The nearest whole numbers, the even ones of two.
    unsafe fn round(self) -> Self;
    /// 2 to the power of whole numbers from -126 to 127; anything for others.
    unsafe fn power_of_2(self) -> Self;
    /// 0 where `x < limit`, elsewhere, also where `x` is NaN, as `self`.
    unsafe fn zero_below(self, x: Self, limit: f32) -> Self;
    /// `self * factor + addend`; one rounding, except in the portable form, which rounds twice.
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self;
    /// The sum of the lanes, always in the same order.
    unsafe fn sum(self) -> f32;
    /// The sums of the lanes of four vectors, each always in the same order, which need not be that of `sum`.
    unsafe fn sum4(vectors: [Self; 4]) -> [f32; 4];
    /// The greatest of the lanes; any of them if one is NaN.
    unsafe fn greatest(self) -> f32;
    /// Writes the transpose of the `LANES x LANES` block at `source` to `target`; pitches in elements. The pointers must
    /// be valid for the whole blocks.
    unsafe fn transpose(source: *const f32, source_pitch: usize, target: *mut f32, target_pitch: usize);

    /// `2^x` for `x <= 0` or NaN, within 2 units in the last place; 0 below -126.
    #[inline(always)]
    unsafe fn exp2(self) -> Self {
        // SAFETY: by the caller's word.
        unsafe {
            let whole = self.round();
            let rest = whole.mul_add(Self::splat(-1.0), self);
            // The series of e^(rest ln 2); |rest| <= 1/2, so that the term left out is below 6e-9.
            let mut y = Self::splat(EXP2_SERIES[0]);
            for c in &EXP2_SERIES[1..] {
                y = y.mul_add(rest, Self::splat(*c));
            }
            y.mul(whole.power_of_2()).zero_below(self, -126.0)
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

const _: () = assert!(EXP2_SERIES[6] == std::f32::consts::LN_2);

/// Elements that vectors can be loaded from.
pub(crate) trait Widen: Element {
    /// `V::LANES` elements from `p`, widened.
    ///
    /// # Safety
    /// As [`Vector`].
    unsafe fn load<V: Vector>(p: *const Self) -> V;

    /// `count < V::LANES` elements from `p`, zeros behind them.
    ///
    /// # Safety
    /// As [`Vector`], `p` valid for `count` elements.
    #[inline(always)]
    unsafe fn load_partial<V: Vector>(p: *const Self, count: usize) -> V {
        let mut buffer = [Self::zeroed(); MAX_LANES];
        // SAFETY: `count` is below `LANES <= MAX_LANES`, and `p` is valid for it by the caller's word.
        unsafe {
            std::ptr::copy_nonoverlapping(p, buffer.as_mut_ptr(), count);
            Self::load(buffer.as_ptr())
        }
    }
}

macro_rules! widen {
    ($type:ty, $load:ident) => {
        impl Widen for $type {
            #[inline(always)]
            unsafe fn load<V: Vector>(p: *const Self) -> V {
                // SAFETY: by the caller's word.
                unsafe { V::$load(p) }
            }
        }
    };
}
widen!(f32, load);
widen!(f16, load_f16);
widen!(bf16, load_bf16);

/// Writes a function that calls the generic function `$body::<V, ..>`, written over [`Vector`], with the vectors of an
/// [`IsaToken`](crate::isa::IsaToken), its first argument.
///
/// The body must be `unsafe fn`, `#[inline(always)]`, and ask nothing of its caller but [`Vector`]'s conditions and its own.
macro_rules! vectorize {
    ($(#[$doc:meta])* $vis:vis unsafe fn $name:ident $(<$($g:ident: $bound:path),+>)? ($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? = $body:ident) => {
        $(#[$doc])*
        $vis unsafe fn $name$(<$($g: $bound),+>)?(isa: $crate::isa::IsaToken, $($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
            unsafe fn avx512$(<$($g: $bound),+>)?($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: the instructions are enabled here; the rest is the caller's word.
                unsafe { $body::<$crate::backend::cpu::simd::Avx512 $(, $($g),+)?>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn avx2$(<$($g: $bound),+>)?($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: the instructions are enabled here; the rest is the caller's word.
                unsafe { $body::<$crate::backend::cpu::simd::Avx2 $(, $($g),+)?>($($arg),*) }
            }
            // SAFETY: a token exists only where this machine has the level; the rest is the caller's word.
            unsafe {
                match isa.level() {
                    #[cfg(target_arch = "x86_64")]
                    $crate::backend::cpu::Isa::Avx512 | $crate::backend::cpu::Isa::Avx512Bf16 => avx512$(::<$($g),+>)?($($arg),*),
                    #[cfg(target_arch = "x86_64")]
                    $crate::backend::cpu::Isa::Avx2 => avx2$(::<$($g),+>)?($($arg),*),
                    #[cfg(target_arch = "aarch64")]
                    $crate::backend::cpu::Isa::Neon => $body::<$crate::backend::cpu::simd::Neon $(, $($g),+)?>($($arg),*),
                    _ => $body::<$crate::backend::cpu::simd::Lanes8 $(, $($g),+)?>($($arg),*),
                }
            }
        }
    };
}
pub(crate) use vectorize;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::IsaToken;

    #[inline(always)]
    unsafe fn exercise<V: Vector>(report: &mut Vec<f32>) {
        let l = V::LANES;
        let values: Vec<f32> = (0..l * l).map(|i| i as f32 - 7.5).collect();
        let h: Vec<f16> = values.iter().map(|v| f16::from_f32(*v)).collect();
        let b: Vec<bf16> = values.iter().map(|v| bf16::from_f32(*v)).collect();
        let mut out = vec![0.0; l];
        let mut block = vec![0.0; l * l];
        // SAFETY: every pointer has LANES elements, or LANES x LANES, behind it.
        unsafe {
            let x = V::load(values.as_ptr().add(1));
            x.mul_add(V::splat(2.0), V::splat(1.0))
                .add(x)
                .store(out.as_mut_ptr());
            for i in 0..l {
                assert_eq!(out[i], values[i + 1] * 3.0 + 1.0);
            }
            assert_eq!(x.sum(), values[1..=l].iter().sum::<f32>());
            let rows = [0, 1, 2, 3].map(|i| &values[i * l / 2..][..l]);
            let vectors = rows.map(|row| V::load(row.as_ptr()));
            assert_eq!(V::sum4(vectors), rows.map(|row| row.iter().sum::<f32>()));
            assert_eq!(x.greatest(), values[l]);
            assert_eq!(x.mul(V::splat(-1.0)).greatest(), -values[1]);
            x.mul(x).max(V::splat(2.5)).store(out.as_mut_ptr());
            for i in 0..l {
                assert_eq!(out[i], (values[i + 1] * values[i + 1]).max(2.5));
            }
            x.round().store(out.as_mut_ptr());
            for i in 0..l {
                assert_eq!(out[i], values[i + 1].round_ties_even());
            }
            x.round().mul(V::splat(9.0)).power_of_2().store(out.as_mut_ptr());
            for i in 0..l {
                assert_eq!(out[i], (values[i + 1].round_ties_even() * 9.0).exp2());
            }
            V::splat(3.0).zero_below(x, -5.5).store(out.as_mut_ptr());
            for i in 0..l {
                assert_eq!(out[i], if values[i + 1] < -5.5 { 0.0 } else { 3.0 });
            }
            f16::load::<V>(h.as_ptr()).store(out.as_mut_ptr());
            assert_eq!(out, values[..l]);
            bf16::load::<V>(b.as_ptr()).store(out.as_mut_ptr());
            assert_eq!(out, values[..l]);
            f16::load_partial::<V>(h.as_ptr(), l - 1).store(out.as_mut_ptr());
            assert_eq!((&out[..l - 1], out[l - 1]), (&values[..l - 1], 0.0));
            V::transpose(values.as_ptr(), l, block.as_mut_ptr(), l);
            for i in 0..l * l {
                assert_eq!(block[i], values[i % l * l + i / l]);
            }
        }
        report.push(l as f32);
    }

    vectorize! {
        unsafe fn exercise_on(report: &mut Vec<f32>) = exercise
    }

    #[test]
    fn every_instruction_set_does_the_same() {
        let mut lanes = Vec::new();
        for isa in IsaToken::available() {
            // SAFETY: the machine has it.
            unsafe { exercise_on(isa, &mut lanes) };
        }
        assert_eq!(lanes.len(), IsaToken::available().len());
    }

    /// `2^x` of every value.
    #[inline(always)]
    unsafe fn powers<V: Vector>(x: &[f32]) -> Vec<f32> {
        let mut y = vec![0.0; x.len()];
        for (x, y) in x.chunks_exact(V::LANES).zip(y.chunks_exact_mut(V::LANES)) {
            // SAFETY: LANES elements each; the instruction set by the caller's word.
            unsafe { V::load(x.as_ptr()).exp2().store(y.as_mut_ptr()) };
        }
        y
    }

    vectorize! {
        unsafe fn powers_on(x: &[f32]) -> Vec<f32> = powers
    }

    #[test]
    fn powers_of_two() {
        let x: Vec<f32> = (0..40_000).map(|i| -(i as f32) * 0.003_147).collect();
        let mut edges = [0.0; MAX_LANES];
        edges[1..5].copy_from_slice(&[-126.5, -3.0e38, f32::NEG_INFINITY, f32::NAN]);
        for isa in IsaToken::available() {
            // SAFETY: the machine has it.
            let (y, at_edges) = unsafe { (powers_on(isa, &x), powers_on(isa, &edges)) };
            for (x, y) in x.iter().zip(y) {
                let want = f64::from(*x).exp2();
                let error = (f64::from(y) - want).abs();
                assert!(
                    error <= 2.0 * f64::from(f32::EPSILON) * want,
                    "{isa}: 2^{x}: {y}, not {want}"
                );
            }
            assert_eq!(at_edges[..4], [1.0, 0.0, 0.0, 0.0], "{isa}");
            assert!(at_edges[4].is_nan(), "{isa}");
        }
    }
}
