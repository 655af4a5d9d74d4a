//! `/v1/completions`: text or token ids, one or many.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use mlx_native_lm::engine::{Logprobs, MAX_TOP_LOGPROBS, Request, Token, Usage};
use serde_json::{Map, Value, json};

use super::chat::streaming;
use super::{body, token_text, usage_json};
use crate::answer::{Answer, Part, Text};
use crate::app::App;
use crate::error::{ApiError, ApiResult, Dialect};
use crate::fields::Fields;
use crate::known;
use crate::models::ServedModel;
use crate::output::{Delta, Reader};
use crate::params;
use crate::server::RequestId;
use crate::stream::{Format, Frames, respond};

/// Prompts of one request at most.
const MAX_PROMPTS: usize = 1024;
/// Tokens of an answer where the request does not say it, as OpenAI has it.
const DEFAULT_TOKENS: usize = 16;

/// Fields that mean something for chats alone.
const CHATS: [&str; 9] = [
    "messages",
    "tools",
    "tool_choice",
    "chat_template_kwargs",
    "documents",
    "thinking_token_budget",
    "thinking_budget",
    "thinking_budget_tokens",
    "reasoning_budget",
];

/// Completes prompts.
pub(crate) async fn handle(State(app): State<Arc<App>>, id: RequestId, bytes: Bytes) -> Response {
    match answer(&app, &id.0, &bytes).await {
        Ok(response) => response,
        Err(error) => error.response(Dialect::OpenAi),
    }
}

/// The prompts of `prompt`, as ids.
fn prompts(fields: &Fields<'_>, model: &ServedModel) -> ApiResult<Vec<Vec<u32>>> {
    let wanted = "a string, a list of token ids, or a list of either";
    let special = fields.bool("add_special_tokens")?.unwrap_or(true);
    let encode = |text: &str| -> ApiResult<Vec<u32>> {
        let encoded = match special {
            true => model.tokenizer.encode(text),
            false => model.tokenizer.encode_with(text, false),
        };
        let ids = encoded.map_err(|e| ApiError::invalid("prompt", e))?;
        if ids.is_empty() {
            return Err(ApiError::invalid("prompt", "it has no tokens"));
        }
        Ok(ids)
    };
    let ids = |list: &[Value]| -> Option<Vec<u32>> {
        list.iter()
            .map(|v| v.as_u64().and_then(|n| u32::try_from(n).ok()))
            .collect()
    };
    let list = match fields.get("prompt") {
        None => return Err(ApiError::invalid("prompt", "missing")),
        Some(Value::String(text)) => return Ok(vec![encode(text)?]),
        Some(Value::Array(list)) => list,
        Some(other) => return Err(fields.wrong("prompt", other, wanted)),
    };
    if list.is_empty() || list.len() > MAX_PROMPTS && !list[0].is_number() {
        return Err(ApiError::invalid(
            "prompt",
            format!("found {} prompts, wanted 1 to {MAX_PROMPTS}", list.len()),
        ));
    }
    if list[0].is_number() {
        let ids = ids(list).ok_or_else(|| ApiError::invalid("prompt", format!("wanted {wanted}")))?;
        return Ok(vec![ids]);
    }
    let one = |value: &Value| match value {
        Value::String(text) => encode(text),
        Value::Array(list) if !list.is_empty() => {
            ids(list).ok_or_else(|| ApiError::invalid("prompt", format!("wanted {wanted}")))
        }
        _ => Err(ApiError::invalid("prompt", format!("wanted {wanted}"))),
    };
    list.iter().map(one).collect()
}

