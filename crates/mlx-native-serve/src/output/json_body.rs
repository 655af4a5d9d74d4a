//! Calls whose arguments are JSON: they flow while they are written.

use serde_json::Value;

use super::Delta;
use super::arguments::Scan;
use super::body::Status;

#[derive(Debug, Clone, PartialEq)]
enum At {
    /// Before the object.
    Start,
    /// Before a key, or the end of the object.
    Key { first: bool },
    /// Behind a key: a colon, then the value.
    Colon(String),
    /// In the value of a key.
    Value {
        key: String,
        scan: Scan,
        text: String,
        said: usize,
    },
    /// Behind a value.
    Comma,
    /// Behind the object: the mark that closes.
    Close,
}

/// `{"name": …, "arguments": {…}}` and the mark behind it.
#[derive(Debug, Clone)]
pub(super) struct JsonCall {
    close: &'static str,
    at: At,
    name: Option<String>,
    id: Option<String>,
    /// Arguments that came before the name.
    early: Option<String>,
    started: bool,
    has_arguments: bool,
    valid: bool,
}

impl JsonCall {
    pub fn new(close: &'static str) -> Self {
        JsonCall {
            close,
            at: At::Start,
            name: None,
            id: None,
            early: None,
            started: false,
            has_arguments: false,
            valid: true,
        }
    }

    pub fn advance(&mut self, text: &str, end: bool, out: &mut Vec<Delta>) -> (usize, Status) {
        let mut used = 0;
        loop {
            let rest = &text[used..];
            match self.step(rest, out) {
                Step::Wait if end && self.at == At::Close => {
                    // The text ended before the mark that closes: the call is whole all the same.
                    return (
                        text.len(),
                        Status::Done {
                            valid: self.valid && self.name.is_some(),
                        },
                    );
                }
                Step::Wait => return (used, Status::More),
                Step::Used(n) => used += n,
                Step::Done(n) => {
                    return (
                        used + n,
                        Status::Done {
                            valid: self.valid && self.name.is_some(),
                        },
                    );
                }
                Step::Bad(n) => return (used + n, Status::Done { valid: false }),
            }
        }
    }

    fn step(&mut self, rest: &str, out: &mut Vec<Delta>) -> Step {
        let blank = rest.len() - rest.trim_start().len();
        let next = rest[blank..].chars().next();
        if let At::Value { .. } = self.at {
            return self.value(rest, out);
        }
        let Some(next) = next else {
            return skipped(blank);
        };
        match (&self.at, next) {
            (At::Start, '{') => self.go(blank + 1, At::Key { first: true }),
            (At::Key { first: true } | At::Comma, '}') => {
                self.end_object(out);
                if self.close.is_empty() {
                    Step::Done(blank + 1)
                } else {
                    self.go(blank + 1, At::Close)
                }
            }
            (At::Comma, ',') => self.go(blank + 1, At::Key { first: false }),
            (At::Key { .. }, '"') => {
                let mut scan = Scan::default();
                match scan.feed(&rest[blank..]) {
                    None => Step::Wait,
                    Some(end) => match serde_json::from_str::<String>(&rest[blank..blank + end]) {
                        Ok(key) if self.started || self.knows(&key) => self.go(blank + end, At::Colon(key)),
                        _ => Step::Bad(blank + end),
                    },
                }
            }
            (At::Colon(key), ':') => {
                let at = At::Value {
                    key: key.clone(),
                    scan: Scan::default(),
                    text: String::new(),
                    said: 0,
                };
                self.go(blank + 1, at)
            }
            (At::Close, _) => {
                let rest = &rest[blank..];
                if rest.starts_with(self.close) {
                    Step::Done(blank + self.close.len())
                } else if self.close.starts_with(rest) {
                    Step::Wait
                } else if let Some(rest) = rest.strip_prefix('}') {
                    // One brace too many is a habit of small models.
                    Step::Used(blank + 1 + (rest.len() - rest.trim_start().len()))
                } else {
                    // The call is whole; what should have closed it is not there, and the text goes on.
                    Step::Done(0)
                }
            }
            _ => {
                self.valid = false;
                Step::Bad(blank)
            }
        }
    }

    fn knows(&self, key: &str) -> bool {
        [
            "name",
            "arguments",
            "parameters",
            "type",
            "id",
            "function",
            "input",
        ]
        .contains(&key)
    }

    fn go(&mut self, used: usize, at: At) -> Step {
        self.at = at;
        Step::Used(used)
    }

