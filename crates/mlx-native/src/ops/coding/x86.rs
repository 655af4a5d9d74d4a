//! Codes in AVX2 and AVX-512.

use std::arch::x86_64::*;

use super::{Avx2, Avx512, Codes, Linear, Nibbles, RUN};
use crate::backend::cpu::simd::Vector;

/// Wraps the intrinsics of an implementation.
macro_rules! intrinsics {
    ($($body:tt)*) => {
        // SAFETY: the caller's word, as `Codes` asks for: the processor has the instructions, there are codes for a run.
        // None of the loads needs an alignment.
        #[allow(unused_unsafe)]
        unsafe { $($body)* }
    };
}

/// Where each of eight codes of a run's quarter lies.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
struct Place {
    /// Which of eight bytes go to each 32-bit lane, for a shuffle of both halves of a register.
    bytes: [u8; 32],
    /// How far the code in each lane is to be shifted right.
    shift: [u32; 8],
    /// From which byte of the run on eight are loaded.
    at: usize,
}

/// For the four quarters of a run of codes of `bits` bits. Loads of eight bytes never leave the run.
const fn places(bits: usize) -> [Place; 4] {
    let mut all = [Place {
        bytes: [0; 32],
        shift: [0; 8],
        at: 0,
    }; 4];
    let run_bytes = RUN * bits / 8;
    let mut quarter = 0;
    while quarter < 4 {
        let first = quarter * bits;
        let at = if run_bytes < 8 {
            0
        } else if first + 8 > run_bytes {
            run_bytes - 8
        } else {
            first
        };
        all[quarter].at = at;
        let mut lane = 0;
        while lane < 8 {
            let bit = (first - at) * 8 + lane * bits;
            all[quarter].shift[lane] = (bit % 8) as u32;
            // A code lies in at most two bytes. 0x80 gives a zero.
            all[quarter].bytes[4 * lane] = (bit / 8) as u8;
            all[quarter].bytes[4 * lane + 1] = if bit / 8 + 1 < 8 {
                (bit / 8 + 1) as u8
            } else {
                0x80
            };
            all[quarter].bytes[4 * lane + 2] = 0x80;
            all[quarter].bytes[4 * lane + 3] = 0x80;
            lane += 1;
        }
        quarter += 1;
    }
    all
}

struct Places<const BITS: usize>;
impl<const BITS: usize> Places<BITS> {
    const OF: [Place; 4] = places(BITS);
}

/// Eight codes from the quarter `quarter` of a run.
///
/// # Safety
/// As [`Codes`].
#[inline(always)]
unsafe fn quarter<const BITS: usize>(p: *const u8, quarter: usize) -> __m256i {
    intrinsics! {
        match BITS {
            8 => _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.add(8 * quarter).cast())),
            4 => {
                let word = _mm256_set1_epi32(p.add(4 * quarter).cast::<i32>().read_unaligned());
                let shifted = _mm256_srlv_epi32(word, _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28));
                _mm256_and_si256(shifted, _mm256_set1_epi32(15))
            }
            1 => {
                let word = _mm256_set1_epi32(i32::from(p.add(quarter).read()));
                let shifted = _mm256_srlv_epi32(word, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
                _mm256_and_si256(shifted, _mm256_set1_epi32(1))
            }
            _ => {
                let place = &Places::<BITS>::OF[quarter];
                let bytes = _mm256_broadcastsi128_si256(_mm_loadl_epi64(p.add(place.at).cast()));
                let spread = _mm256_shuffle_epi8(bytes, _mm256_loadu_si256(place.bytes.as_ptr().cast()));
                let shifted = _mm256_srlv_epi32(spread, _mm256_loadu_si256(place.shift.as_ptr().cast()));
                _mm256_and_si256(shifted, _mm256_set1_epi32((1 << BITS) - 1))
            }
        }
    }
}

/// `table[index]` for two halves of 16.
///
/// # Safety
/// AVX2 is there.
#[inline(always)]
unsafe fn looked_up(indices: &[u8; RUN], table: &[i8; 16]) -> [i8; RUN] {
    intrinsics! {
        let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
        let values = _mm256_shuffle_epi8(table, _mm256_loadu_si256(indices.as_ptr().cast()));
        let mut out = [0; RUN];
        _mm256_storeu_si256(out.as_mut_ptr().cast(), values);
        out
    }
}

impl Codes for Avx2 {
    type Run = [Avx2; 4];
    type Nibbles = Linear<Self>;

