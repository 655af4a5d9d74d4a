//! Arrays: for every machine, and to read first.

use half::{bf16, f16};

use super::RUN;
use super::activations::Run;
use super::level::{Integers, Level, Pairs};
use crate::backend::cpu::Element;
use crate::backend::cpu::simd::{Lanes8, Vector};

/// The level of every machine.
pub(super) struct Portable;

impl Level for Portable {
    type Few = Arrays;
    type Many = Columns;
}

#[derive(Clone, Copy)]
pub(super) struct Arrays;

/// Puts codes in the order of a run.
#[inline(always)]
fn in_order_of_a_run(code: impl Fn(usize) -> i16) -> [i16; RUN] {
    std::array::from_fn(|i| code(if i < RUN / 2 { 2 * i } else { 2 * i + 1 - RUN }))
}

/// # Safety
/// `p` is valid for 16 bytes.
#[inline(always)]
unsafe fn nibble(p: *const u8, i: usize) -> u8 {
    // SAFETY: the caller's word.
    unsafe { p.add(i / 2).read() >> (4 * (i % 2)) & 15 }
}

impl Integers for Arrays {
    type Codes = [i16; RUN];
    type Sums = i32;
    type Eight = [f32; 8];

    #[inline(always)]
    unsafe fn nibbles(p: *const u8) -> Self::Codes {
        // SAFETY: the caller's word.
        in_order_of_a_run(|i| unsafe { nibble(p, i) }.into())
    }

    #[inline(always)]
    unsafe fn looked_up(p: *const u8, table: &[i8; 16]) -> Self::Codes {
        // SAFETY: the caller's word.
        in_order_of_a_run(|i| table[usize::from(unsafe { nibble(p, i) })].into())
    }

    #[inline(always)]
    unsafe fn bytes(p: *const u8) -> Self::Codes {
        // SAFETY: the caller's word.
        in_order_of_a_run(|i| unsafe { p.add(i).read() }.into())
    }

    #[inline(always)]
    unsafe fn store(codes: Self::Codes, run: &mut Run) {
        run.0 = codes;
    }

    #[inline(always)]
    unsafe fn zero() -> i32 {
        0
    }

    #[inline(always)]
    unsafe fn dot(sums: i32, codes: Self::Codes, x: &Run) -> i32 {
        codes.iter().zip(&x.0).fold(sums, |sum, (c, x)| sum + i32::from(*c) * i32::from(*x))
    }

    #[inline(always)]
    unsafe fn totals(sums: [i32; 8]) -> [f32; 8] {
        sums.map(|sum| sum as f32)
    }

    #[inline(always)]
    unsafe fn load_f32(p: *const f32) -> [f32; 8] {
        // SAFETY: the caller's word.
        unsafe { p.cast::<[f32; 8]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn load_f16(p: *const f16) -> [f32; 8] {
        // SAFETY: the caller's word.
        unsafe { p.cast::<[f16; 8]>().read_unaligned() }.map(Element::to_f32)
    }

    #[inline(always)]
    unsafe fn load_bf16(p: *const bf16) -> [f32; 8] {
        // SAFETY: the caller's word.
        unsafe { p.cast::<[bf16; 8]>().read_unaligned() }.map(Element::to_f32)
    }

    #[inline(always)]
    unsafe fn store_f32(v: [f32; 8], p: *mut f32) {
        // SAFETY: the caller's word.
        unsafe { p.cast::<[f32; 8]>().write_unaligned(v) }
    }

    #[inline(always)]
    unsafe fn mul(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| a[i] * b[i])
    }

    #[inline(always)]
    unsafe fn mul_add(a: [f32; 8], b: [f32; 8], c: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }

    #[inline(always)]
    unsafe fn in_order(p: *const f32, pitch: usize, eights: usize, mut totals: [f32; 8]) -> [f32; 8] {
        for at in 0..8 * eights {
            for (i, total) in totals.iter_mut().enumerate() {
                // SAFETY: the caller's word.
                *total += unsafe { p.add(i * pitch + at).read() };
            }
        }
        totals
    }
}

/// Eight columns.
#[derive(Clone, Copy)]
pub(super) struct Columns([i32; 8]);

/// The two 16-bit integers in 32 bits.
#[inline(always)]
fn halves(pair: i32) -> (i32, i32) {
    (i32::from(pair as i16), pair >> 16)
}

impl Pairs for Columns {
    type Floats = Lanes8;
    const ROWS: usize = 4;

    #[inline(always)]
    unsafe fn zero() -> Self {
        Columns([0; 8])
    }

    #[inline(always)]
    unsafe fn load(p: *const i32) -> Self {
        // SAFETY: the caller's word.
        Columns(unsafe { p.cast::<[i32; 8]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn splat(p: *const i32) -> Self {
        // SAFETY: the caller's word.
        Columns([unsafe { p.read() }; 8])
    }

    #[inline(always)]
    unsafe fn dot(self, a: Self, b: Self) -> Self {
        Columns(std::array::from_fn(|i| {
            let ((a0, a1), (b0, b1)) = (halves(a.0[i]), halves(b.0[i]));
            self.0[i] + a0 * b0 + a1 * b1
        }))
    }

    #[inline(always)]
    unsafe fn to_floats(self) -> Lanes8 {
        let values = self.0.map(|sum| sum as f32);
        // SAFETY: eight values.
        unsafe { Lanes8::load(values.as_ptr()) }
    }

    #[inline(always)]
    unsafe fn mul_add(a: Lanes8, b: Lanes8, c: Lanes8) -> Lanes8 {
        let values = |v: Lanes8| {
            let mut values = [0.0; 8];
            // SAFETY: eight values.
            unsafe { v.store(values.as_mut_ptr()) };
            values
        };
        let (a, b, c) = (values(a), values(b), values(c));
        let all: [f32; 8] = std::array::from_fn(|i| a[i].mul_add(b[i], c[i]));
        // SAFETY: eight values.
        unsafe { Lanes8::load(all.as_ptr()) }
    }
}
