//! The weights of a model: one safetensors file, or many.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use super::safetensors::Quoted;
use super::{SafetensorsFile, TensorInfo};
use crate::error::{MlxError, Result};

const INDEX: &str = "model.safetensors.index.json";
/// Longest index that is read, in bytes.
const MAX_INDEX_LEN: u64 = 256 << 20;

/// The tensors of a model, from one or many files, by name.
#[derive(Debug, Clone)]
pub struct ModelWeights {
    shards: Vec<SafetensorsFile>,
    by_name: HashMap<String, usize>,
}

impl ModelWeights {
    /// Maps every `model*.safetensors` of a folder, as mlx-lm does. An index is not needed; where there is one, each
    /// file that it names must be there.
    ///
    /// # Errors
    /// [`MlxError::IoError`] when the folder cannot be read; [`MlxError::SafetensorsError`] when it has no such file,
    /// one that the index names is missing, one is damaged, or two have a tensor of the same name.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let paths = shard_paths(folder)?;
        check_index(folder, &paths)?;
        if paths.is_empty() {
            return Err(MlxError::SafetensorsError(format!(
                "{}: no model*.safetensors",
                folder.display()
            )));
        }
        Self::from_files(paths.iter().map(SafetensorsFile::open).collect::<Result<_>>()?)
    }

    /// Puts files together that are open already.
    ///
    /// # Errors
    /// [`MlxError::SafetensorsError`] when two have a tensor of the same name.
    pub fn from_files(shards: Vec<SafetensorsFile>) -> Result<Self> {
        let mut by_name = HashMap::with_capacity(shards.iter().map(|s| s.tensor_names().len()).sum());
        for (i, shard) in shards.iter().enumerate() {
            for name in shard.tensor_names() {
                if let Some(first) = by_name.insert(name.to_string(), i) {
                    return Err(MlxError::SafetensorsError(format!(
                        "tensor {} is in {} and in {}",
                        Quoted(name),
                        shards[first].path().display(),
                        shard.path().display()
                    )));
                }
            }
        }
        Ok(ModelWeights { shards, by_name })
    }

    /// The files.
    #[must_use]
    pub fn shards(&self) -> &[SafetensorsFile] {
        &self.shards
    }

    /// Index into [`shards`](Self::shards) of the file that has a tensor.
    #[must_use]
    pub fn shard_of(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// Number of tensors.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Whether there is no tensor.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// The names of the tensors, sorted within each file.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.shards.iter().flat_map(SafetensorsFile::tensor_names)
    }

    /// Whether there is a tensor of this name.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// What is known of a tensor; `None` when there is none of this name.
    #[must_use]
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.shards[self.shard_of(name)?].info(name)
    }

    /// The bytes of a tensor, where they are.
    ///
    /// # Errors
    /// [`MlxError::SafetensorsError`] when there is none of this name.
    pub fn bytes(&self, name: &str) -> Result<&[u8]> {
        self.shards[self.find(name)?].bytes(name)
    }

    /// Bytes of all tensors together.
    #[must_use]
    pub fn total_bytes(&self) -> usize {
        self.shards
            .iter()
            .flat_map(|s| s.tensors().map(|(_, info)| info.range.len()))
            .sum()
    }

    /// [`shard_of`](Self::shard_of), with an error that says where it was looked for.
    pub(super) fn find(&self, name: &str) -> Result<usize> {
        self.shard_of(name).ok_or_else(|| {
            let place = match self.shards.as_slice() {
                [only] => only.path().display().to_string(),
                shards => format!("{} safetensors files", shards.len()),
            };
            MlxError::SafetensorsError(format!("{place}: no tensor {}", Quoted(name)))
        })
    }
}

/// `model*.safetensors`, sorted by name.
fn shard_paths(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = |e: std::io::Error| MlxError::IoError(format!("{}: {e}", folder.display()));
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        if name
            .to_str()
            .is_some_and(|n| n.starts_with("model") && n.ends_with(".safetensors"))
        {
            paths.push(entry.path());
        }
    }
    paths.sort_unstable();
    Ok(paths)
}

#[derive(serde::Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Checks that the files which the index names, if there is an index, are among `paths`.
fn check_index(folder: &Path, paths: &[PathBuf]) -> Result<()> {
    let path = folder.join(INDEX);
    let metadata = match std::fs::metadata(&path) {
        Ok(metadata) => metadata,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(MlxError::IoError(format!("{}: {e}", path.display()))),
    };
    if !metadata.is_file() || metadata.len() > MAX_INDEX_LEN {
        return Err(MlxError::SafetensorsError(format!(
            "{}: no regular file of at most {MAX_INDEX_LEN} bytes",
            path.display()
        )));
    }
    let text = std::fs::read(&path).map_err(|e| MlxError::IoError(format!("{}: {e}", path.display())))?;
    let index: Index = serde_json::from_slice(&text)
        .map_err(|e| MlxError::SafetensorsError(format!("{}: {e}", path.display())))?;
    for (tensor, shard) in &index.weight_map {
        if !paths
            .iter()
            .any(|p| p.file_name().is_some_and(|n| n == shard.as_str()))
        {
            return Err(MlxError::SafetensorsError(format!(
                "{}: names the file {} (for tensor {}), which is missing",
                path.display(),
                Quoted(shard),
                Quoted(tensor)
            )));
        }
    }
    Ok(())
}
