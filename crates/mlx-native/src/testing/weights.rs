//! Weights of every format for cases: random ones, and what they mean in f64.

use half::f16;

use super::{Rng, Tensor};
use crate::buffer::MlxBuffer;
use crate::dtype::DType;
use crate::error::Result;
use crate::quant::{GgmlType, Weight, WeightFormat, ggml};

/// A weight as a case describes it: `[rows, columns]`, or `[experts, rows, columns]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WeightCase {
    pub format: WeightFormat,
    pub experts: Option<u32>,
    pub rows: u32,
    pub columns: u32,
}

/// Every format, affine ones with a group size and a dtype of scales that take turns, `turn` saying where to begin.
pub(crate) fn every_format(turn: usize) -> Vec<WeightFormat> {
    let mut all = vec![
        WeightFormat::Dense(DType::F32),
        WeightFormat::Dense(DType::F16),
        WeightFormat::Dense(DType::BF16),
        WeightFormat::Mxfp4,
        WeightFormat::Mxfp8,
        WeightFormat::Nvfp4 {
            global_scale: turn.is_multiple_of(2),
        },
    ];
    all.extend(BLOCKS.map(|(ty, ..)| WeightFormat::Ggml(ty)));
    for (i, bits) in [1, 2, 3, 4, 5, 6, 8].into_iter().enumerate() {
        let scales = [DType::F32, DType::F16, DType::BF16][(i + turn) % 3];
        all.push(WeightFormat::affine(bits, [32, 64, 128][(i + turn / 3) % 3], scales).expect("MLX has it"));
    }
    all
}

/// The block types, where the f16 numbers of a block lie, and a size of them that makes weights of a size around 1.
const BLOCKS: [(GgmlType, &[usize], f32); 13] = [
    (GgmlType::Q4_0, &[0], 0.15),
    (GgmlType::Q4_1, &[0, 2], 0.1),
    (GgmlType::Q5_0, &[0], 0.08),
    (GgmlType::Q5_1, &[0, 2], 0.05),
    (GgmlType::Q8_0, &[0], 0.01),
    (GgmlType::Q2_K, &[80, 82], 0.05),
    (GgmlType::Q3_K, &[108], 0.02),
    (GgmlType::Q4_K, &[0, 2], 0.003),
    (GgmlType::Q5_K, &[0, 2], 0.002),
    (GgmlType::Q6_K, &[208], 0.0006),
    (GgmlType::IQ4_NL, &[0], 0.01),
    (GgmlType::IQ4_XS, &[0], 0.0006),
    (GgmlType::MXFP4, &[], 0.0),
];

/// Random blocks: any codes, and scales of a moderate size.
fn blocks(ty: GgmlType, shape: &[usize], rng: &mut Rng) -> Tensor {
    let (_, halves, size) = BLOCKS
        .iter()
        .find(|b| b.0 == ty)
        .expect("a type that kernels read");
    let mut bytes: Vec<u8> = (0..shape.iter().product()).map(|_| rng.bits() as u8).collect();
    for block in bytes.chunks_exact_mut(ty.block_bytes() as usize) {
        for at in *halves {
            block[*at..at + 2].copy_from_slice(&f16::from_f32(rng.normal() * size).to_le_bytes());
        }
        if ty == GgmlType::MXFP4 {
            block[0] = rng.range(124, 127) as u8;
        }
    }
    Tensor::from_bytes(DType::U8, shape, bytes)
}

impl WeightCase {
    pub(crate) fn new(format: WeightFormat, rows: u32, columns: u32) -> Self {
        WeightCase {
            format,
            experts: None,
            rows,
            columns,
        }
    }

    fn total_rows(&self) -> usize {
        self.rows as usize * self.experts.unwrap_or(1) as usize
    }

    /// The shape: extents as `Weight` takes them.
    pub(crate) fn shape(&self) -> Vec<usize> {
        self.experts
            .into_iter()
            .chain([self.rows, self.columns])
            .map(|v| v as usize)
            .collect()
    }

    /// Planes of random weights of a size around 1.
    pub(crate) fn random(&self, rng: &mut Rng) -> Vec<Tensor> {
        let rows = self.total_rows();
        let planes = self
            .format
            .planes(self.columns as usize)
            .expect("a case fits its format");
        let normal = |dtype, shape: &[usize], size: f32, rng: &mut Rng| {
            let values: Vec<f32> = (0..shape.iter().product()).map(|_| rng.normal() * size).collect();
            Tensor::from_f32(dtype, shape, &values)
        };
        let mut tensors = Vec::new();
        for (i, plane) in planes.iter().enumerate() {
            let shape = if plane.row == 0 {
                vec![self.experts.unwrap_or(1) as usize]
            } else {
                vec![rows, plane.row]
            };
            tensors.push(match (self.format, i) {
                (WeightFormat::Dense(dtype), _) => normal(dtype, &shape, 1.0, rng),
                (WeightFormat::Affine { format, scales }, 1) => {
                    normal(scales, &shape, 2.0 / (1u32 << format.bits()) as f32, rng)
                }
                (WeightFormat::Affine { scales, .. }, 2) => normal(scales, &shape, 0.5, rng),
                (WeightFormat::Ggml(ty), _) => blocks(ty, &shape, rng),
                (WeightFormat::Mxfp8, 0) => numbers8(&shape, rng),
                (WeightFormat::Mxfp4, 1) => bytes(&shape, 123..127, rng),
                (WeightFormat::Mxfp8, 1) => bytes(&shape, 118..121, rng),
                // e4m3 from 0.12 to 0.5.
                (WeightFormat::Nvfp4 { .. }, 1) => bytes(&shape, 0x20..0x30, rng),
                (WeightFormat::Nvfp4 { .. }, 2) => {
                    let values: Vec<f32> = (0..shape[0])
                        .map(|_| 2688.0 * (1.0 + rng.signed() / 2.0))
                        .collect();
                    Tensor::from_f32(DType::F32, &shape, &values)
                }
                _ => Tensor::random_bits(&shape, rng),
            });
        }
        tensors
    }

