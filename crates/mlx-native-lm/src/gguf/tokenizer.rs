//! `tokenizer.json` and `tokenizer_config.json` of a GGUF file's vocabulary.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::metadata::Metadata;
use super::pre;
use crate::error::{LmError, Result};

/// Kinds of tokens, `tokenizer.ggml.token_type`.
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const BYTE: i32 = 6;

/// Texts of tokens that end a turn, for files that name none but the end of a text.
const END_OF_TURN: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|return|>",
    "<|call|>",
    "<|eom_id|>",
    "<EOT>",
    "<｜end▁of▁sentence｜>",
];

/// The vocabulary, checked.
struct Vocabulary<'a> {
    tokens: Vec<&'a str>,
    kinds: Vec<i32>,
    ids: HashMap<&'a str, u32>,
}

impl<'a> Vocabulary<'a> {
    fn read(meta: &Metadata<'a>) -> Result<Self> {
        const TOKENS: &str = "tokenizer.ggml.tokens";
        let tokens = meta
            .strings(TOKENS)?
            .ok_or_else(|| meta.invalid(TOKENS, "nothing", "an array of strings"))?;
        let kinds = meta.integers("tokenizer.ggml.token_type")?;
        let kinds = kinds.unwrap_or_else(|| vec![1; tokens.len()]);
        if kinds.len() != tokens.len() {
            let wanted = format!("{}, one a token", tokens.len());
            return Err(meta.invalid("tokenizer.ggml.token_type", kinds.len(), &wanted));
        }
        let mut ids = HashMap::with_capacity(tokens.len());
        for (id, token) in tokens.iter().enumerate() {
            let id = u32::try_from(id).map_err(|_| meta.invalid(TOKENS, tokens.len(), "fewer"))?;
            if let Some(first) = ids.get(token) {
                tracing::warn!(token, first, id, "a token is there twice; the first is meant");
            } else {
                ids.insert(*token, id);
            }
        }
        Ok(Vocabulary { tokens, kinds, ids })
    }

    fn scores(&self, meta: &Metadata<'_>) -> Result<Vec<f32>> {
        const SCORES: &str = "tokenizer.ggml.scores";
        let scores = meta.floats(SCORES)?.unwrap_or_default();
        if scores.len() != self.tokens.len() || scores.iter().any(|s| s.is_nan()) {
            let wanted = format!("{} numbers, one a token", self.tokens.len());
            return Err(meta.invalid(SCORES, scores.len(), &wanted));
        }
        Ok(scores)
    }

    fn to_json(&self) -> Value {
        let mut tokens: Vec<(&str, u32)> = self.ids.iter().map(|(t, id)| (*t, *id)).collect();
        tokens.sort_unstable_by_key(|(_, id)| *id);
        Value::Object(
            tokens
                .into_iter()
                .map(|(t, id)| (t.to_owned(), json!(id)))
                .collect(),
        )
    }

    /// Tokens that are found in a text before anything else.
    fn added(&self, rstrip: impl Fn(&str) -> bool) -> Vec<Value> {
        let tokens = self.tokens.iter().zip(&self.kinds).enumerate();
        tokens
            .filter(|(id, (token, kind))| {
                matches!(**kind, UNKNOWN | CONTROL | USER_DEFINED)
                    && !token.is_empty()
                    && self.ids.get(**token).is_some_and(|first| *first as usize == *id)
            })
            .map(|(id, (token, kind))| {
                let special = *kind != USER_DEFINED;
                json!({
                    "id": id, "content": token, "single_word": false, "lstrip": false,
                    "rstrip": special && rstrip(token), "normalized": false, "special": special,
                })
            })
            .collect()
    }
}

/// The contents of `tokenizer.json` and `tokenizer_config.json`.
pub(super) fn files(meta: &Metadata<'_>) -> Result<(Vec<u8>, Map<String, Value>)> {
    let vocabulary = Vocabulary::read(meta)?;
    let config = tokenizer_config(meta, &vocabulary)?;
    // Some files hold the original.
    if let Some(whole) = meta.string_or("tokenizer.huggingface.json")? {
        return Ok((whole.as_bytes().to_vec(), config));
    }
    let json = match meta.string("tokenizer.ggml.model")? {
        "gpt2" => byte_level(meta, &vocabulary)?,
        "llama" => sentence_piece(meta, &vocabulary)?,
        "t5" => unigram(meta, &vocabulary)?,
        other => return Err(meta.unsupported(format!("tokenizer {other:?}; gpt2, llama and t5 are"))),
    };
    let text = serde_json::to_vec(&json).map_err(|e| LmError::Tokenizer(e.to_string()))?;
    Ok((text, config))
}

