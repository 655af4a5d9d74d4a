//! States as files: the prompt caches of mlx-lm (`mlx_lm.cache_prompt`), read and written.
//!
//! A safetensors file. Layer `i` has the tensors `i.0` and `i.1`, keys and values `[1, n_heads, positions, dim]`, and whole
//! numbers: `i.2`, the positions it has seen, and for a ring `i.3` to `i.5`: positions kept from the beginning, the most that
//! it holds, and where the next is written. The header's metadata has the caller's under `0.`, the class of each layer under
//! `1.`, and under `2.` which tensors were numbers of Python.

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Range;
use std::path::Path;

use half::{bf16, f16};
use mlx_native::DType;
use mlx_native::weights::{SafetensorsFile, TensorType};
use serde_json::{Map, json};

use super::pool::{Group, Plane};
use super::{BLOCK, Blocks, Kind, SequenceState};
use crate::error::{LmError, Result};

/// Keys or values of some positions: `[n_heads, positions, dim]`, in the bytes of `dtype`.
struct Rows {
    dtype: DType,
    n_heads: usize,
    dim: usize,
    positions: Range<usize>,
    bytes: Vec<u8>,
}

impl Rows {
    fn new(plane: &Plane, positions: Range<usize>) -> Self {
        let [n_heads, _, dim] = plane.block[..] else {
            return Rows {
                dtype: plane.dtype,
                n_heads: 0,
                dim: 0,
                positions,
                bytes: Vec::new(),
            };
        };
        let bytes = n_heads * positions.len() * dim * plane.dtype.size_of();
        Rows {
            dtype: plane.dtype,
            n_heads,
            dim,
            positions,
            bytes: vec![0; bytes],
        }
    }

    /// Calls `f` with the block's place in the table, a range of bytes of the block, and the same positions' of these rows.
    fn for_each_run(&self, mut f: impl FnMut(usize, Range<usize>, Range<usize>)) {
        let row = self.dim * self.dtype.size_of();
        let mut at = self.positions.start;
        while at < self.positions.end {
            let (block, within) = (at / BLOCK, at % BLOCK);
            let n = (BLOCK - within).min(self.positions.end - at);
            for head in 0..self.n_heads {
                let from = (head * BLOCK + within) * row;
                let to = (head * self.positions.len() + at - self.positions.start) * row;
                f(block, from..from + n * row, to..to + n * row);
            }
            at += n;
        }
    }
}

/// What a file has to say of a layer.
struct Saved {
    kind: Kind,
    len: usize,
    keys: Rows,
    values: Rows,
}

