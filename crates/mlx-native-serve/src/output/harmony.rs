//! Harmony, the form of gpt-oss: messages in channels, each with a header that says what it is.

use serde_json::Value;

use super::{Delta, open_end, push};

const MESSAGE: &str = "<|message|>";
const ENDS: [&str; 5] = ["<|end|>", "<|return|>", "<|call|>", "<|start|>", "<|channel|>"];

#[derive(Debug, Clone, PartialEq)]
enum Place {
    /// In a header, up to `<|message|>`.
    Header,
    Reasoning,
    Content,
    /// Arguments of a call so far.
    Call(String),
}

/// Reads the channels of an answer.
#[derive(Debug, Clone)]
pub(super) struct Harmony {
    place: Place,
    held: String,
    /// Whether there are tools to call.
    calls: bool,
}

impl Harmony {
    pub fn new(calls: bool) -> Self {
        Harmony {
            place: Place::Header,
            held: String::new(),
            calls,
        }
    }

    pub fn push(&mut self, text: &str, out: &mut Vec<Delta>) {
        self.held.push_str(text);
        while self.advance(out) {}
    }

    fn advance(&mut self, out: &mut Vec<Delta>) -> bool {
        if self.place == Place::Header {
            let begun = self.held.trim_start();
            // Text that has no header is content.
            if !begun.is_empty() && !begun.starts_with('<') && !self.held.contains("<|") && !is_header(begun)
            {
                self.place = Place::Content;
                return true;
            }
            let Some(at) = self.held.find(MESSAGE) else {
                return false;
            };
            let header = self.held[..at].to_owned();
            self.held.drain(..at + MESSAGE.len());
            self.place = self.kind(&header, out);
            return true;
        }
        let found = ENDS.iter().filter_map(|m| Some((self.held.find(m)?, *m))).min();
        let (upto, mark) = match found {
            Some((at, mark)) => (at, Some(mark)),
            None => (self.held.len() - open_end(&self.held, ENDS), None),
        };
        let text: String = self.held.drain(..upto).collect();
        self.say(text, out);
        let Some(mark) = mark else { return false };
        self.close(out);
        if mark != "<|channel|>" {
            self.held.drain(..mark.len());
        }
        self.place = Place::Header;
        true
    }

    fn kind(&self, header: &str, out: &mut Vec<Delta>) -> Place {
        let called = header.split_once("to=functions.").map(|(_, rest)| {
            let end = rest
                .find(|c: char| c.is_whitespace() || c == '<')
                .unwrap_or(rest.len());
            &rest[..end]
        });
        match called.filter(|name| self.calls && !name.is_empty()) {
            Some(name) => {
                out.push(Delta::CallStart {
                    name: name.to_owned(),
                    id: None,
                });
                Place::Call(String::new())
            }
            None if header.contains("analysis") => Place::Reasoning,
            None => Place::Content,
        }
    }

    fn say(&mut self, text: String, out: &mut Vec<Delta>) {
        match &mut self.place {
            Place::Reasoning => push(out, Delta::Reasoning(text)),
            Place::Call(arguments) => {
                arguments.push_str(&text);
                push(out, Delta::CallArguments(text));
            }
            _ => push(out, Delta::Content(text)),
        }
    }

    fn close(&mut self, out: &mut Vec<Delta>) {
        if let Place::Call(arguments) = &self.place {
            let valid = serde_json::from_str::<Value>(arguments).is_ok_and(|v| v.is_object());
            out.push(Delta::CallEnd {
                raw: (!valid).then(|| arguments.clone()),
            });
        }
    }

    pub fn finish(&mut self, out: &mut Vec<Delta>) {
        let rest = std::mem::take(&mut self.held);
        if self.place != Place::Header {
            self.say(rest, out);
            self.close(out);
        }
        self.place = Place::Header;
    }
}

/// Whether a text may begin a header without a mark before it.
fn is_header(text: &str) -> bool {
    ["assistant", "analysis", "commentary", "final", "to="]
        .iter()
        .any(|w| w.starts_with(text) || text.starts_with(w))
}
