//! `/v1/responses`.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use mlx_native_lm::ChatMessage;
use mlx_native_lm::engine::{MAX_TOP_LOGPROBS, Token, Usage};
use serde_json::{Map, Value, json};

use super::chat::call_id;
use super::{body, chat_logprob};
use crate::answer::{Answer, ContentTokens, Finish, Part, Text};
use crate::app::App;
use crate::chat::messages;
use crate::chat::prepare::{Chat, prepare, variables, verbosity};
use crate::chat::thoughts::Thoughts;
use crate::error::{ApiError, ApiResult, Dialect};
use crate::fields::{Fields, kind};
use crate::known;
use crate::models::ServedModel;
use crate::output::Delta;
use crate::params;
use crate::server::RequestId;
use crate::stream::{Format, Frames, respond};

/// Fields that change an answer and that this server lacks: it keeps nothing of a response behind its end.
const LACKING: [&str; 11] = [
    "previous_response_id",
    "conversation",
    "prompt",
    "background",
    "background_options",
    "context_management",
    "access_programs",
    "image",
    "echo",
    "add_special_tokens",
    "prompt_logprobs",
];

/// What `include` asks for. But for probabilities it is of tools that there are none of here, or encrypted.
fn included<'a>(fields: &Fields<'a>) -> ApiResult<Vec<&'a str>> {
    const KNOWN: [&str; 8] = [
        "file_search_call.results",
        "web_search_call.results",
        "web_search_call.action.sources",
        "message.input_image.image_url",
        "computer_call_output.output.image_url",
        "code_interpreter_call.outputs",
        "reasoning.encrypted_content",
        "message.output_text.logprobs",
    ];
    let list = fields.array("include")?.unwrap_or_default();
    let known = |value: &'a Value| value.as_str().filter(|word| KNOWN.contains(word));
    match list.iter().map(known).collect() {
        Some(words) => Ok(words),
        None => Err(ApiError::invalid(
            "include",
            format!("wanted a list of {}", KNOWN.join(", ")),
        )),
    }
}

/// Items of the input as messages.
fn input(fields: &Fields<'_>) -> ApiResult<Vec<ChatMessage>> {
    let mut out = Vec::new();
    if let Some(text) = fields.str("instructions")? {
        out.push(ChatMessage::new("system", text));
    }
    match fields.get("input") {
        None => return Err(ApiError::invalid("input", "missing")),
        Some(Value::String(text)) => out.push(ChatMessage::new("user", text)),
        Some(Value::Array(items)) => {
            for (index, item) in items.iter().enumerate() {
                self::item(index, item, &mut out)?;
            }
        }
        Some(other) => return Err(fields.wrong("input", other, "a string or a list of items")),
    }
    if out.iter().all(|m| m.role == "system") {
        return Err(ApiError::invalid("input", "it has no message"));
    }
    Ok(out)
}

fn item(index: usize, item: &Value, out: &mut Vec<ChatMessage>) -> ApiResult<()> {
    let path = format!("input[{index}].");
    let Value::Object(map) = item else {
        return Err(ApiError::invalid(
            format!("input[{index}]"),
            format!("found {}, wanted an object", kind(item)),
        ));
    };
    let fields = Fields::inside(map, &path);
    match fields.str("type")?.unwrap_or("message") {
        "message" => {
            let role = match fields.str("role")? {
                Some("developer" | "system") => "system",
                Some(role @ ("user" | "assistant")) => role,
                _ => {
                    return Err(ApiError::invalid(
                        fields.name("role"),
                        "wanted system, developer, user or assistant",
                    ));
                }
            };
            let content = messages::content(&fields, "content")?;
            let content = content.ok_or_else(|| ApiError::invalid(fields.name("content"), "missing"))?;
            out.push(ChatMessage::new(role, content));
        }
        "function_call" => {
            let Some(name) = fields.str("name")? else {
                return Err(ApiError::invalid(fields.name("name"), "missing"));
            };
            let arguments = fields.str("arguments")?.unwrap_or("{}");
            let arguments: Value = serde_json::from_str(arguments).unwrap_or_else(|_| json!(arguments));
            let call = json!({"id": fields.str("call_id")?, "type": "function", "function": {"name": name, "arguments": arguments}});
            // Calls of one turn stand in one message.
            match out.last_mut().filter(|m| m.role == "assistant") {
                Some(last) => match last.other.get_mut("tool_calls") {
                    Some(Value::Array(calls)) => calls.push(call),
                    _ => {
                        last.other.insert("tool_calls".to_owned(), json!([call]));
                    }
                },
                None => {
                    let mut message = ChatMessage::new("assistant", "");
                    message.other.insert("tool_calls".to_owned(), json!([call]));
                    out.push(message);
                }
            }
        }
        "function_call_output" => {
            let text = messages::content(&fields, "output")?.unwrap_or_default();
            let mut message = ChatMessage::new("tool", text);
            if let Some(id) = fields.str("call_id")? {
                message.other.insert("tool_call_id".to_owned(), json!(id));
            }
            out.push(message);
        }
        // What was thought before is of no use to another turn.
        "reasoning" => {}
        other => {
            return Err(ApiError::invalid(
                fields.name("type"),
                format!("{other:?} is not supported"),
            ));
        }
    }
    Ok(())
}

