//! The element types of GGUF files: what a block is, and how it becomes numbers.
//!
//! A row of a tensor is a whole number of blocks; a block holds its scales and its codes side by side. The layouts are
//! those of ggml's `ggml-common.h`, the arithmetic that of its reference dequantisers: products and sums in f32, in the
//! order written there, so that the values are equal bit for bit (golden files: the PyPI package `gguf`).

use half::{bf16, f16};

use crate::error::{MlxError, Result, invalid};

/// Element type of a tensor in a GGUF file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types, reason = "the names of the format")]
#[allow(missing_docs, reason = "the names of the format")]
pub enum GgmlType {
    F32,
    F16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q8_1,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    Q8_K,
    IQ2_XXS,
    IQ2_XS,
    IQ3_XXS,
    IQ1_S,
    IQ4_NL,
    IQ3_S,
    IQ2_S,
    IQ4_XS,
    I8,
    I16,
    I32,
    I64,
    F64,
    IQ1_M,
    BF16,
    TQ1_0,
    TQ2_0,
    MXFP4,
    NVFP4,
    Q1_0,
}

/// Number in the file, type, values of a block, bytes of a block.
const TYPES: [(u32, GgmlType, u32, u32); 34] = {
    use GgmlType::*;
    [
        (0, F32, 1, 4),
        (1, F16, 1, 2),
        (2, Q4_0, 32, 18),
        (3, Q4_1, 32, 20),
        (6, Q5_0, 32, 22),
        (7, Q5_1, 32, 24),
        (8, Q8_0, 32, 34),
        (9, Q8_1, 32, 40),
        (10, Q2_K, 256, 84),
        (11, Q3_K, 256, 110),
        (12, Q4_K, 256, 144),
        (13, Q5_K, 256, 176),
        (14, Q6_K, 256, 210),
        (15, Q8_K, 256, 292),
        (16, IQ2_XXS, 256, 66),
        (17, IQ2_XS, 256, 74),
        (18, IQ3_XXS, 256, 98),
        (19, IQ1_S, 256, 50),
        (20, IQ4_NL, 32, 18),
        (21, IQ3_S, 256, 110),
        (22, IQ2_S, 256, 82),
        (23, IQ4_XS, 256, 136),
        (24, I8, 1, 1),
        (25, I16, 1, 2),
        (26, I32, 1, 4),
        (27, I64, 1, 8),
        (28, F64, 1, 8),
        (29, IQ1_M, 256, 56),
        (30, BF16, 1, 2),
        (34, TQ1_0, 256, 54),
        (35, TQ2_0, 256, 66),
        (39, MXFP4, 32, 17),
        (40, NVFP4, 64, 36),
        (41, Q1_0, 128, 18),
    ]
};

/// What the codes of `IQ4_NL` and `IQ4_XS` stand for.
pub const IQ4_VALUES: [i8; 16] = [
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];
/// Twice what the codes of `MXFP4` stand for.
pub const MXFP4_DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

impl GgmlType {
    /// The type of this number in a file; `None` for numbers that are retired or not known here.
    #[must_use]
    pub fn from_id(id: u32) -> Option<Self> {
        TYPES.iter().find(|t| t.0 == id).map(|t| t.1)
    }

    fn row(self) -> &'static (u32, GgmlType, u32, u32) {
        // The list is in the order of the enumeration, which a test checks.
        &TYPES[self as usize]
    }

    /// Its number in a file.
    #[must_use]
    pub fn id(self) -> u32 {
        self.row().0
    }

    /// Values of a block.
    #[must_use]
    pub fn block_values(self) -> u32 {
        self.row().2
    }

    /// Bytes of a block.
    #[must_use]
    pub fn block_bytes(self) -> u32 {
        self.row().3
    }

    /// Whether [`dequantize`] knows the type.
    #[must_use]
    pub fn can_dequantize(self) -> bool {
        block_function(self).is_some()
    }
}

impl std::fmt::Display for GgmlType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(self, f)
    }
}

