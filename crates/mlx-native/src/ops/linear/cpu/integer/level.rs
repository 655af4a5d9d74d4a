//! What products of integers ask of an instruction set, and which type has it.

use half::{bf16, f16};

use super::activations::Run;
use crate::backend::cpu::simd::Vector;

/// Sums of products along a row.
///
/// # Safety
/// All functions: the processor has the instructions of the type, and pointers are valid for what is read, at any alignment.
pub(super) trait Integers: Copy {
    /// A run of codes as 16-bit integers: those at even places, then those at odd ones.
    type Codes: Copy;
    /// Parts of an i32 sum.
    type Sums: Copy;
    /// Eight f32.
    type Eight: Copy;
    /// 16 bytes of 4-bit codes, the low one of a byte first.
    unsafe fn nibbles(p: *const u8) -> Self::Codes;
    /// The same as places in a table.
    unsafe fn looked_up(p: *const u8, table: &[i8; 16]) -> Self::Codes;
    /// 32 bytes.
    unsafe fn bytes(p: *const u8) -> Self::Codes;
    /// Writes the codes.
    unsafe fn store(codes: Self::Codes, run: &mut Run);
    unsafe fn zero() -> Self::Sums;
    /// Adds the products of codes and integers of a run.
    unsafe fn dot(sums: Self::Sums, codes: Self::Codes, x: &Run) -> Self::Sums;
    /// Whether 4-bit codes are multiplied by [`Layout::Bytes`](super::activations::Layout::Bytes).
    const SPLIT: bool = false;
    /// The sums of the products of a span of 4-bit codes with the runs from `x[i] + at` on, of
    /// [`Layout::Bytes`](super::activations::Layout::Bytes).
    unsafe fn split<const RUNS: usize, const M: usize>(codes: *const u8, x: &[*const Run; M], at: usize) -> [Self::Sums; M] {
        let _ = (codes, x, at);
        unreachable!("only where SPLIT says so")
    }
    /// Eight sums as f32.
    unsafe fn totals(sums: [Self::Sums; 8]) -> Self::Eight;
    unsafe fn load_f32(p: *const f32) -> Self::Eight;
    unsafe fn load_f16(p: *const f16) -> Self::Eight;
    unsafe fn load_bf16(p: *const bf16) -> Self::Eight;
    unsafe fn store_f32(v: Self::Eight, p: *mut f32);
    unsafe fn add(a: Self::Eight, b: Self::Eight) -> Self::Eight;
    unsafe fn mul(a: Self::Eight, b: Self::Eight) -> Self::Eight;
    /// `a * b + c`, rounded once.
    unsafe fn mul_add(a: Self::Eight, b: Self::Eight, c: Self::Eight) -> Self::Eight;
    /// Adds to lane `i` of `totals` the `8 * eights` values from `p + i * pitch` on, one after the other.
    unsafe fn in_order(p: *const f32, pitch: usize, eights: usize, totals: Self::Eight) -> Self::Eight;
}

/// Sums of products for many columns at once: each lane is a column.
///
/// # Safety
/// As [`Integers`].
pub(super) trait Pairs: Copy {
    /// As many f32.
    type Floats: Vector;
    /// Rows of a tile, at most; its columns are two vectors.
    const ROWS: usize;
    unsafe fn zero() -> Self;
    /// Two 16-bit integers for each lane.
    unsafe fn load(p: *const i32) -> Self;
    /// The same two for all lanes.
    unsafe fn splat(p: *const i32) -> Self;
    /// `self + a.0 * b.0 + a.1 * b.1`.
    unsafe fn dot(self, a: Self, b: Self) -> Self;
    unsafe fn to_floats(self) -> Self::Floats;
    /// `a * b + c`, rounded once.
    unsafe fn mul_add(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
}

/// The types of an instruction set.
pub(super) trait Level {
    type Few: Integers;
    type Many: Pairs;
}

/// Writes a function that calls `$body::<L, ..>`, generic over [`Level`], with the level of its first argument, an
/// [`IsaToken`](crate::isa::IsaToken). The body must be `unsafe fn` and `#[inline(always)]`, and ask nothing of its caller but the
/// conditions of the traits and its own.
macro_rules! on_level {
    ($(#[$doc:meta])* $vis:vis unsafe fn $name:ident $(<$($g:ident: $bound:path),+>)? ($($arg:ident: $ty:ty),* $(,)?) = $body:ident) => {
        $(#[$doc])*
        $vis unsafe fn $name$(<$($g: $bound),+>)?(isa: $crate::isa::IsaToken, $($arg: $ty),*) {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
            unsafe fn vnni$(<$($g: $bound),+>)?($($arg: $ty),*) {
                // SAFETY: the instructions are enabled here; the rest is the caller's word.
                unsafe { $body::<super::x86::Vnni $(, $($g),+)?>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
            unsafe fn avx512$(<$($g: $bound),+>)?($($arg: $ty),*) {
                // SAFETY: the instructions are enabled here; the rest is the caller's word.
                unsafe { $body::<super::x86::Avx512 $(, $($g),+)?>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn avx2$(<$($g: $bound),+>)?($($arg: $ty),*) {
                // SAFETY: the instructions are enabled here; the rest is the caller's word.
                unsafe { $body::<super::x86::Avx2 $(, $($g),+)?>($($arg),*) }
            }
            // SAFETY: a token exists only where this machine has the level; the rest is the caller's word.
            unsafe {
                match isa.level() {
                    #[cfg(target_arch = "x86_64")]
                    $crate::isa::Isa::Avx512Bf16 => vnni$(::<$($g),+>)?($($arg),*),
                    #[cfg(target_arch = "x86_64")]
                    $crate::isa::Isa::Avx512 => avx512$(::<$($g),+>)?($($arg),*),
                    #[cfg(target_arch = "x86_64")]
                    $crate::isa::Isa::Avx2 => avx2$(::<$($g),+>)?($($arg),*),
                    #[cfg(target_arch = "aarch64")]
                    $crate::isa::Isa::Neon => $body::<super::neon::Neon $(, $($g),+)?>($($arg),*),
                    _ => $body::<super::portable::Portable $(, $($g),+)?>($($arg),*),
                }
            }
        }
    };
}
pub(super) use on_level;