impl SequenceState {
    /// Writes the state to a file that mlx-lm reads too, with `metadata` of the caller's: mlx-lm writes `model` and
    /// `tokenizer_config`.
    ///
    /// # Errors
    /// [`LmError::InvalidArgument`] for an empty state, [`LmError::Unsupported`] for layers other than attention,
    /// [`LmError::Folder`] when the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>, metadata: &BTreeMap<String, String>) -> Result<()> {
        if self.is_empty() {
            return Err(LmError::InvalidArgument("an empty state is not saved".to_owned()));
        }
        let mut layers = Vec::new();
        {
            let blocks = self.pool.lock();
            for place in &blocks.places {
                let group = &blocks.groups[place.group];
                let first = match group.kind {
                    Kind::Paged => 0,
                    Kind::Rotating { window, .. } => self.len.saturating_sub(window),
                    Kind::Recurrent => {
                        return Err(LmError::Unsupported(
                            "saving the state of a recurrent layer".to_owned(),
                        ));
                    }
                };
                let read = |plane: usize| self.read(group, place.group, plane, first..self.len);
                layers.push(Saved {
                    kind: group.kind,
                    len: self.len,
                    keys: read(place.plane)?,
                    values: read(place.plane + 1)?,
                });
            }
        }
        let path = path.as_ref();
        write(path, &layers, metadata)
            .map_err(|e| LmError::Folder(format!("{}: cannot be written: {e}", path.display())))
    }

    fn read(&self, group: &Group, index: usize, plane: usize, positions: Range<usize>) -> Result<Rows> {
        let plane = &group.planes[plane];
        let mut rows = Rows::new(plane, positions);
        let bytes = plane.buffer.view(0, DType::U8, vec![plane.buffer.byte_len()])?;
        let mut runs = Vec::new();
        rows.for_each_run(|block, from, to| runs.push((block, from, to)));
        for (block, from, to) in runs {
            let first = self.place_of(index, group, block) as usize * plane.block_bytes() + from.start;
            bytes.read_into(first, &mut rows.bytes[to])?;
        }
        Ok(rows)
    }

    /// The block of the pool that has the positions of block `block` of the sequence.
    fn place_of(&self, index: usize, group: &Group, block: usize) -> u32 {
        let held = &self.held[index].blocks;
        match group.kind {
            Kind::Rotating { ring, .. } => held[block % ring],
            _ => held[block],
        }
    }

    /// Fills an empty state from a file of mlx-lm's or of [`save`](Self::save); gives its metadata. Values are cast to the
    /// dtype of this state.
    ///
    /// # Errors
    /// [`LmError::InvalidArgument`] when something is held already; [`LmError::Weights`] or [`LmError::Unsupported`], naming
    /// the layer, for a file of another model, or one whose layers are quantised or recurrent; what the file's reader says of
    /// a damaged file. The state is empty then.
    pub fn load(&mut self, path: impl AsRef<Path>) -> Result<BTreeMap<String, String>> {
        if !self.is_empty() {
            return Err(LmError::InvalidArgument(
                "load: the state holds something".to_owned(),
            ));
        }
        let file = SafetensorsFile::open(path)?;
        let layers = {
            let blocks = self.pool.lock();
            check_classes(&file, &blocks)?;
            (0..blocks.places.len())
                .map(|i| read_layer(&file, &blocks, i))
                .collect::<Result<Vec<_>>>()?
        };
        let len = layers.first().map_or(0, |l| l.len);
        if len == 0 || layers.iter().any(|l| l.len != len) {
            return Err(LmError::Weights(
                "the layers of a prompt cache hold different numbers of positions".to_owned(),
            ));
        }
        self.prepare(len)?;
        let pool = self.pool.clone();
        let blocks = pool.lock();
        for (place, layer) in blocks.places.iter().zip(&layers) {
            let group = &blocks.groups[place.group];
            for (plane, rows) in [(place.plane, &layer.keys), (place.plane + 1, &layer.values)] {
                let plane = &group.planes[plane];
                let mut bytes = plane.buffer.view(0, DType::U8, vec![plane.buffer.byte_len()])?;
                let mut runs = Vec::new();
                rows.for_each_run(|block, to, from| runs.push((block, to, from)));
                for (block, to, from) in runs {
                    let first = self.place_of(place.group, group, block) as usize * plane.block_bytes();
                    bytes.write(first + to.start, &rows.bytes[from])?;
                }
            }
        }
        drop(blocks);
        self.advance(len);
        let own = file.metadata().iter();
        let own = own.filter_map(|(k, v)| Some((k.strip_prefix("0.")?.to_owned(), v.clone())));
        Ok(own.collect())
    }
}

fn class(kind: Kind) -> &'static str {
    match kind {
        Kind::Paged => "KVCache",
        Kind::Rotating { .. } => "RotatingKVCache",
        Kind::Recurrent => "ArraysCache",
    }
}

fn check_classes(file: &SafetensorsFile, blocks: &Blocks) -> Result<()> {
    let metadata = file.metadata();
    let n = (0..)
        .take_while(|i| metadata.contains_key(&format!("1.{i}")))
        .count();
    if n != blocks.places.len() {
        return Err(LmError::Weights(format!(
            "a prompt cache of {n} layers, the model has {}",
            blocks.places.len()
        )));
    }
    for (i, place) in blocks.places.iter().enumerate() {
        let (kind, found) = (blocks.groups[place.group].kind, &metadata[&format!("1.{i}")]);
        if kind == Kind::Recurrent {
            return Err(LmError::Unsupported(
                "a prompt cache with recurrent layers".to_owned(),
            ));
        }
        // What is kept of all positions serves a layer with a window as well, but not the other way round.
        if found != class(kind) && found != "KVCache" {
            return Err(LmError::Unsupported(format!(
                "layer {i} of the prompt cache is a {found}, wanted {}",
                class(kind)
            )));
        }
    }
    Ok(())
}

