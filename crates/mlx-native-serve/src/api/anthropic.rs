//! Anthropic's interface: `/v1/messages` and `/v1/messages/count_tokens`.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use mlx_native_lm::ChatMessage;
use mlx_native_lm::engine::Usage;
use serde_json::{Map, Value, json};

use super::anthropic_stream::MessageStream;
use super::body;
use super::chat::call_id;
use crate::answer::{Answer, Finish, Text};
use crate::app::App;
use crate::chat::messages::{self, Choice, Tool};
use crate::chat::prepare::{Chat, prepare, variables};
use crate::chat::thoughts::Thoughts;
use crate::error::{ApiError, ApiResult, Dialect};
use crate::fields::{Fields, kind};
use crate::known;
use crate::models::ServedModel;
use crate::params;
use crate::server::RequestId;
use crate::stream::respond;

/// A block of the system's text that clients change each time, and that says nothing to a model: kept, it would make every prompt a
/// new one from its first token on.
const BILLING: &str = "x-anthropic-billing-header:";

/// Fields that change an answer and that this server lacks: it runs no tools itself and keeps nothing of a conversation.
const LACKING: [&str; 9] = [
    "container",
    "mcp_servers",
    "compaction",
    "thread",
    "fallbacks",
    "diagnostics",
    "echo",
    "add_special_tokens",
    "prompt_logprobs",
];

/// `context_management`: edits of the conversation. Thoughts of earlier turns are the chat template's to keep or to drop; nothing else
/// is taken away.
fn check_edits(fields: &Fields<'_>) -> ApiResult<()> {
    let Some(management) = fields.object("context_management")? else {
        return Ok(());
    };
    let path = fields.name("context_management.");
    let inner = Fields::inside(management, &path);
    for edit in inner.array("edits")?.unwrap_or_default() {
        let kind = edit.get("type").and_then(Value::as_str).unwrap_or_default();
        if !kind.starts_with("clear_thinking") {
            return Err(ApiError::unsupported(inner.name("edits")));
        }
    }
    match management.keys().find(|key| *key != "edits") {
        Some(other) => Err(ApiError::unsupported(inner.name(other))),
        None => Ok(()),
    }
}

/// The model of a name; Anthropic's own names stand for the first one.
async fn model(app: &App, name: Option<&str>) -> ApiResult<Arc<ServedModel>> {
    match app.models.get(name).await {
        Err(error)
            if error.code == Some("model_not_found") && name.is_some_and(|n| n.starts_with("claude-")) =>
        {
            app.models.get(None).await
        }
        found => found,
    }
}

/// A content's blocks; a text is one block.
fn blocks(fields: &Fields<'_>, key: &str) -> ApiResult<Vec<Map<String, Value>>> {
    match fields.get(key) {
        None => Ok(Vec::new()),
        Some(Value::String(text)) => {
            let mut block = Map::new();
            block.insert("type".to_owned(), json!("text"));
            block.insert("text".to_owned(), json!(text));
            Ok(vec![block])
        }
        Some(Value::Array(list)) => list
            .iter()
            .map(|block| match block {
                Value::Object(map) => Ok(map.clone()),
                other => Err(ApiError::invalid(
                    fields.name(key),
                    format!("found {}, wanted blocks", kind(other)),
                )),
            })
            .collect(),
        Some(other) => Err(fields.wrong(key, other, "a string or a list of blocks")),
    }
}

fn text_of(block: &Map<String, Value>, name: &str) -> ApiResult<String> {
    match block.get("text") {
        Some(Value::String(text)) => Ok(text.clone()),
        _ => Err(ApiError::invalid(format!("{name}.text"), "missing")),
    }
}

fn system(fields: &Fields<'_>) -> ApiResult<Option<ChatMessage>> {
    let mut texts = Vec::new();
    for block in blocks(fields, "system")? {
        let text = text_of(&block, "system")?;
        if !text.starts_with(BILLING) {
            texts.push(text);
        }
    }
    Ok((!texts.is_empty()).then(|| ChatMessage::new("system", texts.join("\n\n"))))
}

