//! MLX's formats of small floats: mxfp4, mxfp8 and nvfp4.
//!
//! [`quantize_floats`] follows the CPU of MLX 0.32.4 to the bit. There the arithmetic of a group is in the dtype of the
//! matrix, each operation rounded, and its odd ends are kept: a group that holds NaN or an infinity, or whose scale is out of
//! range, gives the bytes that MLX gives. MLX's GPU differs in ties and in groups of zeros; either reads what the other wrote.

use crate::dtype::DType;
use crate::element::Element;
use crate::error::{MlxError, Result, invalid};
use crate::isa::IsaToken;
use crate::vector::Vectorised;

use super::{packed_words, parallel, unpack_codes};

/// A format of small floats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FloatFormat {
    /// 4-bit floats (e2m1), a power of two (e8m0) for each 32.
    Mxfp4,
    /// 8-bit floats (e4m3), a power of two (e8m0) for each 32.
    Mxfp8,
    /// 4-bit floats (e2m1), an 8-bit float (e4m3) for each 16.
    Nvfp4,
}

impl FloatFormat {
    /// Elements that share a scale.
    #[must_use]
    pub const fn group_size(self) -> usize {
        match self {
            FloatFormat::Nvfp4 => 16,
            _ => 32,
        }
    }

    /// Bits of an element.
    #[must_use]
    pub const fn bits(self) -> u32 {
        match self {
            FloatFormat::Mxfp8 => 8,
            _ => 4,
        }
    }

    /// The greatest element.
    const fn max_code(self) -> f32 {
        match self {
            FloatFormat::Mxfp8 => 448.0,
            _ => 6.0,
        }
    }

    fn check(self, k: usize, global_scale: Option<f32>) -> Result<()> {
        let group = self.group_size();
        if k == 0 || !k.is_multiple_of(group) {
            return invalid!("{self:?}: a row of {k} elements is no multiple of {group}");
        }
        match global_scale {
            Some(_) if self != FloatFormat::Nvfp4 => invalid!("{self:?} has no global scale"),
            Some(g) if !(g.is_finite() && g > 0.0) => invalid!("{self:?}: the global scale is {g}"),
            _ => Ok(()),
        }
    }
}

/// A matrix of small floats, in MLX's layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuantizedFloats {
    /// Packed codes, `[rows, k * bits / 32]`.
    pub weight: Vec<u32>,
    /// `[rows, k / group_size]`.
    pub scales: Vec<u8>,
}

/// What a global scale is relative to: 448 * 6, the greatest product of a scale and an element.
pub const FULL_SCALE: f32 = 2688.0;

/// Magnitudes of e2m1 by code.
const MAGNITUDES: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];

/// Quantises `values`, `[rows, k]`.
///
/// With `m` the greatest magnitude of a group and `M` the greatest element (6, or 448 for mxfp8): the scale of the mx formats
/// is the least power of two that is not below `m / M`, that of nvfp4 `m / M` to the nearest e4m3. Elements are values over
/// the scale, to the nearest; of two that are equally near, e2m1 takes the smaller. With a global scale `g`, of nvfp4 alone,
/// `m / M` and the elements are multiplied by `2688 / g`.
///
/// # Errors
/// [`MlxError::InvalidArgument`] when `k` is no multiple of the group size, `values` no multiple of `k`, or there is a global
/// scale that is not positive or that the format does not have.
pub fn quantize_floats<S: Element>(
    values: &[S],
    k: usize,
    format: FloatFormat,
    global_scale: Option<f32>,
) -> Result<QuantizedFloats> {
    format.check(k, global_scale)?;
    if !values.len().is_multiple_of(k) {
        return invalid!("{format:?}: {} values are no whole rows of {k}", values.len());
    }
    let group = format.group_size();
    let groups = values.len() / group;
    let group_words = packed_words(group, format.bits())?;
    let mut result = QuantizedFloats {
        weight: vec![0; groups * group_words],
        scales: vec![0; groups],
    };
    let share = parallel::share(groups);
    let parts = values
        .chunks(share * group)
        .zip(result.weight.chunks_mut(share * group_words))
        .zip(result.scales.chunks_mut(share))
        .map(|((values, weight), scales)| Groups {
            values,
            format,
            global_scale,
            weight,
            scales,
        });
    parallel::run(parts, |part| IsaToken::best().run(part));
    Ok(result)
}

