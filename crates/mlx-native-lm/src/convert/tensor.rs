//! One tensor, converted: read, cast, packed or unpacked.

use bytemuck::Pod;
use half::{bf16, f16};
use mlx_native::DType;
use mlx_native::quant::affine::{dequantize, quantize};
use mlx_native::quant::floats::{dequantize_floats, quantize_floats};
use mlx_native::quant::ggml;
use mlx_native::quant::{AffineFormat, FloatFormat, GgmlType, WeightFormat};
use rayon::prelude::*;

use super::format_of;
use super::write::Entry;
use crate::adapter::{Adapter, LowRank};
use crate::error::{LmError, Result};
use crate::folder::ModelFolder;
use crate::quantization::QuantSpec;
use crate::tensors::{Part, Tensors};

/// Vectors that keep their dtype: corrections of routers.
const KEPT: &[&str] = &["e_score_correction_bias", "expert_bias"];

/// A tensor of the new folder.
pub(super) struct Converted {
    pub name: String,
    pub bytes: Vec<u8>,
}

/// Makes tensors of the new folder out of those of `source`.
pub(super) struct Converter<'a> {
    pub source: &'a ModelFolder,
    /// The dtype of what is not packed; `None`: its own.
    pub dtype: Option<DType>,
    pub unpack: bool,
    /// What is added to matrices.
    pub adapter: Option<&'a Adapter>,
}

impl Converter<'_> {
    /// The dtype of a part when it is not packed.
    fn target(&self, part: &Part) -> DType {
        let own = match part.format {
            WeightFormat::Dense(dtype) | WeightFormat::Affine { scales: dtype, .. } => dtype,
            WeightFormat::Ggml(_) => DType::F32,
            // What MLX unpacks small floats to.
            _ => DType::BF16,
        };
        if !part.matrix && KEPT.iter().any(|kept| part.path.contains(kept)) {
            return own;
        }
        match part.format {
            WeightFormat::Dense(_) | WeightFormat::Ggml(_) | WeightFormat::Affine { .. } => {
                self.dtype.unwrap_or(own)
            }
            _ => own,
        }
    }

    /// The format of a part in the new folder.
    fn format(&self, part: &Part, spec: Option<QuantSpec>) -> Result<WeightFormat> {
        let dtype = self.target(part);
        match (spec, part.format) {
            (Some(spec), _) => format_of(spec, dtype),
            (None, WeightFormat::Affine { format, .. }) if !self.unpack => Ok(WeightFormat::Affine {
                format,
                scales: dtype,
            }),
            (None, WeightFormat::Dense(_) | WeightFormat::Ggml(_)) => Ok(WeightFormat::Dense(dtype)),
            (None, packed) if !self.unpack => Ok(packed),
            _ => Ok(WeightFormat::Dense(dtype)),
        }
    }

    /// What a part becomes.
    pub fn entries(&self, part: &Part, spec: Option<QuantSpec>) -> Result<Vec<Entry>> {
        let format = self.format(part, spec)?;
        if !part.matrix {
            let dtype = self.target(part);
            return Ok(vec![Entry::new(&part.path, dtype, part.shape.clone())]);
        }
        let columns = part.shape.last().copied().unwrap_or(0);
        let lead = &part.shape[..part.shape.len() - 1];
        let planes = format.planes(columns)?;
        let entry = |plane: &mlx_native::quant::Plane| {
            let shape = match plane.row {
                0 => vec![],
                row => [lead, &[row]].concat(),
            };
            Entry::new(&format!("{}.{}", part.path, plane.name), plane.dtype, shape)
        };
        Ok(planes.iter().map(entry).collect())
    }

    /// The tensors that a part becomes.
    pub fn convert(&self, part: &Part, spec: Option<QuantSpec>) -> Result<Vec<Converted>> {
        let format = self.format(part, spec)?;
        if !part.matrix {
            let bytes = self.dense(part, &part.path)?;
            return Ok(vec![Converted {
                name: part.path.clone(),
                bytes,
            }]);
        }
        let columns = part.shape.last().copied().unwrap_or(0);
        let plane = |name: &str, bytes: Vec<u8>| Converted {
            name: format!("{}.{name}", part.path),
            bytes,
        };
        let packed = !matches!(part.format, WeightFormat::Dense(_) | WeightFormat::Ggml(_));
        let added = self.adapter.and_then(|a| a.of(&part.path));
        if packed && spec.is_none() && !self.unpack && added.is_none() {
            return self.kept(part, format);
        }
        let mut values = match part.format {
            WeightFormat::Dense(_) | WeightFormat::Ggml(_) => {
                self.dense(part, &format!("{}.weight", part.path))?
            }
            packed => cast(&self.unpacked(part, packed)?, DType::F32, self.target(part))?,
        };
        let dtype = self.target(part);
        if let Some(added) = added {
            values = fused(&values, dtype, added)?;
        }
        Ok(match format {
            WeightFormat::Dense(_) => vec![plane("weight", values)],
            WeightFormat::Affine { format, .. } => {
                let [weight, scales, biases] = affine(&values, dtype, columns, format)?;
                vec![
                    plane("weight", weight),
                    plane("scales", scales),
                    plane("biases", biases),
                ]
            }
            other => {
                let [weight, scales] = floats(&values, dtype, columns, float_format(other)?)?;
                vec![plane("weight", weight), plane("scales", scales)]
            }
        })
    }

    /// A packed matrix as it is, its scales and biases cast.
    fn kept(&self, part: &Part, format: WeightFormat) -> Result<Vec<Converted>> {
        let columns = part.shape.last().copied().unwrap_or(0);
        let (stored, wanted) = (part.format.planes(columns)?, format.planes(columns)?);
        let planes = stored.iter().zip(&wanted);
        planes
            .map(|(from, to)| {
                let name = format!("{}.{}", part.path, from.name);
                let bytes = self.source.tensors().read(&name)?;
                let bytes = match from.dtype == to.dtype {
                    true => bytes.into_owned(),
                    false => cast(&bytes, from.dtype, to.dtype)?,
                };
                Ok(Converted { name, bytes })
            })
            .collect()
    }

    /// A tensor that is not packed by MLX, in the dtype that it gets.
    fn dense(&self, part: &Part, name: &str) -> Result<Vec<u8>> {
        let tensors = self.source.tensors();
        let dtype = self.target(part);
        let Tensors::Gguf(gguf) = tensors else {
            let bytes = tensors.read(name)?;
            let own = match part.format {
                WeightFormat::Dense(own) => own,
                _ => DType::F32,
            };
            return cast(&bytes, own, dtype);
        };
        let ty = gguf.info(name).map_or(GgmlType::F32, |info| info.ggml_type);
        let bytes = tensors.read(name)?;
        let mut values = unpack_blocks(ty, &bytes)?;
        self.source.undo_gguf(name, &mut values);
        cast(bytemuck::cast_slice(&values), DType::F32, dtype)
    }

    /// The values of a packed matrix, as bytes of f32.
    fn unpacked(&self, part: &Part, format: WeightFormat) -> Result<Vec<u8>> {
        let columns = part.shape.last().copied().unwrap_or(0);
        let read = |plane: &str| self.source.tensors().read(&format!("{}.{plane}", part.path));
        let words: Vec<u32> = typed(&read("weight")?);
        let values = match format {
            WeightFormat::Affine { format, scales } => {
                // As MLX does: in the dtype of the scales, which are cast first.
                let to = self.target(part);
                let (s, b) = (
                    cast(&read("scales")?, scales, to)?,
                    cast(&read("biases")?, scales, to)?,
                );
                affine_values(&words, &s, &b, to, columns, format)?
            }
            WeightFormat::Nvfp4 { global_scale: true } => {
                let g = typed::<f32>(&read("global_scale")?).first().copied();
                dequantize_floats(&words, &read("scales")?, columns, FloatFormat::Nvfp4, g)?
            }
            other => dequantize_floats(&words, &read("scales")?, columns, float_format(other)?, None)?,
        };
        Ok(bytemuck::cast_slice(&values).to_vec())
    }
}

