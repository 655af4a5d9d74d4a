//! One safetensors file.
//!
//! The format: eight bytes, little-endian, with the length of a JSON header; the header, which may end in spaces; the
//! data. The header maps each tensor's name to its dtype, its shape and the first and past-the-last byte of its data,
//! counted from the end of the header; `__metadata__` maps strings to strings. Tensors are dense, row-major and
//! little-endian, and cover the data without gap or overlap.
//!
//! The header is read here rather than by the `safetensors` crate because that crate lets a repeated name pass (the last
//! one wins) and does not say which tensor an error is about.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::FileBytes;
use crate::dtype::DType;
use crate::error::{MlxError, Result};

/// Longest header that is read, in bytes; the limit of the format's own implementation.
pub const MAX_HEADER_LEN: usize = 100_000_000;

/// Element types that a safetensors file may hold. Buffers have fewer: see [`dtype`](Self::dtype).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names say it")]
#[non_exhaustive]
pub enum TensorType {
    Bool,
    U8,
    I8,
    F8E5M2,
    F8E4M3,
    F8E8M0,
    U16,
    I16,
    F16,
    BF16,
    U32,
    I32,
    F32,
    U64,
    I64,
    F64,
    C64,
}

impl TensorType {
    const ALL: [(TensorType, &'static str, usize); 17] = [
        (TensorType::Bool, "BOOL", 1),
        (TensorType::U8, "U8", 1),
        (TensorType::I8, "I8", 1),
        (TensorType::F8E5M2, "F8_E5M2", 1),
        (TensorType::F8E4M3, "F8_E4M3", 1),
        (TensorType::F8E8M0, "F8_E8M0", 1),
        (TensorType::U16, "U16", 2),
        (TensorType::I16, "I16", 2),
        (TensorType::F16, "F16", 2),
        (TensorType::BF16, "BF16", 2),
        (TensorType::U32, "U32", 4),
        (TensorType::I32, "I32", 4),
        (TensorType::F32, "F32", 4),
        (TensorType::U64, "U64", 8),
        (TensorType::I64, "I64", 8),
        (TensorType::F64, "F64", 8),
        (TensorType::C64, "C64", 8),
    ];

    /// Name in the file: `F32`, `BF16`, `U32`, ….
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }

    /// Bytes of one element.
    #[must_use]
    pub fn size_of(self) -> usize {
        Self::ALL[self as usize].2
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, n, _)| *n == name).map(|(t, _, _)| *t)
    }

    /// The buffer element type of the same meaning, where there is one.
    #[must_use]
    pub fn dtype(self) -> Option<DType> {
        Some(match self {
            TensorType::F32 => DType::F32,
            TensorType::F16 => DType::F16,
            TensorType::BF16 => DType::BF16,
            TensorType::U8 => DType::U8,
            TensorType::U16 => DType::U16,
            TensorType::U32 => DType::U32,
            TensorType::I32 => DType::I32,
            _ => return None,
        })
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a file says about one tensor, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Element type.
    pub dtype: TensorType,
    /// Extents, outermost first; empty for a scalar.
    pub shape: Vec<usize>,
    /// Where its bytes are in the file, counted from the file's first byte.
    pub range: Range<usize>,
}

impl TensorInfo {
    /// Number of elements.
    #[must_use]
    pub fn element_count(&self) -> usize {
        self.range.len() / self.dtype.size_of()
    }
}

/// A safetensors file whose header was checked in full. Its data is mapped, and read only when it is used.
#[derive(Debug, Clone)]
pub struct SafetensorsFile {
    path: PathBuf,
    bytes: FileBytes,
    tensors: BTreeMap<String, TensorInfo>,
    metadata: BTreeMap<String, String>,
}

