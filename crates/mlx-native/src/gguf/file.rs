//! One GGUF file, opened.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::cursor::{Cursor, ValueType};
use super::metadata::{Entry, MetadataValue};
use super::parse::{self, Header};
use crate::buffer::MlxBuffer;
use crate::device::MlxDevice;
use crate::dtype::DType;
use crate::error::{MlxError, Result};
use crate::quant::GgmlType;
use crate::quant::ggml::dequantize;
use crate::weights::FileBytes;

/// What a GGUF file says about a tensor, checked.
#[derive(Debug, Clone)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// Extents, outermost first: `[rows, columns]` of a matrix. The file has them the other way round.
    pub shape: Vec<usize>,
    /// Element type.
    pub ggml_type: GgmlType,
    /// First byte, counted from the beginning of the data.
    pub offset: u64,
    /// Bytes of the tensor.
    pub byte_len: usize,
}

/// A GGUF file whose header was checked in full. Its data is mapped, and read only when it is used.
pub struct GgufFile {
    path: PathBuf,
    bytes: FileBytes,
    version: u32,
    entries: HashMap<String, Entry>,
    tensors: Vec<Tensor>,
    by_name: HashMap<String, usize>,
}

struct Tensor {
    name: String,
    /// What is known of it and where its bytes are in the file; the number of its type where that is not known.
    found: std::result::Result<(TensorInfo, Range<usize>), u32>,
}

impl GgufFile {
    /// Maps a file and checks its header.
    ///
    /// # Errors
    /// [`MlxError::IoError`] when the file cannot be opened or mapped; else as [`from_bytes`](Self::from_bytes).
    pub fn open(path: &Path) -> Result<Self> {
        Self::from_bytes(path, FileBytes::map(path)?)
    }

    /// Reads a file that is in memory; `name` stands for it in errors.
    ///
    /// # Errors
    /// [`MlxError::GgufParseError`], naming the file and the entry or tensor: another format, version or byte order; a
    /// length beyond the end of the file; a key or a tensor twice; rows that are no whole blocks; tensors that overlap or
    /// lie outside the file. A tensor of an unknown type is no error before it is asked for.
    pub fn from_bytes(name: impl AsRef<Path>, bytes: impl Into<FileBytes>) -> Result<Self> {
        let (path, bytes) = (name.as_ref().to_path_buf(), bytes.into());
        let failed = |message: String| MlxError::GgufParseError(format!("{}: {message}", path.display()));
        let header = parse::header(&bytes).map_err(failed)?;
        let tensors = tensors(&header, bytes.len()).map_err(failed)?;
        let mut by_name = HashMap::with_capacity(tensors.len());
        for (i, tensor) in tensors.iter().enumerate() {
            if by_name.insert(tensor.name.clone(), i).is_some() {
                return Err(failed(format!("tensor {:?} is there twice", tensor.name)));
            }
        }
        Ok(GgufFile {
            path,
            bytes,
            version: header.version,
            entries: header.entries,
            tensors,
            by_name,
        })
    }

    /// The path it was opened from, or the name it was given.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The whole file.
    #[must_use]
    pub fn file_bytes(&self) -> &FileBytes {
        &self.bytes
    }

    /// Version of the format: 2 or 3.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The value of a key. An array is made when it is first asked for, one [`MetadataValue`] an element; see
    /// [`metadata_strings`](Self::metadata_strings) and its neighbours for large ones.
    #[must_use]
    pub fn metadata(&self, key: &str) -> Option<&MetadataValue> {
        Some(self.entries.get(key)?.value(&self.bytes))
    }

    /// The text of a key whose value is a string.
    #[must_use]
    pub fn metadata_string(&self, key: &str) -> Option<&str> {
        self.scalar(key)?.as_str()
    }

    /// The number of a key, as [`MetadataValue::as_u32`] has it.
    #[must_use]
    pub fn metadata_u32(&self, key: &str) -> Option<u32> {
        self.scalar(key)?.as_u32()
    }

    /// The number of a key, as [`MetadataValue::as_f32`] has it.
    #[must_use]
    pub fn metadata_f32(&self, key: &str) -> Option<f32> {
        self.scalar(key)?.as_f32()
    }

    /// The truth value of a key.
    #[must_use]
    pub fn metadata_bool(&self, key: &str) -> Option<bool> {
        self.scalar(key)?.as_bool()
    }

    fn scalar(&self, key: &str) -> Option<&MetadataValue> {
        let entry = self.entries.get(key)?;
        (entry.ty != ValueType::Array).then(|| entry.value(&self.bytes))
    }

