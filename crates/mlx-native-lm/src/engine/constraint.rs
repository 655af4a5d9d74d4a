//! Grammars that a text has to follow: JSON schemas, regular expressions, context-free grammars. `llguidance` says which tokens
//! may come next.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use llguidance::api::TopLevelGrammar;
use llguidance::{Matcher, ParserFactory};
use serde_json::{Map, Value};
use toktrie::{ApproximateTokEnv, TokRxInfo, TokTrie};

use super::EngineError;
use crate::error::one_line;
use crate::tokenizer::Tokenizer;

/// Longest text of a grammar or schema, in bytes.
const MAX_GRAMMAR: usize = 1 << 20;
/// White space that a JSON text may have where JSON allows any: one blank, or one line break with up to eight blanks. Free blanks let weak
/// models print them for ever.
const WHITE_SPACE: &str = r"( |\n {0,8})";

/// Objects that name their properties get no others, where the schema does not say whether they may: a text that follows the schema
/// follows it still, and weak models would go on inventing properties for ever. Schemas whose parts hold for one object together are
/// left as they are.
fn close_objects(schema: &mut Map<String, Value>) {
    const JOINED: [&str; 8] = [
        "allOf",
        "not",
        "if",
        "then",
        "else",
        "dependentSchemas",
        "dependentRequired",
        "minProperties",
    ];
    fn joins(value: &Value) -> bool {
        match value {
            Value::Object(map) => map.iter().any(|(key, v)| {
                let single = v.as_array().is_some_and(|list| list.len() == 1);
                (JOINED.contains(&key.as_str()) && !single) || joins(v)
            }),
            Value::Array(list) => list.iter().any(joins),
            _ => false,
        }
    }
    fn close(map: &mut Map<String, Value>) {
        const OTHERS: [&str; 8] = [
            "additionalProperties",
            "patternProperties",
            "unevaluatedProperties",
            "propertyNames",
            "anyOf",
            "oneOf",
            "allOf",
            "$ref",
        ];
        let names = map.get("properties").and_then(Value::as_object);
        let known = |name: &Value| {
            name.as_str()
                .is_some_and(|n| names.is_some_and(|p| p.contains_key(n)))
        };
        let required = map.get("required").and_then(Value::as_array);
        let all_known = required.is_none_or(|list| list.iter().all(known));
        if names.is_some_and(|p| !p.is_empty()) && all_known && !OTHERS.iter().any(|o| map.contains_key(*o)) {
            map.insert("additionalProperties".to_owned(), Value::Bool(false));
        }
        for (key, value) in map.iter_mut() {
            match (key.as_str(), value) {
                ("properties" | "$defs" | "definitions", Value::Object(inner)) => {
                    inner
                        .values_mut()
                        .filter_map(Value::as_object_mut)
                        .for_each(close);
                }
                ("items" | "additionalProperties", Value::Object(inner)) => close(inner),
                ("anyOf" | "oneOf" | "prefixItems", Value::Array(list)) => {
                    list.iter_mut().filter_map(Value::as_object_mut).for_each(close);
                }
                _ => {}
            }
        }
    }
    // Properties may have the names of keywords: then nothing is closed that could be, which does no harm.
    if !joins(&Value::Object(schema.clone())) {
        close(schema);
    }
}

/// What a text may be.
#[derive(Debug, Clone, PartialEq)]
pub enum Grammar {
    /// JSON by this schema.
    JsonSchema(Value),
    /// What a regular expression matches as a whole.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// A grammar in llguidance's variant of Lark.
    Lark(String),
}

impl Grammar {
    /// Any JSON object.
    #[must_use]
    pub fn json_object() -> Self {
        Grammar::JsonSchema(serde_json::json!({"type": "object"}))
    }

    /// A schema as it stands in a Lark grammar.
    ///
    /// # Errors
    /// A message, when it is no schema.
    pub fn schema_for_lark(schema: &Value) -> Result<Value, String> {
        let mut schema = match schema {
            Value::Object(map) => map.clone(),
            Value::Bool(true) => Map::new(),
            other => return Err(format!("the schema: found {other}, wanted an object")),
        };
        close_objects(&mut schema);
        // Ours, whatever the caller wrote.
        schema.insert(
            "x-guidance".to_owned(),
            serde_json::json!({"whitespace_flexible": true, "whitespace_pattern": WHITE_SPACE, "lenient": false}),
        );
        Ok(Value::Object(schema))
    }

