//! Arrays as vectors: for every machine, and to read first.

use half::{bf16, f16};

use super::{Element, Vector};

/// Eight values; the compiler makes what it can of them.
#[derive(Clone, Copy)]
pub(crate) struct Lanes8([f32; 8]);

impl Lanes8 {
    #[inline(always)]
    fn each(f: impl Fn(usize) -> f32) -> Self {
        let mut v = [0.0; 8];
        for i in 0..8 {
            v[i] = f(i);
        }
        Lanes8(v)
    }
}

impl Vector for Lanes8 {
    const LANES: usize = 8;
    const REGISTERS: usize = 8;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Lanes8([value; 8])
    }

    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: valid for 8 elements by the caller's word.
        Self::each(|i| unsafe { *p.add(i) })
    }

    #[inline(always)]
    unsafe fn load_f16(p: *const f16) -> Self {
        // SAFETY: as `load`.
        Self::each(|i| unsafe { widen_f16(*p.add(i)) })
    }

    #[inline(always)]
    unsafe fn load_bf16(p: *const bf16) -> Self {
        // SAFETY: as `load`.
        Self::each(|i| unsafe { Element::to_f32(*p.add(i)) })
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: as `load`.
        unsafe { p.cast::<[f32; 8]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Self::each(|i| self.0[i] + other.0[i])
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        Self::each(|i| self.0[i] * other.0[i])
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        Self::each(|i| {
            if self.0[i] > other.0[i] {
                self.0[i]
            } else {
                other.0[i]
            }
        })
    }

    #[inline(always)]
    unsafe fn round(self) -> Self {
        Self::each(|i| self.0[i].round_ties_even())
    }

    #[inline(always)]
    unsafe fn power_of_2(self) -> Self {
        Self::each(|i| f32::from_bits(((self.0[i] as i32).wrapping_add(127) as u32) << 23))
    }

    #[inline(always)]
    unsafe fn zero_below(self, x: Self, limit: f32) -> Self {
        Self::each(|i| if x.0[i] < limit { 0.0 } else { self.0[i] })
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
        Self::each(|i| self.0[i] * factor.0[i] + addend.0[i])
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        let v = self.0;
        ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]))
    }

    #[inline(always)]
    unsafe fn sum4(vectors: [Self; 4]) -> [f32; 4] {
        // SAFETY: arrays need no instructions of their own.
        vectors.map(|v| unsafe { v.sum() })
    }

    #[inline(always)]
    unsafe fn greatest(self) -> f32 {
        self.0
            .into_iter()
            .fold(f32::NEG_INFINITY, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    unsafe fn transpose(source: *const f32, source_pitch: usize, target: *mut f32, target_pitch: usize) {
        for row in 0..8 {
            for column in 0..8 {
                // SAFETY: inside the two blocks.
                unsafe {
                    *target.add(column * target_pitch + row) = *source.add(row * source_pitch + column)
                };
            }
        }
    }
}

/// The exact value, by shifts and one product instead of the branches of `f16::to_f32`: vectors can do it.
#[inline(always)]
fn widen_f16(value: f16) -> f32 {
    let bits = u32::from(value.to_bits());
    let magnitude = f32::from_bits((bits & 0x7FFF) << 13) * f32::from_bits(0x7780_0000); // 2^112: the exponents' biases
    let special = if bits & 0x7C00 == 0x7C00 { 0x7F80_0000 } else { 0 };
    f32::from_bits(magnitude.to_bits() | special | (bits & 0x8000) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_f16_widen_exactly() {
        for bits in 0..=u16::MAX {
            let h = f16::from_bits(bits);
            let (ours, theirs) = (widen_f16(h), h.to_f32());
            assert!(
                ours.to_bits() == theirs.to_bits() || ours.is_nan() && theirs.is_nan(),
                "{bits:#x}"
            );
        }
    }
}
