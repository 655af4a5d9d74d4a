//! What stands between the marks of a call.

use std::sync::Arc;

use super::Delta;
use super::json_body::{JsonCall, NamedJson};
use super::literals::{braces, pythonic};
use super::markup::{ArgKeys, Markup};
use crate::chat::family::Family;
use crate::chat::messages::Tool;

/// How far a call is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    More,
    /// At its end; or not a call at all.
    Done {
        valid: bool,
    },
}

/// Calls that are read as a whole: where they end, and what they say.
#[derive(Debug, Clone)]
pub(super) struct Whole {
    close: &'static str,
    escape: &'static str,
}

#[derive(Debug, Clone)]
pub(super) enum Body {
    Json(JsonCall),
    Named(NamedJson),
    Markup(Markup),
    ArgKeys(ArgKeys),
    /// A list of calls as in Python.
    Pythonic,
    Braces(Whole),
}

impl Body {
    pub fn new(family: Family, mark: &str, tools: Arc<[Tool]>) -> Self {
        match family {
            Family::Hermes | Family::Harmony => Body::Json(JsonCall::new("</tool_call>")),
            Family::LongCat => Body::Json(JsonCall::new("</longcat_tool_call>")),
            Family::Llama3 => Body::Json(JsonCall::new("")),
            Family::Mistral => Body::Named(NamedJson::mistral()),
            Family::DeepSeek => Body::Named(NamedJson::deepseek()),
            Family::Kimi => Body::Named(NamedJson::kimi()),
            Family::QwenCoder => Body::Markup(Markup::qwen(tools)),
            Family::MiniMax => Body::Markup(Markup::minimax(tools)),
            Family::Glm => Body::ArgKeys(ArgKeys::new(tools)),
            Family::Gemma3 => Body::Braces(Whole {
                close: "<end_function_call>",
                escape: "<escape>",
            }),
            Family::Gemma4 => Body::Braces(Whole {
                close: "<tool_call|>",
                escape: "<|\"|>",
            }),
            Family::Pythonic | Family::Lfm2 => {
                debug_assert!(mark.is_empty() || mark.starts_with('<'));
                Body::Pythonic
            }
        }
    }

    /// Reads what it can of `text`, which begins where it stopped: how many bytes it used.
    pub fn advance(&mut self, text: &str, end: bool, out: &mut Vec<Delta>) -> (usize, Status) {
        match self {
            Body::Json(body) => body.advance(text, end, out),
            Body::Named(body) => body.advance(text, end, out),
            Body::Markup(body) => body.advance(text, out),
            Body::ArgKeys(body) => body.advance(text, out),
            Body::Pythonic => whole_list(text, end, out),
            Body::Braces(whole) => {
                let Some(at) = text.find(whole.close) else {
                    return (0, Status::More);
                };
                let call = braces(text[..at].trim(), whole.escape);
                let valid = call.is_some();
                if let Some((name, arguments)) = call {
                    say(name, &arguments, out);
                }
                (at + whole.close.len(), Status::Done { valid })
            }
        }
    }
}

/// One call, whole.
pub(super) fn say(name: String, arguments: &serde_json::Value, out: &mut Vec<Delta>) {
    out.push(Delta::CallStart { name, id: None });
    out.push(Delta::CallArguments(arguments.to_string()));
}

fn whole_list(text: &str, end: bool, out: &mut Vec<Delta>) -> (usize, Status) {
    let none = (text.len(), Status::Done { valid: false });
    let begun = text.trim_start();
    if begun.is_empty() {
        return if end { none } else { (0, Status::More) };
    }
    let Some(at) = list_end(text) else {
        // What is not even a list is none.
        return if begun.starts_with('[') && !end {
            (0, Status::More)
        } else {
            none
        };
    };
    match pythonic(text[..at].trim()) {
        Some(calls) if !calls.is_empty() => {
            let n = calls.len();
            for (index, (name, arguments)) in calls.into_iter().enumerate() {
                say(name, &arguments, out);
                if index + 1 < n {
                    out.push(Delta::CallEnd { raw: None });
                }
            }
            (at, Status::Done { valid: true })
        }
        _ => (at, Status::Done { valid: false }),
    }
}

/// Where the list that `text` begins with is closed.
fn list_end(text: &str) -> Option<usize> {
    let mut depth = 0usize;
    let mut quote = None;
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        if let Some(q) = quote {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                c if c == q => quote = None,
                _ => {}
            }
            continue;
        }
        match c {
            '"' | '\'' => quote = Some(c),
            '[' | '(' | '{' => depth += 1,
            ']' | ')' | '}' => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            c if depth == 0 && !c.is_whitespace() => return None,
            _ => {}
        }
    }
    None
}
