//! GGUF files: metadata, and tensors as they are or in f32. The module is 0.1's, with its names.
//!
//! Version 3, little endian. The header is checked against the length of the file when it is opened: counts, strings, arrays and
//! their nesting are bounded, sizes are computed without overflow, and every tensor lies inside the file. Tensors of GGML types
//! that this interface does not name are listed, and refused by name when they are loaded.

mod ggml_type;
mod parse;

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

pub use ggml_type::GgmlType;

use crate::buffer::MlxBuffer;
use crate::device::MlxDevice;
use crate::dtype::DType;
use crate::error::{MlxError, Result, invalid};

/// A value of the metadata.
#[derive(Debug, Clone)]
pub enum MetadataValue {
    /// Type 0.
    Uint8(u8),
    /// Type 1.
    Int8(i8),
    /// Type 2.
    Uint16(u16),
    /// Type 3.
    Int16(i16),
    /// Type 4.
    Uint32(u32),
    /// Type 5.
    Int32(i32),
    /// Type 6.
    Float32(f32),
    /// Type 7: a byte that is not 0.
    Bool(bool),
    /// Type 8, UTF-8.
    String(String),
    /// Type 9: values of one type.
    Array(Vec<MetadataValue>),
    /// Type 10.
    Uint64(u64),
    /// Type 11.
    Int64(i64),
    /// Type 12.
    Float64(f64),
}

impl MetadataValue {
    /// The text of a string.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            MetadataValue::String(s) => Some(s),
            _ => None,
        }
    }

    /// The value of an unsigned integer of up to 32 bits, or of an `i32` that is not negative.
    #[must_use]
    pub fn as_u32(&self) -> Option<u32> {
        match self {
            MetadataValue::Uint32(v) => Some(*v),
            MetadataValue::Uint8(v) => Some((*v).into()),
            MetadataValue::Uint16(v) => Some((*v).into()),
            MetadataValue::Int32(v) => u32::try_from(*v).ok(),
            _ => None,
        }
    }

    /// The value of a floating-point number, as f32.
    #[must_use]
    pub fn as_f32(&self) -> Option<f32> {
        match self {
            MetadataValue::Float32(v) => Some(*v),
            MetadataValue::Float64(v) => Some(*v as f32),
            _ => None,
        }
    }
}

/// What a file says about a tensor.
#[derive(Debug, Clone)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// Extents, outermost first: the reverse of the file's order. A matrix is `[rows, cols]`.
    pub shape: Vec<usize>,
    /// How its values are stored.
    pub ggml_type: GgmlType,
    /// First byte, from the start of the data.
    pub offset: u64,
    /// Bytes in the file.
    pub byte_len: usize,
}

/// An open GGUF file. `Sync`: tensors may be loaded from several threads.
#[derive(Debug)]
pub struct GgufFile {
    header: parse::Header,
    file: Mutex<File>,
}

impl GgufFile {
    /// Opens a file and reads its header.
    ///
    /// # Errors
    /// [`MlxError::IoError`] when it cannot be opened; [`MlxError::GgufParseError`], saying where, for everything that is wrong
    /// with it.
    pub fn open(path: &Path) -> Result<Self> {
        let io = |e: std::io::Error| MlxError::IoError(format!("{}: {e}", path.display()));
        let file = File::open(path).map_err(io)?;
        let len = file.metadata().map_err(io)?.len();
        let header = parse::parse(BufReader::new(&file), len).map_err(|e| match e {
            MlxError::GgufParseError(text) => MlxError::GgufParseError(format!("{}: {text}", path.display())),
            other => other,
        })?;
        Ok(GgufFile { header, file: Mutex::new(file) })
    }

    /// A value of the metadata.
    #[must_use]
    pub fn metadata(&self, key: &str) -> Option<&MetadataValue> {
        self.header.metadata.get(key)
    }

    /// A string of the metadata.
    #[must_use]
    pub fn metadata_string(&self, key: &str) -> Option<&str> {
        self.metadata(key)?.as_str()
    }

    /// An unsigned integer of the metadata: [`MetadataValue::as_u32`].
    #[must_use]
    pub fn metadata_u32(&self, key: &str) -> Option<u32> {
        self.metadata(key)?.as_u32()
    }

