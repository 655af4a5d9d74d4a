//! Models, tokens, health, numbers.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse as _, Response};
use serde_json::{Value, json};

use super::body;
use crate::app::App;
use crate::chat::prepare::prepare;
use crate::error::{ApiError, ApiResult, Dialect};
use crate::fields::Fields;
use crate::models::ServedModel;

pub(crate) fn reply(result: ApiResult<Value>) -> Response {
    match result {
        Ok(value) => axum::Json(value).into_response(),
        Err(error) => error.response(Dialect::OpenAi),
    }
}

fn model_json(app: &App, id: &str) -> Value {
    let loaded = app.models.loaded().into_iter().find(|m| m.id == id);
    let created = loaded.as_ref().map_or_else(App::now, |m| m.created);
    let mut model = json!({"id": id, "object": "model", "created": created, "owned_by": "mlx-native"});
    if let Some(context) = loaded.and_then(|m| m.context) {
        model["max_model_len"] = json!(context);
    }
    model
}

/// `/v1/models`.
pub(crate) async fn models(State(app): State<Arc<App>>) -> Response {
    let data: Vec<Value> = app.models.ids().map(|id| model_json(&app, id)).collect();
    reply(Ok(json!({"object": "list", "data": data})))
}

/// `/v1/models/{id}`; ids may have slashes.
pub(crate) async fn model(State(app): State<Arc<App>>, Path(id): Path<String>) -> Response {
    reply(app.models.resolve(&id).map(|id| model_json(&app, id)))
}

/// `/health`.
pub(crate) async fn health(State(app): State<Arc<App>>) -> Response {
    if app.is_draining() {
        return ApiError::unavailable("the server is about to stop").response(Dialect::OpenAi);
    }
    let loaded = app.models.loaded();
    match loaded.iter().find(|m| !m.backend.is_alive()) {
        Some(model) => ApiError::unavailable(format!("the engine of {:?} has stopped", model.id))
            .response(Dialect::OpenAi),
        None if !app.warm.load(std::sync::atomic::Ordering::Relaxed) => {
            ApiError::unavailable("the model is being loaded").response(Dialect::OpenAi)
        }
        None => reply(Ok(json!({"status": "ok"}))),
    }
}

/// `/metrics`.
pub(crate) async fn metrics(State(app): State<Arc<App>>) -> Response {
    let engines: Vec<_> = app
        .models
        .loaded()
        .iter()
        .map(|m| (m.id.clone(), m.backend.stats()))
        .collect();
    let text = app.metrics.text(&engines);
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        text,
    )
        .into_response()
}

/// `/version`.
pub(crate) async fn version() -> Response {
    reply(Ok(json!({"version": env!("CARGO_PKG_VERSION")})))
}

/// `/`: the page to chat in.
pub(crate) async fn page() -> Response {
    Html(include_str!("../../page/chat.html")).into_response()
}

/// `/status`: the page of numbers.
pub(crate) async fn status_page() -> Response {
    Html(include_str!("../../page/status.html")).into_response()
}

/// `/status.json`: what that page draws.
pub(crate) async fn status(State(app): State<Arc<App>>) -> Response {
    let [prompt, generated] = app.metrics.tokens();
    let models: Vec<Value> = (app.models.loaded().iter())
        .map(|m| {
            let s = m.backend.stats();
            json!({
                "id": m.id, "running": s.running, "waiting": s.waiting, "kv_bytes": s.kv_bytes, "kv_limit": s.kv_limit,
                "cache_entries": s.cache_entries, "cache_queried": s.cache_queried, "cache_hits": s.cache_hits,
                "prompt_tokens": s.prompt_tokens, "generated_tokens": s.generated_tokens,
            })
        })
        .collect();
    reply(Ok(
        json!({"models": models, "prompt_tokens": prompt, "generated_tokens": generated}),
    ))
}

async fn with_model(
    app: &Arc<App>,
    bytes: &Bytes,
) -> ApiResult<(serde_json::Map<String, Value>, Arc<ServedModel>)> {
    let map = body(bytes)?;
    let model = app.models.get(Fields::new(&map).str("model")?).await?;
    Ok((map, model))
}

/// `/tokenize`: of a text, or of the prompt that messages become.
pub(crate) async fn tokenize(State(app): State<Arc<App>>, bytes: Bytes) -> Response {
    reply(tokens(&app, &bytes).await)
}

async fn tokens(app: &Arc<App>, bytes: &Bytes) -> ApiResult<Value> {
    let (map, model) = with_model(app, bytes).await?;
    let fields = Fields::new(&map);
    let text = fields.str("prompt")?.or(fields.str("content")?);
    let ids = match text {
        Some(text) => {
            let special = fields
                .bool("add_special_tokens")?
                .or(fields.bool("add_special")?)
                .unwrap_or(true);
            let encoded = if special {
                model.tokenizer.encode(text)
            } else {
                model.tokenizer.encode_with(text, false)
            };
            encoded.map_err(|e| ApiError::invalid("prompt", e))?
        }
        None if fields.get("messages").is_some() => {
            let chat = super::chat::read(&map, &model, app)?;
            prepare(app, model.clone(), chat).await?.request.prompt
        }
        None => return Err(ApiError::invalid("prompt", "missing")),
    };
    let texts: Vec<String> = ids.iter().map(|id| super::token_text(&model, *id).0).collect();
    Ok(json!({"count": ids.len(), "max_model_len": model.context, "tokens": ids, "token_strs": texts}))
}

/// `/detokenize`.
pub(crate) async fn detokenize(State(app): State<Arc<App>>, bytes: Bytes) -> Response {
    let made = async {
        let (map, model) = with_model(&app, &bytes).await?;
        let Some(ids) = Fields::new(&map).ids("tokens")? else {
            return Err(ApiError::invalid("tokens", "missing"));
        };
        let most = model.tokenizer.vocab_size();
        if let Some((index, id)) = ids.iter().enumerate().find(|(_, id)| **id as usize >= most) {
            let message = format!("found {id}, the vocabulary has {most} tokens");
            return Err(ApiError::invalid(format!("tokens[{index}]"), message));
        }
        let text = model.tokenizer.decode(&ids, false)?;
        Ok(json!({"prompt": text, "content": text}))
    };
    reply(made.await)
}

/// `/v1/embeddings`: the models here have none.
pub(crate) async fn embeddings(State(app): State<Arc<App>>, bytes: Bytes) -> Response {
    let made = async {
        let (_, model) = with_model(&app, &bytes).await?;
        Err(ApiError {
            param: Some("model".to_owned()),
            ..ApiError::new(
                StatusCode::BAD_REQUEST,
                format!("the model {:?} generates text and has no embeddings", model.id),
            )
        }
        .coded("unsupported_model"))
    };
    reply(made.await)
}