    fn value(&mut self, rest: &str, out: &mut Vec<Delta>) -> Step {
        let At::Value {
            key,
            scan,
            text,
            said,
        } = &mut self.at
        else {
            return Step::Wait;
        };
        // White space before a value is not part of it.
        let blank = if text.is_empty() {
            rest.len() - rest.trim_start().len()
        } else {
            0
        };
        let body = &rest[blank..];
        if body.is_empty() {
            return skipped(blank);
        }
        let end = scan.feed(body);
        let taken = end.unwrap_or(body.len());
        text.push_str(&body[..taken]);
        let is_arguments = ["arguments", "parameters", "input"].contains(&key.as_str());
        if is_arguments && self.name.is_some() && text.starts_with('{') {
            if !self.started {
                self.started = true;
                out.push(start(self.name.clone(), self.id.take()));
            }
            out.push(Delta::CallArguments(text[*said..].to_owned()));
            *said = text.len();
        }
        if end.is_none() {
            return Step::Used(blank + taken);
        }
        let (key, text, said) = (std::mem::take(key), std::mem::take(text), *said);
        let value = serde_json::from_str::<Value>(&text);
        self.at = At::Comma;
        match (key.as_str(), value) {
            (_, Err(_)) => {
                self.valid = false;
                if !self.started {
                    return Step::Bad(blank + taken);
                }
            }
            ("name", Ok(Value::String(name))) if !name.is_empty() => self.name = Some(name),
            ("function", Ok(Value::String(name))) => self.name = Some(name),
            ("id", Ok(Value::String(id))) => self.id = Some(id),
            ("name", Ok(_)) => return Step::Bad(blank + taken),
            _ if is_arguments => {
                self.has_arguments = true;
                if said == 0 {
                    self.early = arguments_text(&text);
                    if self.early.is_none() {
                        return Step::Bad(blank + taken);
                    }
                }
            }
            _ => {}
        }
        Step::Used(blank + taken)
    }

    fn end_object(&mut self, out: &mut Vec<Delta>) {
        if self.started || self.name.is_none() {
            return;
        }
        self.started = true;
        out.push(start(self.name.clone(), self.id.take()));
        let arguments = self.early.take().unwrap_or_else(|| "{}".to_owned());
        out.push(Delta::CallArguments(arguments));
    }
}

fn start(name: Option<String>, id: Option<String>) -> Delta {
    Delta::CallStart {
        name: name.unwrap_or_default(),
        id,
    }
}

/// Arguments that are no object as they stand: null is none, and a string may have the object in it.
fn arguments_text(text: &str) -> Option<String> {
    match serde_json::from_str::<Value>(text).ok()? {
        Value::Object(_) => Some(text.to_owned()),
        Value::Null => Some("{}".to_owned()),
        Value::String(inner) => match serde_json::from_str::<Value>(&inner) {
            Ok(Value::Object(_)) => Some(inner),
            _ => None,
        },
        _ => None,
    }
}

/// So many bytes were read, and nothing changed.
fn skipped(n: usize) -> Step {
    if n == 0 { Step::Wait } else { Step::Used(n) }
}

enum Step {
    Used(usize),
    Wait,
    Done(usize),
    Bad(usize),
}

#[derive(Debug, Clone, PartialEq)]
enum NamedAt {
    Name,
    /// In a list of whole calls, as Mistral wrote them first.
    List,
    Arguments {
        scan: Scan,
        text: String,
    },
    Close,
}

/// A name, a mark, JSON, a mark.
#[derive(Debug, Clone)]
pub(super) struct NamedJson {
    /// Marks between name and arguments; the first that comes counts, and what is between the last of them and `{` is dropped.
    between: &'static [&'static str],
    close: &'static str,
    at: NamedAt,
    list: Option<JsonCall>,
    valid: bool,
}