    fn compile(&self) -> Result<TopLevelGrammar, String> {
        let limited = |text: &str| {
            if text.len() > MAX_GRAMMAR {
                return Err(format!(
                    "found {} bytes, wanted at most {MAX_GRAMMAR}",
                    text.len()
                ));
            }
            Ok(())
        };
        match self {
            Grammar::JsonSchema(schema) => {
                limited(&schema.to_string())?;
                Ok(TopLevelGrammar::from_json_schema(Self::schema_for_lark(schema)?))
            }
            Grammar::Regex(regex) => {
                limited(regex)?;
                Ok(TopLevelGrammar::from_regex(regex))
            }
            Grammar::Choice(choices) => {
                if choices.is_empty() {
                    return Err("found no choice, wanted one at least".to_owned());
                }
                limited(&choices.concat())?;
                let choices: Vec<String> = choices
                    .iter()
                    .map(|c| Value::from(c.as_str()).to_string())
                    .collect();
                Ok(TopLevelGrammar::from_lark(format!(
                    "start: {}",
                    choices.join(" | ")
                )))
            }
            Grammar::Lark(text) => {
                limited(text)?;
                Ok(TopLevelGrammar::from_lark(text.clone()))
            }
        }
    }
}

/// When a grammar holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Begin {
    /// From the first token on.
    #[default]
    AtOnce,
    /// Behind the first time this text was generated, such as the end of what a model thinks.
    After(String),
    /// Behind each time this text was generated; when the grammar is at its end the text goes on freely.
    Each(String),
}

/// A grammar, compiled for one vocabulary, and when it holds.
#[derive(Clone)]
pub struct Constraint {
    matcher: Arc<Mutex<Matcher>>,
    begin: Begin,
}

impl fmt::Debug for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Constraint")
            .field("begin", &self.begin)
            .finish_non_exhaustive()
    }
}

impl Constraint {
    /// The same grammar, at another time.
    #[must_use]
    pub fn beginning(mut self, begin: Begin) -> Self {
        self.begin = begin;
        self
    }

    pub(super) fn start(&self) -> Follow {
        let fresh = self
            .matcher
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .deep_clone();
        let active = self.begin == Begin::AtOnce;
        Follow {
            fresh: (!active).then(|| fresh.deep_clone()),
            matcher: fresh,
            begin: self.begin.clone(),
            active,
            seen: String::new(),
        }
    }
}

/// Makes constraints for one vocabulary.
pub struct Grammars {
    factory: ParserFactory,
}

impl fmt::Debug for Grammars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grammars").finish_non_exhaustive()
    }
}

impl Grammars {
    /// For the tokens of a tokenizer, of which `eos` end a text.
    ///
    /// # Errors
    /// A message, when the library cannot use the vocabulary.
    pub fn new(tokenizer: &Tokenizer, eos: u32) -> Result<Self, String> {
        // Counted once: the library makes a table of the whole vocabulary to tell its size.
        let least = tokenizer.vocab_size() as u32;
        let ids = (0..).take_while(|id| *id < least || tokenizer.token(*id).is_some());
        let words: Vec<Vec<u8>> = ids
            .map(|id| {
                let mut bytes = tokenizer.token_bytes(id);
                // The library's mark for tokens that stand for no text.
                if tokenizer.is_special(id) || id == eos {
                    bytes.insert(0, TokTrie::SPECIAL_TOKEN_MARKER);
                }
                bytes
            })
            .collect();
        if eos as usize >= words.len() {
            return Err(format!(
                "token {eos}, which ends a text, is not in the vocabulary"
            ));
        }
        let trie = TokTrie::from(&TokRxInfo::new(words.len() as u32, eos), &words);
        let env: toktrie::TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = ParserFactory::new_simple(&env).map_err(|e| one_line(&e.to_string()))?;
        factory.quiet();
        factory.limits_mut().verbose_errors = false;
        Ok(Grammars { factory })
    }

    /// Compiles a grammar.
    ///
    /// # Errors
    /// [`EngineError::Invalid`] with what the library says of it.
    pub fn compile(&self, grammar: &Grammar) -> Result<Constraint, EngineError> {
        let invalid = |message: String| EngineError::Invalid {
            param: "grammar",
            message,
        };
        let grammar = grammar.compile().map_err(invalid)?;
        let parser = self.factory.create_parser(grammar);
        let matcher = Matcher::new(parser);
        if let Some(error) = matcher.get_error() {
            return Err(invalid(one_line(&error)));
        }
        Ok(Constraint {
            matcher: Arc::new(Mutex::new(matcher)),
            begin: Begin::AtOnce,
        })
    }
}

