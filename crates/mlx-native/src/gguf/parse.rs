//! Reading the header of a GGUF file, with every length held against the bytes that are there.

use std::collections::HashMap;
use std::ops::Range;

use super::cursor::{Cursor, Parsed};
use super::metadata::Entry;
use crate::quant::GgmlType;

/// Longest key of an entry, and longest name of a tensor, in bytes.
const MAX_NAME: u64 = 65_535;
const MAX_TENSORS: u64 = 100_000;
const MAX_ENTRIES: u64 = 1_000_000;
const MAX_DIMS: u32 = 8;
const DEFAULT_ALIGNMENT: u64 = 32;

/// What a header says.
pub(super) struct Header {
    pub version: u32,
    pub entries: HashMap<String, Entry>,
    /// In the order of the file.
    pub tensors: Vec<RawTensor>,
    pub alignment: u64,
    /// First byte of the data.
    pub data: usize,
}

/// A tensor as the file describes it.
pub(super) struct RawTensor {
    pub name: String,
    /// Innermost first.
    pub dims: Vec<u64>,
    pub type_id: u32,
    /// From the first byte of the data.
    pub offset: u64,
}

/// Reads a header.
pub(super) fn header(bytes: &[u8]) -> Parsed<Header> {
    let mut c = Cursor { bytes, at: 0 };
    let magic: [u8; 4] = c.array("the magic number")?;
    if &magic != b"GGUF" {
        return Err(format!("begins with {magic:?}, not with \"GGUF\""));
    }
    let version = c.u32("the version")?;
    match version {
        2 | 3 => {}
        _ if matches!(version.swap_bytes(), 1..=3) => {
            return Err("big-endian; only little-endian files can be read".to_owned());
        }
        _ => return Err(format!("version {version}; 2 and 3 can be read")),
    }
    let (n_tensors, n_entries) = (c.u64("the number of tensors")?, c.u64("the number of entries")?);
    if n_tensors > MAX_TENSORS || n_entries > MAX_ENTRIES {
        return Err(format!(
            "{n_tensors} tensors and {n_entries} metadata entries; at most {MAX_TENSORS} and {MAX_ENTRIES} are read"
        ));
    }
    let entries = entries(&mut c, n_entries)?;
    let tensors = tensors(&mut c, n_tensors)?;
    let alignment = match entries.get("general.alignment") {
        None => DEFAULT_ALIGNMENT,
        Some(entry) => entry
            .value(bytes)
            .as_u32()
            .filter(|a| a.is_power_of_two())
            .map(u64::from)
            .ok_or("general.alignment is not a power of two that fits 32 bits")?,
    };
    let data = (c.at as u64)
        .checked_next_multiple_of(alignment)
        .and_then(|at| usize::try_from(at).ok())
        .ok_or("the data begins beyond what can be addressed")?;
    Ok(Header {
        version,
        entries,
        tensors,
        alignment,
        data,
    })
}

fn entries(c: &mut Cursor<'_>, count: u64) -> Parsed<HashMap<String, Entry>> {
    let mut entries = HashMap::new();
    for i in 0..count {
        let key = c.string(MAX_NAME, &format!("the key of metadata entry {i}"))?;
        let what = format!("metadata {key:?}");
        let ty = c.value_type(&what)?;
        let start = c.at;
        c.skip(ty, 0, &what)?;
        let entry = Entry::new(c.bytes, ty, start..c.at);
        if entries.insert(key.to_owned(), entry).is_some() {
            return Err(format!("{what} is there twice"));
        }
    }
    Ok(entries)
}

fn tensors(c: &mut Cursor<'_>, count: u64) -> Parsed<Vec<RawTensor>> {
    let mut tensors = Vec::new();
    for i in 0..count {
        let name = c.string(MAX_NAME, &format!("the name of tensor {i}"))?;
        let what = format!("tensor {name:?}");
        let n_dims = c.u32(&what)?;
        if n_dims > MAX_DIMS {
            return Err(format!("{what} has {n_dims} dimensions, {MAX_DIMS} are allowed"));
        }
        let dims = (0..n_dims).map(|_| c.u64(&what)).collect::<Parsed<_>>()?;
        tensors.push(RawTensor {
            name: name.to_owned(),
            dims,
            type_id: c.u32(&what)?,
            offset: c.u64(&what)?,
        });
    }
    Ok(tensors)
}

/// Where a tensor lies in the file, checked: `None` when its type is not known and so its size is not either.
pub(super) fn place(
    tensor: &RawTensor,
    header: &Header,
    file_len: usize,
) -> Parsed<Option<(GgmlType, Vec<usize>, Range<usize>)>> {
    let what = format!("tensor {:?}", tensor.name);
    if tensor.offset % header.alignment != 0 {
        return Err(format!(
            "{what} begins at byte {} of the data, no multiple of {}",
            tensor.offset, header.alignment
        ));
    }
    let shape = tensor
        .dims
        .iter()
        .rev()
        .map(|d| usize::try_from(*d).ok())
        .collect::<Option<Vec<usize>>>();
    let elements = shape
        .as_ref()
        .and_then(|s| s.iter().try_fold(1usize, |n, d| n.checked_mul(*d)));
    let (Some(shape), Some(elements)) = (shape, elements) else {
        return Err(format!("{what}: a shape of {:?} is too large", tensor.dims));
    };
    let Some(ty) = GgmlType::from_id(tensor.type_id) else {
        return Ok(None);
    };
    let (values, size) = (ty.block_values() as usize, ty.block_bytes() as usize);
    // A row of blocks, not the whole tensor: a block that spans two rows could not be used.
    let row = shape.last().copied().unwrap_or(1);
    if row % values != 0 {
        return Err(format!(
            "{what}: rows of {row} values are no whole blocks of {ty}, which have {values}"
        ));
    }
    let range = (elements / values).checked_mul(size).and_then(|len| {
        let start = header.data.checked_add(usize::try_from(tensor.offset).ok()?)?;
        Some(start..start.checked_add(len)?)
    });
    match range {
        Some(range) if range.end <= file_len => Ok(Some((ty, shape, range))),
        _ => Err(format!(
            "{what} ({ty}, {:?}, at byte {} of the data) reaches beyond the end of the file at byte {file_len}",
            tensor.dims, tensor.offset
        )),
    }
}
