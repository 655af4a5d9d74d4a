//! A model in one GGUF file or in several.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::{GgufFile, TensorInfo};
use crate::buffer::MlxBuffer;
use crate::device::MlxDevice;
use crate::error::{MlxError, Result};

/// Most files of one model.
const MAX_SHARDS: u32 = 9_999;

/// The files of a model. A file that is one of several says so in its metadata (`split.count`, `split.no`), and all are
/// named after the first: `NAME-00001-of-00003.gguf`.
#[derive(Debug)]
pub struct GgufModel {
    shards: Vec<GgufFile>,
    by_name: HashMap<String, usize>,
}

impl GgufModel {
    /// Opens the file at `path` and, when it is the first of several, the others beside it.
    ///
    /// # Errors
    /// As [`GgufFile::open`]; also [`MlxError::GgufParseError`] when `path` is a later file of several, one is missing or
    /// belongs elsewhere, two have a tensor of one name, or their tensors are not as many as the first file says.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let first = GgufFile::open(path)?;
        let failed = |message: String| MlxError::GgufParseError(format!("{}: {message}", path.display()));
        let count = split_number(&first, "split.count").unwrap_or(0).max(1);
        if count > MAX_SHARDS {
            return Err(failed(format!(
                "is one of {count} files, at most {MAX_SHARDS} are read"
            )));
        }
        if count > 1 && split_number(&first, "split.no") != Some(0) {
            return Err(failed(format!(
                "is a later one of {count} files; open the first, …-00001-of-{count:05}.gguf"
            )));
        }
        let total = split_number(&first, "split.tensors.count");
        let mut shards = vec![first];
        for no in 1..count {
            let shard = GgufFile::open(&shard_path(path, no, count).map_err(failed)?)?;
            if (
                split_number(&shard, "split.no"),
                split_number(&shard, "split.count"),
            ) != (Some(no), Some(count))
            {
                return Err(failed(format!(
                    "{} does not say that it is file {} of {count}",
                    shard.path().display(),
                    no + 1
                )));
            }
            shards.push(shard);
        }
        let model = Self::from_files(shards)?;
        match total {
            Some(total) if count > 1 && model.by_name.len() != total as usize => Err(failed(format!(
                "says that its {count} files have {total} tensors; they have {}",
                model.by_name.len()
            ))),
            _ => Ok(model),
        }
    }

    /// Puts files together that are open already, the one with the metadata first.
    ///
    /// # Errors
    /// [`MlxError::GgufParseError`] when there is no file, or two have a tensor of one name.
    pub fn from_files(shards: Vec<GgufFile>) -> Result<Self> {
        if shards.is_empty() {
            return Err(MlxError::GgufParseError("no file".to_owned()));
        }
        let mut by_name = HashMap::new();
        for (i, shard) in shards.iter().enumerate() {
            for name in shard.tensor_names() {
                if let Some(other) = by_name.insert(name.to_owned(), i) {
                    return Err(MlxError::GgufParseError(format!(
                        "tensor {name:?} is in {} and in {}",
                        shards[other].path().display(),
                        shard.path().display()
                    )));
                }
            }
        }
        Ok(GgufModel { shards, by_name })
    }

    /// The file with the metadata.
    #[must_use]
    pub fn first(&self) -> &GgufFile {
        &self.shards[0]
    }

    /// The files.
    #[must_use]
    pub fn shards(&self) -> &[GgufFile] {
        &self.shards
    }

    /// The names of the tensors, file by file.
    pub fn tensor_names(&self) -> impl Iterator<Item = &str> {
        self.shards.iter().flat_map(GgufFile::tensor_names)
    }

    /// Whether there is a tensor of this name, of a known type or not.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// As [`GgufFile::tensor_info`].
    #[must_use]
    pub fn tensor_info(&self, name: &str) -> Option<&TensorInfo> {
        self.shard(name).tensor_info(name)
    }

    /// As [`GgufFile::tensor_bytes`].
    ///
    /// # Errors
    /// As there.
    pub fn tensor_bytes(&self, name: &str) -> Result<&[u8]> {
        self.shard(name).tensor_bytes(name)
    }

    /// As [`GgufFile::load_tensor`].
    ///
    /// # Errors
    /// As there.
    pub fn load_tensor(&self, name: &str, device: &MlxDevice) -> Result<MlxBuffer> {
        self.shard(name).load_tensor(name, device)
    }

    /// As [`GgufFile::map_tensor`].
    ///
    /// # Errors
    /// As there.
    pub fn map_tensor(&self, name: &str, device: &MlxDevice) -> Result<MlxBuffer> {
        self.shard(name).map_tensor(name, device)
    }

    /// As [`GgufFile::load_tensor_f32`].
    ///
    /// # Errors
    /// As there.
    pub fn load_tensor_f32(&self, name: &str, device: &MlxDevice) -> Result<MlxBuffer> {
        self.shard(name).load_tensor_f32(name, device)
    }

    /// The file that has a tensor; the first when none has, which then says so.
    fn shard(&self, name: &str) -> &GgufFile {
        &self.shards[self.by_name.get(name).copied().unwrap_or(0)]
    }
}

/// A number of the split's metadata, whatever its integer type: `split.no` is a u16, `split.tensors.count` an i32.
fn split_number(file: &GgufFile, key: &str) -> Option<u32> {
    file.metadata_u32(key)
}

/// The path of file `no` (from 0) of `count`, beside the first at `path`.
fn shard_path(path: &Path, no: u32, count: u32) -> std::result::Result<PathBuf, String> {
    let ending = format!("-00001-of-{count:05}.gguf");
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let Some(stem) = name.strip_suffix(&ending) else {
        return Err(format!(
            "is the first of {count} files, so its name must end in {ending}"
        ));
    };
    Ok(path.with_file_name(format!("{stem}-{:05}-of-{count:05}.gguf", no + 1)))
}