impl NamedJson {
    fn new(between: &'static [&'static str], close: &'static str) -> Self {
        NamedJson {
            between,
            close,
            at: NamedAt::Name,
            list: None,
            valid: true,
        }
    }

    pub fn mistral() -> Self {
        Self::new(&["[CALL_ID]", "[ARGS]"], "")
    }

    pub fn deepseek() -> Self {
        Self::new(&["<｜tool▁sep｜>"], "<｜tool▁call▁end｜>")
    }

    pub fn kimi() -> Self {
        Self::new(&["<|tool_call_argument_begin|>"], "<|tool_call_end|>")
    }

    pub fn advance(&mut self, text: &str, end: bool, out: &mut Vec<Delta>) -> (usize, Status) {
        let mut used = 0;
        loop {
            let rest = &text[used..];
            let step = match &self.at {
                NamedAt::Name => self.name(rest, out),
                NamedAt::List => self.list(rest, out),
                NamedAt::Arguments { .. } => self.arguments(rest, out),
                NamedAt::Close => self.closing(rest),
            };
            match step {
                Step::Wait if end && self.is_whole() => {
                    return (text.len(), Status::Done { valid: self.valid });
                }
                Step::Wait => return (used, Status::More),
                Step::Used(n) => used += n,
                Step::Done(n) => return (used + n, Status::Done { valid: self.valid }),
                Step::Bad(n) => return (used + n, Status::Done { valid: false }),
            }
        }
    }

    /// Whether all that is missing is a mark that closes.
    fn is_whole(&self) -> bool {
        match self.at {
            NamedAt::Close => true,
            NamedAt::List => self.list.is_none(),
            _ => false,
        }
    }

    fn name(&mut self, rest: &str, out: &mut Vec<Delta>) -> Step {
        let begun = rest.trim_start();
        if self.close.is_empty() && begun.starts_with(['[', '{']) {
            let is_list = begun.starts_with('[');
            self.at = NamedAt::List;
            self.list = Some(JsonCall::new(""));
            return Step::Used(rest.len() - begun.len() + usize::from(is_list));
        }
        // The arguments begin at the first brace behind the mark.
        let Some(brace) = rest.find('{') else {
            return if rest.len() > 4096 {
                Step::Bad(0)
            } else {
                Step::Wait
            };
        };
        let head = &rest[..brace];
        let Some((name, between)) = self
            .between
            .iter()
            .filter_map(|m| head.split_once(m))
            .min_by_key(|(n, _)| n.len())
        else {
            // Mistral's oldest form has no mark between them.
            if self.close.is_empty() && !head.trim().is_empty() && !head.trim().contains(char::is_whitespace)
            {
                return self.start(head.trim().to_owned(), None, brace, out);
            }
            return Step::Bad(0);
        };
        let (name, between) = (name.trim(), between.trim());
        if self.close.is_empty() {
            // Between an id and the arguments stands a mark.
            let id = between.split("[ARGS]").next().unwrap_or_default().trim();
            let id = (between.contains("[ARGS]") && !id.is_empty()).then(|| id.to_owned());
            return self.start(name.to_owned(), id, brace, out);
        }
        let (name, id) = match (name, between) {
            // The name stands on the first line behind the mark, before a block of JSON.
            ("function", line) => (line.lines().next().unwrap_or_default().trim(), None),
            // `functions.NAME:0` is the id as well.
            (name, _) => match name.strip_prefix("functions.") {
                Some(rest) => (
                    rest.rsplit_once(':').map_or(rest, |(n, _)| n),
                    Some(name.to_owned()),
                ),
                None => (name, None),
            },
        };
        self.start(name.to_owned(), id, brace, out)
    }

    fn start(&mut self, name: String, id: Option<String>, used: usize, out: &mut Vec<Delta>) -> Step {
        if name.is_empty() {
            return Step::Bad(0);
        }
        out.push(Delta::CallStart { name, id });
        self.at = NamedAt::Arguments {
            scan: Scan::default(),
            text: String::new(),
        };
        Step::Used(used)
    }

    fn arguments(&mut self, rest: &str, out: &mut Vec<Delta>) -> Step {
        let NamedAt::Arguments { scan, text } = &mut self.at else {
            return Step::Wait;
        };
        let end = scan.feed(rest);
        let taken = end.unwrap_or(rest.len());
        text.push_str(&rest[..taken]);
        if taken > 0 {
            out.push(Delta::CallArguments(rest[..taken].to_owned()));
        }
        if end.is_none() {
            return skipped(taken);
        }
        self.valid &= serde_json::from_str::<Value>(text).is_ok_and(|v| v.is_object());
        if self.close.is_empty() {
            return Step::Done(taken);
        }
        self.at = NamedAt::Close;
        Step::Used(taken)
    }

    /// Whatever stands before the mark that closes, such as the end of a block, is nothing.
    fn closing(&self, rest: &str) -> Step {
        match rest.find(self.close) {
            Some(at) => Step::Done(at + self.close.len()),
            None => Step::Wait,
        }
    }

    fn list(&mut self, rest: &str, out: &mut Vec<Delta>) -> Step {
        let blank = rest.len() - rest.trim_start().len();
        let Some(call) = &mut self.list else {
            // Between calls of a list.
            return match rest[blank..].chars().next() {
                None => skipped(blank),
                Some(',') => {
                    out.push(Delta::CallEnd { raw: None });
                    self.list = Some(JsonCall::new(""));
                    Step::Used(blank + 1)
                }
                Some(']') => Step::Done(blank + 1),
                Some(_) => Step::Done(0),
            };
        };
        match call.advance(rest, false, out) {
            (used, Status::More) => skipped(used),
            (used, Status::Done { valid: true }) => {
                self.list = None;
                Step::Used(used)
            }
            (used, Status::Done { valid: false }) => Step::Bad(used),
        }
    }
}