    /// The strings of a key whose value is an array of strings, where they lie in the file.
    #[must_use]
    pub fn metadata_strings(&self, key: &str) -> Option<Vec<&str>> {
        let (mut c, count) = self.array(key, |ty| ty == ValueType::String)?;
        (0..count).map(|_| c.string(u64::MAX, "a string").ok()).collect()
    }

    /// The numbers of a key whose value is an array of `f32`.
    #[must_use]
    pub fn metadata_f32s(&self, key: &str) -> Option<Vec<f32>> {
        let (mut c, count) = self.array(key, |ty| ty == ValueType::F32)?;
        (0..count)
            .map(|_| c.array("a number").ok().map(f32::from_le_bytes))
            .collect()
    }

    /// The numbers of a key whose value is an array of `i32` or `u32`; as `i32` where they fit.
    #[must_use]
    pub fn metadata_i32s(&self, key: &str) -> Option<Vec<i32>> {
        let signed = self.array(key, |ty| ty == ValueType::I32);
        let is_signed = signed.is_some();
        let (mut c, count) = signed.or_else(|| self.array(key, |ty| ty == ValueType::U32))?;
        (0..count)
            .map(|_| {
                let word = c.u32("a number").ok()?;
                if is_signed {
                    Some(word as i32)
                } else {
                    i32::try_from(word).ok()
                }
            })
            .collect()
    }

    /// The elements of an array of a type that is wanted, and their count.
    fn array(&self, key: &str, wanted: impl Fn(ValueType) -> bool) -> Option<(Cursor<'_>, u64)> {
        let entry = self.entries.get(key).filter(|e| e.ty == ValueType::Array)?;
        let mut c = Cursor {
            bytes: self.bytes.get(entry.range.clone())?,
            at: 0,
        };
        wanted(c.value_type(key).ok()?).then_some(())?;
        let count = c.u64(key).ok()?;
        Some((c, count))
    }