    /// The weight in buffers.
    pub(crate) fn weight(&self, planes: &[MlxBuffer]) -> Result<Weight> {
        Weight::new(
            self.format,
            planes.iter().map(MlxBuffer::share).collect(),
            &self.shape(),
        )
    }

    /// Number of planes.
    pub(crate) fn n_planes(&self) -> usize {
        self.format
            .planes(self.columns as usize)
            .expect("a case fits its format")
            .len()
    }

    /// Bytes of the weight.
    pub(crate) fn byte_len(&self) -> f64 {
        (self
            .format
            .row_bytes(self.columns as usize)
            .expect("a case fits its format")
            * self.total_rows()) as f64
    }

    /// What the planes mean, row after row.
    pub(crate) fn values(&self, planes: &[Tensor]) -> Vec<f64> {
        let k = self.columns as usize;
        let matrix = self.rows as usize * k;
        let values = |code: &dyn Fn(u32) -> f64, bits: usize, scale: &dyn Fn(usize) -> (f64, f64)| {
            let words = planes[0].to_u32();
            let codes = stream(&words, k, bits);
            codes
                .enumerate()
                .map(|(i, c)| code(c) * scale(i).0 + scale(i).1)
                .collect::<Vec<f64>>()
        };
        match self.format {
            WeightFormat::Dense(_) => planes[0].to_f64(),
            WeightFormat::Ggml(ty) => {
                // Held against the `gguf` package by tests of their own.
                let mut values = vec![0.0; self.total_rows() * k];
                ggml::dequantize(ty, planes[0].bytes(), &mut values).expect("whole blocks of a known type");
                values.into_iter().map(f64::from).collect()
            }
            WeightFormat::Affine { format, .. } => {
                let (scales, biases) = (planes[1].to_f64(), planes[2].to_f64());
                let group = format.group_size() as usize;
                values(&f64::from, format.bits() as usize, &|i| {
                    (scales[i / group], biases[i / group])
                })
            }
            WeightFormat::Mxfp4 | WeightFormat::Mxfp8 => {
                let scales = planes[1].to_f64();
                let scale = |i: usize| (power(scales[i / 32]), 0.0);
                let is_four = self.format == WeightFormat::Mxfp4;
                values(
                    if is_four { &float4 } else { &float8 },
                    if is_four { 4 } else { 8 },
                    &scale,
                )
            }
            WeightFormat::Nvfp4 { global_scale } => {
                let scales = planes[1].to_f64();
                let global = |i: usize| {
                    if global_scale {
                        planes[2].to_f64()[i / matrix] / 2688.0
                    } else {
                        1.0
                    }
                };
                let globals: Vec<f64> = (0..self.experts.unwrap_or(1) as usize)
                    .map(|e| global(e * matrix))
                    .collect();
                values(&float4, 4, &|i| {
                    (float8(scales[i / 16] as u32) * globals[i / matrix], 0.0)
                })
            }
        }
    }
}

fn bytes(shape: &[usize], range: std::ops::Range<usize>, rng: &mut Rng) -> Tensor {
    let values = (0..shape.iter().product())
        .map(|_| rng.range(range.start, range.end) as u8)
        .collect();
    Tensor::from_bytes(DType::U8, shape, values)
}

/// Words of e4m3 codes, none of them NaN.
fn numbers8(shape: &[usize], rng: &mut Rng) -> Tensor {
    let number = |code: u8| if code & 127 == 127 { code & 128 } else { code };
    let bytes = (0..4 * shape.iter().product::<usize>())
        .map(|_| number(rng.bits() as u8))
        .collect();
    Tensor::from_bytes(DType::U32, shape, bytes)
}

/// The codes of rows of `k`, each row one stream of bits with the lowest first.
fn stream(words: &[u32], k: usize, bits: usize) -> impl Iterator<Item = u32> {
    let row_words = k * bits / 32;
    let rows = words.len() / row_words;
    (0..rows * k).map(move |i| {
        let row = &words[i / k * row_words..];
        (0..bits)
            .map(|b| i % k * bits + b)
            .enumerate()
            .map(|(b, at)| (row[at / 32] >> (at % 32) & 1) << b)
            .sum()
    })
}

/// e8m0. 255 is infinity, as in MLX.
fn power(code: f64) -> f64 {
    if code == 255.0 {
        f64::INFINITY
    } else {
        2f64.powf(code - 127.0)
    }
}

/// e2m1, by its definition.
fn float4(code: u32) -> f64 {
    small_float(code, 2, 1, 1)
}

/// e4m3 without infinities, by its definition.
fn float8(code: u32) -> f64 {
    if code & 127 == 127 {
        f64::NAN
    } else {
        small_float(code, 4, 3, 7)
    }
}

fn small_float(code: u32, exponent_bits: u32, mantissa_bits: u32, bias: i32) -> f64 {
    let mantissa = f64::from(code & ((1 << mantissa_bits) - 1)) / f64::from(1u32 << mantissa_bits);
    let exponent = (code >> mantissa_bits & ((1 << exponent_bits) - 1)) as i32;
    let size = match exponent {
        0 => mantissa * 2f64.powi(1 - bias),
        _ => (1.0 + mantissa) * 2f64.powi(exponent - bias),
    };
    if code >> (exponent_bits + mantissa_bits) & 1 == 1 {
        -size
    } else {
        size
    }
}
