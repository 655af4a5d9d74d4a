//! AVX2, AVX-512, and AVX-512 with VNNI.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::activations::Run;
use super::level::{Integers, Level, Pairs};
use crate::backend::cpu::simd;

/// Wraps the intrinsics of a function of the traits.
macro_rules! intrinsics {
    ($($body:tt)*) => {
        // SAFETY: the caller's word, as the traits ask for: the processor has the instructions, pointers reach over all that
        // is read. None of the loads and stores needs an alignment.
        #[allow(unused_unsafe)]
        unsafe { $($body)* }
    };
}

pub(super) struct Avx2;
pub(super) struct Avx512;
pub(super) struct Vnni;

impl Level for Avx2 {
    type Few = Rows<false>;
    type Many = Columns8;
}

impl Level for Avx512 {
    type Few = Rows<false>;
    type Many = Columns16<false>;
}

impl Level for Vnni {
    type Few = Rows<true>;
    type Many = Columns16<true>;
}

/// Registers of 256 bits, with one instruction for products and sum, or two.
#[derive(Clone, Copy)]
pub(super) struct Rows<const VNNI: bool>;

/// Adds neighbours of two vectors: in each half, two sums of `a`, then two of `b`.
///
/// # Safety
/// AVX2 is there.
#[inline(always)]
unsafe fn pairs(a: __m256i, b: __m256i) -> __m256i {
    intrinsics! { _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b)) }
}

/// Adds the two halves of each half of what [`pairs`] gave, in the order `a`, `b`.
///
/// # Safety
/// AVX2 is there.
#[inline(always)]
unsafe fn fours(a: __m256i, b: __m256i) -> __m256i {
    intrinsics! { _mm256_add_epi32(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b)) }
}

/// Adds products of codes below 16 and bytes with a sign: of four neighbours in 32 bits, or of two in 16, which hold the sums of
/// eight such: 8 · 2 · 15 · 128 < 2¹⁵.
///
/// # Safety
/// AVX2 is there, and VNNI where it is said.
#[inline(always)]
unsafe fn add_products<const VNNI: bool>(sums: __m256i, codes: __m256i, x: __m256i) -> __m256i {
    intrinsics! {
        if VNNI {
            _mm256_dpbusd_epi32(sums, codes, x)
        } else {
            _mm256_add_epi16(sums, _mm256_maddubs_epi16(codes, x))
        }
    }
}

/// Four rows of eight, `pitch` apart: in vector `i`, column `i` in the lower half and column `i + 4` in the upper one. No closures: they
/// would not be inlined.
///
/// # Safety
/// AVX2 is there; `p` is valid for the rows.
#[inline(always)]
unsafe fn transpose4(p: *const f32, pitch: usize) -> [__m256; 4] {
    intrinsics! {
        let (a, b) = (_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(pitch)));
        let (c, d) = (_mm256_loadu_ps(p.add(2 * pitch)), _mm256_loadu_ps(p.add(3 * pitch)));
        let (low_ab, high_ab) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
        let (low_cd, high_cd) = (_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
        [
            _mm256_shuffle_ps::<0x44>(low_ab, low_cd),
            _mm256_shuffle_ps::<0xEE>(low_ab, low_cd),
            _mm256_shuffle_ps::<0x44>(high_ab, high_cd),
            _mm256_shuffle_ps::<0xEE>(high_ab, high_cd),
        ]
    }
}

impl<const VNNI: bool> Integers for Rows<VNNI> {
    type Codes = [__m256i; 2];
    type Sums = __m256i;
    type Eight = __m256;

    #[inline(always)]
    unsafe fn nibbles(p: *const u8) -> Self::Codes {
        intrinsics! {
            let words = _mm256_cvtepu8_epi16(_mm_loadu_si128(p.cast()));
            [_mm256_and_si256(words, _mm256_set1_epi16(15)), _mm256_srli_epi16::<4>(words)]
        }
    }

    #[inline(always)]
    unsafe fn looked_up(p: *const u8, table: &[i8; 16]) -> Self::Codes {
        intrinsics! {
            let (bytes, table) = (_mm_loadu_si128(p.cast()), _mm_loadu_si128(table.as_ptr().cast()));
            let low = _mm_and_si128(bytes, _mm_set1_epi8(15));
            let high = _mm_and_si128(_mm_srli_epi16::<4>(bytes), _mm_set1_epi8(15));
            [_mm256_cvtepi8_epi16(_mm_shuffle_epi8(table, low)), _mm256_cvtepi8_epi16(_mm_shuffle_epi8(table, high))]
        }
    }