/// Some groups of a matrix.
struct Groups<'a, S> {
    values: &'a [S],
    format: FloatFormat,
    global_scale: Option<f32>,
    weight: &'a mut [u32],
    scales: &'a mut [u8],
}

impl<S: Element> Vectorised for Groups<'_, S> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Groups {
            values,
            format,
            global_scale,
            weight,
            scales,
        } = self;
        let factor = global_scale.map(|g| FULL_SCALE / g);
        let words = weight.len() / scales.len().max(1);
        for ((values, weight), byte) in values
            .chunks_exact(format.group_size())
            .zip(weight.chunks_exact_mut(words))
            .zip(scales)
        {
            *byte = match format {
                FloatFormat::Nvfp4 => one_group::<S, 16>(values, format, factor, weight),
                _ => one_group::<S, 32>(values, format, factor, weight),
            };
        }
    }
}

/// Writes the codes of a group of `N` and gives its scale.
#[inline(always)]
fn one_group<S: Element, const N: usize>(
    values: &[S],
    format: FloatFormat,
    factor: Option<f32>,
    weight: &mut [u32],
) -> u8 {
    let (mut wide, mut narrow) = ([0.0f32; N], [S::zeroed(); N]);
    S::widen(values, &mut wide);
    let mut max = 0.0f32;
    let mut is_nan = false;
    for v in &wide {
        let size = v.abs();
        is_nan |= size.is_nan();
        max = if max < size { size } else { max };
    }
    let max = if is_nan { f32::NAN } else { max };
    let ratio = S::from_f32(max / format.max_code()).to_f32();
    let (byte, scale) = match format {
        FloatFormat::Nvfp4 => {
            let byte = encode_float8(ratio * factor.unwrap_or(1.0));
            (byte, decode_float8(byte))
        }
        _ => power_of_two(ratio, S::DTYPE),
    };
    for v in &mut wide {
        // Zero over zero is a NaN whose sign is the processor's choice; that of MLX's x86 is taken.
        *v = if scale == 0.0 && *v == 0.0 {
            f32::from_bits(0xFFC0_0000)
        } else {
            *v / scale
        };
    }
    S::narrow(&wide, &mut narrow);
    S::widen(&narrow, &mut wide);
    if let Some(factor) = factor {
        for v in &mut wide {
            *v *= factor;
        }
    }
    if format == FloatFormat::Mxfp8 {
        for (word, four) in weight.iter_mut().zip(wide.chunks_exact(4)) {
            // Rounding to bf16 makes every NaN the positive one.
            let number = |v: f32| {
                if S::DTYPE == DType::BF16 && v.is_nan() {
                    f32::NAN
                } else {
                    v
                }
            };
            *word = (0..4).fold(0, |w, i| w | u32::from(encode_float8(number(four[i]))) << (8 * i));
        }
        return byte;
    }
    // Differences to the table are rounded as the quotient was.
    let rounds = factor.is_none();
    for (word, eight) in weight.iter_mut().zip(wide.chunks_exact(8)) {
        *word = (0..8).fold(0, |w, i| w | nearest_float4::<S>(eight[i], rounds) << (4 * i));
    }
    byte
}

/// The e8m0 scale of the mx formats: its byte, and what values are divided by.
#[inline(always)]
fn power_of_two(ratio: f32, dtype: DType) -> (u8, f32) {
    if !ratio.is_finite() {
        return (if dtype == DType::F32 { 128 } else { 0 }, 0.0);
    }
    if ratio == 0.0 {
        return (127, 1.0);
    }
    // Subnormal f32 are normal f64.
    let bits = f64::from(ratio).to_bits();
    let is_power = bits << 12 == 0;
    let exponent = (bits >> 52) as i64 - 1023 + i64::from(!is_power);
    // Beyond the range of bytes it wraps.
    let byte = (exponent + 127) as u8;
    (byte, f64::from_bits(((exponent + 1023) as u64) << 52) as f32)
}

