//! Fields that mean something elsewhere and that this server lacks: a request that asks for one is refused by its name, for an answer
//! that passes over it would be another one than was asked for. A field that nobody knows is no error.

use serde_json::{Value, json};

use crate::error::{ApiError, ApiResult};
use crate::fields::Fields;

/// Fields of all interfaces. Where one is null, false or empty, nothing is asked for.
const LACKING: [&str; 38] = [
    // OpenAI's.
    "audio",
    "functions",
    "suffix",
    "web_search_options",
    "moderation",
    // vLLM's and SGLang's.
    "use_beam_search",
    "include_stop_str_in_output",
    "bad_words",
    "prompt_embeds",
    "return_token_ids",
    "return_tokens_as_token_ids",
    "truncate_prompt_tokens",
    "logits_processors",
    "custom_logit_processor",
    "custom_params",
    "vllm_xargs",
    "kv_transfer_params",
    "mm_processor_kwargs",
    "media_io_kwargs",
    "repetition_detection",
    "regex",
    "ebnf",
    "lora_path",
    // llama.cpp's.
    "lora",
    "image_data",
    "multimodal_data",
    "return_tokens",
    "return_progress",
    "response_fields",
    "timings_per_token",
    "post_sampling_probs",
    "grammar_triggers",
    "grammar_lazy",
    "samplers",
    "dry_sequence_breakers",
    // mlx-lm's.
    "adapters",
    "role_mapping",
    "chat_template",
];

/// Fields of all interfaces with the values that ask for nothing.
fn neutral() -> [(&'static str, Vec<Value>); 22] {
    [
        ("function_call", vec![json!("none")]),
        ("draft_model", vec![json!("default_model")]),
        ("length_penalty", vec![json!(1)]),
        ("priority", vec![json!(0)]),
        ("skip_special_tokens", vec![json!(true)]),
        ("spaces_between_special_tokens", vec![json!(true)]),
        ("detokenize", vec![json!(true)]),
        ("include_reasoning", vec![json!(true)]),
        ("separate_reasoning", vec![json!(true)]),
        ("no_repeat_ngram_size", vec![json!(0)]),
        ("typical_p", vec![json!(1)]),
        ("tfs_z", vec![json!(1)]),
        ("top_a", vec![json!(0)]),
        ("top_n_sigma", vec![json!(-1), json!(0)]),
        ("mirostat", vec![json!(0)]),
        ("dynatemp_range", vec![json!(0)]),
        ("dry_multiplier", vec![json!(0)]),
        ("adaptive_target", vec![json!(-1)]),
        ("n_probs", vec![json!(0)]),
        ("n_indent", vec![json!(0)]),
        ("id_slot", vec![json!(-1)]),
        ("t_max_predict_ms", vec![json!(0), json!(-1)]),
    ]
}

/// Whether a value asks for nothing, whatever the field.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

fn same(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

/// Refuses the fields of all interfaces that are lacking.
pub(crate) fn refuse_lacking(fields: &Fields<'_>) -> ApiResult<()> {
    refuse(fields, &LACKING)?;
    for (name, values) in neutral() {
        refuse_unless(fields, name, &values)?;
    }
    Ok(())
}

/// Refuses these fields, where they ask for something.
pub(crate) fn refuse(fields: &Fields<'_>, names: &[&str]) -> ApiResult<()> {
    match names
        .iter()
        .find(|n| fields.get(n).is_some_and(|v| !is_nothing(v)))
    {
        Some(name) => Err(ApiError::unsupported(fields.name(name))),
        None => Ok(()),
    }
}

/// Refuses a field, unless its value is one of these, which ask for nothing.
pub(crate) fn refuse_unless(fields: &Fields<'_>, name: &str, neutral: &[Value]) -> ApiResult<()> {
    let asked = fields
        .get(name)
        .is_some_and(|v| !neutral.iter().any(|n| same(v, n)) && (*v == json!(false) || !is_nothing(v)));
    if asked {
        return Err(ApiError::unsupported(fields.name(name)));
    }
    Ok(())
}
