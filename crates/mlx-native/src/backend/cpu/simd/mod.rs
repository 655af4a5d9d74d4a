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
    unsafe fn splat(value: f32) -> Self;
    unsafe fn load(p: *const f32) -> Self;
    unsafe fn load_f16(p: *const f16) -> Self;
    unsafe fn load_bf16(p: *const bf16) -> Self;
    unsafe fn store(self, p: *mut f32);
    unsafe fn add(self, other: Self) -> Self;
    /// `self * factor + addend`; one rounding, except in the portable form, which rounds twice.
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self;
    /// The sum of the lanes, always in the same order.
    unsafe fn sum(self) -> f32;
    /// Writes the transpose of the `LANES x LANES` block at `source` to `target`; pitches in elements. The pointers must
    /// be valid for the whole blocks.
    unsafe fn transpose(source: *const f32, source_pitch: usize, target: *mut f32, target_pitch: usize);
}

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
/// [`Isa`](super::Isa), its first argument.
///
/// The body must be `unsafe fn`, `#[inline(always)]`, and ask nothing of its caller but [`Vector`]'s conditions and its own.
macro_rules! vectorize {
    ($(#[$doc:meta])* $vis:vis unsafe fn $name:ident $(<$($g:ident: $bound:path),+>)? ($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? = $body:ident) => {
        $(#[$doc])*
        $vis unsafe fn $name$(<$($g: $bound),+>)?(isa: $crate::backend::cpu::Isa, $($arg: $ty),*) $(-> $ret)? {
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
            // SAFETY: `isa` is a level that this machine has; the rest is the caller's word.
            unsafe {
                match isa {
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
    use crate::backend::cpu::Isa;

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
        for isa in Isa::available() {
            // SAFETY: the machine has it.
            unsafe { exercise_on(isa, &mut lanes) };
        }
        assert_eq!(lanes.len(), Isa::available().len());
    }
}
