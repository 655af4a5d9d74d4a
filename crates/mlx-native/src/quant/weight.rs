//! A matrix of weights, or a stack of them, in any format.

use smallvec::SmallVec;

use super::WeightFormat;
use crate::buffer::MlxBuffer;
use crate::error::{MlxError, Result, invalid};

/// Weights of a linear layer, `[n, k]`: `n` rows of `k` elements, packed along `k`; or of as many layers as there are
/// experts, `[experts, n, k]`.
///
/// It is used in place, as the file has it: [`linear`](crate::ops::linear::linear), [`embed`](crate::ops::embed::embed) and
/// [`gather_linear`](crate::ops::linear::gather_linear) take it whatever its format.
///
/// ```
/// use mlx_native::{DType, MlxDevice, quant::{Weight, WeightFormat}};
/// let device = MlxDevice::new()?;
/// let planes = vec![
///     device.alloc_tensor(DType::U32, &[3, 8])?,
///     device.alloc_tensor(DType::F16, &[3, 1])?,
///     device.alloc_tensor(DType::F16, &[3, 1])?,
/// ];
/// let weight = Weight::new(WeightFormat::affine(4, 64, DType::F16)?, planes, &[3, 64])?;
/// assert_eq!((weight.rows(), weight.columns(), weight.experts()), (3, 64, None));
/// # Ok::<(), mlx_native::MlxError>(())
/// ```
#[derive(Debug)]
pub struct Weight {
    format: WeightFormat,
    planes: SmallVec<[MlxBuffer; 3]>,
    experts: Option<u32>,
    rows: u32,
    columns: u32,
}

impl Weight {
    /// Puts the planes of a weight together. They are in the order of [`WeightFormat::planes`], each at least as large as
    /// `shape` asks for; a global scale has one element for each expert.
    ///
    /// # Errors
    /// [`MlxError::InvalidArgument`], naming the plane, when there are more or fewer than the format has, one is of another
    /// dtype or too small; when `shape` is not `[n, k]` or `[experts, n, k]`, has an extent of 0 or above `u32::MAX`, or
    /// `k` does not fit the format.
    pub fn new(format: WeightFormat, planes: Vec<MlxBuffer>, shape: &[usize]) -> Result<Self> {
        let &[experts, rows, columns] = match shape {
            [n, k] => &[None, Some(*n), Some(*k)],
            [e, n, k] => &[Some(*e), Some(*n), Some(*k)],
            _ => return invalid!("weight: shape {shape:?}, wanted [n, k] or [experts, n, k]"),
        };
        let extent = |value: Option<usize>| match value.map(u32::try_from) {
            Some(Ok(value)) if value > 0 => Ok(value),
            _ => invalid!("weight: extents of {shape:?} are 1 to 4294967295"),
        };
        let (rows, columns) = (extent(rows)?, extent(columns)?);
        let experts = experts.map(|e| extent(Some(e))).transpose()?;
        let wanted = format.planes(columns as usize)?;
        if planes.len() != wanted.len() {
            return invalid!("weight: {} planes, {format} has {}", planes.len(), wanted.len());
        }
        for (plane, buffer) in wanted.iter().zip(&planes) {
            if buffer.dtype() != plane.dtype {
                return invalid!(
                    "weight: {} is {}, {format} has {}",
                    plane.name,
                    buffer.dtype(),
                    plane.dtype
                );
            }
            let bytes = plane
                .elements(rows as usize)
                .and_then(|n| n.checked_mul(experts.unwrap_or(1) as usize))
                .and_then(|n| n.checked_mul(plane.dtype.size_of()))
                .filter(|n| isize::try_from(*n).is_ok())
                .ok_or_else(|| {
                    MlxError::InvalidArgument(format!("weight: the size of {shape:?} overflows"))
                })?;
            if buffer.byte_len() < bytes {
                return invalid!(
                    "weight: {} holds {} bytes, {format} of {shape:?} needs {bytes}",
                    plane.name,
                    buffer.byte_len()
                );
            }
        }
        Ok(Weight {
            format,
            planes: planes.into(),
            experts,
            rows,
            columns,
        })
    }

