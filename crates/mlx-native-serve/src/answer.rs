//! An answer on its way from the engine to a client: events become what was thought, said and called.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mlx_native_lm::engine::{Event, EventStream, Logprobs, Request, StopReason, Token, Usage};

use crate::app::App;
use crate::error::{ApiError, ApiResult};
use crate::metrics::Finished;
use crate::models::ServedModel;
use crate::output::{Delta, Reader};

/// Why a choice ended, as the interfaces tell it apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Finish {
    Stop,
    /// By a text of `stop`.
    StopText(String),
    Length,
    Calls,
}

impl Finish {
    /// OpenAI's word.
    pub fn openai(&self) -> &'static str {
        match self {
            Finish::Stop | Finish::StopText(_) => "stop",
            Finish::Length => "length",
            Finish::Calls => "tool_calls",
        }
    }
}

/// A part of an answer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Part {
    Prompt {
        logprobs: Vec<Option<Logprobs>>,
    },
    More {
        index: usize,
        deltas: Vec<Delta>,
        tokens: Vec<Token>,
    },
    Finished {
        index: usize,
        finish: Finish,
        usage: Usage,
    },
    Failed(ApiError),
}

struct Choice {
    reader: Reader,
    called: bool,
    /// Whether calls may be told: a call that was none is content.
    done: bool,
}

/// An answer to read from. Dropping it cancels it.
pub(crate) struct Answer {
    pub model: Arc<ServedModel>,
    app: Arc<App>,
    stream: EventStream,
    choices: Vec<Choice>,
    ready: VecDeque<Part>,
    deadline: Option<tokio::time::Instant>,
    log: Record,
}

/// What the log says of a request.
struct Record {
    id: String,
    started: Instant,
    first: Option<Duration>,
    last: Option<Instant>,
    usage: Usage,
    completion: usize,
    reason: Option<&'static str>,
}

impl Answer {
    /// Hands a request to its model.
    pub fn begin(
        app: &Arc<App>,
        id: &str,
        model: Arc<ServedModel>,
        request: Request,
        reader: &Reader,
    ) -> ApiResult<Self> {
        if app.is_draining() {
            return Err(ApiError::unavailable("the server is about to stop"));
        }
        let n = request.n;
        let stream = model.backend.submit(request)?;
        let choice = || Choice {
            reader: reader.clone(),
            called: false,
            done: false,
        };
        Ok(Answer {
            model,
            app: app.clone(),
            stream,
            choices: (0..n).map(|_| choice()).collect(),
            ready: VecDeque::new(),
            deadline: app.config.timeout.map(|t| tokio::time::Instant::now() + t),
            log: Record {
                id: id.to_owned(),
                started: Instant::now(),
                first: None,
                last: None,
                usage: Usage::default(),
                completion: 0,
                reason: None,
            },
        })
    }

    /// The next part; `None` behind the last one.
    pub async fn next(&mut self) -> Option<Part> {
        loop {
            if let Some(part) = self.ready.pop_front() {
                return Some(part);
            }
            if self.choices.iter().all(|c| c.done) {
                return None;
            }
            let event = match self.deadline {
                None => self.stream.next_event().await,
                Some(deadline) => match tokio::time::timeout_at(deadline, self.stream.next_event()).await {
                    Ok(event) => event,
                    Err(_) => Some(Event::Failed(
                        "the answer took longer than the server's limit".to_owned(),
                    )),
                },
            };
            match event {
                Some(event) => self.take(event),
                None => self.fail("the engine has stopped"),
            }
        }
    }

    fn fail(&mut self, message: &str) {
        self.log.reason = Some("error");
        for choice in &mut self.choices {
            choice.done = true;
        }
        let status = axum::http::StatusCode::INTERNAL_SERVER_ERROR;
        self.ready.push_back(Part::Failed(ApiError::new(status, message)));
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Prompt { logprobs, .. } => self.ready.push_back(Part::Prompt { logprobs }),
            Event::Text { index, text, tokens } => {
                self.time();
                let Some(choice) = self.choices.get_mut(index) else {
                    return;
                };
                let deltas = choice.reader.push(&text);
                choice.note(&deltas);
                self.ready.push_back(Part::More {
                    index,
                    deltas,
                    tokens,
                });
            }
            Event::Finished { index, reason, usage } => self.finish(index, reason, usage),
            Event::Failed(message) => self.fail(&message),
        }
    }

    fn finish(&mut self, index: usize, reason: StopReason, usage: Usage) {
        let Some(choice) = self.choices.get_mut(index) else {
            return;
        };
        let deltas = choice.reader.finish(reason == StopReason::Length);
        choice.note(&deltas);
        choice.done = true;
        let finish = match reason {
            StopReason::Length => Finish::Length,
            _ if choice.called => Finish::Calls,
            StopReason::StopText(text) => Finish::StopText(text),
            _ => Finish::Stop,
        };
        self.log.reason = Some(finish.openai());
        self.log.usage = usage;
        self.log.completion += usage.completion_tokens;
        if !deltas.is_empty() {
            self.ready.push_back(Part::More {
                index,
                deltas,
                tokens: Vec::new(),
            });
        }
        self.ready.push_back(Part::Finished { index, finish, usage });
    }

    fn time(&mut self) {
        let now = Instant::now();
        if self.log.first.is_none() {
            let first = self.log.started.elapsed();
            self.log.first = Some(first);
            self.app.metrics.first_token(first);
        } else if let Some(last) = self.log.last {
            self.app.metrics.between_tokens(now - last);
        }
        self.log.last = Some(now);
    }

    /// All of it.
    pub async fn collect(&mut self) -> ApiResult<Whole> {
        let mut whole = Whole {
            choices: self.choices.iter().map(|_| Text::default()).collect(),
            ..Whole::default()
        };
        while let Some(part) = self.next().await {
            match part {
                Part::Prompt { logprobs } => whole.prompt_logprobs = logprobs,
                Part::More {
                    index,
                    deltas,
                    tokens,
                } => {
                    if let Some(text) = whole.choices.get_mut(index) {
                        let content = text.sorted.of(&deltas, &tokens);
                        text.content_tokens.extend(content);
                        deltas.into_iter().for_each(|d| text.add(d));
                        text.tokens.extend(tokens);
                    }
                }
                Part::Finished { index, finish, usage } => {
                    whole.usage = sum(whole.usage, usage);
                    if let Some(text) = whole.choices.get_mut(index) {
                        text.finish = Some(finish);
                        text.settle();
                    }
                }
                Part::Failed(error) => return Err(error),
            }
        }
        Ok(whole)
    }
}

