//! The header of a GGUF file: read once, with a bound on everything that it can ask for.

use std::collections::HashMap;
use std::io::Read;

use super::{GgmlType, MetadataValue, TensorInfo};
use crate::error::{MlxError, Result};

/// The first four bytes.
const MAGIC: [u8; 4] = *b"GGUF";
const MAX_TENSORS: u64 = 100_000;
const MAX_METADATA: u64 = 1_000_000;
const MAX_STRING: u64 = 256 << 20;
const MAX_ARRAY: u64 = 67_108_864;
/// Elements of all arrays of a file together: what they take in memory is 32 times as much.
const MAX_ARRAY_ELEMENTS: u64 = 1 << 24;
/// Arrays of arrays of …
const MAX_DEPTH: u32 = 4;
const MAX_DIMS: u32 = 8;

/// A header, checked against the length of the file.
#[derive(Debug)]
pub(super) struct Header {
    pub metadata: HashMap<String, MetadataValue>,
    pub tensors: HashMap<String, TensorInfo>,
    /// Tensors of block types that 0.1 does not know, and the types' names.
    pub others: HashMap<String, &'static str>,
    /// First byte of the data.
    pub data_start: u64,
}

/// The block types of GGML, with the values and bytes of a block.
const TYPES: &[(u32, &str, u64, u64)] = &[
    (0, "F32", 1, 4),
    (1, "F16", 1, 2),
    (2, "Q4_0", 32, 18),
    (3, "Q4_1", 32, 20),
    (6, "Q5_0", 32, 22),
    (7, "Q5_1", 32, 24),
    (8, "Q8_0", 32, 34),
    (9, "Q8_1", 32, 36),
    (10, "Q2_K", 256, 84),
    (11, "Q3_K", 256, 110),
    (12, "Q4_K", 256, 144),
    (13, "Q5_K", 256, 176),
    (14, "Q6_K", 256, 210),
    (15, "Q8_K", 256, 292),
    (16, "IQ2_XXS", 256, 66),
    (17, "IQ2_XS", 256, 74),
    (18, "IQ3_XXS", 256, 98),
    (19, "IQ1_S", 256, 50),
    (20, "IQ4_NL", 32, 18),
    (21, "IQ3_S", 256, 110),
    (22, "IQ2_S", 256, 82),
    (23, "IQ4_XS", 256, 136),
    (24, "I8", 1, 1),
    (25, "I16", 1, 2),
    (26, "I32", 1, 4),
    (27, "I64", 1, 8),
    (28, "F64", 1, 8),
    (29, "IQ1_M", 256, 56),
    (30, "BF16", 1, 2),
    (34, "TQ1_0", 256, 54),
    (35, "TQ2_0", 256, 66),
    (39, "MXFP4", 32, 17),
];

fn known(id: u32) -> Option<GgmlType> {
    Some(match id {
        0 => GgmlType::F32,
        1 => GgmlType::F16,
        2 => GgmlType::Q4_0,
        8 => GgmlType::Q8_0,
        12 => GgmlType::Q4_K,
        14 => GgmlType::Q6_K,
        _ => return None,
    })
}

/// `Err(GgufParseError(..))` from a format string.
macro_rules! wrong {
    ($($arg:tt)*) => { Err(MlxError::GgufParseError(format!($($arg)*))) };
}