/// Runs `$body` with `$S` being the Rust type of `$dtype`, a float.
macro_rules! with_float {
    ($dtype:expr, $S:ident => $body:expr) => {
        match $dtype {
            DType::F16 => {
                type $S = f16;
                $body
            }
            DType::BF16 => {
                type $S = bf16;
                $body
            }
            _ => {
                type $S = f32;
                $body
            }
        }
    };
}

/// The values of an affine matrix with scales and biases of `dtype`. The product is rounded and then the sum, as MLX's CPU
/// computes it.
fn affine_values(
    words: &[u32],
    scales: &[u8],
    biases: &[u8],
    dtype: DType,
    k: usize,
    format: AffineFormat,
) -> Result<Vec<f32>> {
    let group = format.group_size() as usize;
    Ok(with_float!(dtype, S => {
        let (scales, biases) = (typed::<S>(scales), typed::<S>(biases));
        let zeros: Vec<S> = vec![bytemuck::Zeroable::zeroed(); scales.len()];
        let mut values = dequantize::<S>(words, &scales, &zeros, k, format)?;
        for (group, bias) in values.chunks_mut(group).zip(&biases) {
            for value in group {
                *value = rounded::<S>(rounded::<S>(*value) + wide(*bias));
            }
        }
        values
    }))
}

/// The nearest number that `S` has, ties to even.
fn rounded<S: Narrow + Into<f32>>(value: f32) -> f32 {
    S::narrow(value).into()
}

fn wide(value: impl Into<f32>) -> f32 {
    value.into()
}

