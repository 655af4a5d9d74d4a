//! From packed codes to vectors of weights.

#[cfg(target_arch = "aarch64")]
use crate::backend::cpu::simd::Neon;
use crate::backend::cpu::simd::{Lanes8, Vector, Widen, vectorize};
#[cfg(target_arch = "x86_64")]
use crate::backend::cpu::simd::{Avx2, Avx512};

/// Makes weights of the codes of one group.
///
/// # Safety
/// All functions: as [`Vector`]. `weights` reads the codes of `V::LANES` weights from `p`, of any alignment.
pub(super) trait Unpack<V: Vector>: Copy {
    unsafe fn new(scale: f32, bias: f32) -> Self;
    /// `LANES` consecutive weights, `code * scale + bias`, in an order of its own.
    unsafe fn weights(self, p: *const u8) -> V;
    /// Puts `LANES` consecutive values into the order of `weights`.
    #[inline(always)]
    unsafe fn arrange(values: V) -> V {
        values
    }
    /// Undoes `arrange`.
    #[inline(always)]
    unsafe fn restore(values: V) -> V {
        values
    }
}

/// Vectors that codes can be unpacked to, and the best way to do it.
pub(super) trait Codes: Vector {
    type Four: Unpack<Self>;
    type Eight: Unpack<Self>;
}

/// A width of codes, as a type.
pub(super) trait Width: 'static {
    /// Bits.
    const BITS: usize;
    type Of<V: Codes>: Unpack<V>;
}

/// Codes of 4 bits.
pub(super) struct Four;
/// Codes of 8 bits.
pub(super) struct Eight;

impl Width for Four {
    const BITS: usize = 4;
    type Of<V: Codes> = V::Four;
}

impl Width for Eight {
    const BITS: usize = 8;
    type Of<V: Codes> = V::Eight;
}

/// Vectors that codes can be loaded to as numbers.
///
/// # Safety
/// As [`Unpack`].
pub(super) trait LoadCodes<const BITS: usize>: Vector {
    unsafe fn codes(p: *const u8) -> Self;
}

/// Codes to numbers, then one multiply-add.
#[derive(Clone, Copy)]
pub(super) struct Scaled<V, const BITS: usize> {
    scale: V,
    bias: V,
}

impl<V: LoadCodes<BITS>, const BITS: usize> Unpack<V> for Scaled<V, BITS> {
    #[inline(always)]
    unsafe fn new(scale: f32, bias: f32) -> Self {
        // SAFETY: the caller's word.
        unsafe { Scaled { scale: V::splat(scale), bias: V::splat(bias) } }
    }

    #[inline(always)]
    unsafe fn weights(self, p: *const u8) -> V {
        // SAFETY: the caller's word.
        unsafe { V::codes(p).mul_add(self.scale, self.bias) }
    }
}

vectorize! {
    /// Writes `code * scale + bias` for the codes at `p` to `out`, a scale and a bias for each `group_size` of them.
    ///
    /// # Safety
    /// This machine has `isa`; `out` is whole groups, a multiple of 32 each, and there are codes at `p`, scales and biases
    /// for all of it.
    pub(super) unsafe fn dequantize<S: Widen, B: Width>(
        p: *const u8,
        scales: &[S],
        biases: &[S],
        group_size: usize,
        out: &mut [f32],
    ) = dequantize_body
}

#[inline(always)]
unsafe fn dequantize_body<V: Codes, S: Widen, B: Width>(
    mut p: *const u8,
    scales: &[S],
    biases: &[S],
    group_size: usize,
    out: &mut [f32],
) {
    for (group, out) in out.chunks_exact_mut(group_size).enumerate() {
        // SAFETY: the caller's word.
        unsafe {
            let unpack = B::Of::<V>::new(scales[group].to_f32(), biases[group].to_f32());
            for out in out.chunks_exact_mut(V::LANES) {
                B::Of::<V>::restore(unpack.weights(p)).store(out.as_mut_ptr());
                p = p.add(V::LANES * B::BITS / 8);
            }
        }
    }
}

vectorize! {
    /// Widens rows of activations and puts each vector into the order in which the weights of width `B` come.
    ///
    /// # Safety
    /// This machine has `isa`; `out` is as long as `x`, and a multiple of 32.
    pub(super) unsafe fn arrange<T: Widen, B: Width>(x: &[T], out: &mut [f32]) = arrange_body
}

#[inline(always)]
unsafe fn arrange_body<V: Codes, T: Widen, B: Width>(x: &[T], out: &mut [f32]) {
    for (x, out) in x.chunks_exact(V::LANES).zip(out.chunks_exact_mut(V::LANES)) {
        // SAFETY: both pieces have `LANES` elements; the rest is the caller's word.
        unsafe { B::Of::<V>::arrange(T::load::<V>(x.as_ptr())).store(out.as_mut_ptr()) };
    }
}