    /// The keys of the metadata, in no particular order.
    pub fn metadata_keys(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Number of metadata entries.
    #[must_use]
    pub fn metadata_count(&self) -> usize {
        self.entries.len()
    }

    /// The names of the tensors, in the order of the file.
    #[must_use]
    pub fn tensor_names(&self) -> Vec<&str> {
        self.tensors.iter().map(|t| t.name.as_str()).collect()
    }

    /// Number of tensors.
    #[must_use]
    pub fn tensor_count(&self) -> usize {
        self.tensors.len()
    }

    /// What is known of a tensor; `None` when there is none of this name, or its type is not known.
    #[must_use]
    pub fn tensor_info(&self, name: &str) -> Option<&TensorInfo> {
        self.find(name).ok().map(|(info, _)| info)
    }

    /// The bytes of a tensor, where they are.
    ///
    /// # Errors
    /// [`MlxError::GgufParseError`] when there is no such tensor; [`MlxError::Unsupported`] when its type is not known.
    pub fn tensor_bytes(&self, name: &str) -> Result<&[u8]> {
        let (_, range) = self.find(name)?;
        self.bytes
            .get(range.clone())
            .ok_or_else(|| self.error(format!("tensor {name:?} lies outside the file")))
    }

    /// A copy of a tensor, which may be written: F32, F16, BF16 and I32 as such, blocks as bytes ([`DType::U8`]); the shape is
    /// the tensor's.
    ///
    /// # Errors
    /// As [`map_tensor`](Self::map_tensor); [`MlxError::BufferAllocationError`].
    pub fn load_tensor(&self, name: &str, device: &MlxDevice) -> Result<MlxBuffer> {
        let (info, _) = self.find(name)?;
        let dtype = self.loadable(info)?;
        let bytes = self.tensor_bytes(name)?;
        let mut copy = device.alloc_buffer(bytes.len(), DType::U8, vec![bytes.len()])?;
        copy.write(0, bytes)?;
        copy.relabel(dtype, &info.shape)
    }

    /// A read-only buffer of a tensor, in place where the device can take the file, with dtype and shape as
    /// [`load_tensor`](Self::load_tensor) gives them.
    ///
    /// # Errors
    /// As [`tensor_bytes`](Self::tensor_bytes); [`MlxError::InvalidArgument`] for a tensor without elements; the device's
    /// own when it cannot take the file.
    pub fn map_tensor(&self, name: &str, device: &MlxDevice) -> Result<MlxBuffer> {
        let (info, range) = self.find(name)?;
        let dtype = self.loadable(info)?;
        let bytes = self.tensor_bytes(name)?;
        let aligned = |at: usize| at.is_multiple_of(dtype.size_of());
        let bytes_buffer = if aligned(bytes.as_ptr().addr()) && aligned(range.start) {
            self.bytes
                .wrap(device)?
                .view(range.start, DType::U8, vec![bytes.len()])?
        } else {
            let mut copy = device.alloc_buffer(bytes.len(), DType::U8, vec![bytes.len()])?;
            copy.write(0, bytes)?;
            copy
        };
        bytes_buffer.relabel(dtype, &info.shape)
    }

    /// The values of a tensor, in a buffer of [`DType::F32`].
    ///
    /// # Errors
    /// As [`tensor_bytes`](Self::tensor_bytes); [`MlxError::GgufParseError`] for a tensor without elements;
    /// [`MlxError::Unsupported`] for a type without a dequantiser; [`MlxError::BufferAllocationError`].
    pub fn load_tensor_f32(&self, name: &str, device: &MlxDevice) -> Result<MlxBuffer> {
        /// Values that are unpacked at a time, a whole number of blocks of every type.
        const PIECE: usize = 1 << 16;
        let (info, _) = self.find(name)?;
        let bytes = self.tensor_bytes(name)?;
        if bytes.is_empty() {
            return Err(self.error(format!("tensor {name:?} has no elements")));
        }
        let ty = info.ggml_type;
        // Asked before anything is allocated.
        dequantize(ty, &[], &mut [])?;
        let mut buffer = device.alloc_tensor(DType::F32, &info.shape)?;
        let piece = PIECE / ty.block_values() as usize * ty.block_bytes() as usize;
        let mut values = vec![0.0f32; PIECE];
        for (i, bytes) in bytes.chunks(piece).enumerate() {
            let values = &mut values[..bytes.len() / ty.block_bytes() as usize * ty.block_values() as usize];
            dequantize(ty, bytes, values)?;
            buffer.write(i * PIECE, values)?;
        }
        Ok(buffer)
    }

    /// The dtype of a buffer of the tensor, which must have elements.
    fn loadable(&self, info: &TensorInfo) -> Result<DType> {
        if info.byte_len == 0 {
            return Err(MlxError::InvalidArgument(format!(
                "{}: tensor {:?} has no elements",
                self.path.display(),
                info.name
            )));
        }
        Ok(match info.ggml_type {
            GgmlType::F32 => DType::F32,
            GgmlType::F16 => DType::F16,
            GgmlType::BF16 => DType::BF16,
            GgmlType::I32 => DType::I32,
            _ => DType::U8,
        })
    }

    fn find(&self, name: &str) -> Result<&(TensorInfo, Range<usize>)> {
        let tensor = self.by_name.get(name).map(|i| &self.tensors[*i]);
        match tensor.map(|t| &t.found) {
            Some(Ok(found)) => Ok(found),
            Some(Err(id)) => Err(MlxError::Unsupported(format!(
                "{}: tensor {name:?} has element type {id}",
                self.path.display()
            ))),
            None => Err(self.error(format!("no tensor {name:?}"))),
        }
    }

    fn error(&self, message: String) -> MlxError {
        MlxError::GgufParseError(format!("{}: {message}", self.path.display()))
    }
}

/// The tensors of a header, with their places checked against the end of the file and against each other.
fn tensors(header: &Header, file_len: usize) -> std::result::Result<Vec<Tensor>, String> {
    let mut tensors = Vec::with_capacity(header.tensors.len());
    for raw in &header.tensors {
        let found = match parse::place(raw, header, file_len)? {
            None => Err(raw.type_id),
            Some((ggml_type, shape, range)) => Ok((
                TensorInfo {
                    name: raw.name.clone(),
                    shape,
                    ggml_type,
                    offset: raw.offset,
                    byte_len: range.len(),
                },
                range,
            )),
        };
        tensors.push(Tensor {
            name: raw.name.clone(),
            found,
        });
    }
    let mut ranges: Vec<(&Range<usize>, &str)> = tensors
        .iter()
        .filter_map(|t| t.found.as_ref().ok().map(|(_, range)| (range, t.name.as_str())))
        .filter(|(range, _)| !range.is_empty())
        .collect();
    ranges.sort_unstable_by_key(|(range, _)| range.start);
    for pair in ranges.windows(2) {
        if pair[0].0.end > pair[1].0.start {
            return Err(format!("tensors {:?} and {:?} overlap", pair[0].1, pair[1].1));
        }
    }
    Ok(tensors)
}

impl fmt::Debug for GgufFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GgufFile")
            .field("path", &self.path)
            .field("version", &self.version)
            .field("metadata_count", &self.metadata_count())
            .field("tensor_count", &self.tensor_count())
            .finish()
    }
}
