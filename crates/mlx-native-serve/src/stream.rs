//! Answers as streams: server-sent events, or lines of JSON.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use futures_util::stream;
use serde_json::Value;

use crate::answer::{Answer, Part};

/// After so long without an event something is sent all the same, so that nobody on the way takes the connection for dead.
const PING: Duration = Duration::from_secs(15);

/// How an interface writes the parts of an answer.
pub(crate) trait Format: Send + 'static {
    /// The type of the content.
    fn content_type(&self) -> &'static str {
        "text/event-stream"
    }

    /// Choices of each answer.
    fn choices(&self) -> usize {
        1
    }

    /// What comes first.
    fn start(&mut self, out: &mut Frames);

    /// What a part becomes.
    fn part(&mut self, part: Part, out: &mut Frames);

    /// What comes last, where nothing failed.
    fn end(&mut self, out: &mut Frames);

    /// What is sent while nothing happens.
    fn ping(&mut self, out: &mut Frames) {
        out.raw(": ping\n\n");
    }
}

/// Text on its way to the client.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    text: String,
    failed: bool,
}

impl Frames {
    pub fn raw(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// One event without a name.
    pub fn data(&mut self, value: &Value) {
        self.raw(&format!("data: {value}\n\n"));
    }

    /// One event with a name.
    pub fn named(&mut self, name: &str, value: &Value) {
        self.raw(&format!("event: {name}\ndata: {value}\n\n"));
    }

    /// One line of JSON.
    pub fn line(&mut self, value: &Value) {
        self.raw(&format!("{value}\n"));
    }

    /// Nothing follows.
    pub fn fail(&mut self) {
        self.failed = true;
    }
}

struct State<F> {
    answers: VecDeque<Answer>,
    format: F,
    begun: bool,
    ended: bool,
    /// What is said for the first answer; the others of a list follow it.
    base: usize,
}

impl<F: Format> State<F> {
    /// The next text; `None` at the end.
    async fn next(&mut self) -> Option<String> {
        let mut frames = Frames::default();
        while frames.text.is_empty() {
            if self.ended {
                return None;
            }
            if !self.begun {
                self.begun = true;
                self.format.start(&mut frames);
                continue;
            }
            let Some(answer) = self.answers.front_mut() else {
                self.format.end(&mut frames);
                self.ended = true;
                continue;
            };
            match tokio::time::timeout(PING, answer.next()).await {
                Ok(Some(part)) => {
                    self.format.part(shifted(part, self.base), &mut frames);
                    self.ended = frames.failed;
                }
                Ok(None) => {
                    self.answers.pop_front();
                    self.base += self.format.choices();
                }
                Err(_) => self.format.ping(&mut frames),
            }
        }
        Some(frames.text)
    }
}

/// A part of the answer to a prompt of a list, whose choices stand behind the `base` ones of the prompts before it.
fn shifted(part: Part, base: usize) -> Part {
    match part {
        Part::More {
            index,
            deltas,
            tokens,
        } => Part::More {
            index: index + base,
            deltas,
            tokens,
        },
        Part::Finished { index, finish, usage } => Part::Finished {
            index: index + base,
            finish,
            usage,
        },
        other => other,
    }
}

/// The response that streams answers, one after the other.
pub(crate) fn respond<F: Format>(answers: Vec<Answer>, format: F) -> Response {
    let content_type = HeaderValue::from_static(format.content_type());
    let state = State {
        answers: answers.into(),
        format,
        begun: false,
        ended: false,
        base: 0,
    };
    let body = stream::unfold(state, |mut state| async move {
        let text = state.next().await?;
        Some((Ok::<_, Infallible>(Bytes::from(text)), state))
    });
    let mut response = Response::new(Body::from_stream(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, content_type);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Proxies such as nginx hold streams back without it.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}
