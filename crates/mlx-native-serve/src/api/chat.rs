//! `/v1/chat/completions`.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use mlx_native_lm::engine::{MAX_TOP_LOGPROBS, Token, Usage};
use serde_json::{Map, Value, json};

use super::{body, chat_logprob, usage_json};
use crate::answer::{Answer, Call, Part, Text, sum};
use crate::app::App;
use crate::chat::messages;
use crate::chat::prepare::{Chat, prepare, variables};
use crate::chat::thoughts::Thoughts;
use crate::error::{ApiError, ApiResult, Dialect};
use crate::fields::Fields;
use crate::known;
use crate::models::ServedModel;
use crate::output::Delta;
use crate::params;
use crate::server::RequestId;
use crate::stream::{Format, Frames, respond};

/// Reads the request that the map describes.
pub(crate) fn read(map: &Map<String, Value>, model: &ServedModel, app: &App) -> ApiResult<Chat> {
    let fields = Fields::new(map);
    if let Some(list) = fields.array("modalities")?
        && list.iter().any(|m| m != "text")
    {
        return Err(ApiError::unsupported("modalities"));
    }
    known::refuse(&fields, &["echo", "add_special_tokens", "prompt_logprobs"])?;
    let mut request = params::read(&fields, model)?;
    request.max_tokens = request.max_tokens.or(app.config.max_tokens);
    if request.max_tokens == Some(0) {
        return Err(ApiError::invalid("max_tokens", "found 0, wanted 1 or more"));
    }
    request.logprobs = logprobs(&fields)?;
    let mut tools = messages::tools(&fields)?;
    let choice = messages::choice(&fields, &mut tools)?;
    let continues = fields.bool("continue_final_message")?.unwrap_or(false);
    if let Some(add) = fields.bool("add_generation_prompt")?
        && add == continues
    {
        return Err(ApiError::invalid(
            "add_generation_prompt",
            "it has to be true, and false where continue_final_message is true",
        ));
    }
    Ok(Chat {
        messages: messages::messages(&fields)?,
        tools,
        choice,
        parallel: fields.bool("parallel_tool_calls")?,
        variables: variables(&fields, model)?,
        thoughts: Thoughts::of_openai(&fields)?,
        continues,
        grammar: params::grammar(&fields)?,
        request,
    })
}

fn logprobs(fields: &Fields<'_>) -> ApiResult<Option<usize>> {
    let top = fields.usize("top_logprobs", 0, MAX_TOP_LOGPROBS)?;
    match fields.get("logprobs") {
        // A number is how completions ask for it.
        Some(Value::Number(_)) => fields.usize("logprobs", 0, MAX_TOP_LOGPROBS),
        _ => match (fields.bool("logprobs")?.unwrap_or(false), top) {
            (true, top) => Ok(Some(top.unwrap_or(0))),
            (false, Some(n)) if n > 0 => Err(ApiError::invalid(
                "top_logprobs",
                "logprobs has to be true for it",
            )),
            (false, _) => Ok(None),
        },
    }
}

/// Whether a stream is wanted, and whether with usage.
pub(crate) fn streaming(fields: &Fields<'_>) -> ApiResult<(bool, bool)> {
    let stream = fields.bool("stream")?.unwrap_or(false);
    let with_usage = match fields.object("stream_options")? {
        Some(options) => Fields::inside(options, "stream_options.")
            .bool("include_usage")?
            .unwrap_or(false),
        None => false,
    };
    Ok((stream, with_usage))
}

/// Answers a chat.
pub(crate) async fn handle(State(app): State<Arc<App>>, id: RequestId, bytes: Bytes) -> Response {
    match answer(&app, &id.0, &bytes).await {
        Ok(response) => response,
        Err(error) => error.response(Dialect::OpenAi),
    }
}

async fn answer(app: &Arc<App>, request_id: &str, bytes: &Bytes) -> ApiResult<Response> {
    let map = body(bytes)?;
    let fields = Fields::new(&map);
    let model = app.models.get(fields.str("model")?).await?;
    let (stream, with_usage) = streaming(&fields)?;
    let chat = read(&map, &model, app)?;
    let (n, with_logprobs) = (chat.request.n, chat.request.logprobs.is_some());
    let prepared = prepare(app, model, chat).await?;
    let mut answer = Answer::begin(
        app,
        request_id,
        prepared.model.clone(),
        prepared.request,
        &prepared.reader,
    )?;
    let head = Head {
        app: app.clone(),
        id: app.id("chatcmpl-"),
        created: App::now(),
        model: prepared.model,
        with_logprobs,
    };
    if stream {
        let format = ChatStream {
            head,
            n,
            with_usage,
            usage: Usage::default(),
            calls: vec![0; n],
            open: vec![false; n],
        };
        return Ok(respond(vec![answer], format));
    }
    let whole = answer.collect().await?;
    let choices: Vec<Value> = whole
        .choices
        .iter()
        .enumerate()
        .map(|(i, t)| head.choice(i, t))
        .collect();
    let mut out = head.object("chat.completion");
    out["choices"] = choices.into();
    out["usage"] = usage_json(&whole.usage);
    Ok(axum::Json(out).into_response())
}

