//! Reading configuration files: JSON with types checked where it is read, and errors that name the file and the key.

use serde_json::{Map, Value};

use crate::error::{LmError, Result};

/// An object of a configuration file. A key whose value is `null` counts as absent.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a> {
    file: &'a str,
    /// Keys on the way here, with a dot behind each; empty at the top.
    path: &'a str,
    map: &'a Map<String, Value>,
}

/// Parses the text of a file whose top level is an object.
///
/// # Errors
/// [`LmError::Config`] when the text is no JSON, or no object.
pub(crate) fn parse_object(file: &str, text: &[u8]) -> Result<Map<String, Value>> {
    match serde_json::from_slice(text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(other) => Err(LmError::Config(format!(
            "{file}: found {}, wanted an object",
            kind(&other)
        ))),
        Err(e) => Err(LmError::Config(format!("{file}: {e}"))),
    }
}

impl<'a> Fields<'a> {
    pub(crate) fn new(file: &'a str, map: &'a Map<String, Value>) -> Self {
        Fields { file, path: "", map }
    }

    /// The object under `key`, with errors that begin with `path`; `None` when absent.
    pub(crate) fn object(&self, key: &str, path: &'a str) -> Result<Option<Fields<'a>>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Fields {
                file: self.file,
                path,
                map,
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
            })
        };
        let list = value
            .as_array()
            .map(|list| list.iter().map(object).collect::<Option<Vec<_>>>());
        list.flatten()
            .ok_or_else(|| self.wrong(key, value, "a list of objects"))
    }

    /// The keys and values.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&'a str, &'a Value)> {
        self.map.iter().map(|(key, value)| (key.as_str(), value))
    }

    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
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

    /// A token id, or a list of them.
    pub(crate) fn token_ids(&self, key: &str) -> Result<Option<Vec<u32>>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let id = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
        let ids = match value {
            Value::Array(list) => list.iter().map(id).collect(),
            single => id(single).map(|id| vec![id]),
        };
        ids.ok_or_else(|| self.wrong(key, value, "a token id or a list of them"))
            .map(Some)
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

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Object(tagged) if tagged.len() == 1 => match tagged.get("__float__")?.as_str()? {
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            "NaN" => Some(f64::NAN),
            _ => None,
        },
        other => other.as_f64(),
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