/// Reads the header of a file of `file_len` bytes.
pub(super) fn parse(input: impl Read, file_len: u64) -> Result<Header> {
    let mut r = Reader { input, file_len, at: 0, array_elements: 0 };
    let magic: [u8; 4] = r.take("the magic")?;
    if magic != MAGIC {
        return wrong!("the file begins with {magic:02x?}, not with \"GGUF\"");
    }
    let version = r.u32("the version")?;
    if version == 3u32.swap_bytes() {
        return wrong!("the file is big endian, little endian is read");
    }
    if version != 3 {
        return wrong!("version {version}, 3 is read");
    }
    let n_tensors = r.u64("the number of tensors")?;
    let n_metadata = r.u64("the number of metadata entries")?;
    if n_tensors > MAX_TENSORS {
        return wrong!("{n_tensors} tensors, at most {MAX_TENSORS} are read");
    }
    if n_metadata > MAX_METADATA {
        return wrong!("{n_metadata} metadata entries, at most {MAX_METADATA} are read");
    }
    let mut metadata = HashMap::new();
    for _ in 0..n_metadata {
        let key = r.string("a metadata key")?;
        let kind = r.u32("the type of a metadata value")?;
        let value = r.value(kind, 0).map_err(|e| named(e, &key))?;
        metadata.insert(key, value);
    }
    let mut infos = Vec::new();
    for _ in 0..n_tensors {
        infos.push(r.tensor()?);
    }
    let alignment = match metadata.get("general.alignment") {
        None => 32,
        Some(value) => match value.as_u32() {
            Some(n) if n.is_power_of_two() => u64::from(n),
            _ => return wrong!("general.alignment is {value:?}, it must be a power of two"),
        },
    };
    let data_start = r.at.next_multiple_of(alignment);
    let (mut tensors, mut others) = (HashMap::new(), HashMap::new());
    for info in infos {
        let end = data_start.checked_add(info.offset).and_then(|start| start.checked_add(info.byte_len));
        if end.is_none_or(|end| end > file_len) {
            return wrong!(
                "tensor {:?}: {} bytes from {} on leave the file, whose data has {}",
                info.name,
                info.byte_len,
                info.offset,
                file_len.saturating_sub(data_start)
            );
        }
        tensors.remove(&info.name);
        others.remove(&info.name);
        match known(info.type_id) {
            Some(ggml_type) => {
                let byte_len = usize::try_from(info.byte_len).unwrap_or(usize::MAX);
                let tensor = TensorInfo {
                    name: info.name.clone(),
                    shape: info.shape,
                    ggml_type,
                    offset: info.offset,
                    byte_len,
                };
                tensors.insert(info.name, tensor);
            }
            None => {
                others.insert(info.name, info.type_name);
            }
        }
    }
    Ok(Header { metadata, tensors, others, data_start })
}

fn named(error: MlxError, key: &str) -> MlxError {
    match error {
        MlxError::GgufParseError(text) => MlxError::GgufParseError(format!("metadata {key:?}: {text}")),
        other => other,
    }
}

/// A tensor as the header has it.
struct RawInfo {
    name: String,
    shape: Vec<usize>,
    type_id: u32,
    type_name: &'static str,
    offset: u64,
    byte_len: u64,
}

struct Reader<R> {
    input: R,
    file_len: u64,
    at: u64,
    array_elements: u64,
}

impl<R: Read> Reader<R> {
    fn fill(&mut self, buffer: &mut [u8], what: &str) -> Result<()> {
        if self.input.read_exact(buffer).is_err() {
            return wrong!("the file ends in {what}, at byte {}", self.at);
        }
        self.at += buffer.len() as u64;
        Ok(())
    }

