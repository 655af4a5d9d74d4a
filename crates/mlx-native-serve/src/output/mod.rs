//! Reading an answer while it is written: what was thought, what is said, which tools are called.
//!
//! A [`Reader`] is fed text in whatever pieces it comes and says the same, whatever the pieces were: every state machine here is a
//! function of the text so far, and what may still become a mark waits.

mod arguments;
mod body;
mod calls;
mod harmony;
mod json_body;
mod literals;
mod markup;
mod thinking;

use std::sync::Arc;

use calls::Calls;
use harmony::Harmony;
use thinking::Split;

use crate::chat::family::{Family, Thinking};
use crate::chat::messages::Tool;

/// What a piece of text turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Delta {
    /// Thought.
    Reasoning(String),
    /// Said.
    Content(String),
    /// A call begins.
    CallStart {
        name: String,
        /// An id that the model itself gave.
        id: Option<String>,
    },
    /// More of its arguments, which are JSON.
    CallArguments(String),
    /// The call is complete. Where it was no call after all, its text is content.
    CallEnd { raw: Option<String> },
}

/// Puts a delta behind others, joined with the last one where they are of a kind.
fn push(out: &mut Vec<Delta>, delta: Delta) {
    match (out.last_mut(), delta) {
        (_, Delta::Reasoning(t) | Delta::Content(t) | Delta::CallArguments(t)) if t.is_empty() => {}
        (Some(Delta::Reasoning(a)), Delta::Reasoning(b))
        | (Some(Delta::Content(a)), Delta::Content(b))
        | (Some(Delta::CallArguments(a)), Delta::CallArguments(b)) => a.push_str(&b),
        (_, delta) => out.push(delta),
    }
}

/// Reads one answer.
#[derive(Debug, Clone)]
pub(crate) struct Reader {
    kind: Kind,
}

/// A piece of an answer, for programs that show both of its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// What the model thinks before it answers.
    Thought(String),
    /// What it answers.
    Answer(String),
}

/// Tells what a model thinks from what it answers, while the text is written.
#[derive(Debug, Clone)]
pub struct Thoughts(Reader);

impl Thoughts {
    /// For a model with this chat template, whose answer follows `prompt`: where that ends with the mark of thoughts, the text begins
    /// inside.
    #[must_use]
    pub fn new(template: &str, prompt: &str) -> Self {
        let thinking = Thinking::of_template(template);
        let ends_with = |mark: fn(&Thinking) -> &'static str| {
            thinking
                .as_ref()
                .is_some_and(|t| prompt.trim_end().ends_with(mark(t)))
        };
        let (open, closed) = (ends_with(|t| t.open), ends_with(|t| t.close));
        let family = Family::of_template(template);
        Thoughts(Reader::new(
            family,
            Vec::new(),
            thinking.filter(|_| !closed),
            open,
        ))
    }

    /// More text.
    pub fn push(&mut self, text: &str) -> Vec<Said> {
        said(self.0.push(text))
    }

    /// The text has ended.
    pub fn finish(&mut self) -> Vec<Said> {
        said(self.0.finish(false))
    }
}

fn said(deltas: Vec<Delta>) -> Vec<Said> {
    let each = |delta| match delta {
        Delta::Reasoning(text) => Some(Said::Thought(text)),
        Delta::Content(text) => Some(Said::Answer(text)),
        _ => None,
    };
    deltas.into_iter().filter_map(each).collect()
}

#[derive(Debug, Clone)]
enum Kind {
    Plain,
    Marked {
        split: Option<Split>,
        calls: Option<Box<Calls>>,
    },
    Harmony(Harmony),
}

impl Reader {
    /// For text as it is.
    pub fn plain() -> Self {
        Reader { kind: Kind::Plain }
    }

    /// For a chat. Calls are looked for only where there are tools; with `open` the text begins with what is thought.
    pub fn new(family: Family, tools: Vec<Tool>, thinking: Option<Thinking>, open: bool) -> Self {
        if family == Family::Harmony {
            return Reader {
                kind: Kind::Harmony(Harmony::new(!tools.is_empty())),
            };
        }
        let tools: Arc<[Tool]> = tools.into();
        Reader {
            kind: Kind::Marked {
                split: thinking.map(|t| Split::new(t, open)),
                calls: (!tools.is_empty()).then(|| Box::new(Calls::new(family, tools))),
            },
        }
    }

    /// More text.
    pub fn push(&mut self, text: &str) -> Vec<Delta> {
        let mut out = Vec::new();
        match &mut self.kind {
            Kind::Plain => push(&mut out, Delta::Content(text.to_owned())),
            Kind::Harmony(harmony) => harmony.push(text, &mut out),
            Kind::Marked { split, calls } => {
                let mut said = Vec::new();
                match split {
                    Some(split) => split.push(text, &mut said),
                    None => push(&mut said, Delta::Content(text.to_owned())),
                }
                read_calls(calls.as_deref_mut(), said, &mut out);
            }
        }
        out
    }

    /// The text has ended. Where it was `cut` before the model ended it, a call without its name is not the answer's text: it would
    /// have become one.
    pub fn finish(&mut self, cut: bool) -> Vec<Delta> {
        let mut out = Vec::new();
        match &mut self.kind {
            Kind::Plain => {}
            Kind::Harmony(harmony) => harmony.finish(&mut out),
            Kind::Marked { split, calls } => {
                let mut said = Vec::new();
                if let Some(split) = split {
                    split.finish(&mut said);
                }
                read_calls(calls.as_deref_mut(), said, &mut out);
                if let Some(calls) = calls {
                    calls.finish(cut, &mut out);
                }
            }
        }
        out
    }
}

fn read_calls(mut calls: Option<&mut Calls>, said: Vec<Delta>, out: &mut Vec<Delta>) {
    for delta in said {
        match (delta, &mut calls) {
            (Delta::Content(text), Some(calls)) => calls.push(&text, out),
            (delta, _) => push(out, delta),
        }
    }
}

/// The end of `text` that may be the beginning of one of the `marks`: how many bytes.
fn open_end<'a>(text: &str, marks: impl IntoIterator<Item = &'a str>) -> usize {
    let open = |mark: &str| {
        let most = mark.len().saturating_sub(1).min(text.len());
        let bytes = text.as_bytes();
        (1..=most)
            .rev()
            .find(|n| mark.as_bytes().starts_with(&bytes[bytes.len() - n..]))
            .unwrap_or(0)
    };
    marks.into_iter().map(open).max().unwrap_or(0)
}

#[cfg(test)]
mod tests;