/// One message with blocks as the messages that templates know: answers of tools are messages of their own.
fn message(index: usize, message: &Value, out: &mut Vec<ChatMessage>) -> ApiResult<()> {
    let path = format!("messages[{index}].");
    let Value::Object(map) = message else {
        return Err(ApiError::invalid(
            format!("messages[{index}]"),
            format!("found {}, wanted an object", kind(message)),
        ));
    };
    let fields = Fields::inside(map, &path);
    let role = match fields.str("role")? {
        Some(role @ ("user" | "assistant" | "system")) => role,
        Some(other) => {
            return Err(ApiError::invalid(
                fields.name("role"),
                format!("found {other:?}, wanted user or assistant"),
            ));
        }
        None => return Err(ApiError::invalid(fields.name("role"), "missing")),
    };
    if fields.get("content").is_none() {
        return Err(ApiError::invalid(fields.name("content"), "missing"));
    }
    let mut said = ChatMessage::new(role, "");
    let mut calls = Vec::new();
    let mut thought = String::new();
    for block in blocks(&fields, "content")? {
        let name = fields.name("content");
        let inner = Fields::inside(&block, &path);
        let text = |key: &str| block.get(key).and_then(Value::as_str);
        match text("type").unwrap_or("text") {
            "text" => said.content += &text_of(&block, &name)?,
            "thinking" => thought += text("thinking").unwrap_or_default(),
            "redacted_thinking" => {}
            "tool_use" => {
                let Some(called) = text("name") else {
                    return Err(ApiError::invalid(format!("{name}.name"), "missing"));
                };
                let input = block.get("input").cloned().unwrap_or_else(|| json!({}));
                calls.push(json!({"id": text("id"), "type": "function", "function": {"name": called, "arguments": input}}));
            }
            "tool_result" => {
                let content = messages::content(&inner, "content")?.unwrap_or_default();
                let mut answer = ChatMessage::new("tool", content);
                if let Some(id) = text("tool_use_id") {
                    answer.other.insert("tool_call_id".to_owned(), json!(id));
                }
                out.push(answer);
            }
            other => {
                return Err(ApiError::invalid(
                    format!("{name}.type"),
                    format!("{other:?} is not supported: only text is"),
                ));
            }
        }
    }
    if !thought.is_empty() {
        said.other.insert("reasoning_content".to_owned(), json!(thought));
    }
    let has_calls = !calls.is_empty();
    if has_calls {
        said.other.insert("tool_calls".to_owned(), Value::Array(calls));
    }
    // A message of nothing but tools' answers has been said already.
    let only_results =
        role == "user" && said.content.is_empty() && out.last().is_some_and(|m| m.role == "tool");
    if !only_results {
        out.push(said);
    }
    Ok(())
}

fn tools(fields: &Fields<'_>) -> ApiResult<Vec<Tool>> {
    let mut tools = Vec::new();
    for (index, tool) in fields.array("tools")?.unwrap_or_default().iter().enumerate() {
        let path = format!("tools[{index}].");
        let Value::Object(map) = tool else {
            return Err(ApiError::invalid(
                format!("tools[{index}]"),
                format!("found {}, wanted an object", kind(tool)),
            ));
        };
        let inner = Fields::inside(map, &path);
        let Some(name) = inner.str("name")?.filter(|n| !n.is_empty()) else {
            return Err(ApiError::invalid(inner.name("name"), "missing"));
        };
        // Tools that Anthropic runs itself have a type and no schema.
        if inner.str("type")?.is_some_and(|t| t != "custom") && inner.get("input_schema").is_none() {
            return Err(ApiError::unsupported(inner.name("type")));
        }
        let schema = match inner.get("input_schema") {
            None => return Err(ApiError::invalid(inner.name("input_schema"), "missing")),
            Some(value) if !value.is_object() => {
                return Err(inner.wrong("input_schema", value, "a schema: an object"));
            }
            value => value,
        };
        known::refuse(&inner, &["defer_loading", "input_examples"])?;
        known::refuse_unless(&inner, "allowed_callers", &[json!(["direct"])])?;
        let strict = inner.bool("strict")?.unwrap_or(false);
        tools.push(Tool::new(name, inner.str("description")?, schema, strict));
    }
    Ok(tools)
}

