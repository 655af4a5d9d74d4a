//! The formats that weights come in: the one place that knows which there are, how long a row is, which planes make up a
//! matrix and what the kernels of a format are called.

use std::fmt;

use smallvec::{SmallVec, smallvec};

use super::{AffineFormat, GgmlType};
use crate::dtype::DType;
use crate::error::{MlxError, Result, invalid};

/// How a matrix of weights is stored.
///
/// ```
/// use mlx_native::{DType, quant::WeightFormat};
/// let format = WeightFormat::affine(4, 64, DType::BF16)?;
/// assert_eq!(format.to_string(), "affine, 4 bits in groups of 64, bf16 scales");
/// // 1024 codes of 4 bits, 16 scales and 16 biases of 2 bytes.
/// assert_eq!(format.row_bytes(1024)?, 512 + 32 + 32);
/// # Ok::<(), mlx_native::MlxError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WeightFormat {
    /// Numbers as they are: f32, f16 or bf16.
    Dense(DType),
    /// MLX's integers with a scale and a bias for each group: `value = code * scale + bias`.
    Affine {
        /// Bits of a code and elements of a group.
        format: AffineFormat,
        /// The dtype of scales and biases: f32, f16 or bf16.
        scales: DType,
    },
    /// 4-bit floats (e2m1), a power of two (e8m0) for each 32.
    Mxfp4,
    /// 8-bit floats (e4m3), a power of two (e8m0) for each 32.
    Mxfp8,
    /// 4-bit floats (e2m1), an 8-bit float (e4m3) for each 16.
    Nvfp4 {
        /// Whether a further plane holds an f32 for the whole matrix, `g`: values are then `code * scale * g / 2688`.
        global_scale: bool,
    },
    /// Blocks of a GGUF file: those types that have a [kernel part](GgmlType::kernel_part). The numbers of such files are
    /// [`Dense`](Self::Dense).
    Ggml(GgmlType),
}

/// The parts of kernel names, in the order in which every operator that reads weights lists its kernels.
pub(crate) const KERNEL_PARTS: &[&str] = &[
    "f32",
    "f16",
    "bf16",
    "affine1",
    "affine2",
    "affine3",
    "affine4",
    "affine5",
    "affine6",
    "affine8",
    "mxfp4",
    "mxfp8",
    "nvfp4",
    "q4_0",
    "q4_1",
    "q5_0",
    "q5_1",
    "q8_0",
    "q2_k",
    "q3_k",
    "q4_k",
    "q5_k",
    "q6_k",
    "iq4_nl",
    "iq4_xs",
    "ggml_mxfp4",
];

/// One of the arrays that make up a matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plane {
    /// What it is called in files: `weight`, `scales`, `biases`, `global_scale`.
    pub name: &'static str,
    /// Its element type.
    pub dtype: DType,
    /// Elements for each row of the matrix; 0 where there is one for the whole matrix.
    pub row: usize,
}

impl Plane {
    /// Elements in a matrix of `rows` rows; `None` if that overflows.
    #[must_use]
    pub fn elements(&self, rows: usize) -> Option<usize> {
        if self.row == 0 {
            Some(1)
        } else {
            rows.checked_mul(self.row)
        }
    }
}

/// The planes of a format, the codes first.
pub type Planes = SmallVec<[Plane; 3]>;

impl WeightFormat {
    /// The affine format of `bits`-bit codes in groups of `group_size` with scales and biases of dtype `scales`.
    ///
    /// # Errors
    /// [`MlxError::InvalidArgument`] for a combination that MLX lacks: [`AffineFormat::new`] says which there are.
    pub fn affine(bits: u32, group_size: u32, scales: DType) -> Result<Self> {
        let format = AffineFormat::new(group_size, bits)?;
        if !scales.is_float() {
            return invalid!("affine format: scales are {scales}, possible: f32, f16, bf16");
        }
        Ok(WeightFormat::Affine { format, scales })
    }

    /// Numbers of dtype `dtype`.
    ///
    /// # Errors
    /// [`MlxError::InvalidArgument`] unless that is f32, f16 or bf16.
    pub fn dense(dtype: DType) -> Result<Self> {
        if !dtype.is_float() {
            return invalid!("dense weights are {dtype}, possible: f32, f16, bf16");
        }
        Ok(WeightFormat::Dense(dtype))
    }