fn read(map: &Map<String, Value>, model: &ServedModel, app: &App) -> ApiResult<Chat> {
    let fields = Fields::new(map);
    known::refuse(&fields, &LACKING)?;
    known::refuse_unless(&fields, "truncation", &[json!("disabled")])?;
    let mut shared = map.clone();
    shared.remove("n");
    let mut request = params::read(&Fields::new(&shared), model)?;
    let limit = fields.usize("max_output_tokens", 1, usize::MAX)?;
    request.max_tokens = limit.or(request.max_tokens).or(app.config.max_tokens);
    let top = fields.usize("top_logprobs", 0, MAX_TOP_LOGPROBS)?;
    let wanted = included(&fields)?.contains(&"message.output_text.logprobs");
    if wanted || top.is_some_and(|n| n > 0) {
        request.logprobs = Some(top.unwrap_or(0));
    }
    // Tools that OpenAI runs itself are none of ours; one that is asked for is refused.
    let mut tools = messages::tools(&fields)?;
    let choice = messages::choice(&fields, &mut tools)?;
    let mut variables = variables(&fields, model)?;
    let mut grammar = params::grammar(&fields)?;
    if let Some(text) = fields.object("text")? {
        let text = Fields::inside(text, "text.");
        verbosity(&text, model, &mut variables)?;
        if let Some(format) = text.object("format")? {
            grammar = params::response_format(format, "text.format")?
                .map(|g| ("text.format".to_owned(), g))
                .or(grammar);
        }
    }
    Ok(Chat {
        messages: input(&fields)?,
        tools,
        choice,
        parallel: fields.bool("parallel_tool_calls")?,
        variables,
        thoughts: Thoughts::of_openai(&fields)?,
        continues: false,
        grammar,
        request,
    })
}

/// Answers a request.
pub(crate) async fn handle(State(app): State<Arc<App>>, id: RequestId, bytes: Bytes) -> Response {
    let made = run(&app, &id.0, &bytes).await;
    made.unwrap_or_else(|error| error.response(Dialect::OpenAi))
}

async fn run(app: &Arc<App>, request_id: &str, bytes: &Bytes) -> ApiResult<Response> {
    let map = body(bytes)?;
    let fields = Fields::new(&map);
    let model = app.models.get(fields.str("model")?).await?;
    let stream = fields.bool("stream")?.unwrap_or(false);
    let chat = read(&map, &model, app)?;
    let prepared = prepare(app, model, chat).await?;
    let mut answer = Answer::begin(
        app,
        request_id,
        prepared.model.clone(),
        prepared.request,
        &prepared.reader,
    )?;
    let head = Head {
        id: app.id("resp_"),
        created: App::now(),
        app: app.clone(),
        model: prepared.model,
        asked: map,
    };
    if stream {
        return Ok(respond(vec![answer], ResponseStream::new(head)));
    }
    let whole = answer.collect().await?;
    let text = whole.choices.into_iter().next().unwrap_or_default();
    let items = head.items(&text);
    Ok(axum::Json(head.response(text.finish.as_ref(), items, Some(&whole.usage))).into_response())
}

struct Head {
    app: Arc<App>,
    id: String,
    created: u64,
    model: Arc<ServedModel>,
    asked: Map<String, Value>,
}

impl Head {
    /// The response as it stands; without a reason it is not at its end.
    fn response(&self, finish: Option<&Finish>, output: Vec<Value>, usage: Option<&Usage>) -> Value {
        let asked = |key: &str, otherwise: Value| {
            self.asked
                .get(key)
                .filter(|v| !v.is_null())
                .cloned()
                .unwrap_or(otherwise)
        };
        let (status, incomplete) = match finish {
            None => ("in_progress", Value::Null),
            Some(Finish::Length) => ("incomplete", json!({"reason": "max_output_tokens"})),
            Some(_) => ("completed", Value::Null),
        };
        let usage = usage.map(|u| {
            json!({
                "input_tokens": u.prompt_tokens,
                "input_tokens_details": {"cached_tokens": u.cached_tokens},
                "output_tokens": u.completion_tokens,
                "output_tokens_details": {"reasoning_tokens": u.reasoning_tokens},
                "total_tokens": u.prompt_tokens + u.completion_tokens,
            })
        });
        json!({
            "id": self.id, "object": "response", "created_at": self.created, "status": status, "background": false,
            "error": null, "incomplete_details": incomplete,
            "instructions": asked("instructions", Value::Null), "max_output_tokens": asked("max_output_tokens", Value::Null),
            "metadata": asked("metadata", json!({})), "model": self.model.id, "output": output,
            "parallel_tool_calls": asked("parallel_tool_calls", json!(true)), "previous_response_id": null,
            "reasoning": asked("reasoning", json!({"effort": null, "summary": null})), "store": false,
            "temperature": asked("temperature", json!(self.model.sampling.temperature)),
            "text": asked("text", json!({"format": {"type": "text"}})), "tool_choice": asked("tool_choice", json!("auto")),
            "tools": asked("tools", json!([])), "top_p": asked("top_p", json!(1.0)), "truncation": "disabled",
            "usage": usage, "user": asked("user", Value::Null),
        })
    }

