//! Tensors of the host.

use half::{bf16, f16};

use super::Rng;
use crate::dtype::DType;

/// The value of `dtype` nearest to `v`, ties to even: written from the formats' definition, for references.
///
/// (`bf16::from_f64` of the `half` crate looks at the upper 32 bits only, and takes some values just above a tie for one.)
#[must_use]
pub fn rounded(dtype: DType, v: f64) -> f64 {
    // Bits of precision, exponents of the smallest normal number and of the largest.
    let (precision, lowest, highest) = match dtype {
        DType::F16 => (11, -14, 15),
        DType::BF16 => (8, -126, 127),
        DType::F32 => (24, -126, 127),
        // Integers have nothing to round.
        _ => return v,
    };
    if v == 0.0 || !v.is_finite() {
        return v;
    }
    let exponent = ((v.to_bits() >> 52 & 0x7FF) as i32 - 1023).max(lowest);
    let unit = 2f64.powi(exponent - precision + 1);
    let nearest = (v / unit).round_ties_even() * unit;
    if nearest.abs() >= 2f64.powi(highest + 1) {
        return f64::INFINITY.copysign(v);
    }
    nearest
}

/// A dense tensor: dtype, shape, bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    dtype: DType,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

/// Makes every NaN the same one.
pub(super) fn canonical_nans(dtype: DType, bytes: &mut [u8]) {
    match dtype {
        DType::F32 => {
            for b in bytes
                .as_chunks_mut::<4>()
                .0
                .iter_mut()
                .filter(|b| f32::from_le_bytes(**b).is_nan())
            {
                *b = f32::NAN.to_le_bytes();
            }
        }
        DType::F16 | DType::BF16 => {
            let is_nan = |b: [u8; 2]| match dtype {
                DType::F16 => f16::from_le_bytes(b).is_nan(),
                _ => bf16::from_le_bytes(b).is_nan(),
            };
            for b in bytes.as_chunks_mut::<2>().0.iter_mut().filter(|b| is_nan(**b)) {
                *b = [0xFF, 0x7F];
            }
        }
        _ => {}
    }
}

impl Tensor {
    /// `bytes` as they are.
    #[must_use]
    pub fn from_bytes(dtype: DType, shape: &[usize], bytes: Vec<u8>) -> Self {
        assert_eq!(
            bytes.len(),
            dtype.size_of() * shape.iter().product::<usize>(),
            "{dtype} {shape:?}"
        );
        Tensor {
            dtype,
            shape: shape.to_vec(),
            bytes,
        }
    }

    /// `values`, rounded to a floating-point dtype.
    #[must_use]
    pub fn from_f32(dtype: DType, shape: &[usize], values: &[f32]) -> Self {
        let bytes = match dtype {
            DType::F16 => values
                .iter()
                .flat_map(|v| f16::from_f32(*v).to_le_bytes())
                .collect(),
            DType::BF16 => values
                .iter()
                .flat_map(|v| bf16::from_f32(*v).to_le_bytes())
                .collect(),
            _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        };
        Self::from_bytes(dtype, shape, bytes)
    }

    /// `values` as u32.
    #[must_use]
    pub fn from_u32(shape: &[usize], values: &[u32]) -> Self {
        Self::from_bytes(
            DType::U32,
            shape,
            values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        )
    }

    /// Normal values, standard deviation 1.
    #[must_use]
    pub fn random(dtype: DType, shape: &[usize], rng: &mut Rng) -> Self {
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| rng.normal()).collect();
        Self::from_f32(dtype, shape, &values)
    }

    /// Random words.
    #[must_use]
    pub fn random_bits(shape: &[usize], rng: &mut Rng) -> Self {
        let values: Vec<u32> = (0..shape.iter().product()).map(|_| rng.bits()).collect();
        Self::from_u32(shape, &values)
    }

    /// The dtype.
    #[must_use]
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The shape.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The values, exactly.
    #[must_use]
    pub fn to_f64(&self) -> Vec<f64> {
        fn each<const N: usize>(bytes: &[u8], f: impl Fn([u8; N]) -> f64) -> Vec<f64> {
            bytes.as_chunks::<N>().0.iter().map(|c| f(*c)).collect()
        }
        match self.dtype {
            DType::F32 => each(&self.bytes, |b| f64::from(f32::from_le_bytes(b))),
            DType::F16 => each(&self.bytes, |b| f16::from_le_bytes(b).to_f64()),
            DType::BF16 => each(&self.bytes, |b| bf16::from_le_bytes(b).to_f64()),
            DType::U8 => each(&self.bytes, |b: [u8; 1]| f64::from(b[0])),
            DType::U16 => each(&self.bytes, |b| f64::from(u16::from_le_bytes(b))),
            DType::U32 => each(&self.bytes, |b| f64::from(u32::from_le_bytes(b))),
            DType::I32 => each(&self.bytes, |b| f64::from(i32::from_le_bytes(b))),
        }
    }

    /// The values of a u32 tensor.
    #[must_use]
    pub fn to_u32(&self) -> Vec<u32> {
        self.bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|b| u32::from_le_bytes(*b))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_agrees_with_the_half_crate_from_f32() {
        let mut rng = Rng::new(3);
        let fixed = [
            0.0,
            -0.0,
            65_519.0,
            65_520.0,
            2.98e-8,
            2.980_233e-8,
            f32::MAX,
            1e-45,
            f32::INFINITY,
        ];
        for v in fixed
            .into_iter()
            .chain((0..100_000).map(|_| f32::from_bits(rng.bits())))
        {
            let same = |ours: f64, theirs: f64| ours == theirs || ours.is_nan() && theirs.is_nan();
            let wide = f64::from(v);
            assert!(same(rounded(DType::F32, wide), wide), "{v:e}");
            assert!(
                same(rounded(DType::F16, wide), f16::from_f32(v).to_f64()),
                "{v:e}"
            );
            assert!(
                same(rounded(DType::BF16, wide), bf16::from_f32(v).to_f64()),
                "{v:e}"
            );
        }
        let just_above_a_tie = 103.25 + 2f64.powi(-17);
        assert_eq!(rounded(DType::BF16, just_above_a_tie), 103.5);
    }
}
