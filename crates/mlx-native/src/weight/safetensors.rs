//! Safetensors files with 0.1's methods: tensors are copied into buffers of their own.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::buffer::MlxBuffer;
use crate::device::MlxDevice;
use crate::dtype::DType;
use crate::error::{MlxError, Result, invalid};
use crate::weights::{self, FileBytes, TensorType};

/// A copy of `data` in a buffer of the device.
///
/// # Errors
/// [`MlxError::InvalidArgument`] for no data; what the device says to the allocation.
pub fn safetensors_to_metal_buffer(
    device: &MlxDevice,
    data: &[u8],
    dtype: DType,
    shape: Vec<usize>,
) -> Result<MlxBuffer> {
    if data.is_empty() {
        return invalid!("safetensors_to_metal_buffer: data is empty");
    }
    let mut buffer = device.alloc_buffer(data.len(), dtype, shape)?;
    buffer.write(0, data)?;
    Ok(buffer)
}

/// A mapped safetensors file.
///
/// What is wrong with its header is said by every method, not by [`open`](Self::open), as in 0.1.
pub struct SafetensorsFile {
    path: PathBuf,
    parsed: Result<weights::SafetensorsFile>,
}

impl fmt::Debug for SafetensorsFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SafetensorsFile")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl SafetensorsFile {
    /// Maps a file.
    ///
    /// # Errors
    /// [`MlxError::IoError`] when it cannot be opened or mapped.
    pub fn open(path: &Path) -> Result<Self> {
        let parsed = weights::SafetensorsFile::from_bytes(path, FileBytes::map(path)?);
        Ok(SafetensorsFile {
            path: path.to_owned(),
            parsed,
        })
    }

    /// The names of its tensors, sorted.
    ///
    /// # Errors
    /// [`MlxError::SafetensorsError`] when the header is wrong.
    pub fn tensor_names(&self) -> Result<Vec<String>> {
        Ok(self.parsed()?.tensor_names().map(str::to_owned).collect())
    }

    /// A tensor: dtype, extents and a copy of its bytes.
    ///
    /// # Errors
    /// [`MlxError::SafetensorsError`] when the header is wrong or there is no such tensor; [`MlxError::UnsupportedDtype`] when
    /// buffers have no such element type; [`MlxError::InvalidArgument`] when it has no elements; what the device says to the
    /// allocation.
    pub fn load_tensor(&self, name: &str, device: &MlxDevice) -> Result<(DType, Vec<usize>, MlxBuffer)> {
        let file = self.parsed()?;
        let bytes = file.bytes(name)?;
        let info = file
            .info(name)
            .ok_or_else(|| MlxError::SafetensorsError(format!("no tensor {name:?}")))?;
        let dtype = match info.dtype {
            TensorType::F32 => DType::F32,
            TensorType::F16 => DType::F16,
            TensorType::BF16 => DType::BF16,
            TensorType::U8 => DType::U8,
            TensorType::U16 => DType::U16,
            TensorType::U32 => DType::U32,
            TensorType::I32 => DType::I32,
            other => return Err(MlxError::UnsupportedDtype(format!("{other:?}"))),
        };
        let buffer = safetensors_to_metal_buffer(device, bytes, dtype, info.shape.clone())?;
        Ok((dtype, info.shape.clone(), buffer))
    }

    /// Every tensor, by name. Stops at the first error; a tensor without elements is one.
    ///
    /// # Errors
    /// As [`load_tensor`](Self::load_tensor).
    pub fn load_all_tensors(
        &self,
        device: &MlxDevice,
    ) -> Result<HashMap<String, (DType, Vec<usize>, MlxBuffer)>> {
        let names = self.tensor_names()?;
        names
            .into_iter()
            .map(|name| {
                let tensor = self.load_tensor(&name, device)?;
                Ok((name, tensor))
            })
            .collect()
    }

    fn parsed(&self) -> Result<&weights::SafetensorsFile> {
        self.parsed.as_ref().map_err(Clone::clone)
    }
}