    /// The format of a GGUF tensor of type `ty`.
    ///
    /// # Errors
    /// [`MlxError::Unsupported`], naming the type, for one that no kernel reads.
    pub fn ggml(ty: GgmlType) -> Result<Self> {
        match ty {
            GgmlType::F32 => Ok(WeightFormat::Dense(DType::F32)),
            GgmlType::F16 => Ok(WeightFormat::Dense(DType::F16)),
            GgmlType::BF16 => Ok(WeightFormat::Dense(DType::BF16)),
            _ if ty.kernel_part().is_some() => Ok(WeightFormat::Ggml(ty)),
            _ => Err(MlxError::Unsupported(format!("weights of GGML type {ty}"))),
        }
    }

    /// The part of a kernel's name that says which format it reads.
    #[must_use]
    pub fn kernel_part(self) -> &'static str {
        KERNEL_PARTS[self.kernel_index()]
    }

    /// The place of the format's kernels in the lists of operators: that of its part in [`KERNEL_PARTS`].
    pub(crate) fn kernel_index(self) -> usize {
        match self {
            WeightFormat::Dense(DType::F16) => 1,
            WeightFormat::Dense(DType::BF16) => 2,
            WeightFormat::Dense(_) => 0,
            WeightFormat::Affine { format, .. } => match format.bits() {
                8 => 9,
                bits => 2 + bits as usize,
            },
            WeightFormat::Mxfp4 => 10,
            WeightFormat::Mxfp8 => 11,
            WeightFormat::Nvfp4 { .. } => 12,
            // A type without a part is refused by `ggml` and by `planes`, and so is in no weight.
            WeightFormat::Ggml(ty) => ty
                .kernel_part()
                .and_then(|part| KERNEL_PARTS.iter().position(|p| *p == part))
                .unwrap_or(0),
        }
    }

    /// Elements that belong together: the columns of a matrix are a multiple of it.
    #[must_use]
    pub fn granule(self) -> usize {
        match self {
            WeightFormat::Dense(_) => 1,
            WeightFormat::Affine { format, .. } => format.group_size() as usize,
            WeightFormat::Mxfp4 | WeightFormat::Mxfp8 => 32,
            WeightFormat::Nvfp4 { .. } => 16,
            WeightFormat::Ggml(ty) => ty.block_values() as usize,
        }
    }

    /// The planes of a matrix with rows of `columns` elements.
    ///
    /// # Errors
    /// [`MlxError::InvalidArgument`] when `columns` is 0, no multiple of [`granule`](Self::granule), or too many.
    pub fn planes(self, columns: usize) -> Result<Planes> {
        let granule = self.granule();
        if columns == 0 || !columns.is_multiple_of(granule) {
            return invalid!("{self}: rows of {columns} elements are no multiple of {granule}");
        }
        let words = |bits: usize| {
            let row = columns.checked_mul(bits).map(|b| b / 32);
            let row =
                row.ok_or_else(|| MlxError::InvalidArgument(format!("{self}: {columns} columns overflow")))?;
            Ok::<_, MlxError>(Plane {
                name: "weight",
                dtype: DType::U32,
                row,
            })
        };
        let groups = |name, dtype| Plane {
            name,
            dtype,
            row: columns / granule,
        };
        Ok(match self {
            WeightFormat::Dense(dtype) => smallvec![Plane {
                name: "weight",
                dtype,
                row: columns
            }],
            WeightFormat::Affine { format, scales } => {
                smallvec![
                    words(format.bits() as usize)?,
                    groups("scales", scales),
                    groups("biases", scales)
                ]
            }
            WeightFormat::Mxfp4 | WeightFormat::Nvfp4 { global_scale: false } => {
                smallvec![words(4)?, groups("scales", DType::U8)]
            }
            WeightFormat::Ggml(ty) => {
                if ty.kernel_part().is_none() {
                    return Err(MlxError::Unsupported(format!("weights of GGML type {ty}")));
                }
                let row = (columns / granule)
                    .checked_mul(ty.block_bytes() as usize)
                    .ok_or_else(|| {
                        MlxError::InvalidArgument(format!("{self}: {columns} columns overflow"))
                    })?;
                smallvec![Plane {
                    name: "weight",
                    dtype: DType::U8,
                    row
                }]
            }
            WeightFormat::Mxfp8 => smallvec![words(8)?, groups("scales", DType::U8)],
            WeightFormat::Nvfp4 { global_scale: true } => smallvec![
                words(4)?,
                groups("scales", DType::U8),
                Plane {
                    name: "global_scale",
                    dtype: DType::F32,
                    row: 0
                }
            ],
        })
    }

    /// Bytes of a row of `columns` elements, all planes together.
    ///
    /// # Errors
    /// As [`planes`](Self::planes).
    pub fn row_bytes(self, columns: usize) -> Result<usize> {
        self.planes(columns)?
            .iter()
            .try_fold(0usize, |sum, p| {
                sum.checked_add(p.row.checked_mul(p.dtype.size_of())?)
            })
            .ok_or_else(|| MlxError::InvalidArgument(format!("{self}: {columns} columns overflow")))
    }
}

