//! The filter `tojson`, as transformers has it: what Python's `json.dumps` writes.

use std::fmt::Write as _;

use minijinja::value::{Kwargs, Rest, Value, ValueKind};
use minijinja::{Error, ErrorKind, State};

/// Deepest nesting.
const MAX_DEPTH: usize = 200;
/// Widest indentation of one level.
const MAX_INDENT: i64 = 64;

/// The filter. Its arguments: `ensure_ascii`, `indent`, `separators`, `sort_keys`, by position or by name.
pub(super) fn tojson(
    state: &State,
    value: &Value,
    positional: Rest<Value>,
    named: Kwargs,
) -> Result<Value, Error> {
    let arg = |index: usize, name: &str| -> Result<Option<Value>, Error> {
        let by_name: Option<Value> = named.get(name)?;
        let value = positional.get(index).cloned().or(by_name);
        Ok(value.filter(|v| !v.is_none() && !v.is_undefined()))
    };
    let indent = arg(1, "indent")?.map(|indent| indentation(&indent)).transpose()?;
    let (item, key) = match arg(2, "separators")? {
        Some(pair) => separators(&pair)?,
        None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        None => (", ".to_owned(), ": ".to_owned()),
    };
    let mut writer = Writer {
        state,
        out: String::new(),
        charged: 0,
        ascii: arg(0, "ensure_ascii")?.is_some_and(|v| v.is_true()),
        sort: arg(3, "sort_keys")?.is_some_and(|v| v.is_true()),
        indent,
        item,
        key,
    };
    named.assert_all_used()?;
    writer.value(value, 0)?;
    Ok(Value::from(writer.out))
}

fn indentation(indent: &Value) -> Result<String, Error> {
    if let Some(text) = indent.as_str().filter(|text| text.len() as i64 <= MAX_INDENT) {
        return Ok(text.to_owned());
    }
    match indent.as_i64() {
        Some(n) if n <= MAX_INDENT => Ok(" ".repeat(n.max(0) as usize)),
        _ => Err(invalid(format!(
            "indent: found {}, wanted at most {MAX_INDENT} spaces",
            indent.kind()
        ))),
    }
}

fn separators(pair: &Value) -> Result<(String, String), Error> {
    let texts: Vec<Value> = pair.try_iter()?.take(3).collect();
    match texts.as_slice() {
        [item, key] => match (item.as_str(), key.as_str()) {
            (Some(item), Some(key)) => Ok((item.to_owned(), key.to_owned())),
            _ => Err(invalid("separators: wanted two strings".to_owned())),
        },
        _ => Err(invalid("separators: wanted two strings".to_owned())),
    }
}

struct Writer<'a, 'b, 'c> {
    state: &'a State<'b, 'c>,
    out: String,
    /// Bytes of `out` that are paid for.
    charged: usize,
    ascii: bool,
    sort: bool,
    indent: Option<String>,
    item: String,
    key: String,
}

impl Writer<'_, '_, '_> {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        // Paid as it grows: a list that is in itself many times is small, and its text is not.
        let grown = self.out.len() - self.charged;
        self.charged = self.out.len();
        self.state.consume_fuel(1 + grown as u64 / 64)?;
        if depth > MAX_DEPTH {
            return Err(invalid(format!("found more than {MAX_DEPTH} levels")));
        }
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.number(value)?,
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Map => self.map(value, depth)?,
            ValueKind::Seq | ValueKind::Iterable => {
                self.out.push('[');
                let mut any = false;
                for item in value.try_iter()? {
                    self.begin_item(any, depth + 1);
                    any = true;
                    self.value(&item, depth + 1)?;
                }
                self.end(any, depth, ']');
            }
            other => return Err(invalid(format!("found {other}, which JSON cannot express"))),
        }
        Ok(())
    }

    fn map(&mut self, map: &Value, depth: usize) -> Result<(), Error> {
        let mut keys: Vec<Value> = map.try_iter()?.collect();
        if self.sort {
            self.state.consume_fuel(keys.len() as u64)?;
            keys.sort();
        }
        self.out.push('{');
        for (i, key) in keys.iter().enumerate() {
            self.begin_item(i > 0, depth + 1);
            match key.kind() {
                ValueKind::String => self.string(key.as_str().unwrap_or_default()),
                ValueKind::None | ValueKind::Bool | ValueKind::Number => {
                    self.out.push('"');
                    self.value(key, depth + 1)?;
                    self.out.push('"');
                }
                other => return Err(invalid(format!("found {other} for a key"))),
            }
            self.out.push_str(&self.key);
            self.value(&map.get_item(key)?, depth + 1)?;
        }
        self.end(!keys.is_empty(), depth, '}');
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

    fn number(&mut self, value: &Value) -> Result<(), Error> {
        if value.is_integer() {
            let _ = write!(self.out, "{value}");
        } else {
            float(&mut self.out, f64::try_from(value.clone())?);
        }
        Ok(())
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

/// A float as Python's `repr` writes it: the shortest digits, with an exponent below 1e-4 and from 1e16.
fn float(out: &mut String, value: f64) {
    let size = value.abs();
    if !value.is_finite() {
        let sign = if value < 0.0 { "-" } else { "" };
        out.push_str(if value.is_nan() { "NaN" } else { sign });
        out.push_str(if value.is_nan() { "" } else { "Infinity" });
    } else if size != 0.0 && !(1e-4..1e16).contains(&size) {
        let text = format!("{value:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = exponent.strip_prefix('-').map_or(("+", exponent), |e| ("-", e));
        let _ = write!(out, "{digits}e{sign}{exponent:0>2}");
    } else {
        let _ = write!(out, "{value:?}");
    }
}

fn invalid(text: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("tojson: {text}"))
}