/// How far a sequence is in its grammar.
pub(super) struct Follow {
    matcher: Matcher,
    /// The grammar at its beginning, where it begins later.
    fresh: Option<Matcher>,
    begin: Begin,
    active: bool,
    /// The end of the text while it is free.
    seen: String,
}

impl fmt::Debug for Follow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follow")
            .field("active", &self.active)
            .finish_non_exhaustive()
    }
}

impl Follow {
    pub fn fork(&self) -> Self {
        Follow {
            matcher: self.matcher.deep_clone(),
            fresh: self.fresh.as_ref().map(Matcher::deep_clone),
            begin: self.begin.clone(),
            active: self.active,
            seen: self.seen.clone(),
        }
    }

    /// Forbids the tokens that the grammar does not allow now. Where it allows the end, all of `eos` may come.
    ///
    /// # Errors
    /// A message, when the grammar is too complex.
    pub fn mask(&mut self, logits: &mut [f32], eos: &[u32]) -> Result<(), String> {
        if !self.active {
            return Ok(());
        }
        let mut mask = self
            .matcher
            .compute_mask_or_eos()
            .map_err(|e| one_line(&e.to_string()))?;
        let size = mask.len();
        let known = || eos.iter().filter(|id| (**id as usize) < size);
        if known().any(|id| mask.is_allowed(*id)) {
            for id in known() {
                mask.allow_token(*id);
            }
        }
        let words = mask.as_slice();
        for (index, logit) in logits.iter_mut().enumerate() {
            let allowed = words
                .get(index / 32)
                .is_some_and(|word| word >> (index % 32) & 1 == 1);
            if !allowed || index >= mask.len() {
                *logit = f32::NEG_INFINITY;
            }
        }
        Ok(())
    }

    /// A token was chosen that did not end the text. Whether the grammar allows nothing more.
    ///
    /// # Errors
    /// A message, when the grammar does not allow the token.
    pub fn push(&mut self, id: u32, text: &str) -> Result<bool, String> {
        if self.active {
            self.matcher
                .consume_token(id)
                .map_err(|e| one_line(&e.to_string()))?;
            let ended = self.matcher.is_stopped();
            if ended && matches!(self.begin, Begin::Each(_)) {
                self.active = false;
                self.seen.clear();
                if let Some(fresh) = &self.fresh {
                    self.matcher = fresh.deep_clone();
                }
                return Ok(false);
            }
            return Ok(ended);
        }
        let (Begin::After(mark) | Begin::Each(mark)) = &self.begin else {
            return Ok(false);
        };
        self.seen.push_str(text);
        if let Some(at) = self.seen.find(mark.as_str()) {
            // What came behind the mark in the same token has to follow the grammar too; where it cannot, the text stays free.
            let behind = self.seen[at + mark.len()..].to_owned();
            self.seen.clear();
            self.active = self.feed(behind.as_bytes());
            return Ok(false);
        }
        // Only the end can still become the mark.
        let keep = self.seen.len().saturating_sub(mark.len());
        let keep = (0..=keep)
            .rev()
            .find(|at| self.seen.is_char_boundary(*at))
            .unwrap_or(0);
        self.seen.drain(..keep);
        Ok(false)
    }

    /// Gives up a grammar that holds each time it is begun, until it is begun again.
    pub fn rest(&mut self) {
        if self.active && matches!(self.begin, Begin::Each(_)) {
            self.active = false;
            self.seen.clear();
            if let Some(fresh) = &self.fresh {
                self.matcher = fresh.deep_clone();
            }
        }
    }

    fn feed(&mut self, bytes: &[u8]) -> bool {
        if bytes.is_empty() {
            return true;
        }
        let Ok(env) = self.matcher.tok_env() else {
            return false;
        };
        let tokens = env.tokenize_bytes(bytes);
        match self.matcher.try_consume_tokens(&tokens) {
            Ok(n) if n == tokens.len() => true,
            _ => {
                if let Some(fresh) = &self.fresh {
                    self.matcher = fresh.deep_clone();
                }
                false
            }
        }
    }
}