impl fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WeightFormat::Dense(dtype) => write!(f, "{dtype}"),
            WeightFormat::Affine { format, scales } => write!(
                f,
                "affine, {} bits in groups of {}, {scales} scales",
                format.bits(),
                format.group_size()
            ),
            WeightFormat::Nvfp4 { global_scale: true } => f.write_str("nvfp4 with a global scale"),
            WeightFormat::Ggml(ty) => write!(f, "{ty}"),
            _ => f.write_str(self.kernel_part()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_are_what_mlx_writes() {
        let shapes = |format: WeightFormat, k| {
            let planes = format.planes(k).unwrap();
            planes
                .iter()
                .map(|p| (p.name, p.dtype, p.row))
                .collect::<Vec<_>>()
        };
        for (bits, words) in [(1, 16), (2, 32), (3, 48), (4, 64), (5, 80), (6, 96), (8, 128)] {
            let format = WeightFormat::affine(bits, 64, DType::F16).unwrap();
            let wanted = [
                ("weight", DType::U32, words),
                ("scales", DType::F16, 8),
                ("biases", DType::F16, 8),
            ];
            assert_eq!(shapes(format, 512), wanted);
            assert_eq!(format.kernel_part(), format!("affine{bits}"));
        }
        let scales = |row| ("scales", DType::U8, row);
        assert_eq!(
            shapes(WeightFormat::Mxfp4, 64),
            [("weight", DType::U32, 8), scales(2)]
        );
        assert_eq!(
            shapes(WeightFormat::Mxfp8, 64),
            [("weight", DType::U32, 16), scales(2)]
        );
        let q4_k = WeightFormat::ggml(GgmlType::Q4_K).unwrap();
        assert_eq!(shapes(q4_k, 512), [("weight", DType::U8, 288)]);
        assert_eq!(
            (q4_k.kernel_part(), q4_k.to_string()),
            ("q4_k", "Q4_K".to_owned())
        );
        assert_eq!(
            WeightFormat::ggml(GgmlType::BF16).unwrap(),
            WeightFormat::Dense(DType::BF16)
        );
        let nvfp4 = |global_scale| WeightFormat::Nvfp4 { global_scale };
        assert_eq!(shapes(nvfp4(false), 48), [("weight", DType::U32, 6), scales(3)]);
        assert_eq!(shapes(nvfp4(true), 48)[2], ("global_scale", DType::F32, 0));
        assert_eq!(
            shapes(WeightFormat::Dense(DType::BF16), 7),
            [("weight", DType::BF16, 7)]
        );
    }

    #[test]
    fn what_no_format_has_is_refused() {
        assert!(WeightFormat::affine(7, 64, DType::F32).is_err());
        assert!(WeightFormat::affine(4, 16, DType::F32).is_err());
        assert!(WeightFormat::affine(4, 64, DType::U8).is_err());
        assert!(WeightFormat::dense(DType::U32).is_err());
        let affine = WeightFormat::affine(4, 64, DType::F32).unwrap();
        for k in [0, 96, usize::MAX - 63] {
            assert!(affine.planes(k).is_err(), "{k}");
        }
        assert!(WeightFormat::Dense(DType::F32).row_bytes(usize::MAX).is_err());
        assert!(WeightFormat::Mxfp4.planes(16).is_err());
        assert!(WeightFormat::ggml(GgmlType::IQ1_S).is_err());
        assert!(WeightFormat::Ggml(GgmlType::I8).planes(32).is_err());
        assert!(WeightFormat::Ggml(GgmlType::Q6_K).planes(128).is_err());
    }
}
