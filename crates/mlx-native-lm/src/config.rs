//! What `config.json` says of a decoder, checked.

use std::fmt;

use serde_json::Value;

use crate::error::{LmError, Result};
use crate::json::{Document, Fields};
use crate::quantization::QuantizationConfig;
use crate::unread;

/// Name of the file, for errors.
pub(crate) const CONFIG_FILE: &str = "config.json";
const GENERATION_FILE: &str = "generation_config.json";

/// The text of `config.json`, parsed: what a model family reads its configuration from.
#[derive(Debug, Clone)]
pub struct ConfigFile {
    document: Document,
}

impl ConfigFile {
    /// Parses the text of a `config.json`.
    ///
    /// # Errors
    /// [`LmError::Config`] when it is no JSON object.
    pub fn parse(text: &[u8]) -> Result<Self> {
        Ok(ConfigFile {
            document: Document::parse(CONFIG_FILE, text)?,
        })
    }

    /// Takes over how the weights are packed from where other programs say it, if `config.json` does not: from its
    /// `text_config`, else from the text of `hf_quant_config.json`.
    ///
    /// # Errors
    /// [`LmError::Config`] when that is no JSON object.
    pub(crate) fn find_quantization(&mut self, beside: Option<&[u8]>) -> Result<()> {
        const KEY: &str = "quantization_config";
        if self.map().contains_key(KEY) {
            return Ok(());
        }
        let inner = self
            .map()
            .get("text_config")
            .and_then(|inner| inner.get(KEY))
            .cloned();
        let found = match (inner, beside) {
            (Some(inner), _) => Some(inner),
            (None, Some(text)) => Some(Value::Object(crate::json::parse_object(
                "hf_quant_config.json",
                text,
            )?)),
            (None, None) => None,
        };
        if let Some(found) = found {
            self.document.insert(KEY, found);
        }
        Ok(())
    }

    /// Its fields.
    #[must_use]
    pub fn fields(&self) -> Fields<'_> {
        self.document.fields()
    }

    /// All of it, for what tells models apart.
    pub(crate) fn map(&self) -> &serde_json::Map<String, Value> {
        self.document.map()
    }

    /// `model_type`.
    ///
    /// # Errors
    /// [`LmError::Config`] when it is missing or no string.
    pub fn model_type(&self) -> Result<&str> {
        let fields = self.fields();
        fields.require("model_type", fields.str("model_type")?)
    }

    /// The `quantization` section.
    ///
    /// # Errors
    /// [`LmError::Config`] when it says something impossible, [`LmError::Unsupported`] for a foreign format.
    pub fn quantization(&self) -> Result<QuantizationConfig> {
        QuantizationConfig::read(&self.fields())
    }

    /// The fields that nobody has read so far and that are not known to change nothing.
    pub(crate) fn unknown(&self) -> Vec<String> {
        unread::unknown_of_config(&self.document)
    }

    /// Refuses what would change the result and was not read.
    ///
    /// # Errors
    /// [`LmError::Unsupported`], naming the field.
    pub(crate) fn refuse_unread(&self) -> Result<()> {
        unread::refuse(&self.document)
    }

    /// The ids of the tokens that end a text; empty when the file names none.
    ///
    /// # Errors
    /// [`LmError::Config`] when `eos_token_id` is neither an id nor a list of ids.
    pub fn eos_token_ids(&self) -> Result<Vec<u32>> {
        Ok(self.fields().token_ids("eos_token_id")?.unwrap_or_default())
    }
}

/// What a family reads a model from: its configuration, and which tensors there are.
#[derive(Clone, Copy)]
pub struct FamilyInput<'a> {
    /// The fields of `config.json`.
    pub fields: Fields<'a>,
    has: &'a dyn Fn(&str) -> bool,
}

impl<'a> FamilyInput<'a> {
    /// Puts the two together; `has` says whether the checkpoint has a tensor.
    pub fn new(fields: Fields<'a>, has: &'a dyn Fn(&str) -> bool) -> Self {
        FamilyInput { fields, has }
    }

    /// Whether the checkpoint has a tensor.
    #[must_use]
    pub fn has(&self, tensor: &str) -> bool {
        (self.has)(tensor)
    }