/// Merges of bytes, each written as a character.
fn byte_level(meta: &Metadata<'_>, v: &Vocabulary<'_>) -> Result<Value> {
    let name = meta.string_or("tokenizer.ggml.pre")?.unwrap_or("default");
    let Some(splitting) = pre::splitting(name) else {
        return Err(meta.unsupported(format!("tokenizer.ggml.pre {name:?}, a way of splitting texts")));
    };
    const MERGES: &str = "tokenizer.ggml.merges";
    let merges = meta
        .strings(MERGES)?
        .ok_or_else(|| meta.invalid(MERGES, "nothing", "an array of strings"))?;
    let model = json!({
        "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
        "ignore_merges": splitting.ignore_merges, "vocab": v.to_json(), "merges": merges,
    });
    let decoder =
        json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": v.added(|_| false),
        "normalizer": splitting.normalizer, "pre_tokenizer": splitting.pre_tokenizer,
        "post_processor": around(meta, v, splitting.adds_bos)?, "decoder": decoder, "model": model,
    }))
}

/// Merges of characters, the pair first whose whole has the best score; bytes for what is in no token.
fn sentence_piece(meta: &Metadata<'_>, v: &Vocabulary<'_>) -> Result<Value> {
    let scores = v.scores(meta)?;
    let model = json!({
        "type": "BPE", "dropout": null, "unk_token": unknown(meta, v)?, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": v.kinds.contains(&BYTE),
        "ignore_merges": false, "vocab": v.to_json(), "merges": merges_of(v, &scores),
    });
    let prefixed = meta.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let space = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let back = json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "});
    let mut decoders = vec![back, json!({"type": "ByteFallback"}), json!({"type": "Fuse"})];
    let normalizer = if prefixed {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, space]})
    } else {
        space
    };
    // Phi-3's own tokens take the white space behind them.
    let greedy = meta.arch == "phi3";
    let rstrip = |token: &str| greedy && !matches!(token, "<unk>" | "<s>" | "<|endoftext|>");
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": v.added(rstrip),
        "normalizer": normalizer, "pre_tokenizer": null, "post_processor": around(meta, v, true)?,
        "decoder": {"type": "Sequence", "decoders": decoders}, "model": model,
    }))
}

/// The merges that make each token of two others, best score first; of equal ones the lower id.
fn merges_of(v: &Vocabulary<'_>, scores: &[f32]) -> Vec<Value> {
    let mut merges: Vec<(f32, u32, u32, u32)> = Vec::new();
    for (token, id) in &v.ids {
        if matches!(v.kinds[*id as usize], UNKNOWN | CONTROL | BYTE) {
            continue;
        }
        for (cut, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(cut);
            if let (Some(left), Some(right)) = (v.ids.get(left), v.ids.get(right)) {
                merges.push((scores[*id as usize], *id, *left, *right));
            }
        }
    }
    merges.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2, a.3).cmp(&(b.1, b.2, b.3))));
    let text = |id: u32| v.tokens[id as usize];
    merges
        .into_iter()
        .map(|(_, _, left, right)| json!([text(left), text(right)]))
        .collect()
}

/// The likeliest tokens by their scores.
fn unigram(meta: &Metadata<'_>, v: &Vocabulary<'_>) -> Result<Value> {
    let scores = v.scores(meta)?;
    let pairs: Vec<Value> = v.tokens.iter().zip(&scores).map(|(t, s)| json!([t, s])).collect();
    let unknown = meta.id("tokenizer.ggml.unknown_token_id")?.unwrap_or(2);
    if meta.has("tokenizer.ggml.precompiled_charsmap") {
        return Err(
            meta.unsupported("a tokenizer with a map of characters (tokenizer.ggml.precompiled_charsmap)")
        );
    }
    let prefixed = meta.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let scheme = if prefixed { "always" } else { "never" };
    let space = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": true});
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": v.added(|_| false),
        "normalizer": null, "pre_tokenizer": space, "post_processor": around(meta, v, false)?, "decoder": space,
        "model": {"type": "Unigram", "unk_id": unknown, "vocab": pairs, "byte_fallback": v.kinds.contains(&BYTE)},
    }))
}

/// The token for what is in no other.
fn unknown<'a>(meta: &Metadata<'_>, v: &Vocabulary<'a>) -> Result<Option<&'a str>> {
    Ok(match named(meta, v, "unknown")? {
        Some((token, _)) => Some(token),
        None => v.kinds.iter().position(|k| *k == UNKNOWN).map(|id| v.tokens[id]),
    })
}

