//! Where the tensors of a model are: safetensors files of MLX, or blocks of a GGUF file, asked for by MLX's names.

mod dry;
mod foreign;
mod gguf;
mod layout;
mod layouts;
mod made;
mod mlx;
mod random;
mod stored;

use std::borrow::Cow;
use std::collections::BTreeSet;

use mlx_native::quant::{Weight, WeightFormat};
use mlx_native::{DType, MlxBuffer, MlxDevice};

use crate::adapter::LowRank;
use crate::error::{LmError, Result};
use crate::quantization::QuantizationConfig;

pub use dry::{Part, Plan};
pub(crate) use gguf::{GgufSource, GgufTensors};
pub(crate) use layout::generation;
pub(crate) use mlx::MlxSource;
pub use random::RandomFormat;
pub(crate) use random::{RandomSource, RandomTensor};
pub use stored::Known;
pub(crate) use stored::StoredTensors;

/// What hands out tensors by the names that MLX's checkpoints give them. Whoever asks says what it wants; a tensor that is
/// something else is an error that names it.
pub(crate) trait Source {
    /// The shape of a tensor that is not packed; `None` when it is not there, or when any shape will do.
    fn shape(&self, name: &str) -> Option<&[usize]>;

    /// A tensor of the shape and one of the dtypes that are wanted.
    fn load(&mut self, name: &str, dtypes: &[DType], shape: &[usize]) -> Result<MlxBuffer>;

    /// The matrix, or with more than one extent in `lead` the stack of matrices, `path.weight` with what belongs to it:
    /// `[lead.., columns]`, in the format that it is stored in.
    fn weight(&mut self, path: &str, lead: &[usize], columns: usize) -> Result<Weight>;

    /// What an adapter adds to the matrix at `path`.
    fn low_rank(&self, _path: &str) -> Option<&LowRank> {
        None
    }

    /// The names of tensors that are there and were not asked for.
    fn unread(&self) -> Vec<String>;
}

/// The tensors of a model that was opened.
#[derive(Debug)]
pub(crate) enum Tensors {
    /// Safetensors files.
    Mlx(StoredTensors),
    /// One GGUF file or several.
    Gguf(GgufTensors),
}

impl Tensors {
    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        match self {
            Tensors::Mlx(weights) => weights.contains(name),
            Tensors::Gguf(tensors) => tensors.contains(name),
        }
    }

    /// Bytes of all tensors together.
    pub fn total_bytes(&self) -> usize {
        match self {
            Tensors::Mlx(weights) => weights.total_bytes(),
            Tensors::Gguf(tensors) => tensors.total_bytes(),
        }
    }

    /// The dtype of a tensor that is not packed.
    pub fn dtype(&self, name: &str) -> Option<DType> {
        match self {
            Tensors::Mlx(weights) => weights.info(name)?.dtype.dtype(),
            Tensors::Gguf(tensors) => tensors.dtype(name),
        }
    }

    /// The bytes of a tensor, as they are stored.
    pub fn read(&self, name: &str) -> Result<Cow<'_, [u8]>> {
        match self {
            Tensors::Mlx(weights) => weights.bytes(name),
            Tensors::Gguf(tensors) => Ok(Cow::Borrowed(tensors.bytes(name)?)),
        }
    }

    /// The names of all tensors.
    pub fn names(&self) -> Vec<String> {
        match self {
            Tensors::Mlx(weights) => weights.names().map(str::to_owned).collect(),
            Tensors::Gguf(tensors) => tensors.names().map(str::to_owned).collect(),
        }
    }

    /// How the matrix or stack `path` of `shape` is stored.
    pub fn format(
        &self,
        path: &str,
        shape: &[usize],
        quantization: &QuantizationConfig,
    ) -> Result<WeightFormat> {
        let columns = shape.last().copied().unwrap_or(0);
        let name = format!("{path}.weight");
        let fits = |found: Option<&[usize]>| match found {
            Some(found) if found == shape => Ok(()),
            Some(found) => Err(LmError::Weights(format!(
                "{name}: found {found:?}, wanted {shape:?}"
            ))),
            None => Err(LmError::Weights(format!("{name} is missing"))),
        };
        match self {
            Tensors::Mlx(weights) => match quantization.for_module(path, columns, weights)? {
                Some(spec) => spec.weight_format(path, weights),
                None => {
                    let info = weights.info(&name);
                    fits(info.map(|i| i.shape))?;
                    let dtype = info.and_then(|i| i.dtype.dtype());
                    Ok(WeightFormat::dense(dtype.unwrap_or(DType::U8))?)
                }
            },
            Tensors::Gguf(tensors) => {
                let info = tensors.info(&name);
                fits(info.map(|i| i.shape.as_slice()))?;
                let ty = info.map_or(mlx_native::quant::GgmlType::F32, |i| i.ggml_type);
                Ok(WeightFormat::ggml(ty)?)
            }
        }
    }

    /// The names and bytes of all tensors as the files have them.
    pub fn raw(&self) -> Result<Vec<(String, &[u8])>> {
        match self {
            Tensors::Mlx(stored) => {
                let weights = stored.weights();
                let each = |name: &str| Ok((name.to_owned(), weights.bytes(name)?));
                weights.names().map(each).collect()
            }
            Tensors::Gguf(tensors) => {
                let each = |name: &str| Ok((name.to_owned(), tensors.bytes(name)?));
                tensors.names().map(each).collect()
            }
        }
    }

    /// A source for `device`; `quantization` says how the tensors of MLX are packed.
    pub fn source<'a>(
        &'a self,
        device: &'a MlxDevice,
        quantization: &'a QuantizationConfig,
    ) -> Box<dyn Source + 'a> {
        match self {
            Tensors::Mlx(weights) => Box::new(MlxSource::of(weights, quantization, device)),
            Tensors::Gguf(tensors) => Box::new(GgufSource::new(tensors, device)),
        }
    }
}

/// The names among `all` that are not in `read`.
fn left<'a>(all: impl Iterator<Item = &'a str>, read: &BTreeSet<String>) -> Vec<String> {
    all.filter(|name| !read.contains(*name))
        .map(str::to_owned)
        .collect()
}