/// What is the same in all parts of an answer.
struct Head {
    app: Arc<App>,
    id: String,
    created: u64,
    model: Arc<ServedModel>,
    with_logprobs: bool,
}

impl Head {
    fn object(&self, object: &str) -> Value {
        json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.model.id,
            "system_fingerprint": "mlx-native",
        })
    }

    fn logprobs(&self, tokens: &[Token]) -> Value {
        if !self.with_logprobs {
            return Value::Null;
        }
        let content: Vec<Value> = tokens
            .iter()
            .filter_map(|t| Some(chat_logprob(&self.model, t.id, t.logprobs.as_ref()?)))
            .collect();
        json!({"content": content, "refusal": null})
    }

    fn choice(&self, index: usize, text: &Text) -> Value {
        let called = !text.calls.is_empty();
        let mut message = json!({"role": "assistant", "content": text.content, "refusal": null});
        if called && text.content.is_empty() {
            message["content"] = Value::Null;
        }
        if !text.reasoning.is_empty() {
            message["reasoning_content"] = json!(text.reasoning);
            message["reasoning"] = json!(text.reasoning);
        }
        if called {
            message["tool_calls"] = text
                .calls
                .iter()
                .map(|c| call_json(&self.app, &self.model, c))
                .collect();
        }
        json!({
            "index": index,
            "message": message,
            "logprobs": self.logprobs(&text.tokens),
            "finish_reason": text.finish.as_ref().map(|f| f.openai()),
        })
    }
}

/// An id for a call: the model's own, or one in the manner of its family.
pub(crate) fn call_id(app: &App, model: &ServedModel, own: Option<&str>) -> String {
    match own {
        Some(id) => id.to_owned(),
        None if model.family == crate::chat::family::Family::Mistral => app.short_id(9),
        None => app.id("call_"),
    }
}

fn call_json(app: &App, model: &ServedModel, call: &Call) -> Value {
    json!({
        "id": call_id(app, model, call.id.as_deref()),
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    })
}

struct ChatStream {
    head: Head,
    n: usize,
    with_usage: bool,
    usage: Usage,
    /// Calls of each choice so far, and whether the last one is open.
    calls: Vec<usize>,
    open: Vec<bool>,
}

impl ChatStream {
    fn chunk(&self, index: usize, delta: Value, logprobs: Value, finish: Value) -> Value {
        let mut chunk = self.head.object("chat.completion.chunk");
        chunk["choices"] =
            json!([{"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}]);
        if self.with_usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    }

    fn delta(&mut self, index: usize, delta: Delta) -> Option<Value> {
        let call = self.calls.get(index).copied().unwrap_or_default();
        match delta {
            Delta::Content(text) => Some(json!({"content": text})),
            Delta::Reasoning(text) => Some(json!({"reasoning_content": text, "reasoning": text})),
            Delta::CallStart { name, id } => {
                self.open[index] = true;
                let id = call_id(&self.head.app, &self.head.model, id.as_deref());
                Some(
                    json!({"tool_calls": [{"index": call, "id": id, "type": "function",
                    "function": {"name": name, "arguments": ""}}]}),
                )
            }
            Delta::CallArguments(text) => {
                Some(json!({"tool_calls": [{"index": call, "function": {"arguments": text}}]}))
            }
            Delta::CallEnd { .. } => {
                // What was told of a call stays told, whatever became of it.
                self.calls[index] += usize::from(std::mem::take(&mut self.open[index]));
                None
            }
        }
    }
}

impl Format for ChatStream {
    fn start(&mut self, out: &mut Frames) {
        for index in 0..self.n {
            out.data(&self.chunk(
                index,
                json!({"role": "assistant", "content": ""}),
                Value::Null,
                Value::Null,
            ));
        }
    }

    fn part(&mut self, part: Part, out: &mut Frames) {
        match part {
            Part::Prompt { .. } => {}
            Part::More {
                index,
                deltas,
                tokens,
            } => {
                let mut logprobs = self.head.logprobs(&tokens);
                let deltas: Vec<Value> = deltas.into_iter().filter_map(|d| self.delta(index, d)).collect();
                if deltas.is_empty() && self.head.with_logprobs && !tokens.is_empty() {
                    out.data(&self.chunk(index, json!({"content": ""}), logprobs, Value::Null));
                    return;
                }
                for delta in deltas {
                    let logprobs = std::mem::take(&mut logprobs);
                    out.data(&self.chunk(index, delta, logprobs, Value::Null));
                }
            }
            Part::Finished { index, finish, usage } => {
                self.usage = sum(self.usage, usage);
                out.data(&self.chunk(index, json!({}), Value::Null, json!(finish.openai())));
            }
            Part::Failed(error) => {
                out.data(&error.body(Dialect::OpenAi));
                out.fail();
            }
        }
    }

    fn end(&mut self, out: &mut Frames) {
        if self.with_usage {
            let mut chunk = self.head.object("chat.completion.chunk");
            chunk["choices"] = json!([]);
            chunk["usage"] = usage_json(&self.usage);
            out.data(&chunk);
        }
        out.raw("data: [DONE]\n\n");
    }
}