/// The token that a key of the file names, and its id.
fn named<'a>(meta: &Metadata<'_>, v: &Vocabulary<'a>, name: &str) -> Result<Option<(&'a str, u32)>> {
    let key = format!("tokenizer.ggml.{name}_token_id");
    // All bits set stand for none.
    let Some(id) = meta.id(&key)?.filter(|id| *id != u32::MAX) else {
        return Ok(None);
    };
    match v.tokens.get(id as usize) {
        Some(token) => Ok(Some((token, id))),
        None => Err(meta.invalid(&key, id, &format!("an id below {}", v.tokens.len()))),
    }
}

/// What puts the first and the last token around a text.
fn around(meta: &Metadata<'_>, v: &Vocabulary<'_>, adds_bos: bool) -> Result<Value> {
    let adds = |key: &str, default: bool| Ok::<_, LmError>(meta.flag(key)?.unwrap_or(default));
    let first = if adds("tokenizer.ggml.add_bos_token", adds_bos)? {
        named(meta, v, "bos")?
    } else {
        None
    };
    let last = if adds("tokenizer.ggml.add_eos_token", false)? {
        named(meta, v, "eos")?
    } else {
        None
    };
    if first.is_none() && last.is_none() {
        return Ok(Value::Null);
    }
    let special = |(token, _): (&str, u32)| json!({"SpecialToken": {"id": token, "type_id": 0}});
    let text = |id: &str| json!({"Sequence": {"id": id, "type_id": 0}});
    let with = |texts: &[&str]| {
        let mut pieces = Vec::new();
        for id in texts {
            pieces.extend(first.map(special));
            pieces.push(text(id));
            pieces.extend(last.map(special));
        }
        pieces
    };
    let used = first.into_iter().chain(last);
    let tokens: Map<String, Value> = used
        .map(|(token, id)| {
            (
                token.to_owned(),
                json!({"id": token, "ids": [id], "tokens": [token]}),
            )
        })
        .collect();
    Ok(json!({
        "type": "TemplateProcessing", "single": with(&["A"]), "pair": with(&["A", "B"]), "special_tokens": tokens,
    }))
}

fn tokenizer_config(meta: &Metadata<'_>, v: &Vocabulary<'_>) -> Result<Map<String, Value>> {
    let mut config = Map::new();
    for (name, key) in [
        ("bos", "bos_token"),
        ("eos", "eos_token"),
        ("unknown", "unk_token"),
        ("padding", "pad_token"),
        ("seperator", "sep_token"),
        ("mask", "mask_token"),
    ] {
        if let Some((token, _)) = named(meta, v, name)?.filter(|(token, _)| !token.is_empty()) {
            config.insert(key.to_owned(), json!(token));
        }
    }
    config.insert("clean_up_tokenization_spaces".to_owned(), json!(false));
    let default = meta.string_or("tokenizer.chat_template")?;
    let others = meta.strings("tokenizer.chat_templates")?.unwrap_or_default();
    let mut templates = Vec::new();
    for name in others.iter().filter(|name| **name != "default") {
        if let Some(text) = meta.string_or(&format!("tokenizer.chat_template.{name}"))? {
            templates.push(json!({"name": name, "template": text}));
        }
    }
    if templates.is_empty() {
        config.extend(default.map(|text| ("chat_template".to_owned(), json!(text))));
    } else {
        templates.extend(default.map(|text| json!({"name": "default", "template": text})));
        config.insert("chat_template".to_owned(), Value::Array(templates));
    }
    Ok(config)
}

/// `generation_config.json`: the ids that end a text.
pub(super) fn generation_config(meta: &Metadata<'_>) -> Result<Map<String, Value>> {
    let v = Vocabulary::read(meta)?;
    let mut ids: Vec<u32> = Vec::new();
    for name in ["eos", "eot", "eom"] {
        ids.extend(named(meta, &v, name)?.map(|(_, id)| id));
    }
    // gpt-oss goes on behind it: to the next channel.
    let harmony = v.ids.contains_key("<|return|>");
    let ends = END_OF_TURN
        .iter()
        .filter(|text| !(harmony && **text == "<|end|>"));
    let ends = ends.filter_map(|text| v.ids.get(text));
    ids.extend(ends.filter(|id| v.kinds[**id as usize] == CONTROL));
    let mut seen = std::collections::HashSet::new();
    ids.retain(|id| seen.insert(*id));
    let mut config = Map::new();
    if !ids.is_empty() {
        config.insert("eos_token_id".to_owned(), json!(ids));
    }
    Ok(config)
}
