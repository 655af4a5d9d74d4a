//! NEON, which every 64-bit ARM has.

use std::arch::aarch64::*;

use half::{bf16, f16};

use super::Vector;

/// Wraps the intrinsics of a function of [`Vector`].
macro_rules! intrinsics {
    ($($body:tt)*) => {
        // SAFETY: the caller's word, as `Vector` asks for: the processor has the instructions, pointers reach over all lanes.
        #[allow(unused_unsafe)]
        unsafe { $($body)* }
    };
}

/// Four values.
#[derive(Clone, Copy)]
pub(crate) struct Neon(pub(crate) float32x4_t);

impl Vector for Neon {
    const LANES: usize = 4;
    const REGISTERS: usize = 32;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        intrinsics! { Neon(vdupq_n_f32(value)) }
    }

    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        intrinsics! { Neon(vld1q_f32(p)) }
    }

    #[inline(always)]
    unsafe fn load_f16(p: *const f16) -> Self {
        // The conversion instruction has no stable intrinsic on vectors of f16; shifts and a product do the same, exactly:
        // 2^112 makes up for the exponents' biases, infinity and NaN get their exponent back.
        intrinsics! {
            let bits = vmovl_u16(vld1_u16(p.cast()));
            let magnitude = vreinterpretq_f32_u32(vshlq_n_u32::<13>(vandq_u32(bits, vdupq_n_u32(0x7FFF))));
            let scaled = vreinterpretq_u32_f32(vmulq_f32(magnitude, vdupq_n_f32(f32::from_bits(0x7780_0000))));
            let exponent = vdupq_n_u32(0x7C00);
            let is_special = vceqq_u32(vandq_u32(bits, exponent), exponent);
            let special = vandq_u32(is_special, vdupq_n_u32(0x7F80_0000));
            let sign = vshlq_n_u32::<16>(vandq_u32(bits, vdupq_n_u32(0x8000)));
            Neon(vreinterpretq_f32_u32(vorrq_u32(vorrq_u32(scaled, special), sign)))
        }
    }

    #[inline(always)]
    unsafe fn load_bf16(p: *const bf16) -> Self {
        intrinsics! { Neon(vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(p.cast())))) }
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        intrinsics! { vst1q_f32(p, self.0) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        intrinsics! { Neon(vaddq_f32(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        intrinsics! { Neon(vmulq_f32(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        intrinsics! { Neon(vmaxnmq_f32(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn round(self) -> Self {
        intrinsics! { Neon(vrndnq_f32(self.0)) }
    }

    #[inline(always)]
    unsafe fn power_of_2(self) -> Self {
        intrinsics! {
            let exponent = vaddq_s32(vcvtq_s32_f32(self.0), vdupq_n_s32(127));
            Neon(vreinterpretq_f32_s32(vshlq_n_s32::<23>(exponent)))
        }
    }

    #[inline(always)]
    unsafe fn zero_below(self, x: Self, limit: f32) -> Self {
        intrinsics! { Neon(vbslq_f32(vcltq_f32(x.0, vdupq_n_f32(limit)), vdupq_n_f32(0.0), self.0)) }
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
        intrinsics! { Neon(vfmaq_f32(addend.0, self.0, factor.0)) }
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        intrinsics! { vaddvq_f32(self.0) }
    }

    #[inline(always)]
    unsafe fn sum4([a, b, c, d]: [Self; 4]) -> [f32; 4] {
        intrinsics! {
            let four = vpaddq_f32(vpaddq_f32(a.0, b.0), vpaddq_f32(c.0, d.0));
            let mut sums = [0.0; 4];
            vst1q_f32(sums.as_mut_ptr(), four);
            sums
        }
    }

    #[inline(always)]
    unsafe fn greatest(self) -> f32 {
        intrinsics! { vmaxnmvq_f32(self.0) }
    }

    #[inline(always)]
    unsafe fn transpose(source: *const f32, source_pitch: usize, target: *mut f32, target_pitch: usize) {
        intrinsics! {
            let row = |i: usize| vld1q_f32(source.add(i * source_pitch));
            let (a, b) = (vtrnq_f32(row(0), row(1)), vtrnq_f32(row(2), row(3)));
            let columns = [
                vcombine_f32(vget_low_f32(a.0), vget_low_f32(b.0)),
                vcombine_f32(vget_low_f32(a.1), vget_low_f32(b.1)),
                vcombine_f32(vget_high_f32(a.0), vget_high_f32(b.0)),
                vcombine_f32(vget_high_f32(a.1), vget_high_f32(b.1)),
            ];
            for (i, column) in columns.into_iter().enumerate() {
                vst1q_f32(target.add(i * target_pitch), column);
            }
        }
    }
}
