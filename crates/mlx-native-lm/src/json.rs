//! Reading configuration files: JSON as Python reads it, with types checked where it is read, errors that name the file and
//! the key, and a record of the keys that were asked for, so that what nobody read can be found.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use serde_json::{Map, Value};

use crate::error::{LmError, Result};

/// Stands for a number that no [`Value`] can hold: infinities and NaN, as MLX writes them.
pub(crate) const FLOAT_TAG: &str = "__float__";
/// Stands for a whole number beyond 64 bits, with its digits.
pub(crate) const INT_TAG: &str = "__int__";

/// A configuration file: an object, and which of its keys were asked for.
#[derive(Debug)]
pub(crate) struct Document {
    file: &'static str,
    map: Map<String, Value>,
    asked: Asked,
}

/// Paths of keys, as in `rope_scaling.factor`.
#[derive(Debug, Default)]
pub(crate) struct Asked(Mutex<BTreeSet<String>>);

impl Asked {
    fn mark(&self, path: &str, key: &str) {
        // Whoever panicked here left a whole set: it only grows.
        let mut paths = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        paths.insert(format!("{path}{key}"));
    }
}

impl Clone for Document {
    fn clone(&self) -> Self {
        let asked = self.asked.0.lock().unwrap_or_else(PoisonError::into_inner);
        Document {
            file: self.file,
            map: self.map.clone(),
            asked: Asked(Mutex::new(asked.clone())),
        }
    }
}

impl Document {
    /// Parses the text of a file whose top level is an object.
    ///
    /// # Errors
    /// [`LmError::Config`] when the text is no JSON, or no object.
    pub(crate) fn parse(file: &'static str, text: &[u8]) -> Result<Self> {
        Ok(Document {
            file,
            map: parse_object(file, text)?,
            asked: Asked::default(),
        })
    }

    pub(crate) fn fields(&self) -> Fields<'_> {
        Fields {
            file: self.file,
            path: "",
            map: &self.map,
            asked: Some(&self.asked),
        }
    }

    /// Adds a key.
    pub(crate) fn insert(&mut self, key: &str, value: Value) {
        self.map.insert(key.to_owned(), value);
    }

    /// What the file says, without a note that somebody asked.
    pub(crate) fn map(&self) -> &Map<String, Value> {
        &self.map
    }

    /// The fields with a value that nobody asked for: keys, and keys of objects of which some keys were asked for.
    pub(crate) fn unread(&self) -> Vec<(String, &Value)> {
        let asked = self.asked.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut unread = Vec::new();
        unread_in(&self.map, "", &asked, &mut unread);
        unread
    }
}

/// Adds what nobody asked for in `map`, whose keys have `prefix` before them.
fn unread_in<'a>(
    map: &'a Map<String, Value>,
    prefix: &str,
    asked: &BTreeSet<String>,
    unread: &mut Vec<(String, &'a Value)>,
) {
    for (key, value) in map.iter().filter(|(_, value)| !value.is_null()) {
        let path = format!("{prefix}{key}");
        if !endings(&path).any(|ending| asked.contains(ending)) {
            unread.push((path, value));
        } else if let Value::Object(inner) = value {
            let prefix = format!("{path}.");
            let within = |path: &str| {
                let from = asked.range(path.to_owned()..).next();
                from.is_some_and(|first| first.starts_with(path))
            };
            if endings(&prefix).any(within) {
                unread_in(inner, &prefix, asked, unread);
            }
        }
    }
}

/// A path and what is left of it without its first keys: a family that reads a nested configuration names its own objects
/// without the way there.
fn endings(path: &str) -> impl Iterator<Item = &str> {
    let inner = path
        .trim_end_matches('.')
        .match_indices('.')
        .map(|(dot, _)| &path[dot + 1..]);
    std::iter::once(path).chain(inner)
}

/// An object of a configuration file. A key whose value is `null` counts as absent.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a> {
    file: &'a str,
    /// Keys on the way here, with a dot behind each; empty at the top.
    path: &'a str,
    map: &'a Map<String, Value>,
    asked: Option<&'a Asked>,
}

/// Parses a text whose top level is an object, as Python's `json` does: `NaN`, `Infinity` and `-Infinity` are numbers, and
/// so is what is too large for a float. Those become `{"__float__": "Infinity"}`, as MLX writes them, and whole numbers
/// beyond 64 bits `{"__int__": "…"}` with their digits. `what` names the text in errors.
///
/// # Errors
/// [`LmError::Config`] when the text is no JSON, or no object.
pub fn parse_object(what: &str, text: &[u8]) -> Result<Map<String, Value>> {
    if let Some(found) = byte_order_mark(text) {
        return Err(LmError::Config(format!("{what}: {found}")));
    }
    match serde_json::from_slice(&python_numbers(text)) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(other) => Err(LmError::Config(format!(
            "{what}: found {}, wanted an object",
            kind(&other)
        ))),
        Err(e) => Err(LmError::Config(format!("{what}: {e}"))),
    }
}

