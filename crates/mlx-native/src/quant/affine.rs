//! Affine quantisation, MLX's default format: `value = code * scale + bias`, one scale and one bias for each group of
//! consecutive elements of a row.
//!
//! Codes are packed in u32 words ([`super::pack_codes`]: one stream of bits); scales and biases have the dtype of the matrix that was
//! quantised. [`quantize`] follows MLX's CPU to the bit. MLX's GPU differs where a code lies exactly between two integers
//! (it rounds half away from zero) and for groups without a positive value; either reads what the other wrote.

use crate::element::Element;
use crate::error::{MlxError, Result, invalid};
use crate::isa::IsaToken;
use crate::vector::Vectorised;

use super::{packed_words, parallel, unpack_codes};

/// Group size and width of the codes of an affine matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AffineFormat {
    group_size: u32,
    bits: u32,
}

impl AffineFormat {
    /// Group sizes that the format has.
    pub const GROUP_SIZES: [u32; 3] = [32, 64, 128];
    /// Widths of codes that the format has, in bits.
    pub const BITS: [u32; 7] = [1, 2, 3, 4, 5, 6, 8];

    /// The format of `bits`-bit codes in groups of `group_size`.
    ///
    /// # Errors
    /// [`MlxError::InvalidArgument`] unless `group_size` is 32, 64 or 128 and `bits` 1, 2, 3, 4, 5, 6 or 8.
    pub fn new(group_size: u32, bits: u32) -> Result<Self> {
        if !Self::GROUP_SIZES.contains(&group_size) {
            return invalid!("affine format: group_size is {group_size}, possible: 32, 64, 128");
        }
        if !Self::BITS.contains(&bits) {
            return invalid!("affine format: bits is {bits}, possible: 1, 2, 3, 4, 5, 6, 8");
        }
        Ok(AffineFormat { group_size, bits })
    }

    /// Elements that share a scale and a bias.
    #[must_use]
    pub fn group_size(self) -> u32 {
        self.group_size
    }

    /// Bits of a code.
    #[must_use]
    pub fn bits(self) -> u32 {
        self.bits
    }

    /// The greatest code.
    #[must_use]
    pub fn max_code(self) -> u32 {
        (1 << self.bits) - 1
    }

    /// Groups of a row of `k` elements.
    ///
    /// # Errors
    /// [`MlxError::InvalidArgument`] when `k` is 0 or no multiple of the group size.
    pub fn groups(self, k: usize) -> Result<usize> {
        let group = self.group_size as usize;
        if k == 0 || !k.is_multiple_of(group) {
            return invalid!("affine format: a row of {k} elements is no multiple of group_size {group}");
        }
        Ok(k / group)
    }

    /// u32 words of a packed row of `k` elements.
    ///
    /// # Errors
    /// As [`groups`](Self::groups).
    pub fn row_words(self, k: usize) -> Result<usize> {
        self.groups(k)?;
        packed_words(k, self.bits)
    }
}

/// A quantised matrix of `rows` rows, in MLX's layout.
#[derive(Debug, Clone, PartialEq)]
pub struct Quantized<S> {
    /// Packed codes, `[rows, k * bits / 32]`.
    pub weight: Vec<u32>,
    /// `[rows, k / group_size]`.
    pub scales: Vec<S>,
    /// `[rows, k / group_size]`.
    pub biases: Vec<S>,
}

/// Quantises `values`, `[rows, k]`; scales and biases get the type of the values.
///
/// The rule, in f32, for each group with `n` the greatest code: the step `s` is `(max - min) / n`, at least 1e-7; the side
/// of greater magnitude, `max` if equal, is the edge, and `s` is negative if that is `max`. The code of the edge,
/// `q0 = edge / s` to nearest even, makes `s = edge / q0` and the bias the edge, so that zero has a code of its own; if
/// `q0` is 0, the bias is 0. With codes of one bit the bias is `min` and `s` stays. Codes are `(value - bias) / s` to nearest even, within `0..=n`; only then are `s` and the
/// bias rounded to `S`. NaN takes no part in `max` and `min` and gets code 0.
///
/// # Errors
/// [`MlxError::InvalidArgument`] when `k` is no multiple of the group size, or `values` no multiple of `k`.
pub fn quantize<S: Element>(values: &[S], k: usize, format: AffineFormat) -> Result<Quantized<S>> {
    let groups = format.groups(k)?;
    if !values.len().is_multiple_of(k) {
        return invalid!("quantize: {} values are no whole rows of {k}", values.len());
    }
    let group = format.group_size as usize;
    let count = values.len() / group;
    let group_words = packed_words(group, format.bits)?;
    let zero = S::zeroed();
    let mut result = Quantized {
        weight: vec![0; count * group_words],
        scales: vec![zero; count],
        biases: vec![zero; count],
    };
    debug_assert_eq!(count, values.len() / k * groups);
    let share = parallel::share(count);
    let parts = values
        .chunks(share * group)
        .zip(result.weight.chunks_mut(share * group_words))
        .zip(result.scales.chunks_mut(share))
        .zip(result.biases.chunks_mut(share))
        .map(|(((values, weight), scales), biases)| Groups {
            values,
            format,
            weight,
            scales,
            biases,
        });
    parallel::run(parts, |part| IsaToken::best().run(part));
    Ok(result)
}