fn read(map: &Map<String, Value>, model: &ServedModel, counting: bool) -> ApiResult<Chat> {
    let fields = Fields::new(map);
    let mut shared = map.clone();
    // These have other forms here.
    for key in ["stop", "tools", "tool_choice", "metadata", "system"] {
        shared.remove(key);
    }
    known::refuse(&fields, &LACKING)?;
    check_edits(&fields)?;
    let mut request = params::read(&Fields::new(&shared), model)?;
    request.stop = fields.strings("stop_sequences")?.unwrap_or_default();
    request.stop.retain(|s| !s.is_empty());
    if !counting {
        match request.max_tokens {
            None => return Err(ApiError::invalid("max_tokens", "missing")),
            Some(0) => return Err(ApiError::invalid("max_tokens", "found 0, wanted 1 or more")),
            Some(_) => {}
        }
    }
    request.n = 1;
    let list = fields.array("messages")?.unwrap_or_default();
    if list.is_empty() {
        return Err(ApiError::invalid("messages", "wanted one message at least"));
    }
    let mut said: Vec<ChatMessage> = system(&fields)?.into_iter().collect();
    for (index, one) in list.iter().enumerate() {
        message(index, one, &mut said)?;
    }
    let tools = tools(&fields)?;
    let mut parallel = None;
    let choice = match fields.object("tool_choice")? {
        None => Choice::Auto,
        Some(choice) => {
            let choice = Fields::inside(choice, "tool_choice.");
            parallel = choice
                .bool("disable_parallel_tool_use")?
                .map(|disabled| !disabled);
            match choice.str("type")? {
                Some("auto") => Choice::Auto,
                Some("none") => Choice::None,
                Some("any") => Choice::Required,
                Some("tool") => Choice::Named(choice.str("name")?.unwrap_or_default().to_owned()),
                _ => {
                    return Err(ApiError::invalid(
                        "tool_choice.type",
                        "wanted auto, any, tool or none",
                    ));
                }
            }
        }
    };
    messages::check_choice(&choice, &tools)?;
    let mut thoughts = Thoughts::of_openai(&fields)?;
    if let (Some(budget), Some(most)) = (thoughts.budget, request.max_tokens)
        && budget >= most
        && thoughts.enabled == Some(true)
    {
        let message = format!("found {budget}, wanted less than max_tokens, which is {most}");
        return Err(ApiError::invalid("thinking.budget_tokens", message));
    }
    let continues = said
        .last()
        .is_some_and(|m| m.role == "assistant" && !m.other.contains_key("tool_calls"));
    let mut grammar = params::grammar(&fields)?;
    if let Some(format) = fields.object("output_format")? {
        grammar = params::response_format(format, "output_format")?.map(|g| ("output_format".to_owned(), g));
    }
    if let Some(config) = fields.object("output_config")? {
        let config = Fields::inside(config, "output_config.");
        known::refuse(&config, &["task_budget"])?;
        if let Some(effort) = config.str("effort")? {
            thoughts.say_effort(config.name("effort"), effort);
        }
        if let Some(format) = config.object("format")? {
            grammar = params::response_format(format, "output_config.format")?
                .map(|g| ("output_config.format".to_owned(), g));
        }
    }
    Ok(Chat {
        messages: said,
        tools,
        choice,
        parallel,
        variables: variables(&fields, model)?,
        thoughts,
        continues,
        grammar,
        request,
    })
}

/// `/v1/messages`.
pub(crate) async fn handle(State(app): State<Arc<App>>, id: RequestId, bytes: Bytes) -> Response {
    let made = run(&app, &id.0, &bytes).await;
    made.unwrap_or_else(|error| error.response(Dialect::Anthropic))
}