    /// Numbers as they are, f32, f16 or bf16 by the dtype of `values`.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn dense(values: MlxBuffer, shape: &[usize]) -> Result<Self> {
        Weight::new(WeightFormat::dense(values.dtype())?, vec![values], shape)
    }

    /// `rows` rows of a matrix from `first` on, where they are.
    ///
    /// # Errors
    /// [`MlxError::InvalidArgument`] for a stack, and for rows that the matrix does not have.
    pub fn rows_from(&self, first: usize, rows: usize) -> Result<Weight> {
        let end = first.checked_add(rows).filter(|end| *end <= self.rows as usize);
        if self.experts.is_some() || end.is_none() {
            return invalid!(
                "weight: {rows} rows from {first} on of {:?} x {}",
                self.experts,
                self.rows
            );
        }
        let columns = self.columns as usize;
        let mut planes = Vec::new();
        for (plane, buffer) in self.format.planes(columns)?.iter().zip(&self.planes) {
            let shape = if plane.row == 0 {
                vec![1]
            } else {
                vec![rows, plane.row]
            };
            planes.push(buffer.view(first * plane.row * plane.dtype.size_of(), plane.dtype, shape)?);
        }
        Weight::new(self.format, planes, &[rows, columns])
    }

    /// The format.
    #[must_use]
    pub fn format(&self) -> WeightFormat {
        self.format
    }

    /// The planes, in the order of [`WeightFormat::planes`].
    #[must_use]
    pub fn planes(&self) -> &[MlxBuffer] {
        &self.planes
    }

    /// `n`: rows of a matrix.
    #[must_use]
    pub fn rows(&self) -> u32 {
        self.rows
    }

    /// `k`: elements of a row.
    #[must_use]
    pub fn columns(&self) -> u32 {
        self.columns
    }

    /// Matrices of a stack; `None` for a single matrix.
    #[must_use]
    pub fn experts(&self) -> Option<u32> {
        self.experts
    }

    /// Bytes of all planes as `shape` asks for them.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        let rows = self.rows as usize * self.experts.unwrap_or(1) as usize;
        // Checked when it was put together.
        self.format
            .row_bytes(self.columns as usize)
            .map_or(0, |row| row.saturating_mul(rows))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::DType;
    use crate::testing::{Bench, assert_invalid};

    #[test]
    fn planes_must_fit() {
        let b = Bench::new();
        let four = WeightFormat::affine(4, 32, DType::F16).unwrap();
        let planes = |words: usize, scales: DType, groups: usize| {
            vec![
                b.buffer(DType::U32, &[words]),
                b.buffer(scales, &[groups]),
                b.buffer(scales, &[groups]),
            ]
        };
        let weight = Weight::new(four, planes(24, DType::F16, 6), &[3, 64]).unwrap();
        assert_eq!(weight.byte_len(), 4 * 24 + 2 * 2 * 6);
        let stack = Weight::new(four, planes(24, DType::F16, 6), &[3, 1, 64]).unwrap();
        assert_eq!((stack.experts(), stack.rows()), (Some(3), 1));
        for (planes, shape, words) in [
            (planes(24, DType::F16, 6), &[3, 96][..], "weight holds 96 bytes"),
            (planes(24, DType::F16, 5), &[3, 64], "scales holds 10 bytes"),
            (planes(24, DType::F32, 6), &[3, 64], "scales is f32"),
            (planes(24, DType::F16, 6), &[3, 48], "multiple of 32"),
            (planes(24, DType::F16, 6), &[0, 64], "[0, 64]"),
            (planes(24, DType::F16, 6), &[1 << 32, 64], "4294967295"),
            (
                planes(24, DType::F16, 6),
                &[u32::MAX as usize, u32::MAX as usize, 1 << 31],
                "overflows",
            ),
            (planes(24, DType::F16, 6), &[64], "[n, k]"),
            (
                planes(24, DType::F16, 6)[..0]
                    .iter()
                    .map(MlxBuffer::share)
                    .collect(),
                &[3, 64],
                "0 planes",
            ),
        ] {
            assert_invalid(Weight::new(four, planes, shape), &[words]);
        }
        let last = weight.rows_from(2, 1).unwrap();
        assert_eq!(
            (
                last.rows(),
                last.planes()[0].byte_offset(),
                last.planes()[1].byte_offset()
            ),
            (1, 64, 8)
        );
        assert_invalid(weight.rows_from(2, 2), &["2 rows from 2"]);
        assert_invalid(weight.rows_from(0, 0), &["[0, 64]"]);
        assert_invalid(stack.rows_from(0, 1), &["Some(3)"]);
        assert_invalid(Weight::dense(b.buffer(DType::U32, &[64]), &[1, 64]), &["u32"]);
        assert!(Weight::dense(b.buffer(DType::BF16, &[7, 9]), &[7, 9]).is_ok());
    }
}
