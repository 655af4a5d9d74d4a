//! Reading values of a GGUF header, with every length held against the bytes that are there.

/// How deep arrays may stand in arrays.
const MAX_DEPTH: u32 = 4;

/// The types of metadata values, by their number in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ValueType {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

impl ValueType {
    pub(super) fn from_id(id: u32) -> Option<Self> {
        use ValueType::*;
        [
            U8, I8, U16, I16, U32, I32, F32, Bool, String, Array, U64, I64, F64,
        ]
        .get(id as usize)
        .copied()
    }

    /// Bytes of a value; `None` where values differ.
    pub(super) fn size(self) -> Option<usize> {
        use ValueType::*;
        Some(match self {
            U8 | I8 | Bool => 1,
            U16 | I16 => 2,
            U32 | I32 | F32 => 4,
            U64 | I64 | F64 => 8,
            String | Array => return None,
        })
    }
}

/// A place in the file. Reading past the end is an error that says what was being read.
#[derive(Clone)]
pub(super) struct Cursor<'a> {
    pub bytes: &'a [u8],
    pub at: usize,
}

/// What reading gives, or what is wrong.
pub(super) type Parsed<T> = Result<T, String>;

impl<'a> Cursor<'a> {
    pub(super) fn take(&mut self, len: u64, what: &str) -> Parsed<&'a [u8]> {
        let left = self.bytes.len() - self.at;
        let Some(len) = usize::try_from(len).ok().filter(|len| *len <= left) else {
            return Err(format!(
                "{what} of {len} bytes at byte {}: the file ends {left} bytes on",
                self.at
            ));
        };
        let taken = &self.bytes[self.at..self.at + len];
        self.at += len;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self, what: &str) -> Parsed<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64, what)?);
        Ok(array)
    }

    pub(super) fn u32(&mut self, what: &str) -> Parsed<u32> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &str) -> Parsed<u64> {
        self.array(what).map(u64::from_le_bytes)
    }

    pub(super) fn string(&mut self, most: u64, what: &str) -> Parsed<&'a str> {
        let len = self.u64(what)?;
        if len > most {
            return Err(format!("{what} of {len} bytes, {most} are allowed"));
        }
        let at = self.at;
        std::str::from_utf8(self.take(len, what)?).map_err(|e| format!("{what} at byte {at}: {e}"))
    }

    pub(super) fn value_type(&mut self, what: &str) -> Parsed<ValueType> {
        let id = self.u32(what)?;
        ValueType::from_id(id).ok_or_else(|| format!("{what}: value type {id}; 0 to 12 are known"))
    }

    /// Walks over a value, checking it.
    pub(super) fn skip(&mut self, ty: ValueType, depth: u32, what: &str) -> Parsed<()> {
        match (ty, ty.size()) {
            (_, Some(size)) => self.take(size as u64, what).map(drop),
            (ValueType::String, _) => self.string(u64::MAX, what).map(drop),
            _ => {
                if depth == MAX_DEPTH {
                    return Err(format!("{what}: arrays stand more than {MAX_DEPTH} deep"));
                }
                let (inner, count) = (self.value_type(what)?, self.u64(what)?);
                match inner.size() {
                    Some(size) => self.take(count.saturating_mul(size as u64), what).map(drop),
                    // Each takes 8 bytes at least, so that a false count ends at the end of the file.
                    None => (0..count).try_for_each(|_| self.skip(inner, depth + 1, what)),
                }
            }
        }
    }
}