/// The nearest e4m3, ties to even; what is beyond the range, and NaN, is the greatest of its sign.
#[inline(always)]
fn encode_float8(value: f32) -> u8 {
    let sign = (value.to_bits() >> 24) & 128;
    let size = value.abs();
    // NaN fails the comparison.
    let size = if size < 448.0 { size } else { 448.0 };
    let bits = size.to_bits();
    let normal = ((bits + 0x7_FFFF + (bits >> 20 & 1)) >> 20).wrapping_sub(120 << 3);
    let subnormal = (size * 512.0).round_ties_even() as u32;
    (sign | if size < 1.0 / 64.0 { subnormal } else { normal }) as u8
}

/// The value of an e4m3 float.
#[inline(always)]
fn decode_float8(code: u8) -> f32 {
    let (magnitude, sign) = (u32::from(code & 127), u32::from(code & 128));
    let value = f32::from_bits(sign << 24 | magnitude << 20) * f32::from_bits((127 + 120) << 23);
    if magnitude == 127 { f32::NAN } else { value }
}

/// The code of the e2m1 float whose difference to `value` is the least; of several, the first in the order of codes.
#[inline(always)]
fn nearest_float4<S: Element>(value: f32, rounds: bool) -> u32 {
    let size = value.abs();
    if size.is_nan() || size > 8.0 {
        return far_float4::<S>(value, rounds);
    }
    // How many of the midpoints are exceeded.
    let code = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0]
        .iter()
        .fold(0, |n, m| n + u32::from(size > *m));
    // There is no negative zero.
    if value < 0.0 && code > 0 { code | 8 } else { code }
}

/// As `nearest_float4` by its definition: differences of great numbers may be equal, those of infinities and NaN are no
/// numbers, and then the first code, zero, is taken.
#[cold]
fn far_float4<S: Element>(value: f32, rounds: bool) -> u32 {
    let (mut best, mut code) = (f32::INFINITY, 0);
    for i in 0..16u32 {
        let number = MAGNITUDES[i as usize & 7] * if i < 8 { 1.0 } else { -1.0 };
        let difference = (value - number).abs();
        let difference = if rounds {
            S::from_f32(difference).to_f32()
        } else {
            difference
        };
        if difference < best {
            (best, code) = (difference, i);
        }
    }
    code
}

