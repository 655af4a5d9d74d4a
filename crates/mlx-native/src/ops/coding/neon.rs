//! Codes in NEON.

use std::arch::aarch64::*;

use super::{Codes, Linear, Neon, RUN, stream_bytes};
use crate::backend::cpu::simd::Vector;

/// Wraps the intrinsics of an implementation.
macro_rules! intrinsics {
    ($($body:tt)*) => {
        // SAFETY: the caller's word, as `Codes` asks for: there are codes for a run. NEON is in the baseline.
        #[allow(unused_unsafe)]
        unsafe { $($body)* }
    };
}

/// Eight bytes as numbers.
///
/// # Safety
/// As [`Codes`].
#[inline(always)]
unsafe fn eight(words: int16x8_t) -> [Neon; 2] {
    intrinsics! {
        [
            Neon(vcvtq_f32_s32(vmovl_s16(vget_low_s16(words)))),
            Neon(vcvtq_f32_s32(vmovl_s16(vget_high_s16(words)))),
        ]
    }
}

impl Codes for Neon {
    type Run = [Neon; 8];
    type Nibbles = Linear<Self>;

    #[inline(always)]
    unsafe fn zeros() -> Self::Run {
        intrinsics! { [Neon::splat(0.0); 8] }
    }

    #[inline(always)]
    unsafe fn stream<const BITS: usize>(p: *const u8) -> Self::Run {
        intrinsics! {
            let bytes = match BITS {
                4 => {
                    // Low and high halves of 16 bytes, in turn.
                    let both = vld1q_u8(p);
                    let (low, high) = (vandq_u8(both, vdupq_n_u8(15)), vshrq_n_u8::<4>(both));
                    let mut bytes = [0; RUN];
                    vst1q_u8(bytes.as_mut_ptr(), vzip1q_u8(low, high));
                    vst1q_u8(bytes.as_mut_ptr().add(16), vzip2q_u8(low, high));
                    bytes
                }
                _ => stream_bytes::<BITS>(p),
            };
            let mut run = Self::zeros();
            for (i, pair) in run.chunks_exact_mut(2).enumerate() {
                let words = vreinterpretq_s16_u16(vmovl_u8(vld1_u8(bytes.as_ptr().add(8 * i))));
                pair.copy_from_slice(&eight(words));
            }
            run
        }
    }

    #[inline(always)]
    unsafe fn signed(bytes: &[i8; RUN]) -> Self::Run {
        intrinsics! {
            let mut run = Self::zeros();
            for (i, pair) in run.chunks_exact_mut(2).enumerate() {
                pair.copy_from_slice(&eight(vmovl_s8(vld1_s8(bytes.as_ptr().add(8 * i)))));
            }
            run
        }
    }

    #[inline(always)]
    unsafe fn look_up(indices: &[u8; RUN], table: &[i8; 16]) -> Self::Run {
        intrinsics! {
            let table = vld1q_s8(table.as_ptr());
            let mut values = [0; RUN];
            for i in [0, 16] {
                vst1q_s8(values.as_mut_ptr().add(i), vqtbl1q_s8(table, vld1q_u8(indices.as_ptr().add(i))));
            }
            Self::signed(&values)
        }
    }
}