/// Some groups of a matrix.
struct Groups<'a, S> {
    values: &'a [S],
    format: AffineFormat,
    weight: &'a mut [u32],
    scales: &'a mut [S],
    biases: &'a mut [S],
}

impl<S: Element> Vectorised for Groups<'_, S> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        match self.format.group_size {
            32 => self.all::<32>(),
            64 => self.all::<64>(),
            _ => self.all::<128>(),
        }
    }
}

impl<S: Element> Groups<'_, S> {
    #[inline(always)]
    fn all<const N: usize>(self) {
        let Groups {
            values,
            format,
            weight,
            scales,
            biases,
        } = self;
        let words = N * format.bits as usize / 32;
        let targets = weight.chunks_exact_mut(words).zip(scales).zip(biases);
        for (values, ((weight, scale), bias)) in values.chunks_exact(N).zip(targets) {
            let (mut wide, mut codes) = ([0.0; N], [0; N]);
            S::widen(values, &mut wide);
            let (s, b) = quantize_group(&wide, format.max_code(), &mut codes);
            pack(&codes, format.bits, weight);
            (*scale, *bias) = (S::from_f32(s), S::from_f32(b));
        }
    }
}

/// Packs the codes of a group, which fill whole words.
#[inline(always)]
fn pack(codes: &[u32], bits: u32, words: &mut [u32]) {
    match bits {
        4 => {
            for (word, codes) in words.iter_mut().zip(codes.chunks_exact(8)) {
                *word = (0..8).fold(0, |w, i| w | codes[i] << (4 * i));
            }
        }
        8 => {
            for (word, codes) in words.iter_mut().zip(codes.chunks_exact(4)) {
                *word = (0..4).fold(0, |w, i| w | codes[i] << (8 * i));
            }
        }
        _ => {
            let (mut window, mut filled, mut words) = (0u64, 0, words.iter_mut());
            for code in codes {
                window |= u64::from(*code) << filled;
                filled += bits;
                if filled >= 32 {
                    if let Some(word) = words.next() {
                        *word = window as u32;
                    }
                    window >>= 32;
                    filled -= 32;
                }
            }
        }
    }
}

/// Lanes of the sums below: as many as the widest vectors have.
const LANES: usize = 16;

/// The greatest and the least of `values`, NaN taking no part.
#[inline(always)]
fn range<const N: usize>(values: &[f32; N]) -> (f32, f32) {
    // Comparisons rather than `f32::max`: which of the two they give for NaN is part of the rule.
    let greater = |a: f32, b: f32| if a < b { b } else { a };
    let lesser = |a: f32, b: f32| if b < a { b } else { a };
    let (mut max, mut min) = ([f32::NEG_INFINITY; LANES], [f32::INFINITY; LANES]);
    for values in values.chunks_exact(LANES) {
        for i in 0..LANES {
            max[i] = greater(max[i], values[i]);
            min[i] = lesser(min[i], values[i]);
        }
    }
    (
        max.into_iter().fold(f32::NEG_INFINITY, greater),
        min.into_iter().fold(f32::INFINITY, lesser),
    )
}

