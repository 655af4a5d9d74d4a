//! Ollama's interface: `/api/chat`, `/api/generate`, `/api/tags`, `/api/show`, `/api/version`. Streams are lines of JSON.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use mlx_native_lm::ChatMessage;
use mlx_native_lm::engine::{Grammar, Usage};
use serde_json::{Map, Value, json};

use super::body;
use crate::answer::{Answer, Call, Finish, Part};
use crate::app::App;
use crate::chat::messages;
use crate::chat::prepare::{Chat, Prepared, prepare};
use crate::chat::thoughts::Thoughts;
use crate::error::{ApiError, ApiResult, Dialect};
use crate::fields::Fields;
use crate::known;
use crate::models::ServedModel;
use crate::output::{Delta, Reader};
use crate::params;
use crate::server::RequestId;
use crate::stream::{Format, Frames, respond};

/// Options of a request and the names that the other interfaces have for them.
const OPTIONS: [(&str, &str); 9] = [
    ("num_predict", "max_tokens"),
    ("repeat_penalty", "repetition_penalty"),
    ("repeat_last_n", "repetition_context_size"),
    ("temperature", "temperature"),
    ("top_k", "top_k"),
    ("top_p", "top_p"),
    ("min_p", "min_p"),
    ("seed", "seed"),
    ("stop", "stop"),
];

/// Fields that change an answer and that this server lacks.
const LACKING: [&str; 5] = ["images", "template", "context", "logprobs", "top_logprobs"];

/// The options of a request, under the names of the other interfaces.
fn options(fields: &Fields<'_>) -> ApiResult<Map<String, Value>> {
    let mut out = Map::new();
    for (name, value) in fields.object("options")?.into_iter().flatten() {
        let renamed = OPTIONS
            .iter()
            .find(|(ours, _)| ours == name)
            .map_or(name.as_str(), |(_, to)| to);
        // Below zero there is no limit.
        let unlimited = renamed == "max_tokens" && value.as_i64().is_some_and(|n| n < 0);
        // What is recent is counted from the end; 0 is none of it, and the whole of it is below zero.
        let context = renamed == "repetition_context_size" && value.as_i64().is_some_and(|n| n <= 0);
        if !unlimited && !context {
            out.insert(renamed.to_owned(), value.clone());
        }
    }
    Ok(out)
}

fn grammar(fields: &Fields<'_>) -> ApiResult<Option<(String, Grammar)>> {
    let grammar = match fields.get("format") {
        None => return Ok(None),
        Some(Value::String(word)) if word.is_empty() => return Ok(None),
        Some(Value::String(word)) if word == "json" => Grammar::json_object(),
        Some(schema @ Value::Object(_)) => Grammar::JsonSchema(schema.clone()),
        Some(other) => return Err(fields.wrong("format", other, "\"json\" or a schema")),
    };
    Ok(Some(("format".to_owned(), grammar)))
}

/// Messages of Ollama: arguments of calls are objects, and a tool's answer may name the tool.
fn chat_messages(fields: &Fields<'_>) -> ApiResult<Vec<ChatMessage>> {
    let list = fields.array("messages")?.unwrap_or_default();
    for (index, message) in list.iter().enumerate() {
        if message
            .get("images")
            .and_then(Value::as_array)
            .is_some_and(|l| !l.is_empty())
        {
            return Err(ApiError::unsupported(format!("messages[{index}].images")));
        }
    }
    messages::messages(fields)
}

/// `/api/chat`.
pub(crate) async fn chat(State(app): State<Arc<App>>, id: RequestId, bytes: Bytes) -> Response {
    finish(run(&app, &id.0, &bytes, true).await)
}

/// `/api/generate`.
pub(crate) async fn generate(State(app): State<Arc<App>>, id: RequestId, bytes: Bytes) -> Response {
    finish(run(&app, &id.0, &bytes, false).await)
}

fn finish(result: ApiResult<Response>) -> Response {
    result.unwrap_or_else(|error| error.response(Dialect::Ollama))
}

