//! The element types of GGUF files: what a block is, and how it becomes numbers.
//!
//! A row of a tensor is a whole number of blocks; a block holds its scales and its codes side by side. The layouts are
//! those of ggml's `ggml-common.h`, the arithmetic that of its reference dequantisers: products and sums in f32, in the
//! order written there, so that the values are equal bit for bit (golden files: the PyPI package `gguf`).

mod block;
mod kquants;
mod small;

use half::{bf16, f16};

pub(crate) use block::{Block, MAX_SPANS, dequantize_block};
pub(crate) use kquants::{Iq4Xs, Q2K, Q3K, Q4K, Q5K, Q6K};
pub(crate) use small::{Iq4Nl, Mxfp4, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0};

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

/// What the codes of `IQ4_NL` and `IQ4_XS` stand for: denser where weights are.
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

    /// The part of kernel names that says the type: its name in lower case, `ggml_mxfp4` for `MXFP4`, since MLX has an
    /// mxfp4 of another layout; `None` for types that kernels do not read, and for plain numbers.
    #[must_use]
    pub fn kernel_part(self) -> Option<&'static str> {
        Some(match self {
            GgmlType::Q4_0 => "q4_0",
            GgmlType::Q4_1 => "q4_1",
            GgmlType::Q5_0 => "q5_0",
            GgmlType::Q5_1 => "q5_1",
            GgmlType::Q8_0 => "q8_0",
            GgmlType::Q2_K => "q2_k",
            GgmlType::Q3_K => "q3_k",
            GgmlType::Q4_K => "q4_k",
            GgmlType::Q5_K => "q5_k",
            GgmlType::Q6_K => "q6_k",
            GgmlType::IQ4_NL => "iq4_nl",
            GgmlType::IQ4_XS => "iq4_xs",
            GgmlType::MXFP4 => "ggml_mxfp4",
            _ => return None,
        })
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
    if !values.len().is_multiple_of(n)
        || !bytes.len().is_multiple_of(size)
        || values.len() / n != bytes.len() / size
    {
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
        GgmlType::F16 => |b, v| v[0] = f16::from_le_bytes([b[0], b[1]]).to_f32(),
        GgmlType::BF16 => |b, v| v[0] = bf16::from_le_bytes([b[0], b[1]]).to_f32(),
        GgmlType::Q4_0 => dequantize_block::<Q4_0>,
        GgmlType::Q4_1 => dequantize_block::<Q4_1>,
        GgmlType::Q5_0 => dequantize_block::<Q5_0>,
        GgmlType::Q5_1 => dequantize_block::<Q5_1>,
        GgmlType::Q8_0 => dequantize_block::<Q8_0>,
        GgmlType::Q2_K => dequantize_block::<Q2K>,
        GgmlType::Q3_K => dequantize_block::<Q3K>,
        GgmlType::Q4_K => dequantize_block::<Q4K>,
        GgmlType::Q5_K => dequantize_block::<Q5K>,
        GgmlType::Q6_K => dequantize_block::<Q6K>,
        GgmlType::IQ4_NL => dequantize_block::<Iq4Nl>,
        GgmlType::IQ4_XS => dequantize_block::<Iq4Xs>,
        GgmlType::MXFP4 => dequantize_block::<Mxfp4>,
        _ => return None,
    })
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
    fn blocks_are_as_long_as_the_list_says() {
        fn check<B: Block>(ty: GgmlType) {
            assert_eq!(
                (B::ELEMENTS, B::BYTES),
                (ty.block_values() as usize, ty.block_bytes() as usize),
                "{ty}"
            );
        }
        check::<Q4_0>(GgmlType::Q4_0);
        check::<Q4_1>(GgmlType::Q4_1);
        check::<Q5_0>(GgmlType::Q5_0);
        check::<Q5_1>(GgmlType::Q5_1);
        check::<Q8_0>(GgmlType::Q8_0);
        check::<Q2K>(GgmlType::Q2_K);
        check::<Q3K>(GgmlType::Q3_K);
        check::<Q4K>(GgmlType::Q4_K);
        check::<Q5K>(GgmlType::Q5_K);
        check::<Q6K>(GgmlType::Q6_K);
        check::<Iq4Nl>(GgmlType::IQ4_NL);
        check::<Iq4Xs>(GgmlType::IQ4_XS);
        check::<Mxfp4>(GgmlType::MXFP4);
        for (_, ty, _, _) in TYPES {
            assert!(ty.kernel_part().is_none() || ty.can_dequantize());
        }
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
        let golden = include_bytes!("../../../tests/golden/ggml.bin");
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
