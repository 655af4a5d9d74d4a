//! Calls whose arguments stand between marks, as raw text: each argument flows once it is whole.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::Delta;
use super::arguments::typed;
use super::body::Status;
use crate::chat::messages::Tool;

/// Arguments on their way out: an object, key by key.
#[derive(Debug, Clone, Default)]
struct Object {
    keys: usize,
    seen: Map<String, Value>,
}

impl Object {
    fn put(&mut self, key: &str, value: &Value, out: &mut Vec<Delta>) {
        // A key that comes twice keeps its first value: what was said cannot be taken back.
        if self.seen.contains_key(key) {
            return;
        }
        self.seen.insert(key.to_owned(), Value::Null);
        let comma = if self.keys == 0 { "{" } else { ", " };
        self.keys += 1;
        out.push(Delta::CallArguments(format!("{comma}{}: {value}", json!(key))));
    }

    fn close(&self, out: &mut Vec<Delta>) {
        let end = if self.keys == 0 { "{}" } else { "}" };
        out.push(Delta::CallArguments(end.to_owned()));
    }
}

/// `NAME>` `<parameter=K>V</parameter>` … `</function>`, by whatever marks.
#[derive(Debug, Clone)]
pub(super) struct Markup {
    name_end: &'static str,
    open: &'static str,
    key_end: &'static str,
    value_end: &'static str,
    close: &'static str,
    tools: Arc<[Tool]>,
    name: Option<String>,
    object: Object,
}

impl Markup {
    pub fn qwen(tools: Arc<[Tool]>) -> Self {
        Markup {
            name_end: ">",
            open: "<parameter=",
            key_end: ">",
            value_end: "</parameter>",
            close: "</function>",
            tools,
            name: None,
            object: Object::default(),
        }
    }

    pub fn minimax(tools: Arc<[Tool]>) -> Self {
        Markup {
            name_end: ">",
            open: "<parameter name=",
            key_end: ">",
            value_end: "</parameter>",
            close: "</invoke>",
            tools,
            name: None,
            object: Object::default(),
        }
    }

    pub fn advance(&mut self, text: &str, out: &mut Vec<Delta>) -> (usize, Status) {
        let mut used = 0;
        loop {
            let rest = &text[used..];
            let Some(name) = &self.name else {
                let Some(at) = rest.find(self.name_end) else {
                    return (used, give_up(rest));
                };
                let name = unquoted(&rest[..at]);
                if name.is_empty() || name.contains(['<', '\n']) {
                    return (used, Status::Done { valid: false });
                }
                out.push(Delta::CallStart {
                    name: name.to_owned(),
                    id: None,
                });
                self.name = Some(name.to_owned());
                used += at + self.name_end.len();
                continue;
            };
            let begun = rest.trim_start();
            let blank = rest.len() - begun.len();
            if begun.starts_with(self.close) {
                self.object.close(out);
                return (used + blank + self.close.len(), Status::Done { valid: true });
            }
            if let Some(inner) = begun.strip_prefix(self.open) {
                let Some((key, value)) = inner.split_once(self.key_end) else {
                    return (used, Status::More);
                };
                let Some(end) = value.find(self.value_end) else {
                    return (used, Status::More);
                };
                let value = typed(&self.tools, name, unquoted(key), bare_lines(&value[..end]));
                self.object.put(unquoted(key), &value, out);
                used += blank + self.open.len() + key.len() + self.key_end.len() + end + self.value_end.len();
                continue;
            }
            if self.close.starts_with(begun) || self.open.starts_with(begun) {
                return (used, Status::More);
            }
            // Neither an argument nor the end.
            return (used + blank, Status::Done { valid: false });
        }
    }
}

/// A name that goes on for too long is none.
fn give_up(text: &str) -> Status {
    if text.len() > 1024 {
        Status::Done { valid: false }
    } else {
        Status::More
    }
}

fn unquoted(text: &str) -> &str {
    text.trim().trim_matches('"')
}

/// A value without the line break on either side of it.
fn bare_lines(text: &str) -> &str {
    let text = text.strip_prefix('\n').unwrap_or(text);
    text.strip_suffix('\n').unwrap_or(text)
}

const ARG_KEY: &str = "<arg_key>";
const CLOSE: &str = "</tool_call>";

/// `NAME<arg_key>K</arg_key><arg_value>V</arg_value>…</tool_call>`.
#[derive(Debug, Clone)]
pub(super) struct ArgKeys {
    tools: Arc<[Tool]>,
    name: Option<String>,
    object: Object,
}

impl ArgKeys {
    pub fn new(tools: Arc<[Tool]>) -> Self {
        ArgKeys {
            tools,
            name: None,
            object: Object::default(),
        }
    }

    pub fn advance(&mut self, text: &str, out: &mut Vec<Delta>) -> (usize, Status) {
        let mut used = 0;
        loop {
            let rest = &text[used..];
            let Some(name) = &self.name else {
                let Some(at) = [ARG_KEY, CLOSE].iter().filter_map(|m| rest.find(m)).min() else {
                    return (used, give_up(rest));
                };
                let name = rest[..at].trim();
                if name.is_empty() || name.contains(char::is_whitespace) {
                    return (used, Status::Done { valid: false });
                }
                out.push(Delta::CallStart {
                    name: name.to_owned(),
                    id: None,
                });
                self.name = Some(name.to_owned());
                used += at;
                continue;
            };
            let begun = rest.trim_start();
            let blank = rest.len() - begun.len();
            if begun.starts_with(CLOSE) {
                self.object.close(out);
                return (used + blank + CLOSE.len(), Status::Done { valid: true });
            }
            let Some(inner) = begun.strip_prefix(ARG_KEY) else {
                let open = CLOSE.starts_with(begun) || ARG_KEY.starts_with(begun);
                let status = if open {
                    Status::More
                } else {
                    Status::Done { valid: false }
                };
                return (if open { used } else { used + blank }, status);
            };
            let pair = inner.split_once("</arg_key>").and_then(|(key, rest)| {
                let (between, rest) = rest.split_once("<arg_value>")?;
                let (value, _) = rest.split_once("</arg_value>")?;
                let len = key.len() + "</arg_key>".len() + between.len() + "<arg_value>".len() + value.len();
                Some((key, value, len + "</arg_value>".len()))
            });
            let Some((key, value, len)) = pair else {
                return (used, Status::More);
            };
            let value = typed(&self.tools, name, key.trim(), bare_lines(value));
            self.object.put(key.trim(), &value, out);
            used += blank + ARG_KEY.len() + len;
        }
    }
}
