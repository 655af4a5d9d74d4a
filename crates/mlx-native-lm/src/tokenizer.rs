//! Text to tokens and back.

use std::fmt;

use serde_json::Value;
use tokenizers::AddedToken;

use crate::chat::ChatTemplate;
use crate::error::{LmError, Result, one_line};
use crate::json::{Fields, parse_object};

/// Name of the file that has the vocabulary.
pub(crate) const TOKENIZER_FILE: &str = "tokenizer.json";
const CONFIG_FILE: &str = "tokenizer_config.json";
/// Special tokens that a chat template sees.
const SPECIAL_TOKENS: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];

/// A tokenizer, as `tokenizer.json` and `tokenizer_config.json` describe it.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    bos: Option<(String, u32)>,
    eos: Option<(String, u32)>,
    /// What the configuration says of a first token; `None` when it leaves that to `tokenizer.json`.
    add_bos_token: Option<bool>,
    model_max_length: Option<usize>,
    chat_template: Option<String>,
    /// Names and texts of the special tokens that the configuration names, for the chat template.
    special_tokens: Vec<(String, String)>,
    /// Whether the decoder maps characters to bytes, and nothing else.
    byte_level: bool,
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size())
            .field("bos", &self.bos)
            .field("eos", &self.eos)
            .field("byte_level", &self.byte_level)
            .finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Makes a tokenizer of the texts of `tokenizer.json` and, where there is one, `tokenizer_config.json`.
    ///
    /// # Errors
    /// [`LmError::Tokenizer`] or [`LmError::Config`], naming the file, when one is damaged, or names a token that is not
    /// in the vocabulary.
    pub fn from_json(tokenizer: &[u8], config: Option<&[u8]>) -> Result<Self> {
        let mut inner = tokenizers::Tokenizer::from_bytes(tokenizer)
            .map_err(|e| LmError::Tokenizer(format!("{TOKENIZER_FILE}: {}", one_line(&e.to_string()))))?;
        // Prompts are neither cut nor filled up, whatever the file was saved with.
        inner.with_padding(None);
        inner
            .with_truncation(None)
            .map_err(|e| LmError::Tokenizer(format!("{TOKENIZER_FILE}: {}", one_line(&e.to_string()))))?;
        let byte_level = matches!(
            inner.get_decoder(),
            Some(tokenizers::DecoderWrapper::ByteLevel(_))
        );
        let mut this = Tokenizer {
            inner,
            bos: None,
            eos: None,
            add_bos_token: None,
            model_max_length: None,
            chat_template: None,
            special_tokens: Vec::new(),
            byte_level,
        };
        if let Some(text) = config {
            let map = parse_object(CONFIG_FILE, text)?;
            this.configure(&Fields::new(CONFIG_FILE, &map))?;
        }
        Ok(this)
    }

    fn configure(&mut self, config: &Fields<'_>) -> Result<()> {
        self.add_missing_tokens(config)?;
        self.bos = self.named_token(config, "bos_token")?;
        self.eos = self.named_token(config, "eos_token")?;
        self.add_bos_token = config.bool("add_bos_token")?;
        // Huge floats stand for no limit here.
        let limit = config.get("model_max_length").and_then(Value::as_u64);
        self.model_max_length = limit.and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
        self.chat_template = default_template(config)?;
        let text = |value: &Value| {
            value
                .as_str()
                .or_else(|| value.get("content")?.as_str())
                .map(str::to_owned)
        };
        let named = SPECIAL_TOKENS
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), text(config.get(name)?)?)));
        self.special_tokens = named.collect();
        Ok(())
    }

    /// Adds the tokens of `added_tokens_decoder` that `tokenizer.json` lacks, in the order of their ids.
    fn add_missing_tokens(&mut self, config: &Fields<'_>) -> Result<()> {
        let Some(added) = config.object("added_tokens_decoder", "added_tokens_decoder.")? else {
            return Ok(());
        };
        let mut missing = Vec::new();
        for (key, value) in added.entries() {
            let id = key.parse::<u32>().ok();
            let content = value.get("content").and_then(Value::as_str);
            let (Some(id), Some(content)) = (id, content) else {
                return Err(added.invalid(
                    key,
                    crate::json::kind(value),
                    "an id with an object with a content",
                ));
            };
            if self.token_id(content).is_none() {
                missing.push((id, content, value));
            }
        }
        missing.sort_unstable_by_key(|(id, ..)| *id);
        for (id, content, value) in missing {
            let flag = |name: &str| value.get(name).and_then(Value::as_bool).unwrap_or(false);
            let token = AddedToken::from(content, flag("special"))
                .lstrip(flag("lstrip"))
                .rstrip(flag("rstrip"))
                .single_word(flag("single_word"))
                .normalized(flag("normalized"));
            self.inner.add_tokens(&[token]);
            let found = self.token_id(content);
            if found != Some(id) {
                let found = found.map_or("none".to_string(), |id| id.to_string());
                return Err(added.invalid(
                    &id.to_string(),
                    format!("token {content:?}, which {TOKENIZER_FILE} lacks and would get id {found}"),
                    "the next free id",
                ));
            }
        }
        Ok(())
    }

    /// A special token, given as its text or as an object with its `content`.
    fn named_token(&self, config: &Fields<'_>, key: &str) -> Result<Option<(String, u32)>> {
        let Some(value) = config.get(key) else {
            return Ok(None);
        };
        let Some(text) = value.as_str().or_else(|| value.get("content")?.as_str()) else {
            return Err(config.invalid(key, crate::json::kind(value), "a string"));
        };
        match self.token_id(text) {
            Some(id) => Ok(Some((text.to_string(), id))),
            None => Err(config.invalid(key, format!("{text:?}"), "a token of the vocabulary")),
        }
    }

    /// The tokens of a prompt that is plain text. The tokenizer's special tokens (often one at the beginning) are added,
    /// unless the text begins with the first one already: as mlx-lm does.
    ///
    /// # Errors
    /// As [`encode_with`](Self::encode_with).
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let begun = self
            .bos
            .as_ref()
            .is_some_and(|(bos, _)| text.starts_with(bos.as_str()));
        self.encode_with(text, !begun)
    }

    /// The tokens of a text, with the tokenizer's special tokens around it or not. Special tokens that are spelled out in
    /// the text are taken for what they are either way.
    ///
    /// # Errors
    /// [`LmError::Tokenizer`] when the text cannot be expressed.
    pub fn encode_with(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        let encoding = self
            .inner
            .encode_fast(text, add_special_tokens)
            .map_err(|e| LmError::Tokenizer(format!("encode: {}", one_line(&e.to_string()))))?;
        let mut ids = encoding.get_ids().to_vec();
        if let (true, Some((bos, id))) = (add_special_tokens, &self.bos) {
            let begins = ids.first() == Some(id) && !text.starts_with(bos.as_str());
            match self.add_bos_token {
                Some(true) if !begins => ids.insert(0, *id),
                Some(false) if begins => {
                    ids.remove(0);
                }
                _ => {}
            }
        }
        Ok(ids)
    }

    /// The text of tokens. Ids outside the vocabulary have none.
    ///
    /// # Errors
    /// [`LmError::Tokenizer`] when the decoder fails.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String> {
        self.inner
            .decode(ids, skip_special_tokens)
            .map_err(|e| LmError::Tokenizer(format!("decode: {}", one_line(&e.to_string()))))
    }

    /// Number of tokens, added ones included. A model may have more rows than that.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The id of a token by its text in the vocabulary.
    #[must_use]
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The text of a token in the vocabulary: for byte-level and SentencePiece vocabularies not the text it stands for.
    #[must_use]
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Whether an id is that of a special token.
    #[must_use]
    pub fn is_special(&self, id: u32) -> bool {
        self.inner
            .get_added_vocabulary()
            .get_added_tokens_decoder()
            .get(&id)
            .is_some_and(|t| t.special)
    }

    /// The token that begins a text.
    #[must_use]
    pub fn bos_token(&self) -> Option<(&str, u32)> {
        self.bos.as_ref().map(|(text, id)| (text.as_str(), *id))
    }

    /// The token that ends a text.
    #[must_use]
    pub fn eos_token(&self) -> Option<(&str, u32)> {
        self.eos.as_ref().map(|(text, id)| (text.as_str(), *id))
    }

    /// Longest text that the model was made for, in tokens, where the configuration says so.
    #[must_use]
    pub fn model_max_length(&self) -> Option<usize> {
        self.model_max_length
    }

    /// The text of the chat template, where there is one: that of `chat_template.jinja`, else of `tokenizer_config.json`.
    #[must_use]
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    /// Sets the text of the chat template: that of `chat_template.jinja`, which goes before `tokenizer_config.json`.
    pub fn set_chat_template(&mut self, template: impl Into<String>) {
        self.chat_template = Some(template.into());
    }

    /// The chat template, compiled, with the special tokens that `tokenizer_config.json` names; `None` where there is no
    /// template.
    ///
    /// # Errors
    /// [`LmError::ChatTemplate`], naming the line, when the template is damaged.
    pub fn compile_chat_template(&self) -> Result<Option<ChatTemplate>> {
        let template = self.chat_template.as_deref();
        template
            .map(|text| ChatTemplate::new(text, self.special_tokens.clone()))
            .transpose()
    }

    /// Whether tokens stand for bytes, by a table of characters, so that they can be decoded one by one.
    pub(crate) fn is_byte_level(&self) -> bool {
        self.byte_level
    }
}

/// The chat template of `tokenizer_config.json`: a text, or a list of named ones, of which the default is taken.
fn default_template(config: &Fields<'_>) -> Result<Option<String>> {
    let list = match config.get("chat_template") {
        None => return Ok(None),
        Some(Value::String(text)) => return Ok(Some(text.clone())),
        Some(Value::Array(list)) => list,
        Some(other) => {
            return Err(config.invalid(
                "chat_template",
                crate::json::kind(other),
                "a string or a list of templates",
            ));
        }
    };
    let default = list
        .iter()
        .find(|entry| entry.get("name").and_then(Value::as_str) == Some("default"));
    let template = default.and_then(|entry| entry.get("template")?.as_str());
    let wanted = "one named \"default\" with a template";
    template
        .map(|text| Some(text.to_owned()))
        .ok_or_else(|| config.invalid("chat_template", "a list without it", wanted))
}

#[cfg(test)]
mod tests;
