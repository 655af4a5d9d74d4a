//! Weights of safetensors files as 0.1 loads them: copied to buffers, quantised ones put together by name. The module is 0.1's,
//! with its names; [`weights`](crate::weights) uses files in place.

mod config;
mod safetensors;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

pub use config::{QuantizationConfig, TensorQuantConfig};
pub use safetensors::{SafetensorsFile, safetensors_to_metal_buffer};

use crate::buffer::MlxBuffer;
use crate::device::MlxDevice;
use crate::dtype::DType;
use crate::error::{MlxError, Result};

/// A quantised matrix: packed codes, scales, and biases if it has any.
pub struct QuantizedWeight {
    tensor_name: String,
    shape: Vec<usize>,
    dtype: DType,
    bits: u8,
    group_size: usize,
    scales: MlxBuffer,
    biases: Option<MlxBuffer>,
    packed_data: MlxBuffer,
}

impl QuantizedWeight {
    /// Puts the parts together; nothing is checked.
    #[must_use]
    pub fn new(
        tensor_name: String,
        shape: Vec<usize>,
        dtype: DType,
        bits: u8,
        group_size: usize,
        scales: MlxBuffer,
        biases: Option<MlxBuffer>,
        packed_data: MlxBuffer,
    ) -> Self {
        QuantizedWeight {
            tensor_name,
            shape,
            dtype,
            bits,
            group_size,
            scales,
            biases,
            packed_data,
        }
    }

    /// The name of the packed tensor.
    #[must_use]
    pub fn tensor_name(&self) -> &str {
        &self.tensor_name
    }

    /// The extents it was given; of [`load_quantized_weights`] those of the packed tensor, in words.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The dtype it was given; of [`load_quantized_weights`] that of the packed tensor.
    #[must_use]
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Bits of a code.
    #[must_use]
    pub fn bits(&self) -> u8 {
        self.bits
    }

    /// Codes that share a scale.
    #[must_use]
    pub fn group_size(&self) -> usize {
        self.group_size
    }

    /// The scales.
    #[must_use]
    pub fn scales(&self) -> &MlxBuffer {
        &self.scales
    }

    /// The biases.
    #[must_use]
    pub fn biases(&self) -> Option<&MlxBuffer> {
        self.biases.as_ref()
    }

    /// The packed codes.
    #[must_use]
    pub fn packed_data(&self) -> &MlxBuffer {
        &self.packed_data
    }

    /// Product of the shape; `usize::MAX` where it overflows.
    #[must_use]
    pub fn element_count(&self) -> usize {
        self.shape.iter().fold(1, |n, &extent| n.saturating_mul(extent))
    }

    /// Groups of a row: the last extent over the group size, rounded up. 0 for an empty shape or a group size of 0.
    #[must_use]
    pub fn num_groups(&self) -> usize {
        match self.shape.last() {
            Some(last) if self.group_size > 0 => last.div_ceil(self.group_size),
            _ => 0,
        }
    }
}

impl fmt::Debug for QuantizedWeight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QuantizedWeight")
            .field("tensor_name", &self.tensor_name)
            .field("shape", &self.shape)
            .field("dtype", &self.dtype)
            .field("bits", &self.bits)
            .field("group_size", &self.group_size)
            .field("has_biases", &self.biases.is_some())
            .finish()
    }
}

/// The quantised weights of a folder: every name with `.scales` beside `.weight` (or beside the bare name), with its bits and
/// group size out of `quantization_config.json`. Sorted by name.
///
/// All `*.safetensors` files are read in the order of their names; of equal tensor names the later file's counts. Only what
/// belongs to a quantised weight is loaded.
///
/// # Errors
/// [`MlxError::IoError`] when the folder, the configuration or every file is missing; [`MlxError::QuantConfigError`] for a wrong
/// configuration; [`MlxError::SafetensorsError`] for a damaged file or an empty tensor; [`MlxError::UnsupportedDtype`] for a
/// tensor that buffers cannot hold.
pub fn load_quantized_weights(model_dir: &Path, device: &MlxDevice) -> Result<Vec<QuantizedWeight>> {
    let config = QuantizationConfig::from_file(&model_dir.join("quantization_config.json"))?;
    let files = safetensors_files(model_dir)?
        .iter()
        .map(|path| SafetensorsFile::open(path))
        .collect::<Result<Vec<_>>>()?;
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    for (i, file) in files.iter().enumerate() {
        for name in file.tensor_names()? {
            places.insert(name, i);
        }
    }
    let load = |name: &str| files[places[name]].load_tensor(name, device);
    let bases: BTreeSet<&str> = places
        .keys()
        .filter_map(|name| name.strip_suffix(".scales"))
        .collect();
    let mut weights = Vec::new();
    for base in bases {
        let with_suffix = format!("{base}.weight");
        let Some(key) = [with_suffix.as_str(), base]
            .into_iter()
            .find(|key| places.contains_key(*key))
        else {
            continue;
        };
        let (bits, group_size) = config.config_for_tensor(key);
        let (dtype, shape, packed_data) = load(key)?;
        let (_, _, scales) = load(&format!("{base}.scales"))?;
        let biases_key = format!("{base}.biases");
        let biases = match places.contains_key(&biases_key) {
            true => Some(load(&biases_key)?.2),
            false => None,
        };
        weights.push(QuantizedWeight::new(
            key.to_owned(),
            shape,
            dtype,
            bits,
            group_size,
            scales,
            biases,
            packed_data,
        ));
    }
    Ok(weights)
}

/// The safetensors files of a folder, sorted by name.
fn safetensors_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let io = |e: std::io::Error| MlxError::IoError(format!("{}: {e}", folder.display()));
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.extension().is_some_and(|e| e == "safetensors") {
            files.push(path);
        }
    }
    if files.is_empty() {
        return Err(MlxError::IoError(format!(
            "{}: no *.safetensors file",
            folder.display()
        )));
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests;