async fn answer(app: &Arc<App>, request_id: &str, bytes: &Bytes) -> ApiResult<Response> {
    let map: Map<String, Value> = body(bytes)?;
    let fields = Fields::new(&map);
    let model = app.models.get(fields.str("model")?).await?;
    let (stream, with_usage) = streaming(&fields)?;
    // Of chats alone: what they ask for would be passed over here.
    known::refuse(&fields, &CHATS)?;
    if stream {
        known::refuse(&fields, &["prompt_logprobs"])?;
    }
    let mut request = params::read(&fields, &model)?;
    request.max_tokens = request
        .max_tokens
        .or(app.config.max_tokens)
        .or(Some(DEFAULT_TOKENS));
    let echo = fields.bool("echo")?.unwrap_or(false);
    request.logprobs = match fields.get("logprobs") {
        Some(Value::Bool(true)) => Some(0),
        Some(Value::Bool(false)) => None,
        _ => fields.usize("logprobs", 0, MAX_TOP_LOGPROBS)?,
    };
    if echo {
        request.prompt_logprobs = request.prompt_logprobs.or(request.logprobs);
    }
    if let Some((name, grammar)) = params::grammar(&fields)? {
        let compiled = model.backend.compile(&grammar).map_err(|e| match e {
            mlx_native_lm::engine::EngineError::Invalid { message, .. } => ApiError::invalid(name, message),
            other => other.into(),
        })?;
        request.constraint = Some(compiled);
    }
    let prompts = {
        let model = model.clone();
        let map = map.clone();
        let made = tokio::task::spawn_blocking(move || prompts(&Fields::new(&map), &model)).await;
        made.unwrap_or_else(|_| Err(ApiError::invalid("prompt", "it could not be encoded")))?
    };
    let n = request.n;
    let mut answers = Vec::with_capacity(prompts.len());
    for prompt in &prompts {
        let request = Request {
            prompt: prompt.clone(),
            ..request.clone()
        };
        answers.push(Answer::begin(
            app,
            request_id,
            model.clone(),
            request,
            &Reader::plain(),
        )?);
    }
    let head = Head {
        id: app.id("cmpl-"),
        created: App::now(),
        with_logprobs: request.logprobs.is_some(),
        with_prompt_logprobs: fields.get("prompt_logprobs").is_some(),
        echo,
        model,
    };
    if stream {
        let format = CompletionStream {
            texts: prompts.iter().map(|p| head.echoed(p)).collect::<ApiResult<_>>()?,
            offsets: vec![0; prompts.len() * n],
            prompts,
            head,
            n,
            with_usage,
            usage: Usage::default(),
            prompt: 0,
        };
        return Ok(respond(answers, format));
    }
    let mut choices = Vec::new();
    let mut usage = Usage::default();
    for (index, answer) in answers.iter_mut().enumerate() {
        let whole = answer.collect().await?;
        usage.prompt_tokens += whole.usage.prompt_tokens;
        usage.cached_tokens += whole.usage.cached_tokens;
        usage.completion_tokens += whole.usage.completion_tokens;
        let prompt = &prompts[index];
        for text in &whole.choices {
            choices.push(head.choice(choices.len(), prompt, &whole.prompt_logprobs, text)?);
        }
    }
    let mut out = head.object();
    out["choices"] = choices.into();
    out["usage"] = usage_json(&usage);
    Ok(axum::Json(out).into_response())
}

struct Head {
    id: String,
    created: u64,
    model: Arc<ServedModel>,
    with_logprobs: bool,
    with_prompt_logprobs: bool,
    echo: bool,
}

/// `logprobs` of completions: lists side by side.
#[derive(Default)]
struct Lists {
    tokens: Vec<Value>,
    logprobs: Vec<Value>,
    top: Vec<Value>,
    offsets: Vec<Value>,
}

impl Lists {
    fn add(
        &mut self,
        model: &ServedModel,
        id: u32,
        text: Option<&str>,
        logprobs: Option<&Logprobs>,
        offset: &mut usize,
    ) {
        let own = token_text(model, id).0;
        self.tokens.push(json!(own));
        self.offsets.push(json!(*offset));
        *offset += text.unwrap_or(&own).chars().count();
        match logprobs {
            None => {
                self.logprobs.push(Value::Null);
                self.top.push(Value::Null);
            }
            Some(logprobs) => {
                self.logprobs.push(json!(logprobs.logprob));
                let mut top = Map::new();
                for ranked in &logprobs.top {
                    // Different tokens may have the same text; the likelier one counts.
                    top.entry(token_text(model, ranked.id).0)
                        .or_insert_with(|| json!(ranked.logprob));
                }
                // The token itself is always among them.
                top.entry(own).or_insert_with(|| json!(logprobs.logprob));
                self.top.push(Value::Object(top));
            }
        }
    }

    fn json(self) -> Value {
        json!({"tokens": self.tokens, "token_logprobs": self.logprobs, "top_logprobs": self.top, "text_offset": self.offsets})
    }
}

impl Head {
    fn object(&self) -> Value {
        json!({
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model.id,
            "system_fingerprint": "mlx-native",
        })
    }

    /// The prompt as it stands before the answer.
    fn echoed(&self, prompt: &[u32]) -> ApiResult<String> {
        if self.echo {
            Ok(self.model.tokenizer.decode(prompt, false)?)
        } else {
            Ok(String::new())
        }
    }

    fn of_prompt(
        &self,
        lists: &mut Lists,
        prompt: &[u32],
        logprobs: &[Option<Logprobs>],
        offset: &mut usize,
    ) {
        if self.echo {
            for (index, id) in prompt.iter().enumerate() {
                let logprobs = logprobs.get(index).and_then(Option::as_ref);
                lists.add(&self.model, *id, None, logprobs, offset);
            }
        }
    }