/// The values of a quantised matrix with rows of `k` elements, in f32.
///
/// # Errors
/// [`MlxError::InvalidArgument`] when `k` is no multiple of the group size, the slices do not have the same whole number of
/// rows, or there is a global scale that the format does not have.
pub fn dequantize_floats(
    weight: &[u32],
    scales: &[u8],
    k: usize,
    format: FloatFormat,
    global_scale: Option<f32>,
) -> Result<Vec<f32>> {
    format.check(k, global_scale)?;
    let group = format.group_size();
    let words = packed_words(k, format.bits())?;
    let rows = weight.len() / words;
    if weight.len() % words != 0 || Some(scales.len()) != rows.checked_mul(k / group) {
        return invalid!(
            "{format:?}: {} words and {} scales are not the same rows of {k}",
            weight.len(),
            scales.len()
        );
    }
    let size = rows
        .checked_mul(k)
        .ok_or_else(|| MlxError::InvalidArgument(format!("{format:?}: {rows} rows of {k} overflow")))?;
    let mut values = Vec::with_capacity(size);
    for (weight, byte) in weight.chunks_exact(words * group / k).zip(scales) {
        let scale = match format {
            FloatFormat::Nvfp4 => decode_float8(*byte) * global_scale.map_or(1.0, |g| g / FULL_SCALE),
            _ => f32::from_bits(if *byte == 0 {
                1 << 22
            } else {
                u32::from(*byte) << 23
            }),
        };
        values.extend(unpack_codes(weight, format.bits())?.iter().map(|code| {
            let number = match format {
                FloatFormat::Mxfp8 => decode_float8(*code),
                _ => MAGNITUDES[usize::from(code & 7)] * if code & 8 == 0 { 1.0 } else { -1.0 },
            };
            number * scale
        }));
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;
    use crate::testing::{Golden, Rng};

    fn format_of(golden: &Golden) -> FloatFormat {
        match golden.params["mode"].as_str().expect("a mode") {
            "mxfp4" => FloatFormat::Mxfp4,
            "mxfp8" => FloatFormat::Mxfp8,
            _ => FloatFormat::Nvfp4,
        }
    }

    fn check_golden<S: Element>(golden: &Golden) {
        let w = golden.tensor("w");
        let values: Vec<S> = w
            .bytes()
            .chunks_exact(size_of::<S>())
            .map(bytemuck::pod_read_unaligned)
            .collect();
        let global = golden.tensors.get("global_scale").map(|g| g.to_f64()[0] as f32);
        let k = w.shape()[1];
        let ours = quantize_floats(&values, k, format_of(golden), global).unwrap();
        assert_eq!(ours.scales, golden.tensor("scales").bytes(), "{}", golden.params);
        assert_eq!(ours.weight, golden.tensor("w_q").to_u32(), "{}", golden.params);
        let back = dequantize_floats(&ours.weight, &ours.scales, k, format_of(golden), global).unwrap();
        for (i, (ours, mlx)) in back.iter().zip(golden.tensor("out").to_f64()).enumerate() {
            // With a global scale MLX may round another product.
            let near = (f64::from(*ours) - mlx).abs() <= 3e-7 * mlx.abs() || f64::from(*ours) == mlx;
            assert!(
                near || ours.is_nan() && mlx.is_nan(),
                "{i}: {ours} {mlx} {}",
                golden.params
            );
        }
    }

    #[test]
    fn codes_and_scales_are_mlx_s_to_the_bit() {
        let cases = Golden::load("quantize_floats");
        for golden in &cases {
            match golden.tensor("w").dtype() {
                DType::F32 => check_golden::<f32>(golden),
                DType::F16 => check_golden::<f16>(golden),
                _ => check_golden::<bf16>(golden),
            }
        }
    }

    #[test]
    fn threads_do_not_change_anything() {
        let mut rng = Rng::new(9);
        let values: Vec<f32> = (0..1 << 18).map(|_| rng.normal()).collect();
        for format in [FloatFormat::Mxfp4, FloatFormat::Mxfp8, FloatFormat::Nvfp4] {
            let whole = quantize_floats(&values, 64, format, None).unwrap();
            let first = quantize_floats(&values[..128], 64, format, None).unwrap();
            assert_eq!(whole.scales[..first.scales.len()], first.scales);
            assert_eq!(whole.weight[..first.weight.len()], first.weight);
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(quantize_floats(&[0f32; 48], 48, FloatFormat::Mxfp4, None).is_err());
        assert!(quantize_floats(&[0f32; 48], 48, FloatFormat::Nvfp4, None).is_ok());
        assert!(quantize_floats(&[0f32; 48], 32, FloatFormat::Mxfp8, None).is_err());
        assert!(quantize_floats(&[0f32; 32], 32, FloatFormat::Mxfp4, Some(1.0)).is_err());
        assert!(quantize_floats(&[0f32; 32], 32, FloatFormat::Nvfp4, Some(0.0)).is_err());
        assert!(quantize_floats::<f32>(&[], 0, FloatFormat::Mxfp4, None).is_err());
        assert!(dequantize_floats(&[0; 4], &[0; 2], 32, FloatFormat::Mxfp4, None).is_err());
        assert!(dequantize_floats(&[0; 4], &[0; 1], 32, FloatFormat::Mxfp4, None).is_ok());
    }
}
