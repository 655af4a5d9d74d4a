//! Text to tokens and back.

mod fields;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde_json::Value;
use tokenizers::AddedToken;

use crate::chat::ChatTemplate;
use crate::error::{LmError, Result, one_line};
use crate::json::{Document, Fields, byte_order_mark};
use crate::token_text::Chain;
use crate::unread::{self, TOKENIZER_FIELDS};

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

/// Tokens around what a model thinks before it answers.
const THINKING: [(&str, &str); 4] = [
    ("<think>", "</think>"),
    ("<longcat_think>", "</longcat_think>"),
    ("<|think:start|>", "<|think:end|>"),
    ("<|channel>", "<channel|>"),
];
/// As above, where it takes all of them.
const XTML: [&str; 4] = ["<|open|>", "<|close|>", "<|sep|>", "<|end_of_msg|>"];
/// Name of the template that is taken where there is a choice.
const DEFAULT_TEMPLATE: &str = "default";
/// Name of the template that goes before it where tools are given.
const TOOL_TEMPLATE: &str = "tool_use";
/// Longest run of one kind of white space that is taken in a prompt, in characters: the library splits texts by regular
/// expressions with backtracking that give up after a million steps, and takes that for the end of the text.
const MAX_SPACES: usize = 999_000;

/// A tokenizer, as `tokenizer.json` and `tokenizer_config.json` describe it.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    bos: Option<(String, u32)>,
    eos: Option<(String, u32)>,
    model_max_length: Option<usize>,
    templates: Templates,
    /// Names and texts of the special tokens that the configuration names, for the chat template.
    special_tokens: Vec<(String, String)>,
    /// The decoder, where it can be run token by token.
    chain: Option<Chain>,
    /// Fields of the files that nobody read and nobody knows.
    unknown: Vec<String>,
}

