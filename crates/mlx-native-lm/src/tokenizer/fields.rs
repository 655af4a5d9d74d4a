//! Fields of `tokenizer.json` that the library of tokenizers does not read: it passes them over in silence.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::TOKENIZER_FILE;

/// Fields of the model, of all its kinds, that the library reads.
const MODEL: [&str; 11] = [
    "type",
    "vocab",
    "merges",
    "dropout",
    "unk_token",
    "unk_id",
    "continuing_subword_prefix",
    "end_of_word_suffix",
    "fuse_unk",
    "byte_fallback",
    "ignore_merges",
];
/// Fields that are read, and written under another name: older names, and one that only some kinds have.
const READ: [&str; 3] = ["str_rep", "add_prefix_space", "max_input_chars_per_word"];

/// The file without its long parts.
#[derive(Deserialize)]
#[expect(dead_code, reason = "what is named is not among the rest")]
struct File {
    version: Option<IgnoredAny>,
    truncation: Option<IgnoredAny>,
    padding: Option<IgnoredAny>,
    added_tokens: Option<IgnoredAny>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    decoder: Value,
    model: Option<Model>,
    #[serde(flatten)]
    rest: BTreeMap<String, IgnoredAny>,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "what is named is not among the rest")]
struct Model {
    vocab: Option<IgnoredAny>,
    merges: Option<IgnoredAny>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

/// The fields of the file that `loaded`, which was made of it, does not have, each after the name of the file.
pub(super) fn unread(text: &[u8], loaded: &tokenizers::Tokenizer) -> Vec<String> {
    // The library has read it, so whatever is wrong here is no fault of the file's.
    let Ok(file) = serde_json::from_slice::<File>(text) else {
        return Vec::new();
    };
    let mut paths: Vec<String> = file.rest.into_keys().collect();
    let model = file.model.map(|model| model.rest).unwrap_or_default();
    let other = model.into_iter().filter(|(name, value)| {
        !value.is_null() && !MODEL.contains(&name.as_str()) && !READ.contains(&name.as_str())
    });
    paths.extend(other.map(|(name, _)| format!("model.{name}")));
    let parts = [
        (
            "normalizer",
            &file.normalizer,
            serde_json::to_value(loaded.get_normalizer()),
        ),
        (
            "pre_tokenizer",
            &file.pre_tokenizer,
            serde_json::to_value(loaded.get_pre_tokenizer()),
        ),
        (
            "post_processor",
            &file.post_processor,
            serde_json::to_value(loaded.get_post_processor()),
        ),
        (
            "decoder",
            &file.decoder,
            serde_json::to_value(loaded.get_decoder()),
        ),
    ];
    for (name, found, kept) in parts {
        if let Ok(kept) = kept {
            missing(found, &kept, name, &mut paths);
        }
    }
    paths
        .into_iter()
        .map(|path| format!("{TOKENIZER_FILE}: {path}"))
        .collect()
}

/// Adds the keys with a value that `kept` lacks.
fn missing(found: &Value, kept: &Value, path: &str, out: &mut Vec<String>) {
    match (found, kept) {
        (Value::Object(found), Value::Object(kept)) => {
            for (key, value) in found.iter().filter(|(_, value)| !value.is_null()) {
                let path = format!("{path}.{key}");
                match kept.get(key) {
                    Some(kept) => missing(value, kept, &path, out),
                    None if READ.contains(&key.as_str()) => {}
                    None => out.push(path),
                }
            }
        }
        (Value::Array(found), Value::Array(kept)) => {
            for (found, kept) in found.iter().zip(kept) {
                missing(found, kept, path, out);
            }
        }
        _ => {}
    }
}
