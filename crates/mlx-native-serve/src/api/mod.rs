//! The interfaces, each an adapter over one answer.

pub(crate) mod anthropic;
pub(crate) mod anthropic_stream;
pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod misc;
pub(crate) mod ollama;
pub(crate) mod responses;

use axum::body::Bytes;
use mlx_native_lm::engine::{Logprobs, Usage};
use serde_json::{Map, Value, json};

use crate::error::{ApiError, ApiResult};
use crate::fields::kind;
use crate::models::ServedModel;

/// The body of a request: an object.
pub(crate) fn body(bytes: &Bytes) -> ApiResult<Map<String, Value>> {
    let wrong = |message: String| ApiError::new(axum::http::StatusCode::BAD_REQUEST, message);
    match serde_json::from_slice::<Value>(bytes) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(other) => Err(wrong(format!(
            "the body: found {}, wanted an object",
            kind(&other)
        ))),
        Err(error) => Err(wrong(format!("the body is no JSON: {error}"))),
    }
}

/// OpenAI's `usage`.
pub(crate) fn usage_json(usage: &Usage) -> Value {
    json!({
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    })
}

/// The text of a token by itself, and its bytes: those of a character over several tokens are not text by themselves.
pub(crate) fn token_text(model: &ServedModel, id: u32) -> (String, Vec<u8>) {
    let bytes = model.tokenizer.token_bytes(id);
    (String::from_utf8_lossy(&bytes).into_owned(), bytes)
}

/// A token of `logprobs.content` of chats.
pub(crate) fn chat_logprob(model: &ServedModel, id: u32, logprobs: &Logprobs) -> Value {
    let one = |id: u32, logprob: f32| {
        let (text, bytes) = token_text(model, id);
        json!({"token": text, "logprob": logprob, "bytes": bytes})
    };
    let mut token = one(id, logprobs.logprob);
    token["top_logprobs"] = logprobs.top.iter().map(|r| one(r.id, r.logprob)).collect();
    token
}