    fn take<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes, what)?;
        Ok(bytes)
    }

    fn u32(&mut self, what: &str) -> Result<u32> {
        Ok(u32::from_le_bytes(self.take(what)?))
    }

    fn u64(&mut self, what: &str) -> Result<u64> {
        Ok(u64::from_le_bytes(self.take(what)?))
    }

    fn string(&mut self, what: &str) -> Result<String> {
        let len = self.u64(what)?;
        let left = self.file_len.saturating_sub(self.at);
        if len > MAX_STRING || len > left {
            return wrong!("{what} of {len} bytes, {left} are left in the file and {MAX_STRING} are read at most");
        }
        // Both bounds are below what a usize holds.
        let mut bytes = vec![0; len as usize];
        self.fill(&mut bytes, what)?;
        String::from_utf8(bytes).or_else(|_| wrong!("{what} is no UTF-8"))
    }

    fn value(&mut self, kind: u32, depth: u32) -> Result<MetadataValue> {
        const WHAT: &str = "a metadata value";
        Ok(match kind {
            0 => MetadataValue::Uint8(self.take::<1>(WHAT)?[0]),
            1 => MetadataValue::Int8(i8::from_le_bytes(self.take(WHAT)?)),
            2 => MetadataValue::Uint16(u16::from_le_bytes(self.take(WHAT)?)),
            3 => MetadataValue::Int16(i16::from_le_bytes(self.take(WHAT)?)),
            4 => MetadataValue::Uint32(u32::from_le_bytes(self.take(WHAT)?)),
            5 => MetadataValue::Int32(i32::from_le_bytes(self.take(WHAT)?)),
            6 => MetadataValue::Float32(f32::from_le_bytes(self.take(WHAT)?)),
            7 => MetadataValue::Bool(self.take::<1>(WHAT)?[0] != 0),
            8 => MetadataValue::String(self.string(WHAT)?),
            9 => MetadataValue::Array(self.array(depth)?),
            10 => MetadataValue::Uint64(u64::from_le_bytes(self.take(WHAT)?)),
            11 => MetadataValue::Int64(i64::from_le_bytes(self.take(WHAT)?)),
            12 => MetadataValue::Float64(f64::from_le_bytes(self.take(WHAT)?)),
            _ => return wrong!("type {kind}, known are 0 to 12"),
        })
    }

    fn array(&mut self, depth: u32) -> Result<Vec<MetadataValue>> {
        if depth == MAX_DEPTH {
            return wrong!("arrays in each other, {MAX_DEPTH} are read at most");
        }
        let kind = self.u32("the element type of an array")?;
        let count = self.u64("the length of an array")?;
        let left = self.file_len.saturating_sub(self.at);
        self.array_elements = self.array_elements.saturating_add(count);
        // An element takes at least a byte.
        if count > MAX_ARRAY || count > left || self.array_elements > MAX_ARRAY_ELEMENTS {
            return wrong!(
                "an array of {count} elements; {left} bytes are left in the file, {MAX_ARRAY_ELEMENTS} elements of all \
                 arrays are read at most"
            );
        }
        (0..count).map(|_| self.value(kind, depth + 1)).collect()
    }

    fn tensor(&mut self) -> Result<RawInfo> {
        let name = self.string("a tensor's name")?;
        let n_dims = self.u32("a tensor's number of extents")?;
        if n_dims > MAX_DIMS {
            return wrong!("tensor {name:?}: {n_dims} extents, at most {MAX_DIMS} are read");
        }
        let mut shape = Vec::new();
        for _ in 0..n_dims {
            let extent = self.u64("a tensor's extents")?;
            let Ok(extent) = usize::try_from(extent) else {
                return wrong!("tensor {name:?}: an extent of {extent}");
            };
            shape.push(extent);
        }
        // The file has the innermost extent first.
        shape.reverse();
        let type_id = self.u32("a tensor's type")?;
        let offset = self.u64("a tensor's offset")?;
        let Some(&(_, type_name, values, bytes)) = TYPES.iter().find(|t| t.0 == type_id) else {
            return wrong!("tensor {name:?}: type {type_id} is none of GGML's");
        };
        let elements = shape.iter().try_fold(1u64, |n, &extent| n.checked_mul(extent as u64));
        let Some(elements) = elements else {
            return wrong!("tensor {name:?}: the size of {shape:?} overflows");
        };
        if elements % values != 0 {
            return wrong!("tensor {name:?}: {elements} values are no whole blocks of {values} ({type_name})");
        }
        let Some(byte_len) = (elements / values).checked_mul(bytes) else {
            return wrong!("tensor {name:?}: the size of {shape:?} overflows");
        };
        Ok(RawInfo { name, shape, type_id, type_name, offset, byte_len })
    }
}