    fn of_tokens(&self, lists: &mut Lists, tokens: &[Token], offset: &mut usize) {
        for token in tokens {
            lists.add(
                &self.model,
                token.id,
                Some(&token.text),
                token.logprobs.as_ref(),
                offset,
            );
        }
    }

    fn choice(
        &self,
        index: usize,
        prompt: &[u32],
        of_prompt: &[Option<Logprobs>],
        text: &Text,
    ) -> ApiResult<Value> {
        let mut logprobs = Value::Null;
        if self.with_logprobs {
            let (mut lists, mut offset) = (Lists::default(), 0);
            self.of_prompt(&mut lists, prompt, of_prompt, &mut offset);
            self.of_tokens(&mut lists, &text.tokens, &mut offset);
            logprobs = lists.json();
        }
        let mut choice = json!({
            "index": index,
            "text": self.echoed(prompt)? + &text.content,
            "logprobs": logprobs,
            "finish_reason": text.finish.as_ref().map(|f| f.openai()),
        });
        if self.with_prompt_logprobs {
            // As vLLM has it: by id, each with its text.
            let one = |entry: &Option<Logprobs>| match entry {
                None => Value::Null,
                Some(logprobs) => {
                    let ranked = logprobs.top.iter().enumerate().map(|(rank, r)| {
                        let value = json!({"logprob": r.logprob, "rank": rank + 1, "decoded_token": token_text(&self.model, r.id).0});
                        (r.id.to_string(), value)
                    });
                    Value::Object(ranked.collect())
                }
            };
            choice["prompt_logprobs"] = of_prompt.iter().map(one).collect();
        }
        Ok(choice)
    }
}

struct CompletionStream {
    head: Head,
    prompts: Vec<Vec<u32>>,
    /// What is echoed for each prompt.
    texts: Vec<String>,
    offsets: Vec<usize>,
    n: usize,
    with_usage: bool,
    usage: Usage,
    /// The prompt whose answer comes.
    prompt: usize,
}

impl CompletionStream {
    fn chunk(&self, index: usize, text: &str, logprobs: Value, finish: Value) -> Value {
        let mut chunk = self.head.object();
        chunk["choices"] =
            json!([{"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}]);
        if self.with_usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    }

    fn echo(&mut self, logprobs: &[Option<Logprobs>], out: &mut Frames) {
        let (Some(prompt), true) = (self.prompts.get(self.prompt), self.head.echo) else {
            return;
        };
        let prompt = prompt.clone();
        for choice in 0..self.n {
            let index = self.prompt * self.n + choice;
            let mut offset = 0;
            let mut lists = Lists::default();
            self.head.of_prompt(&mut lists, &prompt, logprobs, &mut offset);
            self.offsets[index] = offset;
            let logprobs = if self.head.with_logprobs {
                lists.json()
            } else {
                Value::Null
            };
            out.data(&self.chunk(index, &self.texts[self.prompt], logprobs, Value::Null));
        }
    }
}

impl Format for CompletionStream {
    fn choices(&self) -> usize {
        self.n
    }

    fn start(&mut self, _out: &mut Frames) {}

    fn part(&mut self, part: Part, out: &mut Frames) {
        match part {
            Part::Prompt { logprobs } => {
                self.echo(&logprobs, out);
                self.prompt += 1;
            }
            Part::More {
                index,
                deltas,
                tokens,
            } => {
                let text: String = (deltas.into_iter())
                    .filter_map(|d| match d {
                        Delta::Content(text) => Some(text),
                        _ => None,
                    })
                    .collect();
                let mut logprobs = Value::Null;
                if self.head.with_logprobs {
                    let (mut lists, mut offset) = (Lists::default(), self.offsets[index]);
                    self.head.of_tokens(&mut lists, &tokens, &mut offset);
                    self.offsets[index] = offset;
                    logprobs = lists.json();
                }
                out.data(&self.chunk(index, &text, logprobs, Value::Null));
            }
            Part::Finished { index, finish, usage } => {
                self.usage.completion_tokens += usage.completion_tokens;
                // The choices of a prompt share it.
                if index.is_multiple_of(self.n) {
                    self.usage.prompt_tokens += usage.prompt_tokens;
                    self.usage.cached_tokens += usage.cached_tokens;
                }
                out.data(&self.chunk(index, "", Value::Null, json!(finish.openai())));
            }
            Part::Failed(error) => {
                out.data(&error.body(Dialect::OpenAi));
                out.fail();
            }
        }
    }

    fn end(&mut self, out: &mut Frames) {
        if self.with_usage {
            let mut chunk = self.head.object();
            chunk["choices"] = json!([]);
            chunk["usage"] = usage_json(&self.usage);
            out.data(&chunk);
        }
        out.raw("data: [DONE]\n\n");
    }
}
