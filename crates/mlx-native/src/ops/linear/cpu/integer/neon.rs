//! NEON. Tiles of integers are arrays here, which nobody asks for: `has_tiles` says no.

use std::arch::aarch64::*;

use half::{bf16, f16};

use super::activations::Run;
use super::level::{Integers, Level};
use super::portable;
use crate::backend::cpu::simd::{self, Vector};

/// Wraps the intrinsics of a function of the traits.
macro_rules! intrinsics {
    ($($body:tt)*) => {
        // SAFETY: the caller's word, as the traits ask for: the processor has the instructions, pointers reach over all that
        // is read.
        #[allow(unused_unsafe)]
        unsafe { $($body)* }
    };
}

pub(super) struct Neon;

impl Level for Neon {
    type Few = Rows;
    type Many = portable::Columns;
}

#[derive(Clone, Copy)]
pub(super) struct Rows;

/// 16 bytes, all signed or not, as 16-bit integers.
///
/// # Safety
/// NEON is there.
#[inline(always)]
unsafe fn widened(even: int8x16_t, odd: int8x16_t) -> [int16x8_t; 4] {
    intrinsics! {
        [vmovl_s8(vget_low_s8(even)), vmovl_high_s8(even), vmovl_s8(vget_low_s8(odd)), vmovl_high_s8(odd)]
    }
}

impl Integers for Rows {
    type Codes = [int16x8_t; 4];
    type Sums = [int32x4_t; 2];
    type Eight = [float32x4_t; 2];

    #[inline(always)]
    unsafe fn nibbles(p: *const u8) -> Self::Codes {
        intrinsics! {
            let bytes = vld1q_u8(p);
            let (even, odd) = (vandq_u8(bytes, vdupq_n_u8(15)), vshrq_n_u8::<4>(bytes));
            widened(vreinterpretq_s8_u8(even), vreinterpretq_s8_u8(odd))
        }
    }

    #[inline(always)]
    unsafe fn looked_up(p: *const u8, table: &[i8; 16]) -> Self::Codes {
        intrinsics! {
            let (bytes, table) = (vld1q_u8(p), vld1q_s8(table.as_ptr()));
            let (even, odd) = (vandq_u8(bytes, vdupq_n_u8(15)), vshrq_n_u8::<4>(bytes));
            widened(vqtbl1q_s8(table, even), vqtbl1q_s8(table, odd))
        }
    }

    #[inline(always)]
    unsafe fn bytes(p: *const u8) -> Self::Codes {
        intrinsics! {
            let (a, b) = (vreinterpretq_u16_u8(vld1q_u8(p)), vreinterpretq_u16_u8(vld1q_u8(p.add(16))));
            let low = vdupq_n_u16(255);
            [
                vreinterpretq_s16_u16(vandq_u16(a, low)),
                vreinterpretq_s16_u16(vandq_u16(b, low)),
                vreinterpretq_s16_u16(vshrq_n_u16::<8>(a)),
                vreinterpretq_s16_u16(vshrq_n_u16::<8>(b)),
            ]
        }
    }

    #[inline(always)]
    unsafe fn store(codes: Self::Codes, run: &mut Run) {
        intrinsics! {
            for (i, codes) in codes.into_iter().enumerate() {
                vst1q_s16(run.0.as_mut_ptr().add(8 * i), codes);
            }
        }
    }

    #[inline(always)]
    unsafe fn zero() -> Self::Sums {
        intrinsics! { [vdupq_n_s32(0); 2] }
    }

    #[inline(always)]
    unsafe fn dot([mut low, mut high]: Self::Sums, codes: Self::Codes, x: &Run) -> Self::Sums {
        intrinsics! {
            for (i, codes) in codes.into_iter().enumerate() {
                let x = vld1q_s16(x.0.as_ptr().add(8 * i));
                low = vmlal_s16(low, vget_low_s16(codes), vget_low_s16(x));
                high = vmlal_high_s16(high, codes, x);
            }
            [low, high]
        }
    }

    #[inline(always)]
    unsafe fn totals(sums: [Self::Sums; 8]) -> Self::Eight {
        intrinsics! {
            let s = sums.map(|[low, high]| vaddq_s32(low, high));
            let four = |i: usize| vpaddq_s32(vpaddq_s32(s[i], s[i + 1]), vpaddq_s32(s[i + 2], s[i + 3]));
            [vcvtq_f32_s32(four(0)), vcvtq_f32_s32(four(4))]
        }
    }

    #[inline(always)]
    unsafe fn load_f32(p: *const f32) -> Self::Eight {
        intrinsics! { [vld1q_f32(p), vld1q_f32(p.add(4))] }
    }

    #[inline(always)]
    unsafe fn load_f16(p: *const f16) -> Self::Eight {
        intrinsics! { [simd::Neon::load_f16(p).0, simd::Neon::load_f16(p.add(4)).0] }
    }

    #[inline(always)]
    unsafe fn load_bf16(p: *const bf16) -> Self::Eight {
        intrinsics! { [simd::Neon::load_bf16(p).0, simd::Neon::load_bf16(p.add(4)).0] }
    }

    #[inline(always)]
    unsafe fn store_f32(v: Self::Eight, p: *mut f32) {
        intrinsics! {
            vst1q_f32(p, v[0]);
            vst1q_f32(p.add(4), v[1]);
        }
    }

    #[inline(always)]
    unsafe fn mul(a: Self::Eight, b: Self::Eight) -> Self::Eight {
        intrinsics! { [vmulq_f32(a[0], b[0]), vmulq_f32(a[1], b[1])] }
    }

    #[inline(always)]
    unsafe fn mul_add(a: Self::Eight, b: Self::Eight, c: Self::Eight) -> Self::Eight {
        intrinsics! { [vfmaq_f32(c[0], a[0], b[0]), vfmaq_f32(c[1], a[1], b[1])] }
    }

    #[inline(always)]
    unsafe fn in_order(p: *const f32, pitch: usize, eights: usize, mut totals: Self::Eight) -> Self::Eight {
        intrinsics! {
            for at in (0..8 * eights).step_by(4) {
                for (half, total) in totals.iter_mut().enumerate() {
                    let row = |i: usize| vld1q_f32(p.add((4 * half + i) * pitch + at));
                    let (a, b, c, d) = (row(0), row(1), row(2), row(3));
                    let (ab, cd) = (vtrn1q_f32(a, b), vtrn1q_f32(c, d));
                    let (ab2, cd2) = (vtrn2q_f32(a, b), vtrn2q_f32(c, d));
                    let low = |x, y| {
                        vreinterpretq_f32_f64(vtrn1q_f64(vreinterpretq_f64_f32(x), vreinterpretq_f64_f32(y)))
                    };
                    let high = |x, y| {
                        vreinterpretq_f32_f64(vtrn2q_f64(vreinterpretq_f64_f32(x), vreinterpretq_f64_f32(y)))
                    };
                    for column in [low(ab, cd), low(ab2, cd2), high(ab, cd), high(ab2, cd2)] {
                        *total = vaddq_f32(*total, column);
                    }
                }
            }
            totals
        }
    }
}