/// The elements of a matrix with what an adapter adds, as bytes of `dtype`.
fn fused(values: &[u8], dtype: DType, low: &LowRank) -> Result<Vec<u8>> {
    let mut sums: Vec<f32> = typed(&cast(values, dtype, DType::F32)?);
    // The addition is rounded before it is added, as mlx-lm does it.
    let round = |value: f32| with_float!(dtype, S => rounded::<S>(value));
    let rows = sums
        .par_chunks_mut(low.inputs)
        .zip(low.b.par_chunks(low.rank))
        .enumerate();
    rows.for_each(|(row, (sums, b))| {
        let mut delta = vec![0f32; low.inputs];
        for (b, a) in b.iter().zip(low.a.chunks(low.inputs)) {
            delta.iter_mut().zip(a).for_each(|(d, a)| *d += low.scale * b * a);
        }
        sums.iter_mut()
            .zip(&delta)
            .for_each(|(s, d)| *s = round(*s + round(*d)));
        if let Some(length) = low.magnitude.as_ref().and_then(|m| m.get(row)) {
            let squares: f64 = sums.iter().map(|v| f64::from(*v) * f64::from(*v)).sum();
            let factor = (f64::from(*length) / squares.sqrt()) as f32;
            sums.iter_mut().for_each(|v| *v *= factor);
        }
    });
    cast(bytemuck::cast_slice(&sums), DType::F32, dtype)
}

/// Types that f32 is rounded to.
trait Narrow: Sized {
    fn narrow(value: f32) -> Self;
}

impl Narrow for f32 {
    fn narrow(value: f32) -> Self {
        value
    }
}

impl Narrow for f16 {
    fn narrow(value: f32) -> Self {
        f16::from_f32(value)
    }
}

impl Narrow for bf16 {
    fn narrow(value: f32) -> Self {
        bf16::from_f32(value)
    }
}

fn float_format(format: WeightFormat) -> Result<FloatFormat> {
    match format {
        WeightFormat::Mxfp4 => Ok(FloatFormat::Mxfp4),
        WeightFormat::Mxfp8 => Ok(FloatFormat::Mxfp8),
        WeightFormat::Nvfp4 { .. } => Ok(FloatFormat::Nvfp4),
        other => Err(LmError::Unsupported(format!("{other} as small floats"))),
    }
}

/// Elements of bytes at any place.
fn typed<T: Pod>(bytes: &[u8]) -> Vec<T> {
    let size = size_of::<T>();
    let mut values = vec![T::zeroed(); bytes.len() / size];
    let whole = values.len() * size;
    bytemuck::cast_slice_mut(&mut values).copy_from_slice(&bytes[..whole]);
    values
}

/// Words, scales and biases of values of `dtype`.
fn affine(values: &[u8], dtype: DType, k: usize, format: AffineFormat) -> Result<[Vec<u8>; 3]> {
    Ok(with_float!(dtype, S => {
        let q = quantize::<S>(&typed(values), k, format)?;
        [bytes_of(&q.weight), bytes_of(&q.scales), bytes_of(&q.biases)]
    }))
}

/// Words and scales of values of `dtype`.
fn floats(values: &[u8], dtype: DType, k: usize, format: FloatFormat) -> Result<[Vec<u8>; 2]> {
    Ok(with_float!(dtype, S => {
        let q = quantize_floats::<S>(&typed(values), k, format, None)?;
        [bytes_of(&q.weight), q.scales]
    }))
}

fn bytes_of<T: Pod>(values: &[T]) -> Vec<u8> {
    bytemuck::cast_slice(values).to_vec()
}

/// The values of blocks of GGML.
fn unpack_blocks(ty: GgmlType, bytes: &[u8]) -> Result<Vec<f32>> {
    let (block, bytes_of_block) = (ty.block_values() as usize, ty.block_bytes() as usize);
    let mut values = vec![0f32; bytes.len() / bytes_of_block * block];
    const BLOCKS: usize = 1 << 10;
    let parts = values
        .par_chunks_mut(BLOCKS * block)
        .zip(bytes.par_chunks(BLOCKS * bytes_of_block));
    parts.try_for_each(|(values, bytes)| ggml::dequantize(ty, bytes, values))?;
    Ok(values)
}

/// Floats of one dtype as another, to nearest, ties to even.
fn cast(bytes: &[u8], from: DType, to: DType) -> Result<Vec<u8>> {
    if from == to {
        return Ok(bytes.to_vec());
    }
    let narrow = |wide: &mut dyn FnMut(usize) -> f32, n: usize| -> Vec<u8> {
        match to {
            DType::F16 => (0..n)
                .flat_map(|i| f16::from_f32(wide(i)).to_le_bytes())
                .collect(),
            DType::BF16 => (0..n)
                .flat_map(|i| bf16::from_f32(wide(i)).to_le_bytes())
                .collect(),
            _ => (0..n).flat_map(|i| wide(i).to_le_bytes()).collect(),
        }
    };
    let size = from.size_of();
    let n = bytes.len() / size;
    let two = |i: usize| u16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]);
    Ok(match from {
        DType::F16 => narrow(&mut |i| f16::from_bits(two(i)).to_f32(), n),
        DType::BF16 => narrow(&mut |i| bf16::from_bits(two(i)).to_f32(), n),
        DType::F32 => narrow(
            &mut |i| {
                let b = &bytes[4 * i..4 * i + 4];
                f32::from_le_bytes([b[0], b[1], b[2], b[3]])
            },
            n,
        ),
        other => return Err(LmError::Unsupported(format!("{other} as floats"))),
    })
}
