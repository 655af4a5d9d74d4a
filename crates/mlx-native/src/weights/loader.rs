//! Weights on a device.

use std::collections::HashMap;

use super::ModelWeights;
use super::safetensors::Quoted;
use crate::buffer::MlxBuffer;
use crate::device::MlxDevice;
use crate::dtype::DType;
use crate::error::{MlxError, Result};

/// Makes buffers of tensors: views of the file where it is, or copies where the file's alignment forces them.
///
/// A tensor is used in place when its first byte lies at a multiple of its element size. Files that MLX writes often
/// break that, since MLX does not pad their header: three of four have their `U32` weights at odd places, and are copied
/// tensor by tensor, the pages of the file being given back to the system behind each copy. A file whose header is
/// padded with spaces to a multiple of 64 bytes is never copied.
pub struct WeightLoader<'a> {
    weights: &'a ModelWeights,
    device: &'a MlxDevice,
    /// The wrapped bytes of each file, by its index.
    wrapped: HashMap<usize, MlxBuffer>,
    copied_bytes: usize,
}

impl<'a> WeightLoader<'a> {
    /// A loader of `weights` for `device`.
    #[must_use]
    pub fn new(weights: &'a ModelWeights, device: &'a MlxDevice) -> Self {
        WeightLoader {
            weights,
            device,
            wrapped: HashMap::new(),
            copied_bytes: 0,
        }
    }

    /// The weights it loads from.
    #[must_use]
    pub fn weights(&self) -> &'a ModelWeights {
        self.weights
    }

    /// The device it loads for.
    #[must_use]
    pub fn device(&self) -> &'a MlxDevice {
        self.device
    }

    /// Bytes of tensors that had to be copied so far.
    #[must_use]
    pub fn copied_bytes(&self) -> usize {
        self.copied_bytes
    }

    /// A read-only buffer of a tensor, with its dtype and shape.
    ///
    /// # Errors
    /// [`MlxError::SafetensorsError`] when there is no such tensor; [`MlxError::UnsupportedDtype`] when buffers have no
    /// such element type; the device's own when it cannot take the file or has no memory.
    pub fn load(&mut self, name: &str) -> Result<MlxBuffer> {
        let shard = self.weights.find(name)?;
        let file = &self.weights.shards()[shard];
        let info = file
            .info(name)
            .ok_or_else(|| MlxError::SafetensorsError(format!("no tensor {}", Quoted(name))))?;
        let Some(dtype) = info.dtype.dtype() else {
            return Err(MlxError::UnsupportedDtype(format!(
                "{}: tensor {} is {}",
                file.path().display(),
                Quoted(name),
                info.dtype
            )));
        };
        let bytes = file.bytes(name)?;
        if bytes.is_empty() {
            return Err(MlxError::SafetensorsError(format!(
                "{}: tensor {} has no elements",
                file.path().display(),
                Quoted(name)
            )));
        }
        // Views ask for a multiple from the start of the file, kernels for one of the address.
        let aligned = |at: usize| at.is_multiple_of(dtype.size_of());
        if !aligned(bytes.as_ptr().addr()) || !aligned(info.range.start) {
            let copy = self.copy(bytes, dtype, &info.shape)?;
            file.file_bytes().release(info.range.clone());
            return Ok(copy);
        }
        if !self.wrapped.contains_key(&shard) {
            self.wrapped.insert(shard, file.file_bytes().wrap(self.device)?);
        }
        self.wrapped[&shard].view(info.range.start, dtype, info.shape.clone())
    }

    /// A tensor of the shape and one of the dtypes that are wanted.
    ///
    /// # Errors
    /// As [`load`](Self::load); also [`MlxError::SafetensorsError`], saying what was found and what was wanted.
    pub fn load_as(&mut self, name: &str, dtypes: &[DType], shape: &[usize]) -> Result<MlxBuffer> {
        let file = &self.weights.shards()[self.weights.find(name)?];
        if let Some(info) = file.info(name)
            && (info.shape != shape || info.dtype.dtype().is_none_or(|d| !dtypes.contains(&d)))
        {
            let wanted: Vec<&str> = dtypes.iter().map(|d| d.name()).collect();
            return Err(MlxError::SafetensorsError(format!(
                "{}: tensor {} is {} {:?}, wanted {} {shape:?}",
                file.path().display(),
                Quoted(name),
                info.dtype,
                info.shape,
                wanted.join(" or ")
            )));
        }
        self.load(name)
    }

    fn copy(&mut self, bytes: &[u8], dtype: DType, shape: &[usize]) -> Result<MlxBuffer> {
        let mut bytes_buffer = self
            .device
            .alloc_buffer(bytes.len(), DType::U8, vec![bytes.len()])?;
        bytes_buffer.write(0, bytes)?;
        self.copied_bytes += bytes.len();
        bytes_buffer.view(0, dtype, shape.to_vec())
    }
}