    /// Probabilities of tokens, where they were asked for.
    fn logprobs(&self, tokens: &[Token]) -> Vec<Value> {
        let one = |t: &Token| Some(chat_logprob(&self.model, t.id, t.logprobs.as_ref()?));
        tokens.iter().filter_map(one).collect()
    }

    fn items(&self, text: &Text) -> Vec<Value> {
        let mut items = Vec::new();
        if !text.reasoning.is_empty() {
            items.push(reasoning_item(&self.app.id("rs_"), &text.reasoning));
        }
        if !text.content.is_empty() || text.calls.is_empty() {
            let logprobs = self.logprobs(&text.content_tokens);
            let id = self.app.id("msg_");
            items.push(message_item(&id, &text.content, &logprobs, "completed"));
        }
        for call in &text.calls {
            let id = call_id(&self.app, &self.model, call.id.as_deref());
            items.push(call_item(
                &self.app.id("fc_"),
                &id,
                &call.name,
                &call.arguments,
                "completed",
            ));
        }
        items
    }
}

fn text_part(text: &str, logprobs: &[Value]) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs})
}

fn message_item(id: &str, text: &str, logprobs: &[Value], status: &str) -> Value {
    let content = if status == "completed" {
        json!([text_part(text, logprobs)])
    } else {
        json!([])
    };
    json!({"id": id, "type": "message", "status": status, "role": "assistant", "content": content})
}

fn reasoning_item(id: &str, text: &str) -> Value {
    let content = if text.is_empty() {
        json!([])
    } else {
        json!([{"type": "reasoning_text", "text": text}])
    };
    json!({"id": id, "type": "reasoning", "summary": [], "content": content})
}

fn call_item(id: &str, call_id: &str, name: &str, arguments: &str, status: &str) -> Value {
    json!({"id": id, "type": "function_call", "status": status, "call_id": call_id, "name": name, "arguments": arguments})
}

/// The item that is being written.
enum Item {
    Message {
        id: String,
        text: String,
        logprobs: Vec<Value>,
    },
    Reasoning {
        id: String,
        text: String,
    },
    Call {
        id: String,
        call_id: String,
        name: String,
        arguments: String,
    },
}

struct ResponseStream {
    head: Head,
    sequence: u64,
    open: Option<Item>,
    done: Vec<Value>,
    last: Option<(Finish, Usage)>,
    tokens: ContentTokens,
}

impl ResponseStream {
    fn new(head: Head) -> Self {
        ResponseStream {
            head,
            sequence: 0,
            open: None,
            done: Vec::new(),
            last: None,
            tokens: ContentTokens::default(),
        }
    }

    fn event(&mut self, name: &str, mut value: Value, out: &mut Frames) {
        value["type"] = json!(name);
        value["sequence_number"] = json!(self.sequence);
        self.sequence += 1;
        out.named(name, &value);
    }

    fn added(&mut self, item: Value, out: &mut Frames) {
        let index = self.done.len();
        self.event(
            "response.output_item.added",
            json!({"output_index": index, "item": item}),
            out,
        );
    }

    /// Ends the item that is open.
    fn close(&mut self, out: &mut Frames) {
        let Some(open) = self.open.take() else { return };
        let index = self.done.len();
        let item = match open {
            Item::Message { id, text, logprobs } => {
                let place = |mut value: Value| {
                    value["item_id"] = json!(id);
                    value["output_index"] = json!(index);
                    value["content_index"] = json!(0);
                    value
                };
                self.event(
                    "response.output_text.done",
                    place(json!({"text": text, "logprobs": logprobs})),
                    out,
                );
                self.event(
                    "response.content_part.done",
                    place(json!({"part": text_part(&text, &logprobs)})),
                    out,
                );
                message_item(&id, &text, &logprobs, "completed")
            }
            Item::Reasoning { id, text } => {
                let done = json!({"item_id": id, "output_index": index, "content_index": 0, "text": text});
                self.event("response.reasoning_text.done", done, out);
                reasoning_item(&id, &text)
            }
            Item::Call {
                id,
                call_id,
                name,
                arguments,
            } => {
                let done =
                    json!({"item_id": id, "output_index": index, "name": name, "arguments": arguments});
                self.event("response.function_call_arguments.done", done, out);
                call_item(&id, &call_id, &name, &arguments, "completed")
            }
        };
        self.event(
            "response.output_item.done",
            json!({"output_index": index, "item": item}),
            out,
        );
        self.done.push(item);
    }

