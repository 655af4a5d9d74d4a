//! Values of arguments: where JSON ends, and what raw text means by its schema.

use serde_json::{Value, json};

use crate::chat::messages::Tool;

/// Finds the end of a JSON value that comes in pieces. It counts brackets and strings; whether the value is right is for a parser to say.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Scan {
    depth: usize,
    in_string: bool,
    escaped: bool,
    scalar: bool,
}

impl Scan {
    /// Where the value ends in this piece, counted from its beginning; `None` when it goes on.
    pub fn feed(&mut self, text: &str) -> Option<usize> {
        for (at, byte) in text.bytes().enumerate() {
            if self.in_string {
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => {
                        self.in_string = false;
                        if self.depth == 0 {
                            return Some(at + 1);
                        }
                    }
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' if self.scalar => return Some(at),
                b'"' => self.in_string = true,
                b'{' | b'[' if self.scalar => return Some(at),
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => {
                    if self.depth == 0 {
                        return Some(at);
                    }
                    self.depth -= 1;
                    if self.depth == 0 {
                        return Some(at + 1);
                    }
                }
                b',' | b' ' | b'\n' | b'\r' | b'\t' if self.depth == 0 => return Some(at),
                _ if self.depth == 0 => self.scalar = true,
                _ => {}
            }
        }
        None
    }
}

/// What the raw text of an argument is by the schema of its tool: text where that may be, else what it reads as.
pub(super) fn typed(tools: &[Tool], name: &str, key: &str, text: &str) -> Value {
    let schema = tools
        .iter()
        .find(|t| t.name == name)
        .and_then(|t| t.parameters.get("properties")?.get(key));
    let kinds: Vec<&str> = match schema.and_then(|s| s.get("type")) {
        Some(Value::String(kind)) => vec![kind],
        Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let is_enum_of_text = schema
        .and_then(|s| s.get("enum"))
        .and_then(Value::as_array)
        .is_some_and(|list| list.iter().all(Value::is_string));
    let trimmed = text.trim();
    if kinds.contains(&"null") && (trimmed == "null" || trimmed == "None") {
        return Value::Null;
    }
    if kinds.contains(&"string") || is_enum_of_text {
        return json!(text);
    }
    let read = match trimmed {
        "True" => Some(json!(true)),
        "False" => Some(json!(false)),
        "None" => Some(Value::Null),
        _ => serde_json::from_str(trimmed).ok(),
    };
    match read {
        // Without a schema only what is plainly no text is none.
        Some(value)
            if schema.is_some()
                || value.is_object()
                || value.is_array()
                || value.is_boolean()
                || value.is_number() =>
        {
            value
        }
        _ => json!(text),
    }
}
