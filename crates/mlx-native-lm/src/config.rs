//! What `config.json` says of a decoder, checked.

use std::fmt;

use serde_json::Value;

use crate::error::{LmError, Result};
use crate::json::{Document, Fields};
use crate::quantization::QuantizationConfig;
use crate::rope::RopeConfig;
use crate::unread;

/// Name of the file, for errors.
pub(crate) const CONFIG_FILE: &str = "config.json";
const GENERATION_FILE: &str = "generation_config.json";

/// Largest extent of one dimension that is taken for a real model's.
const MAX_EXTENT: usize = 1 << 24;
const MAX_LAYERS: usize = 1 << 12;

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

    /// Its fields.
    #[must_use]
    pub fn fields(&self) -> Fields<'_> {
        self.document.fields()
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

    /// The ids of the tokens that end a text; empty when the file names none.
    ///
    /// # Errors
    /// [`LmError::Config`] when `eos_token_id` is neither an id nor a list of ids.
    pub fn eos_token_ids(&self) -> Result<Vec<u32>> {
        Ok(self.fields().token_ids("eos_token_id")?.unwrap_or_default())
    }
}

/// The activation between the two halves of an MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Activation {
    /// `x · sigmoid(x)`.
    Silu,
}

/// The shape of a decoder of the common kind: RMS norm, attention with grouped keys and values, RoPE, and a gated MLP in
/// every layer.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct DecoderConfig {
    /// Number of layers.
    pub n_layers: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Heads of queries.
    pub n_heads: usize,
    /// Heads of keys and values; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Elements of a head; even.
    pub head_dim: usize,
    /// Rows of the embedding, and number of logits.
    pub vocab_size: usize,
    /// Longest context that the model was made for, in tokens, where the file says so.
    pub max_position_embeddings: Option<usize>,
    /// What RMS norm adds to the mean square.
    pub rms_norm_eps: f32,
    /// Positions.
    pub rope: RopeConfig,
    /// Whether the embedding also makes the logits; else there is a matrix `lm_head`.
    pub tie_word_embeddings: bool,
    /// Whether the projections of attention add a bias.
    pub attention_bias: bool,
    /// Whether the projections of the MLP add a bias.
    pub mlp_bias: bool,
    /// Whether queries and keys are normalised per head before RoPE.
    pub qk_norm: bool,
    /// The MLP's activation.
    pub activation: Activation,
}

impl DecoderConfig {
    /// Reads the keys that decoders share, under the names that Hugging Face and MLX give them. `qk_norm` is false: no
    /// key says it, a family does.
    ///
    /// # Errors
    /// [`LmError::Config`], naming the key, for a missing or impossible value; [`LmError::Unsupported`] for an
    /// activation or a kind of layer that is not built.
    pub fn read(config: &ConfigFile) -> Result<Self> {
        let fields = config.fields();
        let count = |key: &str, most| fields.require(key, fields.count(key, most)?);
        let hidden_size = count("hidden_size", MAX_EXTENT)?;
        let n_heads = count("num_attention_heads", MAX_EXTENT)?;
        let n_kv_heads = fields
            .count("num_key_value_heads", MAX_EXTENT)?
            .unwrap_or(n_heads);
        if !n_heads.is_multiple_of(n_kv_heads) {
            let wanted = format!("a divisor of num_attention_heads {n_heads}");
            return Err(fields.invalid("num_key_value_heads", n_kv_heads, &wanted));
        }
        let head_dim = head_dim(&fields, hidden_size, n_heads)?;
        let decoder = DecoderConfig {
            n_layers: count("num_hidden_layers", MAX_LAYERS)?,
            hidden_size,
            intermediate_size: count("intermediate_size", MAX_EXTENT)?,
            n_heads,
            n_kv_heads,
            head_dim,
            vocab_size: count("vocab_size", MAX_EXTENT)?,
            max_position_embeddings: fields.count("max_position_embeddings", u32::MAX as usize)?,
            rms_norm_eps: norm_eps(&fields)?,
            rope: RopeConfig::read(&fields, head_dim)?,
            tie_word_embeddings: fields.bool("tie_word_embeddings")?.unwrap_or(true),
            attention_bias: fields.bool("attention_bias")?.unwrap_or(false),
            mlp_bias: fields.bool("mlp_bias")?.unwrap_or(false),
            qk_norm: false,
            activation: activation(&fields)?,
        };
        full_attention_only(&fields)?;
        Ok(decoder)
    }