    fn message(&mut self, more: &str, more_logprobs: Vec<Value>, out: &mut Frames) {
        if !matches!(self.open, Some(Item::Message { .. })) {
            self.close(out);
            let id = self.head.app.id("msg_");
            self.added(message_item(&id, "", &[], "in_progress"), out);
            let part = json!({"item_id": id, "output_index": self.done.len(), "content_index": 0, "part": text_part("", &[])});
            self.event("response.content_part.added", part, out);
            self.open = Some(Item::Message {
                id,
                text: String::new(),
                logprobs: Vec::new(),
            });
        }
        let index = self.done.len();
        if let Some(Item::Message { id, text, logprobs }) = &mut self.open {
            text.push_str(more);
            let delta = json!({"item_id": id, "output_index": index, "content_index": 0, "delta": more, "logprobs": more_logprobs});
            logprobs.extend(more_logprobs);
            self.event("response.output_text.delta", delta, out);
        }
    }

    fn reasoning(&mut self, more: &str, out: &mut Frames) {
        if !matches!(self.open, Some(Item::Reasoning { .. })) {
            self.close(out);
            let id = self.head.app.id("rs_");
            self.added(reasoning_item(&id, ""), out);
            self.open = Some(Item::Reasoning {
                id,
                text: String::new(),
            });
        }
        let index = self.done.len();
        if let Some(Item::Reasoning { id, text }) = &mut self.open {
            text.push_str(more);
            let delta = json!({"item_id": id, "output_index": index, "content_index": 0, "delta": more});
            self.event("response.reasoning_text.delta", delta, out);
        }
    }

    fn delta(&mut self, delta: Delta, logprobs: &mut Vec<Value>, out: &mut Frames) {
        match delta {
            Delta::Content(text) => self.message(&text, std::mem::take(logprobs), out),
            Delta::Reasoning(text) => self.reasoning(&text, out),
            Delta::CallStart { name, id } => {
                self.close(out);
                let call_id = call_id(&self.head.app, &self.head.model, id.as_deref());
                let id = self.head.app.id("fc_");
                self.added(call_item(&id, &call_id, &name, "", "in_progress"), out);
                self.open = Some(Item::Call {
                    id,
                    call_id,
                    name,
                    arguments: String::new(),
                });
            }
            Delta::CallArguments(more) => {
                let index = self.done.len();
                if let Some(Item::Call { id, arguments, .. }) = &mut self.open {
                    arguments.push_str(&more);
                    let delta = json!({"item_id": id, "output_index": index, "delta": more});
                    self.event("response.function_call_arguments.delta", delta, out);
                }
            }
            Delta::CallEnd { .. } => self.close(out),
        }
    }
}

impl Format for ResponseStream {
    fn start(&mut self, out: &mut Frames) {
        for name in ["response.created", "response.in_progress"] {
            let response = self.head.response(None, Vec::new(), None);
            self.event(name, json!({"response": response}), out);
        }
    }

    fn part(&mut self, part: Part, out: &mut Frames) {
        match part {
            Part::Prompt { .. } => {}
            Part::More { deltas, tokens, .. } => {
                let tokens = self.tokens.of(&deltas, &tokens);
                let mut logprobs = self.head.logprobs(&tokens);
                deltas.into_iter().for_each(|d| self.delta(d, &mut logprobs, out));
            }
            Part::Finished { finish, usage, .. } => {
                if self.done.is_empty() && self.open.is_none() {
                    self.message("", Vec::new(), out);
                }
                self.close(out);
                self.last = Some((finish, usage));
            }
            Part::Failed(error) => {
                let mut response = self.head.response(None, self.done.clone(), None);
                response["status"] = json!("failed");
                response["error"] = json!({"code": "server_error", "message": error.message});
                self.event("response.failed", json!({"response": response}), out);
                out.fail();
            }
        }
    }

    fn end(&mut self, out: &mut Frames) {
        let Some((finish, usage)) = self.last.take() else {
            return;
        };
        let name = if finish == Finish::Length {
            "response.incomplete"
        } else {
            "response.completed"
        };
        let response = self.head.response(Some(&finish), self.done.clone(), Some(&usage));
        self.event(name, json!({"response": response}), out);
    }
}
