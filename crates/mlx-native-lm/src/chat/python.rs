//! What Python's values can do and the template engine's cannot by themselves.

use minijinja::value::{Tuple, Value, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State};

/// Whether a value has a length and can be indexed: in Python, strings and dictionaries too.
pub(super) fn is_sequence(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::String | ValueKind::Map)
}

/// A method that the template engine does not know.
pub(super) fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    if let Some(text) = value.as_str() {
        match name {
            "rsplit" => return rsplit(text, args),
            "partition" | "rpartition" => return partition(text, args, name == "rpartition"),
            "removeprefix" => {
                let (affix,): (&str,) = from_args(args)?;
                return Ok(Value::from(text.strip_prefix(affix).unwrap_or(text)));
            }
            "removesuffix" => {
                let (affix,): (&str,) = from_args(args)?;
                return Ok(Value::from(text.strip_suffix(affix).unwrap_or(text)));
            }
            "index" => {
                let (wanted,): (&str,) = from_args(args)?;
                let at = text
                    .find(wanted)
                    .ok_or_else(|| invalid("index: substring not found"))?;
                return Ok(Value::from(text[..at].chars().count()));
            }
            _ => {}
        }
    } else if value.kind() == ValueKind::Seq && name == "index" {
        let (wanted,): (Value,) = from_args(args)?;
        for (i, item) in value.try_iter()?.enumerate() {
            state.consume_fuel(1)?;
            if item == wanted {
                return Ok(Value::from(i));
            }
        }
        return Err(invalid("index: the list does not have the value"));
    } else if value.kind() == ValueKind::Map && name == "copy" {
        let () = from_args(args)?;
        // Values cannot be changed, so a copy is the same.
        return Ok(value.clone());
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args)
}

/// The parts of a text, split from its end at most as often as said.
fn rsplit(text: &str, args: &[Value]) -> Result<Value, Error> {
    let (separator, most): (Option<&str>, Option<i64>) = from_args(args)?;
    let most = most.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
    let mut parts = Vec::new();
    let mut rest = if separator.is_none() {
        text.trim_end()
    } else {
        text
    };
    if separator == Some("") {
        return Err(invalid("rsplit: the separator is empty"));
    }
    while parts.len() < most {
        let cut = match separator {
            Some(separator) => rest.rsplit_once(separator),
            None => rest.rsplit_once(char::is_whitespace),
        };
        let Some((before, part)) = cut else {
            break;
        };
        parts.push(Value::from(part));
        rest = if separator.is_none() {
            before.trim_end()
        } else {
            before
        };
    }
    if separator.is_some() || !rest.trim().is_empty() {
        parts.push(Value::from(rest));
    }
    parts.reverse();
    Ok(Value::from(parts))
}

/// What is before a separator, the separator, and what is behind it.
fn partition(text: &str, args: &[Value], last: bool) -> Result<Value, Error> {
    let (separator,): (&str,) = from_args(args)?;
    if separator.is_empty() {
        return Err(invalid("partition: the separator is empty"));
    }
    let cut = if last {
        text.rsplit_once(separator)
    } else {
        text.split_once(separator)
    };
    let parts = match cut {
        Some((before, after)) => [before, separator, after],
        None if last => ["", "", text],
        None => [text, "", ""],
    };
    Ok(Value::from(Tuple::new(parts.map(Value::from).into())))
}

fn invalid(text: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, text)
}