    /// A floating-point number of the metadata: [`MetadataValue::as_f32`].
    #[must_use]
    pub fn metadata_f32(&self, key: &str) -> Option<f32> {
        self.metadata(key)?.as_f32()
    }

    /// The names of all tensors, sorted.
    #[must_use]
    pub fn tensor_names(&self) -> Vec<&str> {
        let mut names: Vec<&str> =
            self.header.tensors.keys().chain(self.header.others.keys()).map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// What the file says about a tensor; `None` when it has none of this name, or when its type is none of [`GgmlType`].
    #[must_use]
    pub fn tensor_info(&self, name: &str) -> Option<&TensorInfo> {
        self.header.tensors.get(name)
    }

    /// The names of tensors whose type is none of [`GgmlType`], and GGML's names of these types.
    #[must_use]
    pub fn other_types(&self) -> &HashMap<String, &'static str> {
        &self.header.others
    }

    /// Number of tensors.
    #[must_use]
    pub fn tensor_count(&self) -> usize {
        self.header.tensors.len() + self.header.others.len()
    }

    /// Number of metadata entries.
    #[must_use]
    pub fn metadata_count(&self) -> usize {
        self.header.metadata.len()
    }

    /// A tensor as it is in the file: f32 and f16 as such, blocks as bytes of dtype `U8`. The shape is that of the values.
    ///
    /// # Errors
    /// [`MlxError::GgufParseError`] when there is no such tensor, or its type is none of [`GgmlType`]; [`MlxError::InvalidArgument`]
    /// when it has no elements; [`MlxError::IoError`] when the file cannot be read; what the device says to the allocation.
    pub fn load_tensor(&self, name: &str, device: &MlxDevice) -> Result<MlxBuffer> {
        let info = self.info(name)?;
        if info.byte_len == 0 {
            return invalid!("tensor {name:?} has no elements");
        }
        let dtype = match info.ggml_type {
            GgmlType::F32 => DType::F32,
            GgmlType::F16 => DType::F16,
            _ => DType::U8,
        };
        let bytes = self.read(info)?;
        let mut buffer = device.alloc_buffer(info.byte_len, dtype, info.shape.clone())?;
        buffer.write(0, &bytes)?;
        Ok(buffer)
    }

    /// A tensor in f32.
    ///
    /// # Errors
    /// As [`load_tensor`](Self::load_tensor), except that a tensor without elements is a [`MlxError::GgufParseError`].
    pub fn load_tensor_f32(&self, name: &str, device: &MlxDevice) -> Result<MlxBuffer> {
        let info = self.info(name)?;
        let blocks = info.byte_len / info.ggml_type.block_bytes() as usize;
        let elements = blocks.checked_mul(info.ggml_type.block_values() as usize);
        let Some(byte_len) = elements.and_then(|n| n.checked_mul(4)).filter(|len| *len > 0) else {
            return Err(MlxError::GgufParseError(format!("tensor {name:?} has no elements, or too many")));
        };
        let bytes = self.read(info)?;
        let mut values = vec![0.0f32; byte_len / 4];
        info.ggml_type.dequantize(&bytes, &mut values);
        let mut buffer = device.alloc_buffer(byte_len, DType::F32, info.shape.clone())?;
        buffer.write(0, &values)?;
        Ok(buffer)
    }

    fn info(&self, name: &str) -> Result<&TensorInfo> {
        if let Some(kind) = self.header.others.get(name) {
            return Err(MlxError::GgufParseError(format!(
                "tensor {name:?} is of type {kind}; F32, F16, Q4_0, Q8_0, Q4_K and Q6_K are loaded"
            )));
        }
        self.header
            .tensors
            .get(name)
            .ok_or_else(|| MlxError::GgufParseError(format!("no tensor {name:?}")))
    }

    /// The bytes of a tensor. They lie inside the file as it was when it was opened; one that has shrunk since is an error.
    fn read(&self, info: &TensorInfo) -> Result<Vec<u8>> {
        let io = |e: std::io::Error| MlxError::IoError(format!("tensor {:?}: {e}", info.name));
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(self.header.data_start + info.offset)).map_err(io)?;
        let mut bytes = vec![0; info.byte_len];
        file.read_exact(&mut bytes).map_err(io)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests;
