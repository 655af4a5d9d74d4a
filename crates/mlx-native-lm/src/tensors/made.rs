//! How tensors are made of others.

use std::borrow::Cow;
use std::sync::Arc;

use mlx_native::weights::TensorType;

use super::foreign;
use super::stored::{StoredTensors, Tensor};
use crate::error::{LmError, Result};

/// How a tensor is made of others.
#[derive(Debug)]
pub(crate) enum Make {
    /// As a file has it, under this name.
    Stored(String),
    /// One behind the other.
    Joined(Vec<Arc<Tensor>>),
    /// The bytes of another, under another type or shape.
    Same(Arc<Tensor>),
    /// Of every `size` blocks of `block` bytes those with the numbers `first`, `first + step`, and so on, `count` of them.
    Picked {
        from: Arc<Tensor>,
        block: usize,
        size: usize,
        first: usize,
        step: usize,
        count: usize,
    },
    /// Blocks of `block` bytes in matrices of `rows` by `columns` of them, with rows and columns changed over.
    Turned {
        from: Arc<Tensor>,
        block: usize,
        rows: usize,
        columns: usize,
    },
    /// A number added to each element, which has its dtype's precision before and after.
    Plus(Arc<Tensor>, f32),
    /// Rows times numbers, of which there is one for each row or one for all; rounded as [`Plus`](Self::Plus).
    Times(Arc<Tensor>, Vec<f32>),
    /// Each row, or each column, divided by its length.
    Unit { from: Arc<Tensor>, rows: bool },
    /// Another float type.
    Cast(Arc<Tensor>),
    /// e4m3 times scales, one for each block of so many rows and columns, as bf16.
    Fp8 {
        from: Arc<Tensor>,
        scales: Arc<Tensor>,
        blocks: [usize; 2],
    },
    /// Words of AWQ as rows of MLX.
    AwqWords(Arc<Tensor>),
    /// `-zero · scale`, transposed; no zeros: 8.
    AwqBiases {
        scales: Arc<Tensor>,
        zeros: Option<Arc<Tensor>>,
    },
}

/// The elements of a float tensor.
pub(super) fn floats(bytes: &[u8], dtype: TensorType) -> Result<Vec<f32>> {
    let two = |b: &[u8]| u16::from_le_bytes([b[0], b[1]]);
    Ok(match dtype {
        TensorType::F32 => bytes
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect(),
        TensorType::F16 => bytes
            .chunks_exact(2)
            .map(|b| half::f16::from_bits(two(b)).to_f32())
            .collect(),
        TensorType::BF16 => bytes
            .chunks_exact(2)
            .map(|b| half::bf16::from_bits(two(b)).to_f32())
            .collect(),
        other => {
            return Err(LmError::Weights(format!(
                "found {other}, wanted F32, F16 or BF16"
            )));
        }
    })
}

/// Numbers as bytes of a float type.
pub(super) fn bytes_of(values: impl Iterator<Item = f32>, dtype: TensorType) -> Vec<u8> {
    match dtype {
        TensorType::F16 => values
            .flat_map(|v| half::f16::from_f32(v).to_le_bytes())
            .collect(),
        TensorType::BF16 => values
            .flat_map(|v| half::bf16::from_f32(v).to_le_bytes())
            .collect(),
        _ => values.flat_map(f32::to_le_bytes).collect(),
    }
}

/// A number as the type has it.
fn rounded(value: f32, dtype: TensorType) -> f32 {
    match dtype {
        TensorType::F16 => half::f16::from_f32(value).to_f32(),
        TensorType::BF16 => half::bf16::from_f32(value).to_f32(),
        _ => value,
    }
}

impl Make {
    /// The bytes of the tensor `of`, which is made so.
    pub fn run<'a>(&'a self, t: &'a StoredTensors, of: &Tensor) -> Result<Cow<'a, [u8]>> {
        let dtype = of.dtype;
        let made = match self {
            Make::Stored(name) => return Ok(Cow::Borrowed(t.weights().bytes(name)?)),
            Make::Same(from) => return t.bytes_of(from),
            Make::Joined(parts) => {
                let mut all = Vec::new();
                for part in parts {
                    all.extend_from_slice(&t.bytes_of(part)?);
                }
                all
            }
            Make::Picked {
                from,
                block,
                size,
                first,
                step,
                count,
            } => {
                let bytes = t.bytes_of(from)?;
                let mut out = Vec::with_capacity(bytes.len() / (*size).max(1) * count);
                for group in bytes.chunks_exact((block * size).max(1)) {
                    for i in 0..*count {
                        out.extend_from_slice(&group[(first + i * step) * block..][..*block]);
                    }
                }
                out
            }
            Make::Turned {
                from,
                block,
                rows,
                columns,
            } => {
                let bytes = t.bytes_of(from)?;
                let mut out = Vec::with_capacity(bytes.len());
                for matrix in bytes.chunks_exact((block * rows * columns).max(1)) {
                    for c in 0..*columns {
                        for r in 0..*rows {
                            out.extend_from_slice(&matrix[(r * columns + c) * block..][..*block]);
                        }
                    }
                }
                out
            }
            Make::Plus(from, number) => {
                let values = floats(&t.bytes_of(from)?, from.dtype)?;
                bytes_of(values.into_iter().map(|v| v + number), of.dtype)
            }
            Make::Times(from, numbers) => {
                let values = floats(&t.bytes_of(from)?, from.dtype)?;
                let row = (values.len() / numbers.len().max(1)).max(1);
                let number = |i: usize| rounded(numbers[i / row], from.dtype);
                bytes_of(values.iter().enumerate().map(|(i, v)| v * number(i)), of.dtype)
            }
            Make::Unit { from, rows } => {
                let values = floats(&t.bytes_of(from)?, from.dtype)?;
                let columns = from.shape.last().copied().unwrap_or(1).max(1);
                let place = |i: usize| if *rows { i / columns } else { i % columns };
                let mut squares = vec![0f32; if *rows { values.len() / columns } else { columns }];
                values
                    .iter()
                    .enumerate()
                    .for_each(|(i, v)| squares[place(i)] += v * v);
                let unit = values
                    .iter()
                    .enumerate()
                    .map(|(i, v)| v / (squares[place(i)].sqrt() + 1e-7));
                bytes_of(unit, dtype)
            }
            Make::Cast(from) => {
                let values = floats(&t.bytes_of(from)?, from.dtype)?;
                bytes_of(values.into_iter(), of.dtype)
            }
            Make::Fp8 { from, scales, blocks } => {
                let numbers = floats(&t.bytes_of(scales)?, scales.dtype)?;
                foreign::fp8_values(&t.bytes_of(from)?, &numbers, &of.shape, *blocks)
            }
            Make::AwqWords(from) => foreign::awq_words(&t.bytes_of(from)?, &of.shape),
            Make::AwqBiases { scales, zeros } => {
                let numbers = floats(&t.bytes_of(scales)?, scales.dtype)?;
                let zeros = zeros.as_ref().map(|z| t.bytes_of(z)).transpose()?;
                foreign::awq_biases(&numbers, zeros.as_deref(), of)
            }
        };
        Ok(Cow::Owned(made))
    }
}