async fn run(app: &Arc<App>, request_id: &str, bytes: &Bytes) -> ApiResult<Response> {
    let map = body(bytes)?;
    let fields = Fields::new(&map);
    let name = fields.str("model")?;
    let model = model(app, name).await?;
    let stream = fields.bool("stream")?.unwrap_or(false);
    let chat = read(&map, &model, false)?;
    let prepared = prepare(app, model, chat).await?;
    let prompt = prepared.request.prompt.len();
    let mut answer = Answer::begin(
        app,
        request_id,
        prepared.model.clone(),
        prepared.request,
        &prepared.reader,
    )?;
    let head = Head {
        app: app.clone(),
        id: app.id("msg_"),
        // Clients look for the name that they asked for.
        name: name.unwrap_or(&prepared.model.id).to_owned(),
        model: prepared.model,
    };
    if stream {
        return Ok(respond(vec![answer], MessageStream::new(head, prompt)));
    }
    let whole = answer.collect().await?;
    let text = whole.choices.into_iter().next().unwrap_or_default();
    Ok(axum::Json(head.message(&text, &whole.usage)).into_response())
}

/// What is the same in all parts of an answer.
pub(super) struct Head {
    pub app: Arc<App>,
    pub id: String,
    pub name: String,
    pub model: Arc<ServedModel>,
}

/// Anthropic's words for why an answer ended.
pub(super) fn stop_reason(finish: Option<&Finish>) -> (Value, Value) {
    match finish {
        None => (Value::Null, Value::Null),
        Some(Finish::Stop) => (json!("end_turn"), Value::Null),
        Some(Finish::StopText(text)) => (json!("stop_sequence"), json!(text)),
        Some(Finish::Length) => (json!("max_tokens"), Value::Null),
        Some(Finish::Calls) => (json!("tool_use"), Value::Null),
    }
}

pub(super) fn usage_json(usage: &Usage) -> Value {
    json!({
        "input_tokens": usage.prompt_tokens - usage.cached_tokens.min(usage.prompt_tokens),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
    })
}

impl Head {
    /// The message around some blocks.
    pub fn frame(&self, content: Vec<Value>, usage: &Usage, finish: Option<&Finish>) -> Value {
        let (reason, sequence) = stop_reason(finish);
        json!({
            "id": self.id, "type": "message", "role": "assistant", "model": self.name, "content": content,
            "stop_reason": reason, "stop_sequence": sequence, "usage": usage_json(usage),
        })
    }

    pub fn call_id(&self, own: Option<&str>) -> String {
        match own {
            Some(_) => call_id(&self.app, &self.model, own),
            None => self.app.id("toolu_"),
        }
    }

    fn message(&self, text: &Text, usage: &Usage) -> Value {
        let mut content = Vec::new();
        if !text.reasoning.is_empty() {
            content.push(json!({"type": "thinking", "thinking": text.reasoning, "signature": ""}));
        }
        if !text.content.is_empty() || text.calls.is_empty() {
            content.push(json!({"type": "text", "text": text.content}));
        }
        for call in &text.calls {
            let input: Value = serde_json::from_str(&call.arguments).unwrap_or_else(|_| json!({}));
            let id = self.call_id(call.id.as_deref());
            content.push(json!({"type": "tool_use", "id": id, "name": call.name, "input": input}));
        }
        self.frame(content, usage, text.finish.as_ref())
    }
}

/// `/v1/messages/count_tokens`.
pub(crate) async fn count_tokens(State(app): State<Arc<App>>, bytes: Bytes) -> Response {
    let made = async {
        let map = body(&bytes)?;
        let model = model(&app, Fields::new(&map).str("model")?).await?;
        let chat = read(&map, &model, true)?;
        let prepared = prepare(&app, model, chat).await?;
        Ok(axum::Json(json!({"input_tokens": prepared.request.prompt.len()})).into_response())
    };
    made.await
        .unwrap_or_else(|error: ApiError| error.response(Dialect::Anthropic))
}