async fn run(app: &Arc<App>, request_id: &str, bytes: &Bytes, is_chat: bool) -> ApiResult<Response> {
    let map = body(bytes)?;
    let fields = Fields::new(&map);
    let name = fields.str("model")?;
    // Ollama's clients add a tag to names that have none.
    let name = name.map(|n| n.strip_suffix(":latest").unwrap_or(n));
    let model = app.models.get(name).await?;
    let options = options(&fields)?;
    let mut request = params::read(&Fields::inside(&options, "options."), &model)?;
    request.max_tokens = request.max_tokens.or(app.config.max_tokens);
    let empty = if is_chat {
        fields.array("messages")?.is_none_or(<[Value]>::is_empty)
    } else {
        fields.str("prompt")?.unwrap_or_default().is_empty()
    };
    let head = Head {
        model: model.clone(),
        is_chat,
        started: Instant::now(),
    };
    if empty {
        // How a model is loaded ahead.
        let mut out = head.object();
        head.put(&mut out, "", "", &[]);
        out["done"] = json!(true);
        out["done_reason"] = json!("load");
        return Ok(axum::Json(out).into_response());
    }
    let mut thoughts = Thoughts::default();
    match fields.get("think") {
        None => {}
        Some(Value::Bool(think)) => thoughts.enabled = Some(*think),
        Some(Value::String(effort)) => thoughts.say_effort("think".to_owned(), effort),
        Some(other) => return Err(fields.wrong("think", other, "a boolean or an effort")),
    }
    known::refuse(&fields, &LACKING)?;
    let tools = messages::tools(&fields)?;
    let raw = !is_chat && fields.bool("raw")?.unwrap_or(false);
    if !is_chat && fields.str("suffix")?.is_some_and(|s| !s.is_empty()) {
        return Err(ApiError::unsupported("suffix"));
    }
    let messages = if is_chat {
        chat_messages(&fields)?
    } else {
        let system = fields.str("system")?.map(|text| ChatMessage::new("system", text));
        let prompt = fields.str("prompt")?.unwrap_or_default();
        system
            .into_iter()
            .chain([ChatMessage::new("user", prompt)])
            .collect()
    };
    let prepared = if raw {
        let prompt = fields.str("prompt")?.unwrap_or_default();
        request.prompt = model.tokenizer.encode(prompt)?;
        Prepared {
            model,
            request,
            reader: Reader::plain(),
        }
    } else {
        let chat = Chat {
            messages,
            tools,
            choice: messages::Choice::Auto,
            parallel: None,
            variables: Map::new(),
            thoughts,
            continues: false,
            grammar: grammar(&fields)?,
            request,
        };
        prepare(app, model, chat).await?
    };
    let mut answer = Answer::begin(
        app,
        request_id,
        prepared.model,
        prepared.request,
        &prepared.reader,
    )?;
    if fields.bool("stream")?.unwrap_or(true) {
        return Ok(respond(vec![answer], Lines { head, call: None }));
    }
    let whole = answer.collect().await?;
    let mut out = head.object();
    if let Some(text) = whole.choices.first() {
        head.put(&mut out, &text.content, &text.reasoning, &text.calls);
        head.close(&mut out, text.finish.as_ref(), &whole.usage);
    }
    Ok(axum::Json(out).into_response())
}

struct Head {
    model: Arc<ServedModel>,
    is_chat: bool,
    started: Instant,
}

impl Head {
    fn object(&self) -> Value {
        json!({"model": self.model.id, "created_at": timestamp(App::now()), "done": false})
    }

    fn put(&self, out: &mut Value, content: &str, reasoning: &str, calls: &[Call]) {
        if !self.is_chat {
            out["response"] = json!(content);
            if !reasoning.is_empty() {
                out["thinking"] = json!(reasoning);
            }
            return;
        }
        let mut message = json!({"role": "assistant", "content": content});
        if !reasoning.is_empty() {
            message["thinking"] = json!(reasoning);
        }
        if !calls.is_empty() {
            let call = |c: &Call| {
                let arguments: Value = serde_json::from_str(&c.arguments).unwrap_or_else(|_| json!({}));
                json!({"function": {"name": c.name, "arguments": arguments}})
            };
            message["tool_calls"] = calls.iter().map(call).collect();
        }
        out["message"] = message;
    }

