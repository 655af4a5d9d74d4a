//! Methods of texts, lists, dictionaries and the rest.

use std::cell::Cell;

use super::calls::{Given, view};
use super::error::{Error, Res};
use super::interp::Interp;
use super::methods_text::{PLAIN_TEXT, TEXT, text_method};
use super::ops::{contains, equal};
use super::value::{Dict, Object, Value, ViewKind, iterate};

/// What is known of a name.
pub(crate) enum Found {
    Method,
    /// A method that would change the value: templates may not.
    Changes,
    Nothing,
}

const LIST_CHANGES: [&str; 8] = [
    "append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort",
];
const DICT_CHANGES: [&str; 5] = ["clear", "pop", "popitem", "setdefault", "update"];

/// Whether a value has a method of this name.
pub(crate) fn find(value: &Value, name: &str) -> Found {
    let one_of = |names: &[&str]| {
        if names.contains(&name) {
            Found::Method
        } else {
            Found::Nothing
        }
    };
    match value {
        Value::Str(_) => one_of(&TEXT[..PLAIN_TEXT]),
        Value::Markup(_) => one_of(&TEXT[..TEXT.len() - 1]),
        Value::List(_) if LIST_CHANGES.contains(&name) => Found::Changes,
        Value::List(_) => one_of(&["copy", "count", "index"]),
        Value::Tuple(_) => one_of(&["count", "index"]),
        Value::Dict(_) if DICT_CHANGES.contains(&name) => Found::Changes,
        Value::Dict(_) => one_of(&["copy", "fromkeys", "get", "items", "keys", "values"]),
        Value::Int(_) | Value::BigInt(_) | Value::Bool(_) => one_of(&[
            "bit_length",
            "bit_count",
            "conjugate",
            "as_integer_ratio",
            "to_bytes",
            "from_bytes",
        ]),
        Value::Float(_) => one_of(&["is_integer", "conjugate", "hex", "fromhex", "as_integer_ratio"]),
        Value::Object(object) => match &**object {
            Object::Range { .. } => one_of(&["count", "index"]),
            Object::View {
                kind: ViewKind::Values,
                ..
            } => Found::Nothing,
            Object::View { .. } => one_of(&["isdisjoint"]),
            Object::Cycler { .. } => one_of(&["next", "reset"]),
            Object::Loop(_) => one_of(&["cycle", "changed"]),
            Object::DictType => one_of(&["fromkeys"]),
            _ => Found::Nothing,
        },
        Value::None | Value::Undefined(_) => Found::Nothing,
    }
}

/// Calls a method.
pub(crate) fn call(interp: &mut Interp<'_>, of: &Value, name: &str, given: Given) -> Res<Value> {
    match of {
        Value::Str(text) | Value::Markup(text) => text_method(interp, of, text, name, given),
        Value::List(_) | Value::Tuple(_) => sequence_method(interp, of, name, given),
        Value::Dict(dict) => dict_method(interp, of, dict, name, given),
        Value::Object(object) => match &**object {
            Object::Range { .. } => sequence_method(interp, of, name, given),
            Object::Cycler { items, at } => cycler_method(&items.items, at, name, given),
            Object::Loop(state) => match name {
                "cycle" => state.cycle(&given.positional),
                _ => Ok(Value::Bool(state.has_changed(given.positional, &interp.budget)?)),
            },
            Object::DictType => from_keys(interp, given),
            Object::View { .. } => {
                let [other] = given.bind(name, ["other"])?;
                let other = required(name, other)?;
                for item in iterate(&other, &interp.budget)? {
                    if contains(of, &item, &interp.budget)? {
                        return Ok(Value::Bool(false));
                    }
                }
                Ok(Value::Bool(true))
            }
            _ => unsupported(of, name),
        },
        Value::Float(f) => match name {
            "is_integer" => {
                given.bind(name, [])?;
                Ok(Value::Bool(f.fract() == 0.0))
            }
            "conjugate" => Ok(of.clone()),
            _ => unsupported(of, name),
        },
        _ => match (of.as_int(), name) {
            (Some(n), "bit_length") => Ok(Value::Int(i128::from(128 - n.unsigned_abs().leading_zeros()))),
            (Some(n), "bit_count") => Ok(Value::Int(i128::from(n.unsigned_abs().count_ones()))),
            (Some(n), "conjugate") => Ok(Value::Int(n)),
            (Some(n), "as_integer_ratio") => Value::tuple(vec![Value::Int(n), Value::Int(1)]),
            _ => unsupported(of, name),
        },
    }
}

