//! Fields of configurations that nobody reads, and why that is right.
//!
//! A field that changes what a model computes is read, or refused by name, or it is on a list here, with the reason why it
//! changes nothing. What is on no list is told to the user: it may have been meant to do something.

mod lists;

use serde_json::{Map, Value};

use crate::error::{LmError, Result};
use crate::json::Document;

/// A list of fields and the reason why they need not be read. A name that ends in `*` stands for all that begin so.
pub(crate) type Unread = &'static [(&'static str, &'static [&'static str])];

pub(crate) use lists::{GENERATION_FIELDS, TOKENIZER_FIELDS};

/// The fields of a file that were not read and are on no list.
pub(crate) fn unknown(document: &Document, known: Unread) -> Vec<String> {
    let listed = |field: &str| {
        known
            .iter()
            .any(|(_, names)| names.iter().any(|name| matches(name, outside(field))))
    };
    let unread = document.unread().into_iter();
    unread
        .map(|(field, _)| field)
        .filter(|field| !listed(field))
        .collect()
}

/// What a field that nobody read means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    /// It changes nothing at this value.
    Nothing,
    /// It changes the result.
    Change,
    /// Nobody knows.
    Unknown,
}

/// The fields of `config.json` that were not read and are not known to change nothing.
pub(crate) fn unknown_of_config(document: &Document) -> Vec<String> {
    let mut names = unknown(document, lists::CONFIG_FIELDS);
    let map = document.map();
    let unread = document.unread();
    let all_dense = experts_by_layer(document, &unread);
    names.retain(|name| {
        if all_dense && OF_EXPERTS.contains(&last(name)) {
            return false;
        }
        let value = unread.iter().find(|(path, _)| path == name);
        value.is_none_or(|(path, value)| meaning(map, path, value) != Meaning::Nothing)
    });
    names
}

/// Fields that say how experts are chosen.
const OF_ROUTERS: [&str; 5] = [
    "norm_topk_prob",
    "n_group",
    "topk_group",
    "scoring_func",
    "topk_method",
];

/// Fields that say what experts there are.
const OF_EXPERTS: [&str; 4] = [
    "num_experts",
    "num_experts_per_tok",
    "moe_intermediate_size",
    "norm_topk_prob",
];

/// Whether a family that has experts in some layers found none that has: the number of choices was not read, and which
/// layers have experts was.
fn experts_by_layer(document: &Document, unread: &[(String, &Value)]) -> bool {
    let is_unread = |name: &str| unread.iter().any(|(path, _)| last(path) == name);
    let is_read = |name: &str| document.map().contains_key(name) && !is_unread(name);
    is_unread("num_experts_per_tok") && (is_read("decoder_sparse_step") || is_read("mlp_only_layers"))
}

