//! Tensors of a model folder as the weights of layers, used in place.

use mlx_native::quant::Weight;
use mlx_native::weights::{ModelWeights, WeightLoader};
use mlx_native::{CommandEncoder, DType, KernelRegistry, MlxBuffer, MlxDevice, ops};

use super::linear::{Embedding, Linear};
use crate::error::{LmError, Result};
use crate::quantization::QuantizationConfig;

const FLOATS: &[DType] = &[DType::F32, DType::F16, DType::BF16];

/// Hands out the weights of a model by their path.
pub(super) struct Loader<'a> {
    pub device: &'a MlxDevice,
    registry: &'a mut KernelRegistry,
    /// Casts that are still to run.
    pub encoder: CommandEncoder,
    /// The dtype of activations.
    dtype: DType,
    tensors: WeightLoader<'a>,
    quantization: &'a QuantizationConfig,
}

impl<'a> Loader<'a> {
    pub fn new(
        device: &'a MlxDevice,
        registry: &'a mut KernelRegistry,
        weights: &'a ModelWeights,
        quantization: &'a QuantizationConfig,
        dtype: DType,
    ) -> Result<Self> {
        let encoder = device.command_encoder()?;
        let tensors = WeightLoader::new(weights, device);
        Ok(Loader {
            device,
            registry,
            encoder,
            dtype,
            tensors,
            quantization,
        })
    }

    /// A vector in the dtype of activations: norms and biases, small enough to be cast when they differ.
    pub fn vector(&mut self, name: &str, len: usize) -> Result<MlxBuffer> {
        let tensor = self.tensors.load_as(name, FLOATS, &[len])?;
        if tensor.dtype() == self.dtype {
            return Ok(tensor);
        }
        let cast = self.device.alloc_tensor(self.dtype, &[len])?;
        let params = ops::copy::CopyParams {
            n_elements: u32_of(len)?,
        };
        ops::copy::copy(
            &mut self.encoder,
            self.registry,
            self.device,
            &tensor,
            &cast,
            &params,
        )?;
        Ok(cast)
    }

    /// `path.weight`, dense or quantised, `[outputs, inputs]`, with `path.bias` if it is wanted.
    pub fn linear(&mut self, path: &str, outputs: usize, inputs: usize, bias: bool) -> Result<Linear> {
        let bias = if bias {
            Some(self.vector(&format!("{path}.bias"), outputs)?)
        } else {
            None
        };
        Ok(Linear {
            weight: self.weight(path, outputs, inputs)?,
            bias,
        })
    }

    /// `path.weight` as an embedding of `vocab_size` rows of `dim`.
    pub fn embedding(&mut self, path: &str, vocab_size: usize, dim: usize) -> Result<Embedding> {
        Ok(Embedding {
            table: self.weight(path, vocab_size, dim)?,
        })
    }

    /// `path.weight` and what belongs to it, `[rows, columns]`, in the format that the checkpoint has.
    fn weight(&mut self, path: &str, rows: usize, columns: usize) -> Result<Weight> {
        let name = format!("{path}.weight");
        let spec = self
            .quantization
            .for_module(path, columns, self.tensors.weights())?;
        let Some(spec) = spec else {
            let values = self.tensors.load_as(&name, FLOATS, &[rows, columns])?;
            return Ok(Weight::dense(values, &[rows, columns])?);
        };
        let scales = self.tensors.load(&format!("{path}.scales"))?;
        let format = spec.format(
            scales.dtype(),
            self.tensors.weights().contains(&format!("{path}.global_scale")),
        )?;
        let mut planes = Vec::new();
        for plane in format.planes(columns)? {
            let shape: &[usize] = if plane.row == 0 { &[1] } else { &[rows, plane.row] };
            let name = format!("{path}.{}", plane.name);
            planes.push(match plane.row {
                // A scalar, or a list of one.
                0 => self.tensors.load(&name)?,
                _ => self.tensors.load_as(&name, &[plane.dtype], shape)?,
            });
        }
        Ok(Weight::new(format, planes, &[rows, columns])?)
    }
}

pub(super) fn u32_of(n: usize) -> Result<u32> {
    u32::try_from(n).map_err(|_| LmError::InvalidArgument(format!("{n} exceeds 32 bits")))
}
