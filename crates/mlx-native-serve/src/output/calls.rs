//! Calls of tools in a text, whichever family wrote it.

use std::sync::Arc;

use super::body::{Body, Status};
use super::{Delta, open_end, push};
use crate::chat::family::Family;
use crate::chat::messages::Tool;

/// The marks of a family.
#[derive(Debug, Clone, Copy)]
pub(super) struct Marks {
    /// A call begins behind one of these.
    pub open: &'static [&'static str],
    /// Marks around calls that say nothing themselves.
    pub silent: &'static [&'static str],
    /// A text that is one call from its first character on, such as `{`.
    pub bare: Option<&'static str>,
}

impl Marks {
    fn of(family: Family) -> Self {
        let (open, silent, bare): (&[&str], &[&str], Option<&str>) = match family {
            Family::Hermes | Family::Harmony => (&["<tool_call>"], &[], None),
            Family::QwenCoder => (&["<function="], &["<tool_call>", "</tool_call>"], None),
            Family::Llama3 => (&["<|python_tag|>"], &[], Some("{")),
            Family::Pythonic => (&["<|python_start|>"], &["<|python_end|>"], Some("[")),
            Family::Lfm2 => (&["<|tool_call_start|>"], &["<|tool_call_end|>"], None),
            Family::Mistral => (&["[TOOL_CALLS]"], &[], None),
            Family::Gemma3 => (&["<start_function_call>"], &[], None),
            Family::Gemma4 => (&["<|tool_call>"], &[], None),
            Family::DeepSeek => (
                &["<｜tool▁call▁begin｜>"],
                &["<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"],
                None,
            ),
            Family::Glm => (&["<tool_call>"], &[], None),
            Family::Kimi => (
                &["<|tool_call_begin|>"],
                &["<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"],
                None,
            ),
            Family::MiniMax => (
                &["<invoke name="],
                &["<minimax:tool_call>", "</minimax:tool_call>"],
                None,
            ),
            Family::LongCat => (&["<longcat_tool_call>"], &[], None),
        };
        Marks { open, silent, bare }
    }

    fn all(&self) -> impl Iterator<Item = &'static str> {
        self.open.iter().chain(self.silent).copied()
    }
}

#[derive(Debug, Clone)]
enum Place {
    /// Content; `fresh` while a bare call may begin.
    Text { fresh: bool },
    /// A call, with the text from its mark on, in case it is none.
    Call {
        body: Box<Body>,
        raw: String,
        begun: bool,
    },
}

/// Whether the beginning of a call without a mark can become one: lists begin as lists of calls do only where a name follows.
fn may_be_call(raw: &str, held: &str) -> bool {
    let text = raw.to_owned() + held;
    let Some(rest) = text.trim_start().strip_prefix('[') else {
        return true;
    };
    let name = rest.trim_start();
    let end = name.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '.'));
    let has_name = !name.starts_with(|c: char| c.is_ascii_digit());
    has_name && end.is_none_or(|end| end > 0 && name[end..].starts_with('('))
}

/// Finds calls in the content of an answer.
#[derive(Debug, Clone)]
pub(super) struct Calls {
    family: Family,
    marks: Marks,
    tools: Arc<[Tool]>,
    place: Place,
    held: String,
    /// Whether a call came before: white space between calls is nothing.
    after_call: bool,
}

impl Calls {
    pub fn new(family: Family, tools: Arc<[Tool]>) -> Self {
        Calls {
            family,
            marks: Marks::of(family),
            tools,
            place: Place::Text { fresh: true },
            held: String::new(),
            after_call: false,
        }
    }

    pub fn push(&mut self, text: &str, out: &mut Vec<Delta>) {
        self.held.push_str(text);
        while self.advance(false, out) {}
    }