    /// Width of all query heads together.
    #[must_use]
    pub fn query_width(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Width of all key heads together, and of all value heads.
    #[must_use]
    pub fn kv_width(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }

    /// What attention multiplies its scores with: 1/√head_dim.
    #[must_use]
    pub fn attention_scale(&self) -> f32 {
        (1.0 / (self.head_dim as f64).sqrt()) as f32
    }
}

fn head_dim(fields: &Fields<'_>, hidden_size: usize, n_heads: usize) -> Result<usize> {
    let head_dim = match fields.count("head_dim", MAX_EXTENT)? {
        Some(head_dim) => head_dim,
        None if hidden_size.is_multiple_of(n_heads) => hidden_size / n_heads,
        None => {
            let wanted = format!("a divisor of hidden_size {hidden_size}, since head_dim is missing");
            return Err(fields.invalid("num_attention_heads", n_heads, &wanted));
        }
    };
    if !head_dim.is_multiple_of(2) {
        return Err(fields.invalid("head_dim", head_dim, "an even number"));
    }
    if n_heads
        .checked_mul(head_dim)
        .is_none_or(|width| width > MAX_EXTENT)
    {
        let wanted = format!("at most {MAX_EXTENT} over {n_heads} heads");
        return Err(fields.invalid("head_dim", head_dim, &wanted));
    }
    Ok(head_dim)
}

fn norm_eps(fields: &Fields<'_>) -> Result<f32> {
    let key = "rms_norm_eps";
    let eps = fields.require(key, fields.f64(key)?)?;
    if !(0.0..=1.0).contains(&eps) {
        return Err(fields.invalid(key, eps, "a number from 0 to 1"));
    }
    Ok(eps as f32)
}

fn activation(fields: &Fields<'_>) -> Result<Activation> {
    match fields.str("hidden_act")? {
        None | Some("silu" | "swish") => Ok(Activation::Silu),
        Some(other) => Err(LmError::Unsupported(format!(
            "{CONFIG_FILE}: hidden_act {other:?}; silu is"
        ))),
    }
}

/// Refuses layers of other kinds. A `sliding_window` alone does not count: checkpoints name one that they do not use.
fn full_attention_only(fields: &Fields<'_>) -> Result<()> {
    let Some(value) = fields.get("layer_types") else {
        return Ok(());
    };
    let Value::Array(kinds) = value else {
        return Err(fields.invalid("layer_types", crate::json::kind(value), "a list of strings"));
    };
    match kinds.iter().find(|kind| kind.as_str() != Some("full_attention")) {
        None => Ok(()),
        Some(other) => Err(LmError::Unsupported(format!(
            "{CONFIG_FILE}: layer_types has {other}; \"full_attention\" is"
        ))),
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
        let document = Document::parse(GENERATION_FILE, text)?;
        let fields = document.fields();
        let float = |key: &str| Ok::<_, LmError>(fields.f64(key)?.map(|v| v as f32));
        let top_k = match fields.get("top_k").and_then(Value::as_u64) {
            // 0 and ids beyond any vocabulary mean that there is none.
            Some(0) | None => None,
            Some(k) => u32::try_from(k).ok(),
        };
        // Python asks whether what is there is true: 0 is not, a list with 0 in it is.
        let nought = fields.get("eos_token_id").and_then(Value::as_f64) == Some(0.0);
        let parsed = GenerationConfig {
            eos_token_ids: fields.token_ids("eos_token_id")?.filter(|_| !nought),
            do_sample: fields.bool("do_sample")?,
            temperature: float("temperature")?,
            top_p: float("top_p")?,
            min_p: float("min_p")?,
            top_k,
            repetition_penalty: float("repetition_penalty")?,
        };
        Ok((parsed, unread::unknown(&document, unread::GENERATION_FIELDS)))
    }
}

impl fmt::Display for DecoderConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} layers, hidden {}, {} heads of {} ({} KV), MLP {}, vocabulary {}",
            self.n_layers,
            self.hidden_size,
            self.n_heads,
            self.head_dim,
            self.n_kv_heads,
            self.intermediate_size,
            self.vocab_size
        )
    }
}

#[cfg(test)]
mod tests;
