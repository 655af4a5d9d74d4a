//! Arguments that are no JSON: Python's literals, and Gemma's braces.

use serde_json::{Map, Number, Value};

/// Deepest nesting of a value.
const MAX_DEPTH: usize = 64;

/// Reads a text from the front.
struct Cursor<'a> {
    rest: &'a str,
    depth: usize,
}

impl<'a> Cursor<'a> {
    fn skip(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn eat(&mut self, mark: &str) -> bool {
        self.skip();
        match self.rest.strip_prefix(mark) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn peek(&mut self) -> Option<char> {
        self.skip();
        self.rest.chars().next()
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !wanted(c)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken
    }

    /// A name, with dots as in modules.
    fn name(&mut self) -> Option<&'a str> {
        self.skip();
        let name = self.take_while(|c| c.is_alphanumeric() || "_.-".contains(c));
        (!name.is_empty()).then_some(name)
    }

    /// Values between a mark that came and one that closes, with commas between.
    fn list<T>(&mut self, close: &str, mut one: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        let mut items = Vec::new();
        loop {
            if self.eat(close) {
                self.depth -= 1;
                return Some(items);
            }
            if !items.is_empty() && !self.eat(",") {
                return None;
            }
            if self.eat(close) {
                self.depth -= 1;
                return Some(items);
            }
            items.push(one(self)?);
        }
    }

    /// A word or a number.
    fn scalar(&mut self) -> Option<Value> {
        self.skip();
        let word = self.take_while(|c| !c.is_whitespace() && !",:)]}".contains(c));
        match word {
            "True" | "true" => Some(Value::Bool(true)),
            "False" | "false" => Some(Value::Bool(false)),
            "None" | "null" => Some(Value::Null),
            _ => {
                if let Ok(n) = word.parse::<i64>() {
                    return Some(Value::from(n));
                }
                Number::from_f64(word.parse().ok()?).map(Value::Number)
            }
        }
    }

    fn quoted(&mut self, quote: char) -> Option<String> {
        let mut chars = self.rest.char_indices().skip(1);
        let mut out = String::new();
        while let Some((at, c)) = chars.next() {
            match c {
                c if c == quote => {
                    self.rest = &self.rest[at + c.len_utf8()..];
                    return Some(out);
                }
                '\\' => match chars.next()?.1 {
                    'n' => out.push('\n'),
                    't' => out.push('\t'),
                    'r' => out.push('\r'),
                    'u' => {
                        let digits: String = (0..4).filter_map(|_| chars.next()).map(|(_, c)| c).collect();
                        out.push(char::from_u32(u32::from_str_radix(&digits, 16).ok()?)?);
                    }
                    other => out.push(other),
                },
                c => out.push(c),
            }
        }
        None
    }

    fn python(&mut self) -> Option<Value> {
        match self.peek()? {
            quote @ ('"' | '\'') => self.quoted(quote).map(Value::String),
            '[' => {
                self.eat("[");
                Some(Value::Array(self.list("]", Self::python)?))
            }
            '(' => {
                self.eat("(");
                Some(Value::Array(self.list(")", Self::python)?))
            }
            '{' => {
                self.eat("{");
                let pairs = self.list("}", |c| {
                    let key = match c.python()? {
                        Value::String(key) => key,
                        other => other.to_string(),
                    };
                    c.eat(":").then_some(())?;
                    Some((key, c.python()?))
                })?;
                Some(Value::Object(pairs.into_iter().collect()))
            }
            _ => self.scalar(),
        }
    }

    fn braced(&mut self, escape: &str) -> Option<Value> {
        self.skip();
        if self.eat(escape) {
            let (text, rest) = self.rest.split_once(escape)?;
            self.rest = rest;
            return Some(Value::String(text.to_owned()));
        }
        match self.peek()? {
            '[' => {
                self.eat("[");
                Some(Value::Array(self.list("]", |c| c.braced(escape))?))
            }
            '{' => {
                self.eat("{");
                Some(Value::Object(self.pairs(escape)?))
            }
            '"' => self.quoted('"').map(Value::String),
            _ => {
                let mark = self.rest;
                if let Some(value) = self.scalar() {
                    return Some(value);
                }
                // A text without its marks.
                self.rest = mark;
                let text = self.take_while(|c| !",]}".contains(c)).trim();
                (!text.is_empty()).then(|| Value::String(text.to_owned()))
            }
        }
    }

    fn pairs(&mut self, escape: &str) -> Option<Map<String, Value>> {
        let pairs = self.list("}", |c| {
            let key = if c.eat(escape) {
                let (key, rest) = c.rest.split_once(escape)?;
                c.rest = rest;
                key
            } else {
                c.skip();
                c.take_while(|ch| ch != ':').trim().trim_matches('"')
            };
            c.eat(":").then_some(())?;
            Some((key.to_owned(), c.braced(escape)?))
        })?;
        Some(pairs.into_iter().collect())
    }
}

/// `[f(a=1, b="x"), g()]`: names and arguments.
pub(super) fn pythonic(text: &str) -> Option<Vec<(String, Value)>> {
    let mut cursor = Cursor { rest: text, depth: 0 };
    cursor.eat("[").then_some(())?;
    let calls = cursor.list("]", |c| {
        let name = c.name()?.to_owned();
        c.eat("(").then_some(())?;
        let arguments = c.list(")", |c| {
            let key = c.name()?.to_owned();
            c.eat("=").then_some(())?;
            Some((key, c.python()?))
        })?;
        Some((name, Value::Object(arguments.into_iter().collect())))
    })?;
    cursor.rest.trim().is_empty().then_some(calls)
}

/// `call:f{k:<escape>v<escape>}`: name and arguments.
pub(super) fn braces(text: &str, escape: &str) -> Option<(String, Value)> {
    let mut cursor = Cursor {
        rest: text.strip_prefix("call:")?,
        depth: 0,
    };
    let name = cursor.name()?.to_owned();
    cursor.eat("{").then_some(())?;
    let arguments = cursor.pairs(escape)?;
    cursor
        .rest
        .trim()
        .is_empty()
        .then_some((name, Value::Object(arguments)))
}