impl SafetensorsFile {
    /// Maps a file and checks its header.
    ///
    /// # Errors
    /// [`MlxError::IoError`] when the file cannot be opened or mapped; else as [`from_bytes`](Self::from_bytes).
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::from_bytes(path.as_ref(), FileBytes::map(path.as_ref())?)
    }

    /// Reads a file that is already in memory; `name` stands for it in errors.
    ///
    /// # Errors
    /// [`MlxError::SafetensorsError`], naming the file and the tensor: a header that is cut off, too long, no JSON or of
    /// the wrong form; a name twice; an unknown element type; a shape whose size overflows or does not match the byte
    /// range; ranges that overlap, leave a gap or leave the file; bytes after the last tensor.
    pub fn from_bytes(name: impl AsRef<Path>, bytes: impl Into<FileBytes>) -> Result<Self> {
        let (path, bytes) = (name.as_ref().to_path_buf(), bytes.into());
        let parsed = parse(&bytes)
            .map_err(|message| MlxError::SafetensorsError(format!("{}: {message}", path.display())))?;
        Ok(SafetensorsFile {
            path,
            bytes,
            tensors: parsed.tensors,
            metadata: parsed.metadata,
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

    /// The names of its tensors, sorted.
    pub fn tensor_names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Its tensors by name, sorted.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = (&str, &TensorInfo)> {
        self.tensors.iter().map(|(name, info)| (name.as_str(), info))
    }

    /// What the file says about a tensor; `None` when it has none of this name.
    #[must_use]
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)
    }

    /// The bytes of a tensor, where they are.
    ///
    /// # Errors
    /// [`MlxError::SafetensorsError`] when there is none of this name.
    pub fn bytes(&self, name: &str) -> Result<&[u8]> {
        self.info(name)
            .and_then(|info| self.bytes.get(info.range.clone()))
            .ok_or_else(|| {
                MlxError::SafetensorsError(format!("{}: no tensor {}", self.path.display(), Quoted(name)))
            })
    }

    /// The entries of `__metadata__`.
    #[must_use]
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }
}

struct Parsed {
    tensors: BTreeMap<String, TensorInfo>,
    metadata: BTreeMap<String, String>,
}

/// Reads and checks the header of a file. The error is the end of a sentence that begins with the file's name.
fn parse(file: &[u8]) -> std::result::Result<Parsed, String> {
    let Some((length, rest)) = file.split_first_chunk::<8>() else {
        return Err(format!(
            "{} bytes are no safetensors file, which has at least 8",
            file.len()
        ));
    };
    let header_len = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
    if header_len > MAX_HEADER_LEN {
        return Err(format!(
            "header length {header_len} is more than the {MAX_HEADER_LEN} allowed"
        ));
    }
    let Some(header) = rest.get(..header_len) else {
        return Err(format!(
            "truncated: a header of {header_len} bytes in a file of {}",
            file.len()
        ));
    };
    if header.first() != Some(&b'{') {
        return Err("the header does not begin with '{'".into());
    }
    let raw: RawHeader = serde_json::from_slice(header).map_err(|e| format!("header: {e}"))?;
    let data_start = 8 + header_len;
    let mut tensors = BTreeMap::new();
    let mut order = Vec::with_capacity(raw.tensors.len());
    for (name, tensor) in raw.tensors {
        let info = check_tensor(&tensor, data_start, file.len())
            .map_err(|message| format!("tensor {}: {message}", Quoted(&name)))?;
        order.push((info.range.clone(), name.clone()));
        tensors.insert(name, info);
    }
    check_cover(&mut order, data_start, file.len())?;
    Ok(Parsed {
        tensors,
        metadata: raw.metadata,
    })
}

fn check_tensor(
    raw: &RawTensor,
    data_start: usize,
    file_len: usize,
) -> std::result::Result<TensorInfo, String> {
    let dtype = TensorType::from_name(&raw.dtype)
        .ok_or_else(|| format!("unsupported dtype {}", Quoted(&raw.dtype)))?;
    let shape: Option<Vec<usize>> = raw.shape.iter().map(|&n| usize::try_from(n).ok()).collect();
    let wanted = shape.as_ref().and_then(|shape| {
        // Zero extents make an empty tensor, whatever the others are, but the others may not overflow either.
        shape
            .iter()
            .try_fold(dtype.size_of(), |bytes, &n| bytes.checked_mul(n))
    });
    let (Some(shape), Some(wanted)) = (shape, wanted) else {
        return Err(format!(
            "the size of {dtype} of rank {} overflows",
            raw.shape.len()
        ));
    };
    let [start, end] = raw.data_offsets;
    let data_len = (file_len - data_start) as u64;
    if start > end || end > data_len {
        return Err(format!(
            "data_offsets [{start}, {end}] leave the {data_len} bytes of data (file truncated?)"
        ));
    }
    // Both fit: they are at most `data_len`, the length of a slice.
    let (start, end) = (start as usize, end as usize);
    if end - start != wanted {
        let extents = Extents(&shape);
        return Err(format!(
            "{dtype} {extents} needs {wanted} bytes, data_offsets give {}",
            end - start
        ));
    }
    Ok(TensorInfo {
        dtype,
        shape,
        range: data_start + start..data_start + end,
    })
}