/// The values of `bytes`, whole blocks of type `ty`: `values.len() / block_values` blocks.
///
/// # Errors
/// [`MlxError::Unsupported`] for a type without a dequantiser here; [`MlxError::InvalidArgument`] when the two lengths do
/// not belong together.
pub fn dequantize(ty: GgmlType, bytes: &[u8], values: &mut [f32]) -> Result<()> {
    let Some(one) = block_function(ty) else {
        return Err(MlxError::Unsupported(format!("dequantize: GGML type {ty}")));
    };
    let (n, size) = (ty.block_values() as usize, ty.block_bytes() as usize);
    if values.len() % n != 0 || bytes.len() % size != 0 || values.len() / n != bytes.len() / size {
        return invalid!(
            "dequantize: {} bytes of {ty} for {} values; a block has {size} bytes and {n} values",
            bytes.len(),
            values.len()
        );
    }
    for (block, out) in bytes.chunks_exact(size).zip(values.chunks_exact_mut(n)) {
        one(block, out);
    }
    Ok(())
}

/// Turns one block into its values; both slices have the lengths of the type.
type BlockFunction = fn(&[u8], &mut [f32]);

/// The function for one block of a type.
pub(crate) fn block_function(ty: GgmlType) -> Option<BlockFunction> {
    Some(match ty {
        GgmlType::F32 => |b, v| v[0] = f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
        GgmlType::F16 => |b, v| v[0] = half_at(b, 0),
        GgmlType::BF16 => |b, v| v[0] = bf16::from_le_bytes([b[0], b[1]]).to_f32(),
        GgmlType::Q4_0 => |b, v| {
            let d = half_at(b, 0);
            nibbles(&b[2..], v, |q| (i32::from(q) - 8) as f32 * d);
        },
        GgmlType::Q4_1 => |b, v| {
            let (d, m) = (half_at(b, 0), half_at(b, 2));
            nibbles(&b[4..], v, |q| f32::from(q) * d + m);
        },
        GgmlType::Q5_0 => |b, v| {
            let d = half_at(b, 0);
            five_bits(&b[2..6], &b[6..], v, |q| (i32::from(q) - 16) as f32 * d);
        },
        GgmlType::Q5_1 => |b, v| {
            let (d, m) = (half_at(b, 0), half_at(b, 2));
            five_bits(&b[4..8], &b[8..], v, |q| f32::from(q) * d + m);
        },
        GgmlType::Q8_0 => |b, v| {
            let d = half_at(b, 0);
            v.iter_mut()
                .zip(&b[2..])
                .for_each(|(v, q)| *v = f32::from(*q as i8) * d);
        },
        GgmlType::Q2_K => q2_k,
        GgmlType::Q3_K => q3_k,
        GgmlType::Q4_K => q4_k,
        GgmlType::Q5_K => q5_k,
        GgmlType::Q6_K => q6_k,
        GgmlType::IQ4_NL => |b, v| {
            let d = half_at(b, 0);
            nibbles(&b[2..], v, |q| d * f32::from(IQ4_VALUES[usize::from(q)]));
        },
        GgmlType::IQ4_XS => iq4_xs,
        GgmlType::MXFP4 => |b, v| {
            let d = half_power_of_two(b[0]);
            nibbles(&b[1..], v, |q| d * f32::from(MXFP4_DOUBLED[usize::from(q)]));
        },
        _ => return None,
    })
}

