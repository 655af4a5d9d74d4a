//! A new folder: its files are written under another name, which becomes the folder's own when all of them stand.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use mlx_native::DType;
use serde_json::{Map, Value, json};

use crate::error::{LmError, Result};

/// Most bytes of tensors in a file.
const SHARD: u64 = 5 << 30;

/// A tensor that is going to be written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub name: String,
    pub dtype: DType,
    pub shape: Vec<usize>,
    pub bytes: usize,
}

impl Entry {
    pub fn new(name: &str, dtype: DType, shape: Vec<usize>) -> Self {
        let bytes = shape.iter().product::<usize>() * dtype.size_of();
        Entry {
            name: name.to_owned(),
            dtype,
            shape,
            bytes,
        }
    }
}

/// A folder in the making; what is there of it goes when it is dropped unfinished.
pub(crate) struct Folder {
    target: PathBuf,
    partial: PathBuf,
}

impl Folder {
    /// Begins the folder `target`, which must not be there.
    pub fn create(target: &Path) -> Result<Self> {
        if target.symlink_metadata().is_ok() {
            return Err(LmError::InvalidArgument(format!(
                "{}: is there already; name another place, or delete it first",
                target.display()
            )));
        }
        let Some(name) = target.file_name().and_then(|n| n.to_str()) else {
            return Err(LmError::InvalidArgument(format!(
                "{}: no name of a folder",
                target.display()
            )));
        };
        let partial = target.with_file_name(format!(".{name}.partial-{}", std::process::id()));
        let failed = |e: std::io::Error| LmError::Folder(format!("{}: {e}", partial.display()));
        std::fs::create_dir_all(&partial).map_err(failed)?;
        Ok(Folder {
            target: target.to_path_buf(),
            partial,
        })
    }

    /// Writes a file.
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.partial.join(name);
        std::fs::write(&path, bytes).map_err(|e| LmError::Folder(format!("{}: {e}", path.display())))
    }

    /// Writes a file of JSON, four spaces deep.
    pub fn write_json(&mut self, name: &str, value: &Value) -> Result<()> {
        let mut text = Vec::new();
        let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
        let mut serializer = serde_json::Serializer::with_formatter(&mut text, formatter);
        serde::Serialize::serialize(value, &mut serializer)
            .map_err(|e| LmError::Config(format!("{name}: {e}")))?;
        self.write(name, &text)
    }

    /// Begins the files of `entries`, which are put into files in this order.
    pub fn shards(&mut self, entries: &[Entry]) -> Result<Shards<'_>> {
        let mut files: Vec<Vec<Entry>> = Vec::new();
        let mut size = 0u64;
        for entry in entries {
            let bytes = entry.bytes as u64;
            if files.is_empty() || size + bytes > SHARD {
                files.push(Vec::new());
                size = 0;
            }
            size += bytes;
            if let Some(file) = files.last_mut() {
                file.push(entry.clone());
            }
        }
        let count = files.len();
        let mut shards = Shards {
            folder: self,
            files: Vec::new(),
            places: HashMap::new(),
        };
        for (i, mut entries) in files.into_iter().enumerate() {
            // Wide elements first: then each tensor lies at a multiple of its element's size.
            entries.sort_by_key(|e| std::cmp::Reverse(e.dtype.size_of()));
            let name = match count {
                1 => "model.safetensors".to_owned(),
                n => format!("model-{:05}-of-{n:05}.safetensors", i + 1),
            };
            let path = shards.folder.partial.join(&name);
            let failed = |e: std::io::Error| LmError::Folder(format!("{}: {e}", path.display()));
            let mut file = File::create(&path).map_err(failed)?;
            let header = header(&entries);
            file.write_all(&(header.len() as u64).to_le_bytes())
                .map_err(failed)?;
            file.write_all(&header).map_err(failed)?;
            let mut at = 8 + header.len() as u64;
            for entry in entries {
                let place = Place {
                    file: i,
                    at,
                    bytes: entry.bytes,
                    written: 0,
                };
                at += entry.bytes as u64;
                if shards.places.insert(entry.name.clone(), place).is_some() {
                    return Err(LmError::Weights(format!("{}: announced twice", entry.name)));
                }
            }
            shards.files.push((path, file));
        }
        Ok(shards)
    }

    /// Gives the folder its name.
    pub fn finish(self) -> Result<()> {
        let failed = |e: std::io::Error| LmError::Folder(format!("{}: {e}", self.target.display()));
        if self.target.symlink_metadata().is_ok() {
            return Err(failed(std::io::ErrorKind::AlreadyExists.into()));
        }
        std::fs::rename(&self.partial, &self.target).map_err(failed)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Gone already where it has got its name.
        let _ = std::fs::remove_dir_all(&self.partial);
    }
}