/// Checks that the tensors cover the data, each byte once.
fn check_cover(
    order: &mut [(Range<usize>, String)],
    data_start: usize,
    file_len: usize,
) -> std::result::Result<(), String> {
    order.sort_unstable_by_key(|(range, _)| (range.start, range.end));
    let mut covered = data_start;
    for (range, name) in order.iter() {
        if range.start != covered {
            let what = if range.start < covered {
                "overlaps the tensor before it"
            } else {
                "follows a gap"
            };
            return Err(format!(
                "tensor {}: its data {what}: begins at byte {} of the data, wanted {}",
                Quoted(name),
                range.start - data_start,
                covered - data_start
            ));
        }
        covered = range.end;
    }
    if covered != file_len {
        return Err(format!("{} bytes after the last tensor", file_len - covered));
    }
    Ok(())
}

/// A name for a message: quoted, and cut where a hostile file made it very long.
pub(super) struct Quoted<'a>(pub(super) &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LONGEST: usize = 120;
        match self.0.char_indices().nth(LONGEST) {
            None => write!(f, "{:?}", self.0),
            Some((cut, _)) => write!(f, "{:?}…", &self.0[..cut]),
        }
    }
}

/// A shape for a message, cut where it is very long.
struct Extents<'a>(&'a [usize]);

impl fmt::Display for Extents<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LONGEST: usize = 16;
        match self.0.get(..LONGEST) {
            None => write!(f, "{:?}", self.0),
            Some(first) => write!(f, "{first:?}… (rank {})", self.0.len()),
        }
    }
}

/// The header as JSON has it.
#[derive(Default)]
struct RawHeader {
    tensors: BTreeMap<String, RawTensor>,
    metadata: BTreeMap<String, String>,
}

#[derive(serde::Deserialize)]
struct RawTensor {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

/// Reads the header's map by hand, since a derived one lets repeated names pass.
struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = RawHeader;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map from tensor names to descriptions")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<RawHeader, A::Error> {
        let mut header = RawHeader::default();
        let mut metadata_seen = false;
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                if std::mem::replace(&mut metadata_seen, true) {
                    return Err(de::Error::custom("__metadata__ twice"));
                }
                header.metadata = map.next_value_seed(Metadata)?;
                continue;
            }
            let tensor: RawTensor = map
                .next_value()
                .map_err(|e| de::Error::custom(format!("tensor {}: {e}", Quoted(&name))))?;
            if header.tensors.contains_key(&name) {
                return Err(de::Error::custom(format!("tensor {} twice", Quoted(&name))));
            }
            header.tensors.insert(name, tensor);
        }
        Ok(header)
    }
}

/// `__metadata__`: strings to strings, or null, which some writers leave.
struct Metadata;

impl<'de> DeserializeSeed<'de> for Metadata {
    type Value = BTreeMap<String, String>;

    fn deserialize<D: Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> std::result::Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Metadata {
    type Value = BTreeMap<String, String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("__metadata__ to map strings to strings")
    }

    fn visit_unit<E>(self) -> std::result::Result<Self::Value, E> {
        Ok(BTreeMap::new())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Self::Value, A::Error> {
        let mut entries = BTreeMap::new();
        while let Some(key) = map.next_key::<String>()? {
            if entries.contains_key(&key) {
                map.next_value::<IgnoredAny>()?;
                return Err(de::Error::custom(format!(
                    "__metadata__ has {} twice",
                    Quoted(&key)
                )));
            }
            entries.insert(key, map.next_value()?);
        }
        Ok(entries)
    }
}

#[cfg(test)]
mod tests;