    #[inline(always)]
    unsafe fn zeros() -> Self::Run {
        intrinsics! { [Avx2::splat(0.0); 4] }
    }

    #[inline(always)]
    unsafe fn stream<const BITS: usize>(p: *const u8) -> Self::Run {
        intrinsics! {
            [
                Avx2(_mm256_cvtepi32_ps(quarter::<BITS>(p, 0))),
                Avx2(_mm256_cvtepi32_ps(quarter::<BITS>(p, 1))),
                Avx2(_mm256_cvtepi32_ps(quarter::<BITS>(p, 2))),
                Avx2(_mm256_cvtepi32_ps(quarter::<BITS>(p, 3))),
            ]
        }
    }

    #[inline(always)]
    unsafe fn signed(bytes: &[i8; RUN]) -> Self::Run {
        let p = bytes.as_ptr();
        intrinsics! {
            [
                Avx2(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p.cast())))),
                Avx2(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p.add(8).cast())))),
                Avx2(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p.add(16).cast())))),
                Avx2(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p.add(24).cast())))),
            ]
        }
    }

    #[inline(always)]
    unsafe fn look_up(indices: &[u8; RUN], table: &[i8; 16]) -> Self::Run {
        intrinsics! { Self::signed(&looked_up(indices, table)) }
    }
}

impl Codes for Avx512 {
    type Run = [Avx512; 2];
    type Nibbles = Table;

    #[inline(always)]
    unsafe fn zeros() -> Self::Run {
        intrinsics! { [Avx512::splat(0.0); 2] }
    }

    #[inline(always)]
    unsafe fn stream<const BITS: usize>(p: *const u8) -> Self::Run {
        intrinsics! {
            let half = |i: usize| {
                let both = _mm512_castsi256_si512(quarter::<BITS>(p, 2 * i));
                Avx512(_mm512_cvtepi32_ps(_mm512_inserti64x4::<1>(both, quarter::<BITS>(p, 2 * i + 1))))
            };
            [half(0), half(1)]
        }
    }

    #[inline(always)]
    unsafe fn signed(bytes: &[i8; RUN]) -> Self::Run {
        let p = bytes.as_ptr();
        intrinsics! {
            [
                Avx512(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast())))),
                Avx512(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.add(16).cast())))),
            ]
        }
    }

    #[inline(always)]
    unsafe fn look_up(indices: &[u8; RUN], table: &[i8; 16]) -> Self::Run {
        intrinsics! { Self::signed(&looked_up(indices, table)) }
    }
}

/// The 16 weights that a group of 4-bit codes can have. A permutation looks up 16 at a time; it takes the low four bits of
/// each lane and ignores the others, so that codes need a shift and no mask.
#[derive(Clone, Copy)]
pub(crate) struct Table(__m512);

impl Nibbles<Avx512> for Table {
    #[inline(always)]
    unsafe fn new(scale: f32, bias: f32) -> Self {
        intrinsics! {
            let codes = _mm512_setr_ps(
                0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0,
            );
            Table(_mm512_fmadd_ps(codes, _mm512_set1_ps(scale), _mm512_set1_ps(bias)))
        }
    }

    /// Lane `2 i + w` has code `i` of word `w`: a broadcast of both words comes at no cost with the load.
    #[inline(always)]
    unsafe fn weights(self, p: *const u8) -> [Avx512; 2] {
        intrinsics! {
            let shifts = _mm512_setr_epi32(0, 0, 4, 4, 8, 8, 12, 12, 16, 16, 20, 20, 24, 24, 28, 28);
            let half = |p: *const u8| {
                let words = _mm512_set1_epi64(p.cast::<i64>().read_unaligned());
                Avx512(_mm512_permutexvar_ps(_mm512_srlv_epi32(words, shifts), self.0))
            };
            [half(p), half(p.add(8))]
        }
    }

    #[inline(always)]
    unsafe fn arrange(values: [Avx512; 2]) -> [Avx512; 2] {
        intrinsics! {
            let order = _mm512_setr_epi32(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15);
            [Avx512(_mm512_permutexvar_ps(order, values[0].0)), Avx512(_mm512_permutexvar_ps(order, values[1].0))]
        }
    }

    #[inline(always)]
    unsafe fn restore(values: [Avx512; 2]) -> [Avx512; 2] {
        intrinsics! {
            let order = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
            [Avx512(_mm512_permutexvar_ps(order, values[0].0)), Avx512(_mm512_permutexvar_ps(order, values[1].0))]
        }
    }
}