/// The safetensors files of a folder, being written. Tensors come in any order, each in pieces.
pub(crate) struct Shards<'f> {
    folder: &'f mut Folder,
    files: Vec<(PathBuf, File)>,
    places: HashMap<String, Place>,
}

/// Where a tensor goes.
struct Place {
    file: usize,
    at: u64,
    bytes: usize,
    written: usize,
}

impl Shards<'_> {
    /// Writes the next bytes of the tensor `name`.
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let place = self
            .places
            .get_mut(name)
            .filter(|p| p.written + bytes.len() <= p.bytes);
        let Some(place) = place else {
            return Err(LmError::Weights(format!(
                "{name}: {} bytes that were not announced",
                bytes.len()
            )));
        };
        let (path, file) = &mut self.files[place.file];
        let failed = |e: std::io::Error| LmError::Folder(format!("{}: {e}", path.display()));
        let at = place.at + place.written as u64;
        file.seek(SeekFrom::Start(at)).map_err(failed)?;
        file.write_all(bytes).map_err(failed)?;
        place.written += bytes.len();
        Ok(())
    }

    /// Ends the files and writes the index; gives their number.
    pub fn finish(self, total: u64, parameters: u64) -> Result<usize> {
        if let Some((name, _)) = self.places.iter().find(|(_, p)| p.written != p.bytes) {
            return Err(LmError::Weights(format!("{name}: was not written in full")));
        }
        for (path, file) in &self.files {
            let failed = |e: std::io::Error| LmError::Folder(format!("{}: {e}", path.display()));
            file.sync_all().map_err(failed)?;
        }
        let name = |file: usize| {
            let name = self.files[file].0.file_name().and_then(|n| n.to_str());
            json!(name.unwrap_or_default())
        };
        let map: BTreeMap<&String, Value> = self.places.iter().map(|(k, p)| (k, name(p.file))).collect();
        let map: Map<String, Value> = map.into_iter().map(|(k, v)| (k.clone(), v)).collect();
        let index = json!({
            "metadata": {"total_size": total, "total_parameters": parameters},
            "weight_map": map,
        });
        self.folder.write_json("model.safetensors.index.json", &index)?;
        Ok(self.files.len())
    }
}

/// The header of a file, filled up with spaces so that the tensors begin at a multiple of 64 bytes.
fn header(entries: &[Entry]) -> Vec<u8> {
    let mut object = Map::new();
    object.insert("__metadata__".to_owned(), json!({"format": "mlx"}));
    let mut at = 0;
    for entry in entries {
        let name = match entry.dtype {
            DType::F32 => "F32",
            DType::F16 => "F16",
            DType::BF16 => "BF16",
            DType::U32 => "U32",
            DType::I32 => "I32",
            DType::U16 => "U16",
            _ => "U8",
        };
        let end = at + entry.bytes;
        object.insert(
            entry.name.clone(),
            json!({"dtype": name, "shape": entry.shape, "data_offsets": [at, end]}),
        );
        at = end;
    }
    let mut header = Value::Object(object).to_string().into_bytes();
    header.resize((header.len() + 8).next_multiple_of(64) - 8, b' ');
    header
}
