//! Tensors of safetensors files, packed as MLX packs them or dense.

use std::collections::BTreeSet;

use mlx_native::quant::Weight;
use mlx_native::weights::{ModelWeights, WeightLoader};
use mlx_native::{DType, MlxBuffer, MlxDevice};

use super::stored::{Known, StoredTensors};
use super::{Source, left};
use crate::error::{LmError, Result};
use crate::quantization::QuantizationConfig;

const FLOATS: &[DType] = &[DType::F32, DType::F16, DType::BF16];

/// Hands out the tensors of safetensors files, where they are; those that are made of others are made.
pub(crate) struct MlxSource<'a> {
    loader: WeightLoader<'a>,
    stored: Option<&'a StoredTensors>,
    quantization: &'a QuantizationConfig,
    read: BTreeSet<String>,
}

impl<'a> MlxSource<'a> {
    /// Tensors of files.
    pub fn new(
        weights: &'a ModelWeights,
        quantization: &'a QuantizationConfig,
        device: &'a MlxDevice,
    ) -> Self {
        MlxSource {
            loader: WeightLoader::new(weights, device),
            stored: None,
            quantization,
            read: BTreeSet::new(),
        }
    }

    /// The same with tensors made of others.
    pub fn of(
        stored: &'a StoredTensors,
        quantization: &'a QuantizationConfig,
        device: &'a MlxDevice,
    ) -> Self {
        MlxSource {
            stored: Some(stored),
            ..Self::new(stored.weights(), quantization, device)
        }
    }

    fn known(&self) -> &'a dyn Known {
        match self.stored {
            Some(stored) => stored,
            None => self.loader.weights(),
        }
    }
}

impl Source for MlxSource<'_> {
    fn shape(&self, name: &str) -> Option<&[usize]> {
        Some(self.known().known(name)?.1)
    }

    fn load(&mut self, name: &str, dtypes: &[DType], shape: &[usize]) -> Result<MlxBuffer> {
        self.read.insert(name.to_owned());
        let own = match self.stored {
            None => Some(name),
            // What is nowhere is missed under the name that it was asked for.
            Some(stored) => stored.in_file(name).or((!stored.contains(name)).then_some(name)),
        };
        let (Some(stored), None) = (self.stored, own) else {
            let hidden = self.stored.is_some_and(|stored| !stored.contains(name));
            if hidden && self.loader.weights().contains(name) {
                return Err(LmError::Weights(format!("{name} is missing")));
            }
            return Ok(self.loader.load_as(own.unwrap_or(name), dtypes, shape)?);
        };
        let info = stored.info(name);
        let dtype = info.and_then(|i| i.dtype.dtype()).filter(|d| dtypes.contains(d));
        let (Some(info), Some(dtype)) = (info.filter(|i| i.shape == shape), dtype) else {
            let found = info.map_or("nothing".to_owned(), |i| format!("{} {:?}", i.dtype, i.shape));
            let wanted: Vec<&str> = dtypes.iter().map(|d| d.name()).collect();
            return Err(LmError::Weights(format!(
                "{name}: found {found}, wanted {} {shape:?}",
                wanted.join(" or ")
            )));
        };
        let bytes = stored.bytes(name)?;
        let device = self.loader.device();
        let mut buffer = device.alloc_buffer(bytes.len(), DType::U8, vec![bytes.len()])?;
        buffer.write(0, &bytes)?;
        Ok(buffer.view(0, dtype, info.shape.to_vec())?)
    }

    fn weight(&mut self, path: &str, lead: &[usize], columns: usize) -> Result<Weight> {
        let shape = [lead, &[columns]].concat();
        let weights = self.known();
        let Some(spec) = self.quantization.for_module(path, columns, weights)? else {
            let values = self.load(&format!("{path}.weight"), FLOATS, &shape)?;
            return Ok(Weight::dense(values, &shape)?);
        };
        let format = spec.weight_format(path, weights)?;
        let mut planes = Vec::new();
        for plane in format.planes(columns)? {
            let name = format!("{path}.{}", plane.name);
            // One for the whole matrix is a scalar, or a list of one.
            let stored = match plane.row {
                0 => self.shape(&name).map_or(vec![], <[usize]>::to_vec),
                row => [lead, &[row]].concat(),
            };
            planes.push(self.load(&name, &[plane.dtype], &stored)?);
        }
        Ok(Weight::new(format, planes, &shape)?)
    }

    fn unread(&self) -> Vec<String> {
        match self.stored {
            Some(stored) => left(stored.names(), &self.read),
            None => left(self.loader.weights().names(), &self.read),
        }
    }
}