/// The chat templates of a model.
#[derive(Debug, Clone, Default)]
enum Templates {
    #[default]
    None,
    One(String),
    /// By their names; there may be no default one.
    Named(Vec<(String, String)>),
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size())
            .field("bos", &self.bos)
            .field("eos", &self.eos)
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
        if let Some(found) = byte_order_mark(tokenizer) {
            return Err(LmError::Tokenizer(format!("{TOKENIZER_FILE}: {found}")));
        }
        let inner = guarded(TOKENIZER_FILE, || {
            let mut inner = tokenizers::Tokenizer::from_bytes(tokenizer)?;
            // Prompts are neither cut nor filled up, whatever the file was saved with.
            inner.with_padding(None);
            inner.with_truncation(None)?;
            Ok(inner)
        })?;
        let decoder = serde_json::to_value(inner.get_decoder())
            .map_err(|e| LmError::Tokenizer(format!("{TOKENIZER_FILE}: decoder: {e}")))?;
        let mut this = Tokenizer {
            inner,
            bos: None,
            eos: None,
            model_max_length: None,
            templates: Templates::None,
            special_tokens: Vec::new(),
            chain: Chain::new(&decoder),
            unknown: Vec::new(),
        };
        this.unknown = fields::unread(tokenizer, &this.inner);
        if let Some(text) = config {
            let document = Document::parse(CONFIG_FILE, text)?;
            this.configure(&document.fields())?;
            let unknown = unread::unknown(&document, TOKENIZER_FIELDS).into_iter();
            this.unknown
                .extend(unknown.map(|field| format!("{CONFIG_FILE}: {field}")));
        }
        Ok(this)
    }

    fn configure(&mut self, config: &Fields<'_>) -> Result<()> {
        self.add_tokens(config)?;
        self.bos = self.named_token(config, "bos_token")?;
        self.eos = self.named_token(config, "eos_token")?;
        if config.bool("split_special_tokens")? == Some(true) {
            self.inner.set_encode_special_tokens(true);
        }
        // Huge floats stand for no limit here.
        let limit = config.get("model_max_length").and_then(Value::as_u64);
        self.model_max_length = limit.and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
        self.templates = templates(config)?;
        let named = SPECIAL_TOKENS
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), token_text(config.get(name)?)?.to_owned())));
        self.special_tokens = named.collect();
        Ok(())
    }

    /// Adds the tokens that the configuration knows and `tokenizer.json` does not take for added ones, as transformers
    /// does: those of `added_tokens_decoder` in the order of their ids, then the special ones that have a name, then
    /// further special ones.
    fn add_tokens(&mut self, config: &Fields<'_>) -> Result<()> {
        self.add_decoder_tokens(config)?;
        let mut missing = Vec::new();
        for name in SPECIAL_TOKENS {
            let Some(value) = config.get(name) else {
                continue;
            };
            let Some(text) = token_text(value) else {
                return Err(config.invalid(name, crate::json::kind(value), "a string"));
            };
            missing.push((text, value));
        }
        let extra = ["extra_special_tokens", "additional_special_tokens"];
        let extra = extra.map(|key| config.get(key));
        match extra[0].or(extra[1]) {
            Some(Value::Array(list)) => missing.extend(list.iter().filter_map(|v| Some((token_text(v)?, v)))),
            Some(Value::Object(map)) => {
                missing.extend(map.values().filter_map(|v| Some((token_text(v)?, v))))
            }
            _ => {}
        }
        for (text, value) in missing {
            if !text.is_empty() && !self.inner.get_added_vocabulary().get_vocab().contains_key(text) {
                self.add(added_token(text, value, Some(true)))?;
            }
        }
        Ok(())
    }

    fn add(&mut self, token: AddedToken) -> Result<()> {
        guarded(CONFIG_FILE, || {
            self.inner.add_tokens(&[token]);
            Ok(())
        })
    }

    fn add_decoder_tokens(&mut self, config: &Fields<'_>) -> Result<()> {
        let Some(added) = config.object("added_tokens_decoder", "added_tokens_decoder.")? else {
            return Ok(());
        };
        let mut tokens = Vec::new();
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
            tokens.push((id, content, value));
        }
        tokens.sort_unstable_by_key(|(id, ..)| *id);
        for (id, content, value) in tokens {
            let token = added_token(content, value, None);
            // Flags that differ from those of tokenizer.json go before them.
            let known = self.inner.get_added_vocabulary().get_added_tokens_decoder();
            if known.values().any(|known| *known == token) {
                continue;
            }
            self.add(token)?;
            let found = self.token_id(content);
            if found != Some(id) {
                let found = found.map_or("none".to_string(), |id| id.to_string());
                return Err(added.invalid(
                    &id.to_string(),
                    format!("token {content:?}, which gets id {found} after {TOKENIZER_FILE}"),
                    "the id that it has there, or the next free one",
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
        let Some(text) = token_text(value) else {
            return Err(config.invalid(key, crate::json::kind(value), "a string"));
        };
        if text.is_empty() {
            return Ok(None);
        }
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
        if let Some(run) = longest_space(text).filter(|run| *run > MAX_SPACES) {
            return Err(LmError::Tokenizer(format!(
                "encode: found {run} spaces or line breaks in a row, wanted at most {MAX_SPACES}"
            )));
        }
        guarded("encode", || {
            let encoding = self.inner.encode_fast(text, add_special_tokens)?;
            Ok(encoding.get_ids().to_vec())
        })
    }

    /// The text of tokens. Ids outside the vocabulary have none.
    ///
    /// # Errors
    /// [`LmError::Tokenizer`] when the decoder fails.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String> {
        let Some(chain) = &self.chain else {
            return self.decode_with_library(ids, skip_special_tokens);
        };
        let mut state = chain.start();
        let mut text = String::new();
        for id in ids
            .iter()
            .filter(|id| !(skip_special_tokens && self.is_special(**id)))
        {
            if let Some(token) = self.token(*id) {
                text += &chain.push(&mut state, token);
            }
        }
        Ok(text + &chain.finish(&mut state))
    }

    /// [`decode`](Self::decode) by the library of tokenizers, which some decoders make panic.
    pub(crate) fn decode_with_library(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String> {
        if ids.is_empty() {
            return Ok(String::new());
        }
        guarded("decode", || self.inner.decode(ids, skip_special_tokens))
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

    /// The bytes that a token inside a text stands for: not always whole characters. Ids outside the vocabulary have none.
    #[must_use]
    pub fn token_bytes(&self, id: u32) -> Vec<u8> {
        let Some(token) = self.token(id) else {
            return Vec::new();
        };
        match &self.chain {
            // Added tokens stand for themselves.
            _ if self.is_added(id) => token.into_bytes(),
            Some(chain) => chain.bytes_of(token),
            None => self
                .decode_with_library(&[id], false)
                .unwrap_or_default()
                .into_bytes(),
        }
    }

    fn is_added(&self, id: u32) -> bool {
        let added = self.inner.get_added_vocabulary();
        added.get_added_tokens_decoder().contains_key(&id)
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

    /// The text of the chat template, where there is one: that of `chat_template.jinja`, else of `tokenizer_config.json`;
    /// of several the default one.
    #[must_use]
    pub fn chat_template(&self) -> Option<&str> {
        match &self.templates {
            Templates::None => None,
            Templates::One(text) => Some(text),
            Templates::Named(list) => named(list, DEFAULT_TEMPLATE),
        }
    }

    /// Sets the text of the chat template: that of `chat_template.jinja`, which goes before `tokenizer_config.json`.
    pub fn set_chat_template(&mut self, template: impl Into<String>) {
        self.templates = Templates::One(template.into());
    }

    /// Sets several chat templates by their names, such as `default` and `tool_use`.
    pub fn set_chat_templates(&mut self, templates: impl IntoIterator<Item = (String, String)>) {
        self.templates = Templates::Named(templates.into_iter().collect());
    }

    /// The chat template, compiled, with the special tokens that `tokenizer_config.json` names; `None` where there is no
    /// template. Where there are several it is the default one, or, for chats with `tools`, the one named `tool_use`. As
    /// mlx-lm does, it sets `enable_thinking` for it, unless the caller does: whether the vocabulary has tokens for that.
    ///
    /// # Errors
    /// [`LmError::ChatTemplate`], naming the line, when a template is damaged, or when there are several and no default
    /// one.
    pub fn compile_chat_template(&self) -> Result<Option<ChatTemplate>> {
        let (text, tools) = match &self.templates {
            Templates::None => return Ok(None),
            Templates::One(text) => (text.as_str(), None),
            Templates::Named(list) => match (named(list, DEFAULT_TEMPLATE), named(list, TOOL_TEMPLATE)) {
                (Some(text), tools) => (text, tools),
                (None, _) => {
                    let names: Vec<&str> = list.iter().map(|(name, _)| name.as_str()).collect();
                    return Err(LmError::ChatTemplate(format!(
                        "found templates named {names:?}, wanted one named \"{DEFAULT_TEMPLATE}\""
                    )));
                }
            },
        };
        let mut template = ChatTemplate::new(text, self.special_tokens.clone())?;
        template.set_default("enable_thinking", Value::Bool(self.has_thinking_tokens()));
        if let Some(tools) = tools {
            let mut tools = ChatTemplate::new(tools, self.special_tokens.clone())?;
            tools.set_default("enable_thinking", Value::Bool(self.has_thinking_tokens()));
            template.set_for_tools(tools);
        }
        Ok(Some(template))
    }

    /// Whether the vocabulary has tokens for what a model thinks before it answers.
    #[must_use]
    pub fn has_thinking_tokens(&self) -> bool {
        let has = |token: &&str| self.token_id(token).is_some();
        THINKING.iter().any(|(begin, end)| has(begin) && has(end)) || XTML.iter().all(has)
    }

    /// Fields of `tokenizer_config.json` that this library does not know: they have no effect.
    #[must_use]
    pub fn unknown_fields(&self) -> &[String] {
        &self.unknown
    }

    /// The decoder, where it can be run token by token.
    pub(crate) fn chain(&self) -> Option<&Chain> {
        self.chain.as_ref()
    }
}

/// Runs the library of tokenizers, which panics at some files. `what` begins the error.
fn guarded<T>(what: &str, run: impl FnOnce() -> tokenizers::Result<T>) -> Result<T> {
    let failed = |text: &str| LmError::Tokenizer(format!("{what}: {}", one_line(text)));
    // Whatever it was in the middle of is not used again, or is a cache that others may find half filled.
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(result) => result.map_err(|e| failed(&e.to_string())),
        Err(panic) => {
            let said = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("no reason given");
            Err(failed(&format!("the tokenizer library fails: {said}")))
        }
    }
}

/// A token given as its text or as an object with its `content`.
fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// A token with the flags that `value` has for it; `special` where those do not say it.
fn added_token(text: &str, value: &Value, special: Option<bool>) -> AddedToken {
    let flag = |name: &str| value.get(name).and_then(Value::as_bool);
    let special = special.or(flag("special")).unwrap_or(false);
    AddedToken::from(text, special)
        .lstrip(flag("lstrip").unwrap_or(false))
        .rstrip(flag("rstrip").unwrap_or(false))
        .single_word(flag("single_word").unwrap_or(false))
        .normalized(flag("normalized").unwrap_or(!special))
}

/// The most characters of white space in a row.
fn longest_space(text: &str) -> Option<usize> {
    let mut longest = 0;
    let mut run = 0usize;
    for c in text.chars() {
        run = if c.is_whitespace() { run + 1 } else { 0 };
        longest = longest.max(run);
    }
    (longest > 0).then_some(longest)
}

fn named<'a>(list: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let found = list.iter().rfind(|(n, _)| n == name);
    found.map(|(_, text)| text.as_str())
}

/// The chat templates of `tokenizer_config.json`: a text, a list of named ones, or an object of them.
fn templates(config: &Fields<'_>) -> Result<Templates> {
    let wrong = |found: &Value| {
        config.invalid(
            "chat_template",
            crate::json::kind(found),
            "a string or a list of templates with a name each",
        )
    };
    let pair = |name: Option<&Value>, text: Option<&Value>| match (name?, text?) {
        (Value::String(name), Value::String(text)) => Some((name.clone(), text.clone())),
        _ => None,
    };
    let value = match config.get("chat_template") {
        None => return Ok(Templates::None),
        Some(Value::String(text)) => return Ok(Templates::One(text.clone())),
        Some(value) => value,
    };
    let list: Option<Vec<(String, String)>> = match value {
        Value::Array(list) => list
            .iter()
            .map(|entry| pair(entry.get("name"), entry.get("template")))
            .collect(),
        Value::Object(map) => map
            .iter()
            .map(|(name, text)| pair(Some(&Value::String(name.clone())), Some(text)))
            .collect(),
        _ => None,
    };
    list.map(Templates::Named).ok_or_else(|| wrong(value))
}

#[cfg(test)]
mod tests;
