//! The filter `tojson`, as transformers has it: what Python's `json.dumps` writes.

use std::fmt::Write as _;

use super::budget::Budget;
use super::calls::Given;
use super::error::{Error, Res};
use super::interp::Interp;
use super::ops::sorted;
use super::text::float;
use super::value::{Dict, Value, iterate};

/// The filter. Its arguments: `ensure_ascii`, `indent`, `separators`, `sort_keys`, by position or by name.
pub(super) fn tojson(interp: &Interp<'_>, value: &Value, given: Given) -> Res<Value> {
    let names = ["ensure_ascii", "indent", "separators", "sort_keys"];
    let [ascii, indent, separators, sort] = given.bind("tojson", names)?;
    let budget = &interp.budget;
    let indent = indent
        .filter(|i| !i.is_none())
        .map(|i| indentation(&i, budget))
        .transpose()?;
    let (item, key) = match separators.filter(|s| !s.is_none()) {
        Some(pair) => pair_of(&pair, budget)?,
        None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        None => (", ".to_owned(), ": ".to_owned()),
    };
    let mut writer = Writer {
        budget,
        out: String::new(),
        charged: 0,
        ascii: ascii.is_some_and(|v| v.is_true()),
        sort: sort.is_some_and(|v| v.is_true()),
        indent,
        item,
        key,
    };
    writer.value(value, 0)?;
    budget.charge(writer.out.len())?;
    Ok(Value::text(writer.out))
}

fn indentation(indent: &Value, budget: &Budget) -> Res<String> {
    if let Some(text) = indent.as_str() {
        return Ok(text.to_owned());
    }
    match indent.as_int() {
        Some(n) => {
            let n = usize::try_from(n.max(0)).unwrap_or(usize::MAX);
            budget.charge(n)?;
            Ok(" ".repeat(n))
        }
        None => Err(Error::new(format!(
            "tojson: indent: found {}, wanted a number of spaces or a text",
            indent.type_name()
        ))),
    }
}

fn pair_of(pair: &Value, budget: &Budget) -> Res<(String, String)> {
    match &iterate(pair, budget)?[..] {
        [item, key] => match (item.as_str(), key.as_str()) {
            (Some(item), Some(key)) => Ok((item.to_owned(), key.to_owned())),
            _ => Err(Error::new("tojson: separators: wanted two strings")),
        },
        _ => Err(Error::new("tojson: separators: wanted two strings")),
    }
}

struct Writer<'a> {
    budget: &'a Budget,
    out: String,
    /// Bytes of `out` that are paid for.
    charged: usize,
    ascii: bool,
    sort: bool,
    indent: Option<String>,
    item: String,
    key: String,
}

impl Writer<'_> {
    fn value(&mut self, value: &Value, depth: usize) -> Res<()> {
        self.budget.enter()?;
        // Paid as it grows: a list that is in itself many times is small, and its text is not.
        self.budget.charge(self.out.len() - self.charged)?;
        self.charged = self.out.len();
        match value {
            Value::None => self.out.push_str("null"),
            Value::Bool(b) => self.out.push_str(if *b { "true" } else { "false" }),
            Value::Int(n) => write!(self.out, "{n}").unwrap_or_default(),
            Value::BigInt(digits) => self.out.push_str(digits),
            Value::Float(f) => self.float(*f),
            Value::Str(text) | Value::Markup(text) => self.string(text),
            Value::List(seq) | Value::Tuple(seq) => {
                self.out.push('[');
                for (at, item) in seq.items.iter().enumerate() {
                    self.begin_item(at > 0, depth + 1);
                    self.value(item, depth + 1)?;
                }
                self.end(!seq.items.is_empty(), depth, ']');
            }
            Value::Dict(dict) => self.dict(dict, depth)?,
            other => {
                return Err(Error::new(format!(
                    "tojson: Object of type {} is not JSON serializable",
                    other.type_name()
                )));
            }
        }
        self.budget.leave();
        Ok(())
    }

    fn dict(&mut self, dict: &Dict, depth: usize) -> Res<()> {
        let mut places: Vec<usize> = (0..dict.entries.len()).collect();
        if self.sort {
            let mut keyed = Vec::with_capacity(places.len());
            for at in places {
                keyed.push((dict.entries[at].0.clone(), Value::Int(at as i128)));
            }
            let order = sorted(keyed, false, self.budget)?;
            places = order
                .iter()
                .filter_map(|at| usize::try_from(at.as_int()?).ok())
                .collect();
        }
        self.out.push('{');
        for (n, at) in places.iter().enumerate() {
            let (key, value) = &dict.entries[*at];
            self.begin_item(n > 0, depth + 1);
            match key {
                Value::Str(text) | Value::Markup(text) => self.string(text),
                Value::None | Value::Bool(_) | Value::Int(_) | Value::BigInt(_) | Value::Float(_) => {
                    self.out.push('"');
                    self.value(key, depth + 1)?;
                    self.out.push('"');
                }
                other => {
                    return Err(Error::new(format!(
                        "tojson: keys must be str, int, float, bool or None, not {}",
                        other.type_name()
                    )));
                }
            }
            self.out.push_str(&self.key);
            self.value(value, depth + 1)?;
        }
        self.end(!dict.entries.is_empty(), depth, '}');
        Ok(())
    }

    fn begin_item(&mut self, separate: bool, depth: usize) {
        if separate {
            self.out.push_str(&self.item);
        }
        self.new_line(depth);
    }

    fn end(&mut self, any: bool, depth: usize, close: char) {
        if any {
            self.new_line(depth);
        }
        self.out.push(close);
    }

    fn new_line(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.out.push('\n');
            for _ in 0..depth {
                self.out.push_str(indent);
            }
        }
    }

    fn float(&mut self, f: f64) {
        if f.is_nan() {
            self.out.push_str("NaN");
        } else if f.is_infinite() {
            self.out.push_str(if f < 0.0 { "-Infinity" } else { "Infinity" });
        } else {
            float(&mut self.out, f);
        }
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                c if c < ' ' || (self.ascii && c > '~') => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let _ = write!(self.out, "\\u{unit:04x}");
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}
