//! What the engine says, and the channel that it says it over.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// Events that wait for a reader at most; one that lets more pile up is taken for gone.
const MAX_WAITING: usize = 16_384;

/// A token and its logarithm of probability.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ranked {
    /// The token.
    pub id: u32,
    /// Natural logarithm of its probability.
    pub logprob: f32,
}

/// What was asked for beside a token.
#[derive(Debug, Clone, PartialEq)]
pub struct Logprobs {
    /// Natural logarithm of the token's probability, by the logits after bias, penalties and grammar, before temperature and
    /// the filters.
    pub logprob: f32,
    /// The likeliest tokens, by falling probability.
    pub top: Vec<Ranked>,
}

/// A token of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// What it adds to the text; empty while a character is incomplete. The texts of all tokens are the text.
    pub text: String,
    /// Its probability, where that was asked for.
    pub logprobs: Option<Logprobs>,
}

/// Why an answer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopReason {
    /// The model ended it, by this token.
    EndOfText(u32),
    /// A token of `stop_token_ids`.
    StopToken(u32),
    /// A text of `stop`.
    StopText(String),
    /// The grammar allows nothing more.
    Grammar,
    /// `max_tokens`, or the context was full.
    Length,
}

impl StopReason {
    /// `stop` or `length`, as servers say it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            StopReason::Length => "length",
            _ => "stop",
        }
    }
}

/// Tokens and times of an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// How many of them the cache had.
    pub cached_tokens: usize,
    /// Tokens generated, one that ended the text included.
    pub completion_tokens: usize,
    /// How many of those the model thought before it answered, as far as [`Request::thinking`](super::Request::thinking) tells them apart.
    pub reasoning_tokens: usize,
    /// From submission until the engine took the request up.
    pub queued: Duration,
    /// From then on to the first token.
    pub prefill: Duration,
    /// From there to the end.
    pub decode: Duration,
}

/// What happens to a request, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The prompt is computed; with the probabilities of its tokens where they were asked for, of which the first has none.
    Prompt {
        /// Tokens that the cache had.
        cached_tokens: usize,
        /// One for each token of the prompt, or none at all.
        logprobs: Vec<Option<Logprobs>>,
    },
    /// More of choice `index`: text that is certain, and the tokens whose text it is.
    Text {
        /// Which of the `n` choices.
        index: usize,
        /// New text, whole characters only, without what may still begin a stop text.
        text: String,
        /// The tokens whose text is now known whole.
        tokens: Vec<Token>,
    },
    /// Choice `index` has ended.
    Finished {
        /// Which of the `n` choices.
        index: usize,
        /// Why.
        reason: StopReason,
        /// What it took.
        usage: Usage,
    },
    /// The request failed; nothing follows.
    Failed(String),
}

#[derive(Debug, Default)]
struct Inner {
    queue: VecDeque<Event>,
    closed: bool,
    waker: Option<Waker>,
}

#[derive(Debug, Default)]
struct Channel {
    inner: Mutex<Inner>,
    ready: Condvar,
    gone: AtomicBool,
}

impl Channel {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change of it is one step: whoever panicked left it whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, mut inner: MutexGuard<'_, Inner>) {
        let waker = inner.waker.take();
        drop(inner);
        self.ready.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The events of one request: an iterator that waits, or [`next_event`](Self::next_event) for async code. Dropping it cancels
/// the request within one step.
#[derive(Debug)]
pub struct EventStream(Arc<Channel>);

/// The other end of an [`EventStream`].
#[derive(Debug)]
pub struct EventSender(Arc<Channel>);

/// A channel of events.
#[must_use]
pub fn event_channel() -> (EventSender, EventStream) {
    let channel = Arc::new(Channel::default());
    (EventSender(channel.clone()), EventStream(channel))
}

impl EventSender {
    /// Sends an event; `false` when nobody listens any more, or somebody listens too slowly, who then gets an error.
    pub fn send(&self, event: Event) -> bool {
        if self.is_gone() {
            return false;
        }
        let mut inner = self.0.lock();
        if inner.closed {
            return false;
        }
        let fits = inner.queue.len() < MAX_WAITING;
        if fits {
            inner.queue.push_back(event);
        } else {
            inner.queue.clear();
            inner
                .queue
                .push_back(Event::Failed("the reader of this answer was too slow".to_owned()));
            inner.closed = true;
        }
        self.0.wake(inner);
        fits
    }

    /// Whether nobody listens any more.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.0.gone.load(Ordering::Acquire)
    }
}

impl Drop for EventSender {
    fn drop(&mut self) {
        let mut inner = self.0.lock();
        inner.closed = true;
        self.0.wake(inner);
    }
}

impl EventStream {
    /// The next event, or `None` behind the last one.
    pub fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<Option<Event>> {
        let mut inner = self.0.lock();
        match inner.queue.pop_front() {
            Some(event) => Poll::Ready(Some(event)),
            None if inner.closed => Poll::Ready(None),
            None => {
                inner.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    /// The next event, or `None` behind the last one.
    pub async fn next_event(&mut self) -> Option<Event> {
        poll_fn(|context| self.poll_event(context)).await
    }
}

impl Iterator for EventStream {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        let mut inner = self.0.lock();
        loop {
            if let Some(event) = inner.queue.pop_front() {
                return Some(event);
            }
            if inner.closed {
                return None;
            }
            inner = (self.0.ready.wait(inner)).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        self.0.gone.store(true, Ordering::Release);
    }
}