fn half_at(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// Half of the power of two that a byte of type E8M0 means: `2^(e - 128)`, subnormal for the two lowest.
fn half_power_of_two(e: u8) -> f32 {
    f32::from_bits(match e {
        0 | 1 => 0x0020_0000 << e,
        _ => (u32::from(e) - 1) << 23,
    })
}

/// Each byte holds one code of the first half in its low bits, and one of the second half in its high bits.
fn nibbles(codes: &[u8], values: &mut [f32], value: impl Fn(u8) -> f32) {
    let (low, high) = values.split_at_mut(values.len() / 2);
    for ((low, high), byte) in low.iter_mut().zip(high).zip(codes) {
        (*low, *high) = (value(byte & 15), value(byte >> 4));
    }
}

/// As [`nibbles`], the fifth bit of value j being bit j of `fifth`.
fn five_bits(fifth: &[u8], codes: &[u8], values: &mut [f32], value: impl Fn(u8) -> f32) {
    let bit = |j: usize| (fifth[j / 8] >> (j % 8) & 1) << 4;
    for (j, byte) in codes[..16].iter().enumerate() {
        values[j] = value(byte & 15 | bit(j));
        values[j + 16] = value(byte >> 4 | bit(j + 16));
    }
}

fn q2_k(b: &[u8], v: &mut [f32]) {
    let (scales, codes) = (&b[..16], &b[16..80]);
    let (d, min) = (half_at(b, 80), half_at(b, 82));
    for (group, values) in v.chunks_exact_mut(16).enumerate() {
        let (scale, low) = (
            d * f32::from(scales[group] & 15),
            min * f32::from(scales[group] >> 4),
        );
        // 128 values share 32 bytes; each 32 of them have two bits of every byte.
        let (first, shift) = (group / 8 * 32 + group % 2 * 16, group % 8 / 2 * 2);
        for (value, byte) in values.iter_mut().zip(&codes[first..]) {
            *value = scale * f32::from(byte >> shift & 3) - low;
        }
    }
}

fn q3_k(b: &[u8], v: &mut [f32]) {
    let (high, codes, scales, d) = (&b[..32], &b[32..96], &b[96..108], half_at(b, 108));
    for (group, values) in v.chunks_exact_mut(16).enumerate() {
        let low = scales[group % 8] >> (group / 8 * 4) & 15;
        let top = scales[8 + group % 4] >> (group / 4 * 2) & 3;
        let scale = d * (i32::from(low | top << 4) - 32) as f32;
        let (first, shift) = (group / 8 * 32 + group % 2 * 16, group % 8 / 2 * 2);
        for (i, value) in values.iter_mut().enumerate() {
            let third = high[group % 2 * 16 + i] >> (group / 2) & 1;
            let code = i32::from(codes[first + i] >> shift & 3) - if third == 0 { 4 } else { 0 };
            *value = scale * code as f32;
        }
    }
}

/// Scale and minimum, six bits each, of sub-block `j` of `Q4_K` and `Q5_K`.
pub(crate) fn k_scale(scales: &[u8], j: usize) -> (u8, u8) {
    match j {
        0..4 => (scales[j] & 63, scales[j + 4] & 63),
        _ => (
            scales[j + 4] & 15 | scales[j - 4] >> 6 << 4,
            scales[j + 4] >> 4 | scales[j] >> 6 << 4,
        ),
    }
}

fn q4_k(b: &[u8], v: &mut [f32]) {
    let (d, min, scales, codes) = (half_at(b, 0), half_at(b, 2), &b[4..16], &b[16..144]);
    for (j, values) in v.chunks_exact_mut(32).enumerate() {
        let (scale, low) = k_scale(scales, j);
        let (scale, low) = (d * f32::from(scale), min * f32::from(low));
        for (value, byte) in values.iter_mut().zip(&codes[j / 2 * 32..]) {
            *value = scale * f32::from(byte >> (j % 2 * 4) & 15) - low;
        }
    }
}

fn q5_k(b: &[u8], v: &mut [f32]) {
    let (d, min, scales) = (half_at(b, 0), half_at(b, 2), &b[4..16]);
    let (fifth, codes) = (&b[16..48], &b[48..176]);
    for (j, values) in v.chunks_exact_mut(32).enumerate() {
        let (scale, low) = k_scale(scales, j);
        let (scale, low) = (d * f32::from(scale), min * f32::from(low));
        for (i, value) in values.iter_mut().enumerate() {
            let code = codes[j / 2 * 32 + i] >> (j % 2 * 4) & 15 | (fifth[i] >> j & 1) << 4;
            *value = scale * f32::from(code) - low;
        }
    }
}

fn q6_k(b: &[u8], v: &mut [f32]) {
    let (low, high, scales, d) = (&b[..128], &b[128..192], &b[192..208], half_at(b, 208));
    for (group, values) in v.chunks_exact_mut(16).enumerate() {
        let scale = d * f32::from(scales[group] as i8);
        // Of the 128 values of a half, each 32 have one nibble of 64 bytes in turn, and two bits of 32 bytes.
        let (half, quarter, odd) = (group / 8, group % 8 / 2, group % 2 * 16);
        for (i, value) in values.iter_mut().enumerate() {
            let nibble = low[half * 64 + quarter % 2 * 32 + odd + i] >> (quarter / 2 * 4) & 15;
            let two = high[half * 32 + odd + i] >> (quarter * 2) & 3;
            *value = scale * (i32::from(nibble | two << 4) - 32) as f32;
        }
    }
}

fn iq4_xs(b: &[u8], v: &mut [f32]) {
    let d = half_at(b, 0);
    let (high, low, codes) = (u16::from_le_bytes([b[2], b[3]]), &b[4..8], &b[8..136]);
    for (j, values) in v.chunks_exact_mut(32).enumerate() {
        let scale = i32::from(low[j / 2] >> (j % 2 * 4) & 15) | i32::from(high >> (2 * j) & 3) << 4;
        let scale = d * (scale - 32) as f32;
        nibbles(&codes[j * 16..][..16], values, |q| {
            scale * f32::from(IQ4_VALUES[usize::from(q)])
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_in_the_order_of_the_types() {
        for (i, (id, ty, _, _)) in TYPES.iter().enumerate() {
            assert_eq!(
                (*ty as usize, ty.id(), GgmlType::from_id(*id)),
                (i, *id, Some(*ty))
            );
        }
        assert_eq!((GgmlType::from_id(4), GgmlType::from_id(999)), (None, None));
    }

    #[test]
    fn lengths_and_types_are_checked() {
        let mut values = [0.0; 32];
        assert!(dequantize(GgmlType::Q8_0, &[0; 33], &mut values).is_err());
        assert!(dequantize(GgmlType::Q8_0, &[0; 68], &mut values).is_err());
        assert!(dequantize(GgmlType::Q8_0, &[0; 34], &mut values[..31]).is_err());
        let error = dequantize(GgmlType::IQ1_S, &[0; 50], &mut [0.0; 256]).unwrap_err();
        assert!(error.to_string().contains("IQ1_S"), "{error}");
    }

    /// `tests/golden/ggml.bin`, by `tools/golden_ggml.py`: for each type its number, the count of blocks, the blocks, and the
    /// values that the PyPI package `gguf` gives.
    #[test]
    fn values_are_those_of_the_gguf_package() {
        let golden = include_bytes!("../../tests/golden/ggml.bin");
        let mut rest = &golden[..];
        let mut types = 0;
        while !rest.is_empty() {
            let word = |at: usize| u32::from_le_bytes([rest[at], rest[at + 1], rest[at + 2], rest[at + 3]]);
            let (ty, blocks) = (GgmlType::from_id(word(0)).unwrap(), word(4) as usize);
            let (bytes, tail) = rest[8..].split_at(blocks * ty.block_bytes() as usize);
            let (want, tail) = tail.split_at(blocks * ty.block_values() as usize * 4);
            let mut values = vec![0.0f32; want.len() / 4];
            dequantize(ty, bytes, &mut values).unwrap();
            for (i, (got, want)) in values.iter().zip(want.as_chunks::<4>().0).enumerate() {
                let want = f32::from_le_bytes(*want);
                assert!(
                    got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(),
                    "{ty} value {i}: {got}, not {want}"
                );
            }
            (rest, types) = (tail, types + 1);
        }
        assert_eq!(types, TYPES.iter().filter(|t| t.1.can_dequantize()).count());
    }
}