    #[inline(always)]
    unsafe fn bytes(p: *const u8) -> Self::Codes {
        intrinsics! {
            let words = _mm256_loadu_si256(p.cast());
            [_mm256_and_si256(words, _mm256_set1_epi16(255)), _mm256_srli_epi16::<8>(words)]
        }
    }

    #[inline(always)]
    unsafe fn store(codes: Self::Codes, run: &mut Run) {
        intrinsics! {
            let p = run.0.as_mut_ptr().cast::<__m256i>();
            _mm256_storeu_si256(p, codes[0]);
            _mm256_storeu_si256(p.add(1), codes[1]);
        }
    }

    #[inline(always)]
    unsafe fn zero() -> __m256i {
        intrinsics! { _mm256_setzero_si256() }
    }

    #[inline(always)]
    unsafe fn dot(sums: __m256i, codes: Self::Codes, x: &Run) -> __m256i {
        intrinsics! {
            let p = x.0.as_ptr().cast::<__m256i>();
            let (even, odd) = (_mm256_loadu_si256(p), _mm256_loadu_si256(p.add(1)));
            if VNNI {
                _mm256_dpwssd_epi32(_mm256_dpwssd_epi32(sums, codes[0], even), codes[1], odd)
            } else {
                let both = _mm256_add_epi32(_mm256_madd_epi16(codes[0], even), _mm256_madd_epi16(codes[1], odd));
                _mm256_add_epi32(sums, both)
            }
        }
    }

    const SPLIT: bool = true;