/// Usage of several choices over one prompt.
pub(crate) fn sum(a: Usage, b: Usage) -> Usage {
    Usage {
        completion_tokens: a.completion_tokens + b.completion_tokens,
        reasoning_tokens: a.reasoning_tokens + b.reasoning_tokens,
        ..b
    }
}

impl Choice {
    fn note(&mut self, deltas: &[Delta]) {
        self.called |= deltas.iter().any(|d| matches!(d, Delta::CallEnd { raw: None }));
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let log = &self.log;
        let reason = log
            .reason
            .filter(|_| self.choices.iter().all(|c| c.done))
            .unwrap_or("cancelled");
        let usage = &log.usage;
        self.app.metrics.finished(&Finished {
            reason,
            seconds: log.started.elapsed(),
            queued: usage.queued,
            prompt: usage.prompt_tokens,
            completion: log.completion,
        });
        let first = log
            .first
            .map_or("-".to_owned(), |f| format!("{}ms", f.as_millis()));
        let seconds = usage.decode.as_secs_f64();
        let speed = if seconds > 0.0 {
            usage.completion_tokens.saturating_sub(1) as f64 / seconds
        } else {
            0.0
        };
        (self.app.config.log)(&format!(
            "{} model={} in={} cached={} out={} first={first} tokens/s={speed:.1} reason={reason}",
            log.id, self.model.id, usage.prompt_tokens, usage.cached_tokens, log.completion
        ));
    }
}

/// A call, whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Call {
    pub name: String,
    pub id: Option<String>,
    pub arguments: String,
}

/// Tells the tokens whose text is content from those of thoughts and calls.
#[derive(Debug, Default)]
pub(crate) struct ContentTokens {
    /// Tokens whose text may still become either.
    held: Vec<Token>,
}

impl ContentTokens {
    /// The tokens of content among those that came with `deltas`, and before.
    pub fn of(&mut self, deltas: &[Delta], tokens: &[Token]) -> Vec<Token> {
        self.held.extend_from_slice(tokens);
        if deltas.is_empty() {
            return Vec::new();
        }
        let tokens = std::mem::take(&mut self.held);
        let is_content = deltas.iter().any(|d| matches!(d, Delta::Content(_)));
        if is_content { tokens } else { Vec::new() }
    }
}

/// A choice, whole.
#[derive(Debug, Default)]
pub(crate) struct Text {
    pub reasoning: String,
    pub content: String,
    pub calls: Vec<Call>,
    open: Option<Call>,
    pub tokens: Vec<Token>,
    /// Those of the content.
    pub content_tokens: Vec<Token>,
    sorted: ContentTokens,
    pub finish: Option<Finish>,
}

impl Text {
    fn add(&mut self, delta: Delta) {
        match delta {
            Delta::Reasoning(text) => self.reasoning += &text,
            Delta::Content(text) => self.content += &text,
            Delta::CallStart { name, id } => {
                self.open = Some(Call {
                    name,
                    id,
                    arguments: String::new(),
                });
            }
            Delta::CallArguments(text) => {
                if let Some(call) = &mut self.open {
                    call.arguments += &text;
                }
            }
            Delta::CallEnd { raw: None } => self.calls.extend(self.open.take()),
            // It looked like a call and was none.
            Delta::CallEnd { raw: Some(raw) } => {
                self.open = None;
                self.content += &raw;
            }
        }
    }

    fn settle(&mut self) {
        self.calls.extend(self.open.take());
    }
}

/// An answer, whole.
#[derive(Debug, Default)]
pub(crate) struct Whole {
    pub choices: Vec<Text>,
    pub usage: Usage,
    pub prompt_logprobs: Vec<Option<Logprobs>>,
}