fn read_layer(file: &SafetensorsFile, blocks: &Blocks, i: usize) -> Result<Saved> {
    let place = blocks.places[i];
    let group = &blocks.groups[place.group];
    let number = |part: usize| whole_number(file, &format!("{i}.{part}"));
    let len = number(2)?;
    let is_ring = file
        .metadata()
        .get(&format!("1.{i}"))
        .is_some_and(|c| c == "RotatingKVCache");
    // The first position held, and how many rows from the beginning of the tensor come last.
    let rows = file.info(&format!("{i}.0")).and_then(|t| t.shape.get(2).copied());
    let rows = rows.ok_or_else(|| wrong(i, "has no keys"))?;
    let (held, turned) = if is_ring {
        let (keep, next) = (number(3)?, number(5)?);
        if keep != 0 {
            return Err(LmError::Unsupported(format!(
                "layer {i} of the prompt cache keeps {keep} positions of the beginning"
            )));
        }
        match (len >= rows, next < rows) {
            (true, true) => (rows, next),
            (true, false) => (rows, 0),
            (false, _) => (len, 0),
        }
    } else {
        (len, 0)
    };
    let needed = match group.kind {
        Kind::Rotating { window, .. } => len.min(window.saturating_sub(1)),
        _ => len,
    };
    if held > rows || held > len || held < needed {
        return Err(wrong(i, &format!("holds {rows} positions of {len}")));
    }
    // A ring that holds fewer than the file has keeps the last.
    let kept = match group.kind {
        Kind::Rotating { ring, .. } => held.min(ring * BLOCK),
        _ => held,
    };
    let read = |part: usize| {
        let plane = &group.planes[place.plane + part];
        read_rows(
            file,
            plane,
            &format!("{i}.{part}"),
            [rows, held, turned],
            len - kept..len,
        )
    };
    Ok(Saved {
        kind: group.kind,
        len,
        keys: read(0)?,
        values: read(1)?,
    })
}

/// The last of the `held` positions of a tensor of `rows`, of which the first in time is row `turned`.
fn read_rows(
    file: &SafetensorsFile,
    plane: &Plane,
    name: &str,
    [rows, held, turned]: [usize; 3],
    positions: Range<usize>,
) -> Result<Rows> {
    let mut out = Rows::new(plane, positions);
    let info = file.info(name);
    let wanted = [1, out.n_heads, rows, out.dim];
    let Some(info) = info.filter(|t| t.shape[..] == wanted) else {
        let found = info.map_or_else(|| "nothing".to_owned(), |t| format!("{:?}", t.shape));
        return Err(LmError::Weights(format!(
            "prompt cache, {name}: found {found}, wanted {wanted:?}"
        )));
    };
    let from = info.dtype.dtype().filter(|d| d.is_float());
    let from =
        from.ok_or_else(|| LmError::Unsupported(format!("a prompt cache in {}", info.dtype.name())))?;
    let bytes = file.bytes(name)?;
    let n = out.positions.len();
    let (row_in, row_out) = (out.dim * from.size_of(), out.dim * out.dtype.size_of());
    for head in 0..out.n_heads {
        for i in 0..n {
            let source = (turned + held - n + i) % rows;
            let at = (head * rows + source) * row_in;
            let to = (head * n + i) * row_out;
            cast(
                from,
                &bytes[at..at + row_in],
                out.dtype,
                &mut out.bytes[to..to + row_out],
            );
        }
    }
    Ok(out)
}

