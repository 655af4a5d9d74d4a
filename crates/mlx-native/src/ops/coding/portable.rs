//! Codes as arrays: for every machine, and to read first.

use super::{Codes, Lanes8, Linear, Nibbles, RUN, stream_bytes};
use crate::backend::cpu::simd::Vector;

/// # Safety
/// As [`Vector`].
#[inline(always)]
unsafe fn vectors(value: impl Fn(usize) -> f32) -> [Lanes8; 4] {
    let mut values = [0.0; RUN];
    for (i, v) in values.iter_mut().enumerate() {
        *v = value(i);
    }
    let p = values.as_ptr();
    // SAFETY: four vectors of eight lanes are `RUN` values.
    unsafe {
        [
            Lanes8::load(p),
            Lanes8::load(p.add(8)),
            Lanes8::load(p.add(16)),
            Lanes8::load(p.add(24)),
        ]
    }
}

impl Codes for Lanes8 {
    type Run = [Lanes8; 4];
    type Nibbles = Linear<Self>;

    #[inline(always)]
    unsafe fn zeros() -> Self::Run {
        // SAFETY: arrays need no instructions of their own.
        unsafe { [Lanes8::splat(0.0); 4] }
    }

    #[inline(always)]
    unsafe fn stream<const BITS: usize>(p: *const u8) -> Self::Run {
        // SAFETY: the caller's word.
        unsafe {
            let codes = stream_bytes::<BITS>(p);
            vectors(|i| f32::from(codes[i]))
        }
    }

    #[inline(always)]
    unsafe fn signed(bytes: &[i8; RUN]) -> Self::Run {
        // SAFETY: as in `zeros`.
        unsafe { vectors(|i| f32::from(bytes[i])) }
    }

    #[inline(always)]
    unsafe fn look_up(indices: &[u8; RUN], table: &[i8; 16]) -> Self::Run {
        // SAFETY: as in `zeros`.
        unsafe { vectors(|i| f32::from(table[usize::from(indices[i] & 15)])) }
    }
}

impl<V: Codes> Nibbles<V> for Linear<V> {
    #[inline(always)]
    unsafe fn new(scale: f32, bias: f32) -> Self {
        // SAFETY: the caller's word.
        unsafe { Linear::new(scale, bias) }
    }

    #[inline(always)]
    unsafe fn weights(self, p: *const u8) -> V::Run {
        // SAFETY: the caller's word.
        unsafe { Linear::of_halves([self; 2], V::stream::<4>(p)) }
    }
}
