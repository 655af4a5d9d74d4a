//! Metadata values: the small ones read at once, arrays when they are asked for.

use std::ops::Range;
use std::sync::OnceLock;

use super::cursor::{Cursor, ValueType};

/// A value of a GGUF file's metadata.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "the names say it")]
pub enum MetadataValue {
    Uint8(u8),
    Int8(i8),
    Uint16(u16),
    Int16(i16),
    Uint32(u32),
    Int32(i32),
    Float32(f32),
    Bool(bool),
    String(String),
    Array(Vec<MetadataValue>),
    Uint64(u64),
    Int64(i64),
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

    /// A whole number of at most 32 bits, from unsigned types and from non-negative `Int32`.
    #[must_use]
    pub fn as_u32(&self) -> Option<u32> {
        match self {
            MetadataValue::Uint32(v) => Some(*v),
            MetadataValue::Uint8(v) => Some(u32::from(*v)),
            MetadataValue::Uint16(v) => Some(u32::from(*v)),
            MetadataValue::Int32(v) => u32::try_from(*v).ok(),
            _ => None,
        }
    }

    /// A whole number of any of the types, where it is not negative.
    #[must_use]
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            MetadataValue::Uint64(v) => Some(*v),
            MetadataValue::Int64(v) => u64::try_from(*v).ok(),
            MetadataValue::Int8(v) => u64::try_from(*v).ok(),
            MetadataValue::Int16(v) => u64::try_from(*v).ok(),
            other => other.as_u32().map(u64::from),
        }
    }

    /// A floating-point number; `Float64` is rounded.
    #[must_use]
    pub fn as_f32(&self) -> Option<f32> {
        match self {
            MetadataValue::Float32(v) => Some(*v),
            MetadataValue::Float64(v) => Some(*v as f32),
            _ => None,
        }
    }

    /// A truth value.
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            MetadataValue::Bool(v) => Some(*v),
            _ => None,
        }
    }

    /// The elements of an array.
    #[must_use]
    pub fn as_array(&self) -> Option<&[MetadataValue]> {
        match self {
            MetadataValue::Array(v) => Some(v),
            _ => None,
        }
    }
}

/// An entry: where its value lies in the file, and the value: at once, or for arrays once somebody asked.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) ty: ValueType,
    pub(super) range: Range<usize>,
    value: OnceLock<MetadataValue>,
}

impl Entry {
    /// The entry of the value at `range` of the file, which was walked over.
    pub(super) fn new(file: &[u8], ty: ValueType, range: Range<usize>) -> Self {
        let entry = Entry {
            ty,
            range,
            value: OnceLock::new(),
        };
        if ty != ValueType::Array {
            entry.value(file);
        }
        entry
    }

    /// The value. The file was checked when it was opened; should somebody have written to it since, an array that can no
    /// longer be read is empty.
    pub(super) fn value(&self, file: &[u8]) -> &MetadataValue {
        self.value.get_or_init(|| {
            let bytes = file.get(self.range.clone()).unwrap_or_default();
            read(&mut Cursor { bytes, at: 0 }, self.ty).unwrap_or(MetadataValue::Array(Vec::new()))
        })
    }
}

fn read(c: &mut Cursor<'_>, ty: ValueType) -> Result<MetadataValue, String> {
    const WHAT: &str = "a metadata value";
    use MetadataValue as V;
    Ok(match ty {
        ValueType::U8 => V::Uint8(c.array::<1>(WHAT)?[0]),
        ValueType::I8 => V::Int8(c.array::<1>(WHAT)?[0] as i8),
        ValueType::Bool => V::Bool(c.array::<1>(WHAT)?[0] != 0),
        ValueType::U16 => V::Uint16(u16::from_le_bytes(c.array(WHAT)?)),
        ValueType::I16 => V::Int16(i16::from_le_bytes(c.array(WHAT)?)),
        ValueType::U32 => V::Uint32(c.u32(WHAT)?),
        ValueType::I32 => V::Int32(i32::from_le_bytes(c.array(WHAT)?)),
        ValueType::F32 => V::Float32(f32::from_le_bytes(c.array(WHAT)?)),
        ValueType::U64 => V::Uint64(c.u64(WHAT)?),
        ValueType::I64 => V::Int64(i64::from_le_bytes(c.array(WHAT)?)),
        ValueType::F64 => V::Float64(f64::from_le_bytes(c.array(WHAT)?)),
        ValueType::String => V::String(c.string(u64::MAX, WHAT)?.to_owned()),
        ValueType::Array => {
            let (inner, count) = (c.value_type(WHAT)?, c.u64(WHAT)?);
            // No capacity by the count: it grows with what is really there.
            let mut values = Vec::new();
            for _ in 0..count {
                values.push(read(c, inner)?);
            }
            V::Array(values)
        }
    })
}
