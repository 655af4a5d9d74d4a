//! A GGUF file as a model: its metadata becomes the files of a model folder, its tensors get MLX's names.
//!
//! `config.json` is written from the metadata (`config`), and the family that MLX's folders of that model have reads it;
//! `tokenizer.json` from the vocabulary (`tokenizer`, `pre`). Blocks are computed in place. What the two layouts do
//! differently is undone without touching a tensor: rows of queries and keys of `llama` lie so that neighbours turn
//! together, which is a rotation of neighbours; the norms of Gemma have their one added already.

mod config;
mod metadata;
mod names;
mod pre;
#[cfg(test)]
mod tests;
mod tokenizer;

use std::path::Path;

use mlx_native::gguf::GgufModel;
use serde_json::Value;

use crate::config::ConfigFile;
use crate::error::{LmError, Result};
use crate::spec::DecoderSpec;
use crate::tensors::GgufTensors;
use metadata::Metadata;

/// A GGUF model: the files that a folder in MLX's format would have beside its weights, and the tensors.
pub(crate) struct Opened {
    /// Names and contents.
    pub files: Vec<(&'static str, Vec<u8>)>,
    /// The tensors.
    pub tensors: GgufTensors,
}

/// Opens the GGUF file at `path` and, when it is the first of several, the others.
///
/// # Errors
/// [`LmError`], one line that names the file and the key or tensor: a damaged file, an architecture or a tokenizer that is
/// not supported, metadata that is missing or impossible.
pub(crate) fn open(path: &Path) -> Result<Opened> {
    of_model(GgufModel::open(path)?)
}

/// The same of files that are open already.
pub(crate) fn of_model(model: GgufModel) -> Result<Opened> {
    let meta = Metadata::new(&model)?;
    let config = config::config(&meta, &model)?;
    let (tokenizer, tokenizer_config) = tokenizer::files(&meta)?;
    let generation = tokenizer::generation_config(&meta)?;
    let arch = meta.arch;
    let is_moe = config.get("num_local_experts").is_some();
    let mut files = Vec::new();
    for (name, value) in [
        ("config.json", Value::Object(config)),
        ("generation_config.json", Value::Object(generation)),
        ("tokenizer_config.json", Value::Object(tokenizer_config)),
    ] {
        let text = serde_json::to_vec_pretty(&value).map_err(|e| LmError::Config(format!("{name}: {e}")))?;
        files.push((name, text));
    }
    files.push(("tokenizer.json", tokenizer));
    let names: Vec<(String, String)> = model
        .tensor_names()
        .filter(|stored| !names::SAID_ELSEWHERE.contains(stored))
        .map(|stored| (names::mlx_name(arch, is_moe, stored), stored.to_owned()))
        .collect();
    Ok(Opened {
        files,
        tensors: GgufTensors::new(model, names)?,
    })
}

/// Undoes what GGUF stores differently from MLX and a configuration cannot say: its converter has added the one to Gemma's
/// norms.
pub(crate) fn adjust(spec: &mut DecoderSpec) {
    spec.for_each_norm(|norm| norm.offset = 0.0);
}

/// Turns values of the tensor with MLX's `name` into those of MLX's folder, where a conversion writes them: Gemma's norms
/// less one, rows of queries and keys of `llama` by halves of a head.
pub(crate) fn undo(config: &ConfigFile, family: &str, name: &str, values: &mut Vec<f32>) {
    if family.starts_with("gemma") && name.ends_with("norm.weight") {
        values.iter_mut().for_each(|v| *v -= 1.0);
        return;
    }
    let fields = config.fields();
    let heads = |key: &str| fields.get(key).and_then(Value::as_u64).unwrap_or(1) as usize;
    if fields.get("rope_traditional") != Some(&Value::Bool(true)) {
        return;
    }
    let heads = match name {
        _ if name.contains(".q_proj.") => heads("num_attention_heads"),
        _ if name.contains(".k_proj.") => heads("num_key_value_heads"),
        _ => return,
    };
    let rows = heads * heads_dim(config);
    if rows == 0 || !values.len().is_multiple_of(rows) {
        return;
    }
    let (dim, columns) = (rows / heads, values.len() / rows);
    let mut out = Vec::with_capacity(values.len());
    for head in 0..heads {
        for r in 0..dim {
            let from = head * dim + 2 * (r % (dim / 2)) + r / (dim / 2);
            out.extend_from_slice(&values[from * columns..][..columns]);
        }
    }
    *values = out;
}

fn heads_dim(config: &ConfigFile) -> usize {
    let dim = config.fields().get("head_dim").and_then(Value::as_u64);
    dim.unwrap_or(0) as usize
}