fn cast(from: DType, bytes: &[u8], to: DType, out: &mut [u8]) {
    if from == to {
        out.copy_from_slice(bytes);
        return;
    }
    for (source, target) in bytes
        .chunks_exact(from.size_of())
        .zip(out.chunks_exact_mut(to.size_of()))
    {
        let value = match (from, source) {
            (DType::F16, [a, b]) => f16::from_le_bytes([*a, *b]).to_f32(),
            (DType::BF16, [a, b]) => bf16::from_le_bytes([*a, *b]).to_f32(),
            (_, [a, b, c, d]) => f32::from_le_bytes([*a, *b, *c, *d]),
            _ => 0.0,
        };
        match to {
            DType::F16 => target.copy_from_slice(&f16::from_f32(value).to_le_bytes()),
            DType::BF16 => target.copy_from_slice(&bf16::from_f32(value).to_le_bytes()),
            _ => target.copy_from_slice(&value.to_le_bytes()),
        }
    }
}

fn whole_number(file: &SafetensorsFile, name: &str) -> Result<usize> {
    let wrong = || LmError::Weights(format!("prompt cache, {name}: no whole number below 2^31"));
    let info = file
        .info(name)
        .filter(|t| t.element_count() == 1)
        .ok_or_else(wrong)?;
    let bytes = file.bytes(name)?;
    let value = match (info.dtype, bytes) {
        (TensorType::I32, [a, b, c, d]) => i64::from(i32::from_le_bytes([*a, *b, *c, *d])),
        (TensorType::U32, [a, b, c, d]) => i64::from(u32::from_le_bytes([*a, *b, *c, *d])),
        (TensorType::I64, bytes) => bytes.try_into().map(i64::from_le_bytes).map_err(|_| wrong())?,
        _ => return Err(wrong()),
    };
    let value = usize::try_from(value).ok().filter(|v| *v <= i32::MAX as usize);
    value.ok_or_else(wrong)
}

fn wrong(layer: usize, what: &str) -> LmError {
    LmError::Weights(format!("prompt cache: layer {layer} {what}"))
}

fn write(path: &Path, layers: &[Saved], metadata: &BTreeMap<String, String>) -> std::io::Result<()> {
    let mut about = Map::new();
    for (key, value) in metadata {
        about.insert(format!("0.{key}"), json!(value));
    }
    about.insert("2.0".to_owned(), json!(""));
    let mut data: Vec<(String, &str, Vec<usize>, Vec<u8>)> = Vec::new();
    let mut scalars = 0;
    for (i, layer) in layers.iter().enumerate() {
        about.insert(format!("1.{i}"), json!(class(layer.kind)));
        for (part, rows) in [&layer.keys, &layer.values].into_iter().enumerate() {
            let name = match rows.dtype {
                DType::F16 => "F16",
                DType::BF16 => "BF16",
                _ => "F32",
            };
            let shape = vec![1, rows.n_heads, rows.positions.len(), rows.dim];
            data.push((format!("{i}.{part}"), name, shape, rows.bytes.clone()));
        }
        let held = layer.keys.positions.len();
        let numbers = match layer.kind {
            Kind::Rotating { window, .. } => vec![layer.len, 0, window, held],
            _ => vec![layer.len],
        };
        for (part, number) in numbers.into_iter().enumerate() {
            let name = format!("{i}.{}", part + 2);
            scalars += 1;
            about.insert(format!("2.{scalars}.0"), json!(name));
            about.insert(format!("2.{scalars}.1"), json!("scalar"));
            let number = i32::try_from(number).unwrap_or(i32::MAX);
            data.push((name, "I32", Vec::new(), number.to_le_bytes().to_vec()));
        }
    }
    let mut header = Map::new();
    header.insert("__metadata__".to_owned(), about.into());
    let mut end = 0;
    for (name, dtype, shape, bytes) in &data {
        let offsets = [end, end + bytes.len()];
        end += bytes.len();
        header.insert(
            name.clone(),
            json!({"dtype": dtype, "shape": shape, "data_offsets": offsets}),
        );
    }
    let mut text = serde_json::to_vec(&header)?;
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    file.write_all(&(text.len() as u64).to_le_bytes())?;
    file.write_all(&text)?;
    for (_, _, _, bytes) in &data {
        file.write_all(bytes)?;
    }
    file.flush()
}
