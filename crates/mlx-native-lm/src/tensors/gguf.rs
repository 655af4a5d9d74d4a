//! Tensors of GGUF files under MLX's names.

use std::collections::{BTreeSet, HashMap};

use mlx_native::gguf::{GgufModel, TensorInfo};
use mlx_native::quant::{GgmlType, Weight, WeightFormat};
use mlx_native::{DType, MlxBuffer, MlxDevice};

use super::{Source, left};
use crate::error::{LmError, Result};

/// The tensors of a GGUF model by MLX's names. A tensor that has none keeps its own, so that it is found to be unread.
#[derive(Debug)]
pub(crate) struct GgufTensors {
    model: GgufModel,
    /// MLX's name to the file's.
    names: HashMap<String, String>,
}

impl GgufTensors {
    /// Puts a model together with `names`: pairs of MLX's name and the file's.
    ///
    /// # Errors
    /// [`LmError::Weights`] when two tensors get one name.
    pub fn new(model: GgufModel, names: impl IntoIterator<Item = (String, String)>) -> Result<Self> {
        let mut by_name = HashMap::new();
        for (name, stored) in names {
            if let Some(other) = by_name.insert(name.clone(), stored.clone()) {
                return Err(LmError::Weights(format!(
                    "{}: tensors {other:?} and {stored:?} are both {name}",
                    model.first().path().display()
                )));
            }
        }
        Ok(GgufTensors {
            model,
            names: by_name,
        })
    }

    /// MLX's names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.keys().map(String::as_str)
    }

    pub fn contains(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    pub fn dtype(&self, name: &str) -> Option<DType> {
        match self.info(name)?.ggml_type {
            GgmlType::F16 => Some(DType::F16),
            GgmlType::BF16 => Some(DType::BF16),
            _ => Some(DType::F32),
        }
    }

    pub fn total_bytes(&self) -> usize {
        let stored = self.names.values();
        stored
            .filter_map(|stored| Some(self.model.tensor_info(stored)?.byte_len))
            .sum()
    }

    /// What is known of a tensor; `None` when it is not there or of an unknown type.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.model.tensor_info(self.names.get(name)?)
    }

    /// The bytes of a tensor, where they are.
    pub fn bytes(&self, name: &str) -> Result<&[u8]> {
        let (stored, _) = self.find(name)?;
        Ok(self.model.tensor_bytes(stored)?)
    }

    /// The tensor's own name and what is known of it.
    fn find(&self, name: &str) -> Result<(&str, &TensorInfo)> {
        let file = self.model.first().path().display();
        let Some(stored) = self.names.get(name) else {
            return Err(LmError::Weights(format!("{file}: no tensor for {name}")));
        };
        match self.model.tensor_info(stored) {
            Some(info) => Ok((stored, info)),
            // The file says which type it is that nobody knows.
            None => {
                self.model.tensor_bytes(stored)?;
                Err(LmError::Weights(format!("{file}: no tensor {stored:?}")))
            }
        }
    }
}

/// Hands out the tensors of GGUF files, where they are.
pub(crate) struct GgufSource<'a> {
    tensors: &'a GgufTensors,
    device: &'a MlxDevice,
    /// The wrapped bytes of each file, by its index.
    wrapped: HashMap<usize, MlxBuffer>,
    read: BTreeSet<String>,
}

impl<'a> GgufSource<'a> {
    pub fn new(tensors: &'a GgufTensors, device: &'a MlxDevice) -> Self {
        GgufSource {
            tensors,
            device,
            wrapped: HashMap::new(),
            read: BTreeSet::new(),
        }
    }

    /// The bytes of a tensor as elements of `dtype`, in place where they are aligned for it.
    fn elements(&mut self, stored: &str, dtype: DType, shape: Vec<usize>) -> Result<MlxBuffer> {
        let bytes = self.tensors.model.tensor_bytes(stored)?;
        let address = bytes.as_ptr().addr();
        let shards = self.tensors.model.shards();
        let inside = |file: &[u8]| {
            address
                .checked_sub(file.as_ptr().addr())
                .filter(|at| *at < file.len())
        };
        let place = (shards.iter().enumerate()).find_map(|(i, shard)| Some((i, inside(shard.file_bytes())?)));
        let aligned = |at: usize| at.is_multiple_of(dtype.size_of());
        if let Some((shard, at)) = place.filter(|(_, at)| aligned(*at) && aligned(address)) {
            if !self.wrapped.contains_key(&shard) {
                let whole = shards[shard].file_bytes().wrap(self.device)?;
                self.wrapped.insert(shard, whole);
            }
            return Ok(self.wrapped[&shard].view(at, dtype, shape)?);
        }
        let mut copy = self
            .device
            .alloc_buffer(bytes.len(), DType::U8, vec![bytes.len()])?;
        copy.write(0, bytes)?;
        Ok(copy.view(0, dtype, shape)?)
    }

    fn fits(&self, stored: &str, info: &TensorInfo, shape: &[usize]) -> Result<()> {
        if info.shape == shape && info.byte_len > 0 {
            return Ok(());
        }
        Err(LmError::Weights(format!(
            "{}: tensor {stored:?} is {:?}, wanted {shape:?}",
            self.tensors.model.first().path().display(),
            info.shape
        )))
    }
}

impl Source for GgufSource<'_> {
    fn shape(&self, name: &str) -> Option<&[usize]> {
        Some(self.tensors.info(name)?.shape.as_slice())
    }

    fn load(&mut self, name: &str, dtypes: &[DType], shape: &[usize]) -> Result<MlxBuffer> {
        self.read.insert(name.to_owned());
        let (stored, info) = self.tensors.find(name)?;
        self.fits(stored, info, shape)?;
        let plain = match info.ggml_type {
            GgmlType::F32 => Some(DType::F32),
            GgmlType::F16 => Some(DType::F16),
            GgmlType::BF16 => Some(DType::BF16),
            _ => None,
        };
        match plain {
            Some(dtype) if dtypes.contains(&dtype) => self.elements(stored, dtype, shape.to_vec()),
            // A vector in blocks: unpacked.
            _ if dtypes.contains(&DType::F32) => {
                Ok(self.tensors.model.load_tensor_f32(stored, self.device)?)
            }
            _ => Err(LmError::Weights(format!(
                "{}: tensor {stored:?} is {}, wanted {}",
                self.tensors.model.first().path().display(),
                info.ggml_type,
                dtypes.iter().map(|d| d.name()).collect::<Vec<_>>().join(" or ")
            ))),
        }
    }

    fn weight(&mut self, path: &str, lead: &[usize], columns: usize) -> Result<Weight> {
        let name = format!("{path}.weight");
        let (stored, info) = self.tensors.find(&name)?;
        let shape = [lead, &[columns]].concat();
        self.fits(stored, info, &shape)?;
        let format = WeightFormat::ggml(info.ggml_type).map_err(|e| {
            let file = self.tensors.model.first().path().display();
            LmError::Unsupported(format!("{file}: tensor {stored:?}: {e}"))
        })?;
        let planes = format.planes(columns)?;
        let [plane] = planes.as_slice() else {
            return Err(LmError::Weights(format!("{name}: {format} has several planes")));
        };
        let buffer = self.elements(stored, plane.dtype, vec![info.byte_len / plane.dtype.size_of()])?;
        self.read.insert(name);
        Ok(Weight::new(format, vec![buffer], &shape)?)
    }

    fn unread(&self) -> Vec<String> {
        left(self.tensors.names(), &self.read)
    }
}