pub(super) fn unsupported(of: &Value, name: &str) -> Res<Value> {
    Err(Error::new(format!(
        "the method '{name}' of '{}' is not supported",
        of.type_name()
    )))
}

pub(super) fn required(what: &str, value: Option<Value>) -> Res<Value> {
    match value {
        Some(Value::Undefined(u)) => Err(Error::new(format!("undefined value: {}", u.hint))),
        Some(value) => Ok(value),
        None => Err(Error::new(format!("{what}: an argument is missing"))),
    }
}

fn cycler_method(items: &[Value], at: &Cell<usize>, name: &str, given: Given) -> Res<Value> {
    given.bind(name, [])?;
    if name == "reset" {
        at.set(0);
        return Ok(Value::None);
    }
    let value = items[at.get()].clone();
    at.set((at.get() + 1) % items.len());
    Ok(value)
}

fn sequence_method(interp: &mut Interp<'_>, of: &Value, name: &str, given: Given) -> Res<Value> {
    if name == "copy" {
        given.bind(name, [])?;
        // What cannot be changed is its own copy.
        return Ok(of.clone());
    }
    let [wanted, start, stop] = given.bind(name, ["value", "start", "stop"])?;
    let wanted = wanted.ok_or_else(|| Error::new(format!("{name}: an argument is missing")))?;
    let items = iterate(of, &interp.budget)?;
    let bound = |value: Option<Value>, default: usize| match value.as_ref().map(Value::as_int) {
        None => Ok(default),
        Some(Some(n)) => {
            let n = if n < 0 { n + items.len() as i128 } else { n };
            Ok(usize::try_from(n.max(0)).unwrap_or(usize::MAX).min(items.len()))
        }
        Some(None) => Err(Error::new(format!("{name}: bounds must be integers"))),
    };
    let (start, stop) = (bound(start, 0)?, bound(stop, items.len())?);
    let mut count = 0;
    for (at, item) in items.iter().enumerate().take(stop).skip(start) {
        if item.is_same(&wanted) || equal(item, &wanted, &interp.budget)? {
            if name == "index" {
                return Ok(Value::Int(at as i128));
            }
            count += 1;
        }
    }
    match name {
        "count" => Ok(Value::Int(count)),
        _ => Err(Error::new("index: the value is not in the list")),
    }
}

fn dict_method(
    interp: &mut Interp<'_>,
    of: &Value,
    dict: &std::rc::Rc<Dict>,
    name: &str,
    given: Given,
) -> Res<Value> {
    match name {
        "get" => {
            if !given.named.is_empty() {
                return Err(Error::new("get: takes no keyword arguments"));
            }
            let [key, default] = given.bind(name, ["key", "default"])?;
            let key = key.ok_or_else(|| Error::new("get: an argument is missing"))?;
            let found = dict.get(&key, &interp.budget)?.cloned();
            Ok(found.or(default).unwrap_or(Value::None))
        }
        "fromkeys" => from_keys(interp, given),
        _ => {
            given.bind(name, [])?;
            Ok(match name {
                "items" => view(dict, ViewKind::Items),
                "keys" => view(dict, ViewKind::Keys),
                "values" => view(dict, ViewKind::Values),
                _ => of.clone(),
            })
        }
    }
}

/// `dict.fromkeys`.
fn from_keys(interp: &mut Interp<'_>, given: Given) -> Res<Value> {
    let [keys, value] = given.bind("fromkeys", ["iterable", "value"])?;
    let keys = keys.ok_or_else(|| Error::new("fromkeys: an argument is missing"))?;
    let value = value.unwrap_or(Value::None);
    let keys = iterate(&keys, &interp.budget)?;
    let entries = keys.into_iter().map(|key| (key, value.clone()));
    Ok(Value::Dict(Dict::new(entries.collect(), &interp.budget)?))
}
