//! AVX2 and AVX-512.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::Vector;

/// Wraps the intrinsics of a function of [`Vector`].
macro_rules! intrinsics {
    ($($body:tt)*) => {
        // SAFETY: the caller's word, as `Vector` asks for: the processor has the instructions, pointers reach over all lanes.
        // None of the loads and stores needs an alignment.
        unsafe { $($body)* }
    };
}

/// Eight values.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(pub(crate) __m256);

impl Vector for Avx2 {
    const LANES: usize = 8;
    const REGISTERS: usize = 16;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        intrinsics! { Avx2(_mm256_set1_ps(value)) }
    }

    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        intrinsics! { Avx2(_mm256_loadu_ps(p)) }
    }

    #[inline(always)]
    unsafe fn load_f16(p: *const f16) -> Self {
        intrinsics! { Avx2(_mm256_cvtph_ps(_mm_loadu_si128(p.cast()))) }
    }

    #[inline(always)]
    unsafe fn load_bf16(p: *const bf16) -> Self {
        intrinsics! {
            let bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
            Avx2(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits)))
        }
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        intrinsics! { _mm256_storeu_ps(p, self.0) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        intrinsics! { Avx2(_mm256_add_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        intrinsics! { Avx2(_mm256_mul_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        intrinsics! { Avx2(_mm256_max_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn round(self) -> Self {
        intrinsics! { Avx2(_mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0)) }
    }

    #[inline(always)]
    unsafe fn power_of_2(self) -> Self {
        intrinsics! {
            let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(self.0), _mm256_set1_epi32(127));
            Avx2(_mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent)))
        }
    }

    #[inline(always)]
    unsafe fn zero_below(self, x: Self, limit: f32) -> Self {
        intrinsics! { Avx2(_mm256_and_ps(_mm256_cmp_ps::<_CMP_NLT_UQ>(x.0, _mm256_set1_ps(limit)), self.0)) }
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
        intrinsics! { Avx2(_mm256_fmadd_ps(self.0, factor.0, addend.0)) }
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        intrinsics! {
            let four = _mm_add_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps::<1>(self.0));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }

    #[inline(always)]
    unsafe fn sum4([a, b, c, d]: [Self; 4]) -> [f32; 4] {
        intrinsics! {
            // Pairs, then pairs of pairs: each half holds the sums of its four elements of a, b, c, d.
            let halves = _mm256_hadd_ps(_mm256_hadd_ps(a.0, b.0), _mm256_hadd_ps(c.0, d.0));
            let four = _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps::<1>(halves));
            let mut sums = [0.0; 4];
            _mm_storeu_ps(sums.as_mut_ptr(), four);
            sums
        }
    }

    #[inline(always)]
    unsafe fn greatest(self) -> f32 {
        intrinsics! {
            let four = _mm_max_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps::<1>(self.0));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }

    #[inline(always)]
    unsafe fn transpose(source: *const f32, source_pitch: usize, target: *mut f32, target_pitch: usize) {
        intrinsics! {
            let zero = _mm256_setzero_ps();
            let (mut r, mut t) = ([zero; 8], [zero; 8]);
            for i in 0..8 {
                r[i] = _mm256_loadu_ps(source.add(i * source_pitch));
            }
            for i in 0..4 {
                t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
                t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
            }
            for i in 0..2 {
                r[4 * i] = _mm256_shuffle_ps::<0x44>(t[4 * i], t[4 * i + 2]);
                r[4 * i + 1] = _mm256_shuffle_ps::<0xEE>(t[4 * i], t[4 * i + 2]);
                r[4 * i + 2] = _mm256_shuffle_ps::<0x44>(t[4 * i + 1], t[4 * i + 3]);
                r[4 * i + 3] = _mm256_shuffle_ps::<0xEE>(t[4 * i + 1], t[4 * i + 3]);
            }
            for i in 0..4 {
                _mm256_storeu_ps(target.add(i * target_pitch), _mm256_permute2f128_ps::<0x20>(r[i], r[i + 4]));
                _mm256_storeu_ps(target.add((i + 4) * target_pitch), _mm256_permute2f128_ps::<0x31>(r[i], r[i + 4]));
            }
        }
    }
}

/// Sixteen values.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(pub(crate) __m512);

impl Avx512 {
    /// # Safety
    /// As [`Vector`].
    #[inline(always)]
    unsafe fn halves(self) -> (Avx2, Avx2) {
        intrinsics! { (Avx2(_mm512_castps512_ps256(self.0)), Avx2(_mm512_extractf32x8_ps::<1>(self.0))) }
    }
}

impl Vector for Avx512 {
    const LANES: usize = 16;
    const REGISTERS: usize = 32;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        intrinsics! { Avx512(_mm512_set1_ps(value)) }
    }

    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        intrinsics! { Avx512(_mm512_loadu_ps(p)) }
    }

    #[inline(always)]
    unsafe fn load_f16(p: *const f16) -> Self {
        intrinsics! { Avx512(_mm512_cvtph_ps(_mm256_loadu_si256(p.cast()))) }
    }

    #[inline(always)]
    unsafe fn load_bf16(p: *const bf16) -> Self {
        intrinsics! {
            let bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()));
            Avx512(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits)))
        }
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        intrinsics! { _mm512_storeu_ps(p, self.0) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        intrinsics! { Avx512(_mm512_add_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        intrinsics! { Avx512(_mm512_mul_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        intrinsics! { Avx512(_mm512_max_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn round(self) -> Self {
        intrinsics! { Avx512(_mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0)) }
    }

    #[inline(always)]
    unsafe fn power_of_2(self) -> Self {
        intrinsics! {
            let exponent = _mm512_add_epi32(_mm512_cvtps_epi32(self.0), _mm512_set1_epi32(127));
            Avx512(_mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent)))
        }
    }

    #[inline(always)]
    unsafe fn zero_below(self, x: Self, limit: f32) -> Self {
        intrinsics! { Avx512(_mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x.0, _mm512_set1_ps(limit)), self.0)) }
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
        intrinsics! { Avx512(_mm512_fmadd_ps(self.0, factor.0, addend.0)) }
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        intrinsics! { _mm512_reduce_add_ps(self.0) }
    }

    #[inline(always)]
    unsafe fn sum4([a, b, c, d]: [Self; 4]) -> [f32; 4] {
        intrinsics! {
            let [a, b, c, d] = [a.halves(), b.halves(), c.halves(), d.halves()];
            Avx2::sum4([a.0.add(a.1), b.0.add(b.1), c.0.add(c.1), d.0.add(d.1)])
        }
    }

    #[inline(always)]
    unsafe fn greatest(self) -> f32 {
        intrinsics! {
            let (low, high) = self.halves();
            low.max(high).greatest()
        }
    }

    #[inline(always)]
    unsafe fn transpose(source: *const f32, source_pitch: usize, target: *mut f32, target_pitch: usize) {
        intrinsics! {
            let zero = _mm512_setzero_ps();
            let (mut r, mut t) = ([zero; 16], [zero; 16]);
            for i in 0..16 {
                r[i] = _mm512_loadu_ps(source.add(i * source_pitch));
            }
            // 4 x 4 blocks within the 128-bit quarters first, ...
            for i in 0..8 {
                t[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
                t[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
            }
            for i in 0..4 {
                r[4 * i] = _mm512_shuffle_ps::<0x44>(t[4 * i], t[4 * i + 2]);
                r[4 * i + 1] = _mm512_shuffle_ps::<0xEE>(t[4 * i], t[4 * i + 2]);
                r[4 * i + 2] = _mm512_shuffle_ps::<0x44>(t[4 * i + 1], t[4 * i + 3]);
                r[4 * i + 3] = _mm512_shuffle_ps::<0xEE>(t[4 * i + 1], t[4 * i + 3]);
            }
            // ... then the quarters among each other: r[4g + i] has columns i, i + 4, i + 8, i + 12 of rows 4g..4g + 4.
            for i in 0..4 {
                let low = _mm512_shuffle_f32x4::<0x88>(r[i], r[4 + i]);
                let high = _mm512_shuffle_f32x4::<0xDD>(r[i], r[4 + i]);
                let low2 = _mm512_shuffle_f32x4::<0x88>(r[8 + i], r[12 + i]);
                let high2 = _mm512_shuffle_f32x4::<0xDD>(r[8 + i], r[12 + i]);
                t[i] = _mm512_shuffle_f32x4::<0x88>(low, low2);
                t[i + 4] = _mm512_shuffle_f32x4::<0x88>(high, high2);
                t[i + 8] = _mm512_shuffle_f32x4::<0xDD>(low, low2);
                t[i + 12] = _mm512_shuffle_f32x4::<0xDD>(high, high2);
            }
            for i in 0..16 {
                _mm512_storeu_ps(target.add(i * target_pitch), t[i]);
            }
        }
    }
}