/// Wraps the intrinsics of an implementation.
macro_rules! intrinsics {
    ($($body:tt)*) => {
        // SAFETY: the caller's word, as `Unpack` asks for: the processor has the instructions, there are codes for all lanes.
        // None of the loads needs an alignment.
        #[allow(unused_unsafe)]
        unsafe { $($body)* }
    };
}

impl Codes for Lanes8 {
    type Four = Scaled<Self, 4>;
    type Eight = Scaled<Self, 8>;
}

impl LoadCodes<4> for Lanes8 {
    #[inline(always)]
    unsafe fn codes(p: *const u8) -> Self {
        intrinsics! {
            let word = u32::from_le(p.cast::<u32>().read_unaligned());
            let mut values = [0.0; 8];
            for (i, value) in values.iter_mut().enumerate() {
                *value = (word >> (4 * i) & 15) as f32;
            }
            Lanes8::load(values.as_ptr())
        }
    }
}

impl LoadCodes<8> for Lanes8 {
    #[inline(always)]
    unsafe fn codes(p: *const u8) -> Self {
        intrinsics! { Lanes8::load(p.cast::<[u8; 8]>().read_unaligned().map(f32::from).as_ptr()) }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::*;

    impl Codes for Avx2 {
        type Four = Scaled<Self, 4>;
        type Eight = Scaled<Self, 8>;
    }

    impl LoadCodes<4> for Avx2 {
        #[inline(always)]
        unsafe fn codes(p: *const u8) -> Self {
            intrinsics! {
                let word = _mm256_set1_epi32(p.cast::<i32>().read_unaligned());
                let shifted = _mm256_srlv_epi32(word, _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28));
                Avx2(_mm256_cvtepi32_ps(_mm256_and_si256(shifted, _mm256_set1_epi32(15))))
            }
        }
    }

    impl LoadCodes<8> for Avx2 {
        #[inline(always)]
        unsafe fn codes(p: *const u8) -> Self {
            intrinsics! { Avx2(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast())))) }
        }
    }

    impl Codes for Avx512 {
        type Four = Table;
        type Eight = Scaled<Self, 8>;
    }

    impl LoadCodes<8> for Avx512 {
        #[inline(always)]
        unsafe fn codes(p: *const u8) -> Self {
            intrinsics! { Avx512(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast())))) }
        }
    }

    /// The 16 weights that a group of 4-bit codes can have. A permutation looks up 16 at a time; it takes the low four bits
    /// of each lane and ignores the others, so that codes need a shift and no mask.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Table(__m512);

    impl Unpack<Avx512> for Table {
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
        unsafe fn weights(self, p: *const u8) -> Avx512 {
            intrinsics! {
                let words = _mm512_set1_epi64(p.cast::<i64>().read_unaligned());
                let shifts = _mm512_setr_epi32(0, 0, 4, 4, 8, 8, 12, 12, 16, 16, 20, 20, 24, 24, 28, 28);
                Avx512(_mm512_permutexvar_ps(_mm512_srlv_epi32(words, shifts), self.0))
            }
        }

        #[inline(always)]
        unsafe fn arrange(values: Avx512) -> Avx512 {
            intrinsics! {
                let order = _mm512_setr_epi32(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15);
                Avx512(_mm512_permutexvar_ps(order, values.0))
            }
        }

        #[inline(always)]
        unsafe fn restore(values: Avx512) -> Avx512 {
            intrinsics! {
                let order = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
                Avx512(_mm512_permutexvar_ps(order, values.0))
            }
        }
    }
}

#[cfg(target_arch = "aarch64")]
mod neon {
    use std::arch::aarch64::*;

    use super::*;

    impl Codes for Neon {
        type Four = Scaled<Self, 4>;
        type Eight = Scaled<Self, 8>;
    }

    impl LoadCodes<4> for Neon {
        #[inline(always)]
        unsafe fn codes(p: *const u8) -> Self {
            intrinsics! {
                let half_word = vdupq_n_u32(u32::from(p.cast::<u16>().read_unaligned()));
                let right = [0i32, -4, -8, -12];
                let shifted = vshlq_u32(half_word, vld1q_s32(right.as_ptr()));
                Neon(vcvtq_f32_u32(vandq_u32(shifted, vdupq_n_u32(15))))
            }
        }
    }

    impl LoadCodes<8> for Neon {
        #[inline(always)]
        unsafe fn codes(p: *const u8) -> Self {
            intrinsics! {
                let bytes = vreinterpret_u8_u32(vdup_n_u32(p.cast::<u32>().read_unaligned()));
                Neon(vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(bytes)))))
            }
        }
    }
}