    /// The same tensors with the configuration under `key`, or this one where there is no such key.
    ///
    /// # Errors
    /// [`LmError::Config`] when there is something else than an object.
    pub fn within(&self, key: &str, path: &'a str) -> Result<Self> {
        Ok(match self.fields.object(key, path)? {
            Some(fields) => FamilyInput { fields, ..*self },
            None => *self,
        })
    }
}

impl fmt::Debug for FamilyInput<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FamilyInput")
            .field("fields", &self.fields)
            .finish_non_exhaustive()
    }
}

/// What `generation_config.json` recommends. Everything in it is optional.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct GenerationConfig {
    /// The ids of the tokens that end a text; they take the place of those of `config.json`.
    pub eos_token_ids: Option<Vec<u32>>,
    /// `false`: take the most likely token always.
    pub do_sample: Option<bool>,
    /// Temperature.
    pub temperature: Option<f32>,
    /// Top-p.
    pub top_p: Option<f32>,
    /// Min-p.
    pub min_p: Option<f32>,
    /// Top-k.
    pub top_k: Option<u32>,
    /// Repetition penalty.
    pub repetition_penalty: Option<f32>,
}

impl GenerationConfig {
    /// Parses the text of a `generation_config.json`.
    ///
    /// # Errors
    /// [`LmError::Config`] when it is no JSON object, or a value is of the wrong type.
    pub fn parse(text: &[u8]) -> Result<Self> {
        Ok(Self::parse_all(text)?.0)
    }

    /// [`parse`](Self::parse), and the names of the fields that are not known.
    pub(crate) fn parse_all(text: &[u8]) -> Result<(Self, Vec<String>)> {
        Self::of(&Document::parse(GENERATION_FILE, text)?)
    }

    /// The file as it is taken beside a model: it only recommends, so that one that is no JSON, and values of how to sample
    /// that are none, do not keep the model from running; mlx-lm passes them over too. They are told among the names. What
    /// ends a text counts, and must be right.
    pub(crate) fn recommended(text: &[u8]) -> Result<(Self, Vec<String>)> {
        let told = |error: LmError| {
            let text = error.to_string();
            let prefix = format!("{GENERATION_FILE}: ");
            vec![text.strip_prefix(&prefix).unwrap_or(&text).to_owned()]
        };
        let document = match Document::parse(GENERATION_FILE, text) {
            Ok(document) => document,
            Err(error) => return Ok((Self::default(), told(error))),
        };
        let eos_token_ids = Self::ends(&document.fields())?;
        Ok(Self::of(&document).unwrap_or_else(|error| {
            let ends = Self {
                eos_token_ids,
                ..Self::default()
            };
            (ends, told(error))
        }))
    }

    /// Python asks whether what is there is true: 0, false and what is empty are not, a list with 0 in it is.
    fn ends(fields: &Fields<'_>) -> Result<Option<Vec<u32>>> {
        match fields.get("eos_token_id") {
            Some(Value::Bool(false)) => Ok(None),
            Some(Value::String(text)) if text.is_empty() => Ok(None),
            Some(Value::Number(number)) if number.as_f64() == Some(0.0) => Ok(None),
            _ => fields.token_ids("eos_token_id"),
        }
    }

    fn of(document: &Document) -> Result<(Self, Vec<String>)> {
        let fields = document.fields();
        let float = |key: &str| Ok::<_, LmError>(fields.f64(key)?.map(|v| v as f32));
        let top_k = match fields.get("top_k").and_then(Value::as_u64) {
            // 0 and ids beyond any vocabulary mean that there is none.
            Some(0) | None => None,
            Some(k) => u32::try_from(k).ok(),
        };
        let parsed = GenerationConfig {
            eos_token_ids: Self::ends(&fields)?,
            do_sample: fields.bool("do_sample")?,
            temperature: float("temperature")?,
            top_p: float("top_p")?,
            min_p: float("min_p")?,
            top_k,
            repetition_penalty: float("repetition_penalty")?,
        };
        Ok((parsed, unread::unknown(document, unread::GENERATION_FIELDS)))
    }
}

#[cfg(test)]
mod tests;