/// Codes, scale and bias of one group.
#[inline(always)]
fn quantize_group<const N: usize>(values: &[f32; N], max_code: u32, codes: &mut [u32; N]) -> (f32, f32) {
    const SMALLEST_STEP: f32 = 1e-7;
    let n = max_code as f32;
    let (max, min) = range(values);
    let step = (max - min) / n;
    let step = if step < SMALLEST_STEP { SMALLEST_STEP } else { step };
    let (scale, bias) = if max_code == 1 {
        // One bit has no code to spare for zero: the two codes are the two ends.
        (step, min)
    } else {
        let (edge, step) = if min.abs() > max.abs() {
            (min, step)
        } else {
            (max, -step)
        };
        let q0 = (edge / step).round_ties_even();
        if q0 != 0.0 { (edge / q0, edge) } else { (step, 0.0) }
    };
    for (code, value) in codes.iter_mut().zip(values) {
        let q = ((value - bias) / scale).round_ties_even();
        // NaN fails the comparison and becomes 0.
        let q = if q > 0.0 { q } else { 0.0 };
        let q = if q < n { q } else { n };
        *code = q as i32 as u32;
    }
    (scale, bias)
}

/// The values of a quantised matrix with rows of `k` elements, in f32: `code * scale + bias`, rounded once.
///
/// # Errors
/// [`MlxError::InvalidArgument`] when `k` is no multiple of the group size or the three slices do not have the same whole
/// number of rows.
pub fn dequantize<S: Element>(
    weight: &[u32],
    scales: &[S],
    biases: &[S],
    k: usize,
    format: AffineFormat,
) -> Result<Vec<f32>> {
    let (groups, words) = (format.groups(k)?, format.row_words(k)?);
    let rows = weight.len() / words;
    for (name, len, per_row) in [
        ("weight", weight.len(), words),
        ("scales", scales.len(), groups),
        ("biases", biases.len(), groups),
    ] {
        if Some(len) != rows.checked_mul(per_row) {
            return invalid!("dequantize: {name} has {len} elements, {rows} rows of {k} need {per_row} each");
        }
    }
    let size = rows
        .checked_mul(k)
        .ok_or_else(|| MlxError::InvalidArgument(format!("dequantize: {rows} rows of {k} overflow")))?;
    let mut values = Vec::with_capacity(size);
    let group_words = words / groups;
    for ((group, scale), bias) in weight.chunks_exact(group_words).zip(scales).zip(biases) {
        let (scale, bias) = (scale.to_f32(), bias.to_f32());
        values.extend(
            unpack_codes(group, format.bits)?
                .iter()
                .map(|q| f32::from(*q).mul_add(scale, bias)),
        );
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;
    use crate::dtype::DType;
    use crate::testing::{Golden, Rng};

    /// Bits of MLX's scales and biases, except that one NaN is as good as another.
    fn same<S: Element>(ours: &[S], mlx: &[S], what: &str) {
        assert_eq!(ours.len(), mlx.len());
        for (i, (a, b)) in ours.iter().zip(mlx).enumerate() {
            let (a, b) = (a.to_f32(), b.to_f32());
            assert!(
                a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan(),
                "{what} {i}: {a:e}, MLX has {b:e}"
            );
        }
    }

    fn check_golden<S: Element>(golden: &Golden) {
        let format = AffineFormat::new(golden.u32("group_size"), golden.u32("bits")).unwrap();
        let w = golden.tensor("w");
        let k = w.shape()[1];
        let slice = |name: &str| -> Vec<S> {
            let bytes = golden.tensor(name).bytes();
            bytes
                .chunks_exact(size_of::<S>())
                .map(bytemuck::pod_read_unaligned)
                .collect()
        };
        let ours = quantize(&slice("w"), k, format).unwrap();
        same(&ours.scales, &slice("scales"), "scale");
        same(&ours.biases, &slice("biases"), "bias");
        assert_eq!(ours.weight, golden.tensor("w_q").to_u32(), "{}", golden.params);
        // `out` is rounded twice to the dtype of `w`, ours once to f32.
        let step = match w.dtype() {
            DType::F32 => 2.0 * f64::from(f32::EPSILON),
            DType::F16 => 2.0 * f64::from(f16::EPSILON.to_f32()),
            _ => 2.0 * f64::from(bf16::EPSILON.to_f32()),
        };
        let values = dequantize(&ours.weight, &ours.scales, &ours.biases, k, format).unwrap();
        for (i, (value, mlx)) in values.iter().zip(golden.tensor("out").to_f64()).enumerate() {
            let group = i / format.group_size as usize;
            let size = ours.scales[group].to_f32().abs() * format.max_code() as f32
                + ours.biases[group].to_f32().abs();
            // A scale or bias that is infinite, or a product beyond f16, leaves nothing to compare.
            let is_number = size.is_finite() && mlx.is_finite();
            assert!(
                !is_number || (f64::from(*value) - mlx).abs() <= step * f64::from(size),
                "{value} {mlx} {}",
                golden.params
            );
        }
    }

    #[test]
    fn codes_scales_and_biases_are_mlx_s_to_the_bit() {
        for golden in Golden::load("quantize") {
            match golden.tensor("w").dtype() {
                DType::F32 => check_golden::<f32>(&golden),
                DType::F16 => check_golden::<f16>(&golden),
                _ => check_golden::<bf16>(&golden),
            }
        }
    }

    /// What mlx-cpu 0.32.4 gives for 32 values from -1 to 2 (or all equal), 4 bits: first word, scale, bias.
    #[test]
    fn values_that_are_no_numbers_go_as_in_mlx() {
        let format = AffineFormat::new(32, 4).unwrap();
        let ramp: Vec<f32> = (0..32).map(|i| -1.0 + 3.0 * i as f32 / 31.0).collect();
        let with = |changes: &[(usize, f32)]| {
            let mut values = ramp.clone();
            changes.iter().for_each(|(i, v)| values[*i] = *v);
            values
        };
        let (nan, inf) = (f32::NAN, f32::INFINITY);
        // Finite, but the range is not.
        let huge: Vec<f32> = ramp.iter().map(|v| (v - 0.5) * 2e38).collect();
        for (values, word, scale, bias) in [
            (with(&[(5, nan)]), 0xCC0D_EEFF, -0.2, 2.0),
            (with(&[(0, nan)]), 0xCCDD_EEF0, -0.2, 2.0),
            (with(&[(3, inf)]), 0, nan, inf),
            (with(&[(3, -inf)]), 0, nan, -inf),
            (with(&[(3, inf), (4, -inf)]), 0, nan, inf),
            (vec![nan; 32], 0, nan, -inf),
            (vec![0.0; 32], 0, -1e-7, 0.0),
            (vec![-0.0; 32], 0, -1e-7, 0.0),
            (vec![3.0; 32], 0, -1e-7, 3.0),
            (vec![-3.0; 32], 0, -1e-7, -3.0),
            (huge, 0, -inf, 0.0),
        ] {
            let q = quantize(&values, 32, format).unwrap();
            let (s, b) = (q.scales[0], q.biases[0]);
            assert_eq!(q.weight[0], word, "{values:?}");
            assert!(
                s == scale || s.is_nan() && scale.is_nan(),
                "{s} {scale} {values:?}"
            );
            assert_eq!(b, bias, "{values:?}");
        }
    }

    #[test]
    fn values_come_back_within_half_a_step_for_every_width() {
        let mut rng = Rng::new(3);
        for bits in AffineFormat::BITS {
            for group_size in AffineFormat::GROUP_SIZES {
                let format = AffineFormat::new(group_size, bits).unwrap();
                let k = 2 * group_size as usize;
                let values: Vec<f32> = (0..3 * k).map(|_| rng.normal()).collect();
                let q = quantize(&values, k, format).unwrap();
                assert_eq!(q.weight.len(), 3 * format.row_words(k).unwrap());
                let back = dequantize(&q.weight, &q.scales, &q.biases, k, format).unwrap();
                for (i, (value, back)) in values.iter().zip(back).enumerate() {
                    // The edge is exact; the other end may lie up to one step beyond the last code.
                    let step = q.scales[i / group_size as usize].abs();
                    assert!(
                        (value - back).abs() <= 1.01 * step,
                        "{bits} bits: {value} {back} {step}"
                    );
                }
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(AffineFormat::new(16, 4).is_err());
        assert!(AffineFormat::new(64, 7).is_err());
        let format = AffineFormat::new(64, 4).unwrap();
        assert!(quantize(&[0f32; 96], 96, format).is_err());
        assert!(quantize(&[0f32; 96], 64, format).is_err());
        assert!(quantize::<f32>(&[], 0, format).is_err());
        assert!(dequantize(&[0; 8], &[0f32; 2], &[0f32; 1], 64, format).is_err());
        assert!(dequantize(&[0; 7], &[0f32; 1], &[0f32; 1], 64, format).is_err());
        assert!(dequantize(&[0; 16], &[0f32; 2], &[0f32; 1], 64, format).is_err());
        assert!(format.row_words(usize::MAX - 63).is_err());
    }
}