    fn close(&self, out: &mut Value, finish: Option<&Finish>, usage: &Usage) {
        let nanos = |d: std::time::Duration| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
        out["done"] = json!(true);
        out["done_reason"] = json!(if finish == Some(&Finish::Length) {
            "length"
        } else {
            "stop"
        });
        out["total_duration"] = json!(nanos(self.started.elapsed()));
        out["load_duration"] = json!(0);
        out["prompt_eval_count"] = json!(usage.prompt_tokens);
        out["prompt_eval_duration"] = json!(nanos(usage.prefill));
        out["eval_count"] = json!(usage.completion_tokens);
        out["eval_duration"] = json!(nanos(usage.decode));
    }
}

struct Lines {
    head: Head,
    /// The call that is being written: Ollama tells it whole.
    call: Option<Call>,
}

impl Format for Lines {
    fn content_type(&self) -> &'static str {
        "application/x-ndjson"
    }

    fn start(&mut self, _out: &mut Frames) {}

    fn part(&mut self, part: Part, out: &mut Frames) {
        match part {
            Part::Prompt { .. } => {}
            Part::More { deltas, .. } => {
                for delta in deltas {
                    let mut line = self.head.object();
                    match delta {
                        Delta::Content(text) => self.head.put(&mut line, &text, "", &[]),
                        Delta::Reasoning(text) => self.head.put(&mut line, "", &text, &[]),
                        Delta::CallStart { name, id } => {
                            self.call = Some(Call {
                                name,
                                id,
                                arguments: String::new(),
                            });
                            continue;
                        }
                        Delta::CallArguments(text) => {
                            if let Some(call) = &mut self.call {
                                call.arguments += &text;
                            }
                            continue;
                        }
                        Delta::CallEnd { raw } => match (self.call.take(), raw) {
                            (_, Some(raw)) => self.head.put(&mut line, &raw, "", &[]),
                            (Some(call), None) => self.head.put(&mut line, "", "", &[call]),
                            (None, None) => continue,
                        },
                    }
                    out.line(&line);
                }
            }
            Part::Finished { finish, usage, .. } => {
                let mut line = self.head.object();
                self.head.put(&mut line, "", "", &[]);
                self.head.close(&mut line, Some(&finish), &usage);
                out.line(&line);
            }
            Part::Failed(error) => {
                out.line(&error.body(Dialect::Ollama));
                out.fail();
            }
        }
    }

    fn end(&mut self, _out: &mut Frames) {}

    /// A line without text says that something still goes on.
    fn ping(&mut self, out: &mut Frames) {
        let mut line = self.head.object();
        self.head.put(&mut line, "", "", &[]);
        out.line(&line);
    }
}

fn model_json(model: &str) -> Value {
    json!({
        "name": model, "model": model, "modified_at": timestamp(App::now()), "size": 0, "digest": "",
        "details": {"format": "safetensors", "family": "mlx", "families": ["mlx"], "parameter_size": "", "quantization_level": ""},
    })
}

/// `/api/tags`.
pub(crate) async fn tags(State(app): State<Arc<App>>) -> Response {
    let models: Vec<Value> = app.models.ids().map(model_json).collect();
    axum::Json(json!({"models": models})).into_response()
}

/// `/api/show`.
pub(crate) async fn show(State(app): State<Arc<App>>, bytes: Bytes) -> Response {
    let made = async {
        let map = body(&bytes)?;
        let fields = Fields::new(&map);
        let model = app
            .models
            .get(fields.str("model")?.or(fields.str("name")?))
            .await?;
        let mut out = model_json(&model.id);
        out["template"] = json!(model.tokenizer.chat_template());
        out["model_info"] = json!({"general.architecture": "mlx", "mlx.context_length": model.context});
        out["capabilities"] = json!(["completion", "tools"]);
        Ok(axum::Json(out).into_response())
    };
    finish(made.await)
}

/// `/api/version`.
pub(crate) async fn version() -> Response {
    axum::Json(json!({"version": env!("CARGO_PKG_VERSION")})).into_response()
}

/// Seconds since 1970 as RFC 3339 has them, in UTC.
fn timestamp(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days of 400 years, counted from March, so that the day that some years lack is the last.
    let z = days + 719_468;
    let (era, day) = (z / 146_097, z % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

#[cfg(test)]
mod tests {
    #[test]
    fn days_have_names() {
        assert_eq!(super::timestamp(0), "1970-01-01T00:00:00Z");
        assert_eq!(super::timestamp(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(super::timestamp(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(super::timestamp(1_795_650_000), "2026-11-25T23:40:00Z");
    }
}