/// The name of a field without the objects that it stands in.
fn last(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

/// Refuses what changes the result and was not read by the family at hand.
///
/// # Errors
/// [`LmError::Unsupported`], naming the field.
pub(crate) fn refuse(document: &Document) -> Result<()> {
    let map = document.map();
    let unread = document.unread();
    // How experts are chosen says nothing where no layer has any.
    let no_experts = unread.iter().any(|(path, _)| last(path) == "num_experts_per_tok");
    for (path, value) in unread {
        if no_experts && OF_ROUTERS.contains(&last(&path)) {
            continue;
        }
        if meaning(map, &path, value) == Meaning::Change {
            let shown = match value {
                Value::Array(_) | Value::Object(_) => crate::json::kind(value).to_owned(),
                plain => plain.to_string(),
            };
            return Err(LmError::Unsupported(format!(
                "config.json: {path}: found {shown}, which is not built for this model_type"
            )));
        }
    }
    Ok(())
}

/// What is built in where a family does not read a field: another value is refused.
fn meaning(map: &Map<String, Value>, path: &str, value: &Value) -> Meaning {
    let inner = outside(path);
    // Of a nested configuration, where the field stands in one.
    let nested = path
        .strip_suffix(inner)
        .and_then(|key| map.get(key.strip_suffix('.')?));
    let fields = nested.and_then(Value::as_object).unwrap_or(map);
    let name = inner.rsplit('.').next().unwrap_or(inner);
    let in_rope = inner.starts_with("rope_parameters.") || inner.starts_with("rope_scaling.");
    let number = |wanted: f64| value.as_f64() == Some(wanted);
    let off = |name: &str| fields.get(name).and_then(Value::as_bool) == Some(false);
    let built_in = match name {
        // Llama's layers see all, in transformers and in mlx-lm, whatever window its file names.
        "sliding_window" | "use_sliding_window"
            if matches!(model_type(fields), "llama" | "xverse" | "iquestcoder")
                && fields.get("layer_types").is_none_or(Value::is_null)
                && slides(fields) =>
        {
            return Meaning::Unknown;
        }
        // mlx-lm turns by 10000 whatever this family's file says; named in the log where the file says something else.
        "rope_theta"
            if model_type(fields) == "recurrent_gemma"
                && value
                    .as_f64()
                    .is_some_and(|theta| theta > 0.0 && theta != 10_000.0) =>
        {
            return Meaning::Unknown;
        }
        "use_sliding_window" => value.as_bool() == Some(false) || !slides(fields),
        "sliding_window" => !slides(fields) || off("use_sliding_window"),
        "max_window_layers" => true,
        "layer_types" => are_read(fields, value),
        "rope_parameters" => value.as_object().is_some_and(Map::is_empty),
        "rope_theta" => match model_type(fields) {
            // No layer turns.
            "kimi_linear" => true,
            "recurrent_gemma" => number(10_000.0),
            // Said again by kind of layer, which is read.
            _ => fields.get("rope_parameters").is_some_and(Value::is_object),
        },
        "rope_type" | "type" if in_rope => match value.as_str() {
            Some("default" | "mrope") => true,
            // By its `alpha`, which is read.
            Some("dynamic") => model_type(fields).starts_with("hunyuan"),
            // Its factors are read.
            Some("longrope") => model_type(fields) == "phimoe",
            _ => false,
        },
        // Latent attention has its own size of what turns; GLM turns one half.
        "partial_rotary_factor" => {
            number(1.0) || fields.contains_key("kv_lora_rank") || (model_type(fields) == "glm" && number(0.5))
        }
        "rope_interleave" => value.as_bool() == Some(true),
        "hidden_act" | "hidden_activation" | "activation_function" => is_own_activation(fields, value),
        "norm_topk_prob" | "scale_attn_by_inverse_layer_idx" => value.as_bool() == Some(false),
        "scale_attn_weights" => value.as_bool() == Some(true),
        // One group is all there is to choose from.
        "topk_group" => {
            number(1.0)
                || fields.get("n_group").is_none_or(|n| n.as_f64() == Some(1.0))
                || fields.get("topk_method").and_then(Value::as_str) == Some("greedy")
        }
        "decoder_sparse_step" => number(1.0),
        "mlp_only_layers" => value.as_array().is_some_and(Vec::is_empty),
        "final_logit_softcapping" => number(15.0),
        "layer_norm_epsilon" => number(1e-5),
        // The other goes before it.
        "window_size" => fields.contains_key("sliding_window"),
        "mla_use_nope" => value.as_bool() == Some(true),
        "n_group" => number(1.0) || fields.get("topk_method").and_then(Value::as_str) == Some("greedy"),
        "scoring_func" if value.as_str() == Some("sigmoid") => true,
        "topk_method" if value.as_str() == Some("noaux_tc") => true,
        // Said again by the pattern of the layers, which is read.
        "num_hidden_layers" => fields.contains_key("hybrid_override_pattern"),
        // The base is scaled by `alpha`, which is read.
        "factor" if in_rope && model_type(fields).starts_with("hunyuan") => true,
        "mlp_hidden_act" => value.as_str() == Some("relu2"),
        "mamba_hidden_act" => value.as_str() == Some("silu"),
        "moe_apply_router_weight_on_input" => value.as_bool() == Some(false),
        "attention_method" => value.as_str() == Some("MLA"),
        "residual_gate_temperature" => number(0.3),
        // Of the larger models of that name: this type is the dense one, and does not look at them in mlx-lm either.
        "attention_chunk_size"
        | "attn_scale"
        | "attn_temperature_tuning"
        | "floor_scale"
        | "interleave_moe_layer_step"
        | "num_experts_per_tok"
        | "num_local_experts"
            if model_type(fields) == "llama4_text" =>
        {
            true
        }
        // Its weights have them in them, as MLX's checkpoints are written.
        "attention_in_multiplier"
        | "attention_out_multiplier"
        | "embedding_multiplier"
        | "key_multiplier"
        | "lm_head_multiplier"
        | "mlp_multipliers"
        | "ssm_in_multiplier"
        | "ssm_multipliers"
        | "ssm_out_multiplier"
            if model_type(fields) == "falcon_h1" =>
        {
            true
        }
        // Of images, or of none: tokens of a text see what came before.
        "use_bidirectional_attention" => value.as_bool() == Some(false) || value.as_str() == Some("vision"),
        "swiglu_limit" => number(7.0),
        "swiglu_alpha" => number(1.702),
        "time_step_limit" => value.as_array().is_some_and(|ends| {
            let ends: Vec<Option<f64>> = ends.iter().map(crate::json::number).collect();
            ends == [Some(0.0), Some(f64::INFINITY)]
        }),
        _ if name.ends_with("_alpha_factor") || name.ends_with("_beta_factor") => number(1.0),
        _ if in_rope && value.is_object() => false,
        _ => return Meaning::Unknown,
    };
    if built_in {
        Meaning::Nothing
    } else {
        Meaning::Change
    }
}

/// Whether a list of the kinds of layers says again what fields say that are read, or that all are of the plain kind.
fn are_read(fields: &Map<String, Value>, value: &Value) -> bool {
    /// Fields that say it in another way.
    const PATTERNS: [&str; 6] = [
        "sliding_window_pattern",
        "full_attention_interval",
        "full_attn_idxs",
        "no_rope_layers",
        "layers_block_type",
        "text_config",
    ];
    let plain = |kind: &Value| kind.as_str() == Some("full_attention");
    value.as_array().is_some_and(|kinds| kinds.iter().all(plain))
        || PATTERNS.iter().any(|name| fields.get(*name).is_some())
        || matches!(
            model_type(fields),
            "cohere2"
                | "gemma2"
                | "gemma3_text"
                | "lfm2"
                | "minimax"
                | "qwen3_next"
                | "qwen3_5_text"
                | "qwen3_5_moe_text"
        )
}

/// Whether an activation is the one that the family has built in.
fn is_own_activation(fields: &Map<String, Value>, value: &Value) -> bool {
    let name = value.as_str().unwrap_or_default();
    match model_type(fields) {
        "gpt2" | "gptj" | "gpt_neox" | "phi" | "starcoder2" | "phixtral" => name.starts_with("gelu"),
        gemma if gemma.starts_with("gemma") => name.starts_with("gelu"),
        "nanochat" | "nemotron" | "bitnet" => name == "relu2",
        "apertus" => name == "xielu",
        _ => matches!(name, "silu" | "swish"),
    }
}

fn model_type(fields: &Map<String, Value>) -> &str {
    fields
        .get("model_type")
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// Whether a window is named that some layer has and some text of the model's length leaves.
fn slides(fields: &Map<String, Value>) -> bool {
    let number = |name: &str| fields.get(name).and_then(Value::as_u64);
    let Some(window) = number("sliding_window") else {
        return false;
    };
    let beyond = number("max_position_embeddings").is_some_and(|context| window >= context);
    let none = match (number("max_window_layers"), number("num_hidden_layers")) {
        (Some(first), Some(layers)) => first >= layers,
        _ => false,
    };
    !beyond && !none
}

/// A path without the nested configuration that it stands in, such as `text_config.`.
fn outside(path: &str) -> &str {
    let inner = path.split_once('.').filter(|(key, _)| key.ends_with("_config"));
    inner.map_or(path, |(_, inner)| inner)
}

fn matches(name: &str, field: &str) -> bool {
    match name.strip_suffix('*') {
        Some(beginning) => field.starts_with(beginning),
        None => field == name,
    }
}

#[cfg(test)]
mod tests;
