//! Tensors of a model folder as buffers of a device, used in place.

use mlx_native::weights::ModelWeights;
use mlx_native::{CommandEncoder, DType, KernelRegistry, MlxBuffer, MlxDevice, ops};

use super::linear::{Embedding, Linear, Quantized};
use crate::error::{LmError, Result};
use crate::quantization::Quantization;

/// Hands out the tensors of a model by name.
pub(super) struct Loader<'a> {
    pub device: &'a MlxDevice,
    pub registry: &'a mut KernelRegistry,
    /// Casts that are still to run.
    pub encoder: CommandEncoder,
    /// The dtype of activations.
    pub dtype: DType,
    weights: &'a ModelWeights,
    quantization: &'a Quantization,
    /// One buffer over each shard.
    shards: Vec<MlxBuffer>,
}

impl<'a> Loader<'a> {
    pub fn new(
        device: &'a MlxDevice,
        registry: &'a mut KernelRegistry,
        weights: &'a ModelWeights,
        quantization: &'a Quantization,
        dtype: DType,
    ) -> Result<Self> {
        let shards = weights.shards().iter().map(|shard| shard.wrap(device)).collect::<mlx_native::Result<_>>()?;
        let encoder = device.command_encoder()?;
        Ok(Loader { device, registry, encoder, dtype, weights, quantization, shards })
    }

    /// The tensor `name` where it lies in its shard.
    fn tensor(&self, name: &str) -> Result<MlxBuffer> {
        let (shard, info) =
            self.weights.find(name).ok_or_else(|| LmError::Weights(format!("tensor {name:?} is missing")))?;
        let dtype = info.dtype.to_buffer_dtype().map_err(|e| LmError::Weights(format!("tensor {name:?}: {e}")))?;
        let view = self.shards[shard]
            .view(info.range.start, dtype, info.shape.clone())
            .map_err(|e| LmError::Weights(format!("tensor {name:?}: {e}")))?;
        Ok(view)
    }

    fn shaped(&self, name: &str, shape: &[usize]) -> Result<MlxBuffer> {
        let tensor = self.tensor(name)?;
        if tensor.shape() == shape {
            return Ok(tensor);
        }
        Err(LmError::Weights(format!("tensor {name:?} has shape {:?}, it must have {shape:?}", tensor.shape())))
    }

    fn float(&self, name: &str, shape: &[usize]) -> Result<MlxBuffer> {
        let tensor = self.shaped(name, shape)?;
        if tensor.dtype().is_float() {
            return Ok(tensor);
        }
        Err(LmError::Weights(format!("tensor {name:?} is {}, it must be f32, f16 or bf16", tensor.dtype())))
    }

    /// A vector in the dtype of activations: norms and biases, small enough to be cast when they differ.
    pub fn vector(&mut self, name: &str, len: usize) -> Result<MlxBuffer> {
        let tensor = self.float(name, &[len])?;
        if tensor.dtype() == self.dtype {
            return Ok(tensor);
        }
        let cast = self.device.alloc_tensor(self.dtype, &[len])?;
        let params = ops::copy::CopyParams { n_elements: u32_of(len)? };
        ops::copy::copy(&mut self.encoder, self.registry, self.device, &tensor, &cast, &params)?;
        Ok(cast)
    }

    /// `path.weight`, dense or quantised, `[outputs, inputs]`, with `path.bias` if it is wanted.
    pub fn linear(&mut self, path: &str, outputs: usize, inputs: usize, bias: bool) -> Result<Linear> {
        let bias = if bias { Some(self.vector(&format!("{path}.bias"), outputs)?) } else { None };
        let table = self.table(path, outputs, inputs)?;
        Ok(Linear { table, bias, outputs, inputs })
    }

    /// `path.weight` as an embedding of `vocab_size` rows of `dim`.
    pub fn embedding(&mut self, path: &str, vocab_size: usize, dim: usize) -> Result<Embedding> {
        Ok(Embedding { table: self.table(path, vocab_size, dim)?, vocab_size, dim })
    }

    fn table(&mut self, path: &str, rows: usize, columns: usize) -> Result<super::linear::Table> {
        use super::linear::Table;
        let weight = format!("{path}.weight");
        let Some(spec) = self.quantization.for_module(path, self.weights)? else {
            return Ok(Table::Dense(self.float(&weight, &[rows, columns])?));
        };
        let (bits, group_size) = spec.affine(path)?;
        let (group, width) = (group_size as usize, bits as usize);
        if !columns.is_multiple_of(group) {
            return Err(LmError::Weights(format!("{path}: {columns} columns are no multiple of group size {group}")));
        }
        let packed = self.shaped(&weight, &[rows, columns * width / 32])?;
        if packed.dtype() != DType::U32 {
            return Err(LmError::Weights(format!("tensor {weight:?} is {}, packed weights are u32", packed.dtype())));
        }
        let groups = [rows, columns / group];
        let scales = self.float(&format!("{path}.scales"), &groups)?;
        let biases = self.float(&format!("{path}.biases"), &groups)?;
        if scales.dtype() != biases.dtype() {
            return Err(LmError::Weights(format!(
                "{path}: scales are {}, biases {}, they must be the same",
                scales.dtype(),
                biases.dtype()
            )));
        }
        Ok(Table::Quantized(Quantized { weight: packed, scales, biases, bits, group_size }))
    }
}

pub(super) fn u32_of(n: usize) -> Result<u32> {
    u32::try_from(n).map_err(|_| LmError::Invalid(format!("{n} exceeds 32 bits")))
}