    #[inline(always)]
    unsafe fn split<const RUNS: usize, const M: usize>(codes: *const u8, x: &[*const Run; M], at: usize) -> [__m256i; M] {
        intrinsics! {
            let mask = _mm256_set1_epi8(15);
            let (mut low, mut high) = ([_mm256_setzero_si256(); M], [_mm256_setzero_si256(); M]);
            if RUNS == 1 {
                let bytes = _mm_loadu_si128(codes.cast());
                let both = _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16::<4>(bytes), bytes), mask);
                for i in 0..M {
                    let p = x[i].add(at).cast::<__m256i>();
                    low[i] = add_products::<VNNI>(low[i], both, _mm256_loadu_si256(p));
                    high[i] = add_products::<VNNI>(high[i], both, _mm256_loadu_si256(p.add(1)));
                }
            } else {
                for pair in 0..RUNS / 2 {
                    let bytes = _mm256_loadu_si256(codes.cast::<__m256i>().add(pair));
                    let even = _mm256_and_si256(bytes, mask);
                    let odd = _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), mask);
                    for i in 0..M {
                        let p = x[i].add(at + 2 * pair).cast::<__m256i>();
                        low[i] = add_products::<VNNI>(low[i], even, _mm256_loadu_si256(p));
                        low[i] = add_products::<VNNI>(low[i], odd, _mm256_loadu_si256(p.add(1)));
                        high[i] = add_products::<VNNI>(high[i], even, _mm256_loadu_si256(p.add(2)));
                        high[i] = add_products::<VNNI>(high[i], odd, _mm256_loadu_si256(p.add(3)));
                    }
                }
            }
            let mut sums = low;
            for i in 0..M {
                sums[i] = if VNNI {
                    _mm256_add_epi32(low[i], _mm256_slli_epi32::<8>(high[i]))
                } else {
                    // Pairs of 16 bits become 32.
                    let low = _mm256_madd_epi16(low[i], _mm256_set1_epi16(1));
                    _mm256_add_epi32(low, _mm256_madd_epi16(high[i], _mm256_set1_epi16(256)))
                };
            }
            sums
        }
    }

    #[inline(always)]
    unsafe fn totals(s: [__m256i; 8]) -> __m256 {
        intrinsics! {
            let low = fours(pairs(s[0], s[1]), pairs(s[2], s[3]));
            let high = fours(pairs(s[4], s[5]), pairs(s[6], s[7]));
            let all = _mm256_add_epi32(
                _mm256_permute2x128_si256::<0x20>(low, high),
                _mm256_permute2x128_si256::<0x31>(low, high),
            );
            _mm256_cvtepi32_ps(all)
        }
    }

    #[inline(always)]
    unsafe fn load_f32(p: *const f32) -> __m256 {
        intrinsics! { _mm256_loadu_ps(p) }
    }

    #[inline(always)]
    unsafe fn load_f16(p: *const f16) -> __m256 {
        intrinsics! { _mm256_cvtph_ps(_mm_loadu_si128(p.cast())) }
    }

    #[inline(always)]
    unsafe fn load_bf16(p: *const bf16) -> __m256 {
        intrinsics! {
            let bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits))
        }
    }

    #[inline(always)]
    unsafe fn store_f32(v: __m256, p: *mut f32) {
        intrinsics! { _mm256_storeu_ps(p, v) }
    }

    #[inline(always)]
    unsafe fn add(a: __m256, b: __m256) -> __m256 {
        intrinsics! { _mm256_add_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn mul(a: __m256, b: __m256) -> __m256 {
        intrinsics! { _mm256_mul_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn mul_add(a: __m256, b: __m256, c: __m256) -> __m256 {
        intrinsics! { _mm256_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn in_order(p: *const f32, pitch: usize, eights: usize, mut totals: __m256) -> __m256 {
        intrinsics! {
            for eight in 0..eights {
                // The transpose of eight by eight; its rows are added.
                let p = p.add(8 * eight);
                let (low, high) = (transpose4(p, pitch), transpose4(p.add(4 * pitch), pitch));
                for i in 0..4 {
                    totals = _mm256_add_ps(totals, _mm256_permute2f128_ps::<0x20>(low[i], high[i]));
                }
                for i in 0..4 {
                    totals = _mm256_add_ps(totals, _mm256_permute2f128_ps::<0x31>(low[i], high[i]));
                }
            }
            totals
        }
    }
}

/// Eight columns.
#[derive(Clone, Copy)]
pub(super) struct Columns8(__m256i);

impl Pairs for Columns8 {
    type Floats = simd::Avx2;
    // 12 sums, 2 vectors of the panel, 1 of x, 1 of products: all 16 registers.
    const ROWS: usize = 6;

    #[inline(always)]
    unsafe fn zero() -> Self {
        intrinsics! { Columns8(_mm256_setzero_si256()) }
    }

    #[inline(always)]
    unsafe fn load(p: *const i32) -> Self {
        intrinsics! { Columns8(_mm256_loadu_si256(p.cast())) }
    }

    #[inline(always)]
    unsafe fn splat(p: *const i32) -> Self {
        intrinsics! { Columns8(_mm256_set1_epi32(p.read())) }
    }

    #[inline(always)]
    unsafe fn dot(self, a: Self, b: Self) -> Self {
        intrinsics! { Columns8(_mm256_add_epi32(self.0, _mm256_madd_epi16(a.0, b.0))) }
    }

    #[inline(always)]
    unsafe fn to_floats(self) -> simd::Avx2 {
        intrinsics! { simd::Avx2(_mm256_cvtepi32_ps(self.0)) }
    }

    #[inline(always)]
    unsafe fn mul_add(a: simd::Avx2, b: simd::Avx2, c: simd::Avx2) -> simd::Avx2 {
        intrinsics! { simd::Avx2(_mm256_fmadd_ps(a.0, b.0, c.0)) }
    }
}

/// Sixteen columns.
#[derive(Clone, Copy)]
pub(super) struct Columns16<const VNNI: bool>(__m512i);

impl<const VNNI: bool> Pairs for Columns16<VNNI> {
    type Floats = simd::Avx512;
    // 24 sums, 2 vectors of the panel, 1 of x, 1 of products: 28 of 32 registers, so that the ends of spans have some.
    const ROWS: usize = 12;

    #[inline(always)]
    unsafe fn zero() -> Self {
        intrinsics! { Columns16(_mm512_setzero_si512()) }
    }

    #[inline(always)]
    unsafe fn load(p: *const i32) -> Self {
        intrinsics! { Columns16(_mm512_loadu_si512(p.cast())) }
    }

    #[inline(always)]
    unsafe fn splat(p: *const i32) -> Self {
        intrinsics! { Columns16(_mm512_set1_epi32(p.read())) }
    }

    #[inline(always)]
    unsafe fn dot(self, a: Self, b: Self) -> Self {
        intrinsics! {
            if VNNI {
                Columns16(_mm512_dpwssd_epi32(self.0, a.0, b.0))
            } else {
                Columns16(_mm512_add_epi32(self.0, _mm512_madd_epi16(a.0, b.0)))
            }
        }
    }

    #[inline(always)]
    unsafe fn to_floats(self) -> simd::Avx512 {
        intrinsics! { simd::Avx512(_mm512_cvtepi32_ps(self.0)) }
    }

    #[inline(always)]
    unsafe fn mul_add(a: simd::Avx512, b: simd::Avx512, c: simd::Avx512) -> simd::Avx512 {
        intrinsics! { simd::Avx512(_mm512_fmadd_ps(a.0, b.0, c.0)) }
    }
}