/// What is wrong with a text that begins as editors of Windows begin theirs: neither JSON nor Python takes it.
pub(crate) fn byte_order_mark(text: &[u8]) -> Option<&'static str> {
    match text {
        [0xEF, 0xBB, 0xBF, ..] => Some("begins with a byte order mark (BOM), wanted UTF-8 without one"),
        [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..] => Some("is UTF-16, wanted UTF-8"),
        _ => None,
    }
}

/// The text with the numbers that Python has and JSON, or a 64-bit number, has not, as tagged objects.
fn python_numbers(text: &[u8]) -> Cow<'_, [u8]> {
    let mut out: Option<Vec<u8>> = None;
    let mut copied = 0;
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        if byte == b'"' {
            at = string_end(text, at);
            continue;
        }
        if !is_word(byte) {
            at += 1;
            continue;
        }
        let len = text[at..].iter().take_while(|b| is_word(**b)).count();
        let word = std::str::from_utf8(&text[at..at + len]).unwrap_or_default();
        if let Some(tagged) = tagged(word) {
            let out = out.get_or_insert_with(Vec::new);
            out.extend_from_slice(&text[copied..at]);
            out.extend_from_slice(tagged.as_bytes());
            copied = at + len;
        }
        at += len;
    }
    match out {
        None => Cow::Borrowed(text),
        Some(mut out) => {
            out.extend_from_slice(&text[copied..]);
            Cow::Owned(out)
        }
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.')
}

/// Where the string that begins at `start` ends; the end of the text where it does not.
fn string_end(text: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(byte) = text.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    text.len()
}

