//! Floating-point elements: kernels compute in f32 and round once.

use bytemuck::Pod;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::dtype::DType;

/// f32, f16 or bf16.
pub trait Element: Pod + Send + Sync + 'static {
    /// The dtype of buffers of this type.
    const DTYPE: DType;
    /// The exact value.
    fn to_f32(self) -> f32;
    /// The nearest value, ties to even.
    fn from_f32(value: f32) -> Self;
    /// The exact values of `source`, which is as long as `target`.
    fn widen(source: &[Self], target: &mut [f32]);
    /// The nearest values of `source`, which is as long as `target`.
    fn narrow(source: &[f32], target: &mut [Self]);
}

impl Element for f32 {
    const DTYPE: DType = DType::F32;
    fn to_f32(self) -> f32 {
        self
    }
    fn from_f32(value: f32) -> Self {
        value
    }
    fn widen(source: &[Self], target: &mut [f32]) {
        target.copy_from_slice(source);
    }
    fn narrow(source: &[f32], target: &mut [Self]) {
        target.copy_from_slice(source);
    }
}

impl Element for f16 {
    const DTYPE: DType = DType::F16;
    fn to_f32(self) -> f32 {
        f16::to_f32(self)
    }
    fn from_f32(value: f32) -> Self {
        f16::from_f32(value)
    }
    fn widen(source: &[Self], target: &mut [f32]) {
        source.convert_to_f32_slice(target);
    }
    fn narrow(source: &[f32], target: &mut [Self]) {
        target.convert_from_f32_slice(source);
    }
}

impl Element for bf16 {
    const DTYPE: DType = DType::BF16;
    fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
    fn from_f32(value: f32) -> Self {
        bf16::from_bits(round_bf16(value))
    }
    // Written as plain loops: the compiler makes vectors of them, which the conversions of `half` are not.
    fn widen(source: &[Self], target: &mut [f32]) {
        for (t, s) in target.iter_mut().zip(source) {
            *t = f32::from_bits(u32::from(s.to_bits()) << 16);
        }
    }
    fn narrow(source: &[f32], target: &mut [Self]) {
        for (t, s) in target.iter_mut().zip(source) {
            *t = bf16::from_bits(round_bf16(*s));
        }
    }
}

/// Round to nearest even, NaN stays NaN.
fn round_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7FFF + (bits >> 16 & 1)) >> 16;
    let nan = bits >> 16 | 0x40;
    (if bits & 0x7FFF_FFFF > 0x7F80_0000 {
        nan
    } else {
        rounded
    }) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_rounding_agrees_with_the_half_crate() {
        let edges = [
            0.0,
            -0.0,
            1.0,
            1.0 + 1.0 / 256.0, // halfway between two bf16
            1.0 + 3.0 / 256.0,
            f32::MAX,
            f32::MIN_POSITIVE,
            1e-45,
            f32::INFINITY,
        ];
        let mut bits = 0u32;
        let many = (0..100_000).map(|_| {
            bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f32::from_bits(bits)
        });
        for v in edges.into_iter().chain(many) {
            let (ours, theirs) = (bf16::from_bits(round_bf16(v)), bf16::from_f32(v));
            assert!(
                ours == theirs && ours.is_sign_negative() == theirs.is_sign_negative()
                    || v.is_nan() && ours.is_nan()
            );
        }
    }

    #[test]
    fn slices_convert_as_single_values() {
        let values: Vec<f32> = (0..133).map(|i| (i as f32 - 60.0) * 1.37e3).collect();
        let mut h = vec![f16::ZERO; values.len()];
        f16::narrow(&values, &mut h);
        let mut back = vec![0.0; values.len()];
        f16::widen(&h, &mut back);
        for i in 0..values.len() {
            assert_eq!((h[i], back[i]), (f16::from_f32(values[i]), h[i].to_f32()));
        }
    }
}