    pub fn finish(&mut self, cut: bool, out: &mut Vec<Delta>) {
        // Reading it to its end would find that it is no call.
        if let Place::Call {
            begun: false, raw, ..
        } = &self.place
            && cut
            && (self.marks.open.iter().any(|m| raw.trim_start().starts_with(m))
                || may_be_call(raw, &self.held))
        {
            self.held.clear();
            self.place = Place::Text { fresh: false };
            return;
        }
        while self.advance(true, out) {}
        let rest = std::mem::take(&mut self.held);
        match std::mem::replace(&mut self.place, Place::Text { fresh: false }) {
            Place::Text { .. } => {
                // More than one character of a mark is hardly anything else.
                let begun = match cut {
                    true => open_end(&rest, self.marks.all()),
                    false => 0,
                };
                let shown = if begun > 1 {
                    &rest[..rest.len() - begun]
                } else {
                    &rest[..]
                };
                if !(self.after_call && shown.trim().is_empty()) {
                    push(out, Delta::Content(shown.to_owned()));
                }
            }
            Place::Call {
                begun: false, raw, ..
            } => push(out, Delta::Content(raw + &rest)),
            // The text broke off inside: what came of the arguments is what there is.
            Place::Call { raw, .. } => push(
                out,
                Delta::CallEnd {
                    raw: Some(raw + &rest),
                },
            ),
        }
    }

    /// One step; whether another may follow.
    fn advance(&mut self, end: bool, out: &mut Vec<Delta>) -> bool {
        match &mut self.place {
            Place::Text { fresh } => {
                let fresh = *fresh;
                self.text(fresh, end, out)
            }
            Place::Call { .. } => self.call(end, out),
        }
    }

    fn text(&mut self, fresh: bool, end: bool, out: &mut Vec<Delta>) -> bool {
        if fresh && let Some(bare) = self.marks.bare {
            let begun = self.held.trim_start();
            if begun.is_empty() {
                return false;
            }
            if begun.starts_with(bare) {
                // A separator between calls is no content.
                self.begin("", String::new());
                return true;
            }
            if let Some(rest) = begun.strip_prefix(';').filter(|_| self.after_call) {
                self.held = rest.to_owned();
                return true;
            }
            if !end && self.marks.all().any(|m| m.starts_with(begun)) {
                return false;
            }
            self.place = Place::Text { fresh: false };
        }
        let found = self
            .marks
            .all()
            .filter_map(|m| Some((self.held.find(m)?, m)))
            .min_by_key(|(at, _)| *at);
        let Some((at, mark)) = found else {
            if end {
                return false;
            }
            // What may become a mark waits, and so does the white space before one.
            let sure = self.held.len() - open_end(&self.held, self.marks.all());
            let sure = self.held[..sure].trim_end().len();
            let text: String = self.held.drain(..sure).collect();
            if !text.is_empty() {
                self.after_call = false;
            }
            push(out, Delta::Content(text));
            return false;
        };
        let before = self.held[..at].trim_end().to_owned();
        let blank = self.held[before.len()..at].to_owned();
        push(out, Delta::Content(before));
        if self.marks.silent.contains(&mark) {
            self.held.drain(..at + mark.len());
            // White space around it goes with it.
            self.after_call = true;
            return true;
        }
        self.held.drain(..at + mark.len());
        self.begin(mark, blank + mark);
        true
    }

    fn begin(&mut self, mark: &str, raw: String) {
        self.place = Place::Call {
            body: Box::new(Body::new(self.family, mark, self.tools.clone())),
            raw,
            begun: false,
        };
    }

    fn call(&mut self, end: bool, out: &mut Vec<Delta>) -> bool {
        let Place::Call { body, raw, begun } = &mut self.place else {
            return false;
        };
        let mut said = Vec::new();
        let (used, status) = body.advance(&self.held, end, &mut said);
        raw.extend(self.held.drain(..used));
        *begun |= said.iter().any(|d| matches!(d, Delta::CallStart { .. }));
        match status {
            Status::More => {
                said.into_iter().for_each(|d| push(out, d));
                false
            }
            Status::Done { valid } => {
                let raw = (!valid).then(|| std::mem::take(raw));
                let begun = *begun;
                said.into_iter().for_each(|d| push(out, d));
                match raw {
                    Some(raw) if !begun => push(out, Delta::Content(raw)),
                    raw if begun => push(out, Delta::CallEnd { raw }),
                    _ => {}
                }
                self.place = Place::Text {
                    fresh: self.marks.bare.is_some() && begun,
                };
                self.after_call = begun;
                true
            }
        }
    }
}