fn tagged(word: &str) -> Option<String> {
    let float = |name: &str| Some(format!(r#"{{"{FLOAT_TAG}":"{name}"}}"#));
    match word {
        "NaN" | "Infinity" | "-Infinity" => return float(word),
        _ => {}
    }
    let digits = word.strip_prefix('-').unwrap_or(word);
    if !digits.as_bytes().first().is_some_and(u8::is_ascii_digit) || digits.len() < 5 {
        return None;
    }
    if digits.bytes().all(|b| b.is_ascii_digit()) {
        // A leading zero is no JSON: the parser says so.
        let long = !digits.starts_with('0') && word.parse::<i64>().is_err() && word.parse::<u64>().is_err();
        return long.then(|| format!(r#"{{"{INT_TAG}":"{word}"}}"#));
    }
    match word.parse::<f64>() {
        Ok(f64::INFINITY) => float("Infinity"),
        Ok(f64::NEG_INFINITY) => float("-Infinity"),
        _ => None,
    }
}

impl<'a> Fields<'a> {
    fn mark(&self, key: &str) {
        if let Some(asked) = self.asked {
            asked.mark(self.path, key);
        }
    }

    /// The object under `key`, with errors that begin with `path`; `None` when absent.
    pub(crate) fn object(&self, key: &str, path: &'a str) -> Result<Option<Fields<'a>>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Fields {
                file: self.file,
                path,
                map,
                asked: self.asked,
            })),
            Some(other) => Err(self.wrong(key, other, "an object")),
        }
    }

    /// The objects of the list under `key`, with errors that begin with `path`; none when absent.
    pub(crate) fn objects(&self, key: &str, path: &'a str) -> Result<Vec<Fields<'a>>> {
        let Some(value) = self.get(key) else {
            return Ok(Vec::new());
        };
        let object = |v: &'a Value| {
            v.as_object().map(|map| Fields {
                file: self.file,
                path,
                map,
                asked: self.asked,
            })
        };
        let list = value
            .as_array()
            .map(|list| list.iter().map(object).collect::<Option<Vec<_>>>());
        list.flatten()
            .ok_or_else(|| self.wrong(key, value, "a list of objects"))
    }

    /// The keys and values. All count as asked for.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&'a str, &'a Value)> {
        for key in self.map.keys() {
            self.mark(key);
        }
        self.map.iter().map(|(key, value)| (key.as_str(), value))
    }

    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.mark(key);
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// A value under `key` that must be there.
    pub(crate) fn require<T>(&self, key: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| LmError::Config(format!("{}: {}{key} is missing", self.file, self.path)))
    }

    pub(crate) fn bool(&self, key: &str) -> Result<Option<bool>> {
        self.get(key)
            .map(|v| v.as_bool().ok_or_else(|| self.wrong(key, v, "true or false")))
            .transpose()
    }

    pub(crate) fn str(&self, key: &str) -> Result<Option<&'a str>> {
        self.get(key)
            .map(|v| v.as_str().ok_or_else(|| self.wrong(key, v, "a string")))
            .transpose()
    }

    /// A number; infinities and NaN may be tagged, as `{"__float__": "Infinity"}`.
    pub(crate) fn f64(&self, key: &str) -> Result<Option<f64>> {
        self.get(key)
            .map(|v| number(v).ok_or_else(|| self.wrong(key, v, "a number")))
            .transpose()
    }

    /// A finite number above zero.
    pub(crate) fn positive(&self, key: &str) -> Result<Option<f64>> {
        let value = self.f64(key)?;
        match value {
            Some(v) if !(v.is_finite() && v > 0.0) => {
                Err(self.invalid(key, format!("{v}"), "a number above 0"))
            }
            _ => Ok(value),
        }
    }

    /// Numbers, all finite and above zero.
    pub(crate) fn positives(&self, key: &str) -> Result<Option<Vec<f64>>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let wrong = || self.wrong(key, value, "a list of numbers above 0");
        let list = value.as_array().ok_or_else(wrong)?;
        let numbers: Option<Vec<f64>> = list
            .iter()
            .map(|v| number(v).filter(|n| n.is_finite() && *n > 0.0))
            .collect();
        numbers.ok_or_else(wrong).map(Some)
    }

    /// Numbers; infinities and NaN may be tagged.
    pub(crate) fn floats(&self, key: &str) -> Result<Option<Vec<f64>>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let list = value
            .as_array()
            .map(|list| list.iter().map(number).collect::<Option<Vec<_>>>());
        list.flatten()
            .map(Some)
            .ok_or_else(|| self.wrong(key, value, "a list of numbers"))
    }

    /// A whole number from 1 to `most`. A float without a fraction counts, as some writers leave them.
    pub(crate) fn count(&self, key: &str, most: usize) -> Result<Option<usize>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let whole = value.as_u64().or_else(|| {
            value
                .as_f64()
                .filter(|f| f.fract() == 0.0 && (0.0..9e15).contains(f))
                .map(|f| f as u64)
        });
        let count = whole
            .and_then(|n| usize::try_from(n).ok())
            .filter(|n| (1..=most).contains(n));
        count
            .ok_or_else(|| self.wrong(key, value, &format!("a whole number from 1 to {most}")))
            .map(Some)
    }

    /// A token id, or a list of them. Those below zero stand for none, as some writers leave them.
    pub(crate) fn token_ids(&self, key: &str) -> Result<Option<Vec<u32>>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let list = match value {
            Value::Array(list) => list.as_slice(),
            single => std::slice::from_ref(single),
        };
        let mut ids = Vec::new();
        for value in list {
            match (value.as_i64(), value.as_u64().and_then(|n| u32::try_from(n).ok())) {
                (_, Some(id)) => ids.push(id),
                (Some(..0), None) => {}
                _ if value.is_null() => {}
                _ => return Err(self.wrong(key, value, "a token id or a list of them")),
            }
        }
        Ok(Some(ids))
    }

    fn wrong(&self, key: &str, found: &Value, wanted: &str) -> LmError {
        let found = match found {
            Value::Number(n) => n.to_string(),
            Value::String(s) if s.len() <= 80 => format!("{s:?}"),
            other => kind(other).to_string(),
        };
        self.invalid(key, found, wanted)
    }

    /// The error for a value that is out of its domain.
    pub(crate) fn invalid(&self, key: &str, found: impl std::fmt::Display, wanted: &str) -> LmError {
        LmError::Config(format!(
            "{}: {}{key}: found {found}, wanted {wanted}",
            self.file, self.path
        ))
    }
}

/// A number, or what stands for one.
pub(crate) fn number(value: &Value) -> Option<f64> {
    let Value::Object(tagged) = value else {
        return value.as_f64();
    };
    let (tag, text) = tagged.iter().next().filter(|_| tagged.len() == 1)?;
    match (tag.as_str(), text.as_str()?) {
        (FLOAT_TAG, "Infinity") => Some(f64::INFINITY),
        (FLOAT_TAG, "-Infinity") => Some(f64::NEG_INFINITY),
        (FLOAT_TAG, "NaN") => Some(f64::NAN),
        (INT_TAG, digits) => digits.parse().ok(),
        _ => None,
    }
}

/// What kind of JSON value this is, in words.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests;
