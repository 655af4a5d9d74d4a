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
    /// Maps the safetensors files of a folder. An index decides which files those are and, where two of them have a
    /// tensor, which one counts, as in transformers; without one, or where it names none, they are all
    /// `model*.safetensors`, as in mlx-lm.
    ///
    /// # Errors
    /// [`MlxError::IoError`] when the folder cannot be read; [`MlxError::SafetensorsError`] when it has no such file,
    /// one that the index names is missing, one is damaged, or two have a tensor of the same name and no index decides.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let index = read_index(folder)?;
        let paths = match &index {
            Some(index) => index_paths(folder, index)?,
            None => shard_paths(folder)?,
        };
        if paths.is_empty() {
            return Err(MlxError::SafetensorsError(format!(
                "{}: no model*.safetensors",
                folder.display()
            )));
        }
        let shards = paths.iter().map(SafetensorsFile::open).collect::<Result<_>>()?;
        Self::from_shards(shards, |name| {
            index.as_ref()?.weight_map.get(name).map(String::as_str)
        })
    }

    /// Puts files together that are open already.
    ///
    /// # Errors
    /// [`MlxError::SafetensorsError`] when two have a tensor of the same name.
    pub fn from_files(shards: Vec<SafetensorsFile>) -> Result<Self> {
        Self::from_shards(shards, |_| None)
    }

    /// `decides` names the file that has a tensor, where that is known.
    fn from_shards<'a>(
        shards: Vec<SafetensorsFile>,
        decides: impl Fn(&str) -> Option<&'a str>,
    ) -> Result<Self> {
        let mut by_name = HashMap::with_capacity(shards.iter().map(|s| s.tensor_names().len()).sum());
        for (i, shard) in shards.iter().enumerate() {
            for name in shard.tensor_names() {
                let Some(&first) = by_name.get(name) else {
                    by_name.insert(name.to_string(), i);
                    continue;
                };
                let is_named = |at: usize, file: &str| {
                    let found: &SafetensorsFile = &shards[at];
                    found.path().file_name().is_some_and(|n| n == file)
                };
                match decides(name) {
                    Some(file) if is_named(first, file) => {}
                    Some(file) if is_named(i, file) => {
                        by_name.insert(name.to_string(), i);
                    }
                    _ => {
                        return Err(MlxError::SafetensorsError(format!(
                            "tensor {} is in {} and in {}",
                            Quoted(name),
                            shards[first].path().display(),
                            shard.path().display()
                        )));
                    }
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
        let counts = |i: usize, name: &str| self.by_name.get(name) == Some(&i);
        let shards = self.shards.iter().enumerate();
        shards.flat_map(move |(i, shard)| shard.tensor_names().filter(move |name| counts(i, name)))
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
        self.names()
            .filter_map(|name| Some(self.info(name)?.range.len()))
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

/// The index of a folder; `None` where there is none, or it names no tensor.
fn read_index(folder: &Path) -> Result<Option<Index>> {
    let path = folder.join(INDEX);
    let metadata = match std::fs::metadata(&path) {
        Ok(metadata) => metadata,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
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
    Ok(Some(index).filter(|index| !index.weight_map.is_empty()))
}

/// The files that the index names, sorted by name. Each is a file of the folder itself.
fn index_paths(folder: &Path, index: &Index) -> Result<Vec<PathBuf>> {
    let mut files = BTreeMap::new();
    for (tensor, file) in &index.weight_map {
        files.entry(file.as_str()).or_insert(tensor.as_str());
    }
    let failed = |file: &str, tensor: &str, what: &str| {
        MlxError::SafetensorsError(format!(
            "{}: names the file {} (for tensor {}), which {what}",
            folder.join(INDEX).display(),
            Quoted(file),
            Quoted(tensor)
        ))
    };
    let mut paths = Vec::with_capacity(files.len());
    for (file, tensor) in files {
        let plain = Path::new(file).file_name().is_some_and(|name| name == file);
        if !plain || !file.ends_with(".safetensors") {
            return Err(failed(file, tensor, "is no safetensors file of this folder"));
        }
        let path = folder.join(file);
        if !path.exists() {
            return Err(failed(file, tensor, "is missing"));
        }
        paths.push(path);
    }
    Ok(paths)
}
