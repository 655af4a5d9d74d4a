//! Reading a request: types are checked where a field is read, null counts as absent, and an error names the field.

use serde_json::{Map, Value};

use crate::error::{ApiError, ApiResult};

/// An object of a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fields<'a> {
    map: &'a Map<String, Value>,
    path: &'a str,
}

pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

impl<'a> Fields<'a> {
    pub fn new(map: &'a Map<String, Value>) -> Self {
        Fields { map, path: "" }
    }

    /// An object inside, whose fields are called `path` and their own name.
    pub fn inside(map: &'a Map<String, Value>, path: &'a str) -> Self {
        Fields { map, path }
    }

    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    /// The name of a field, for errors.
    pub fn name(&self, key: &str) -> String {
        format!("{}{key}", self.path)
    }

    pub fn wrong(&self, key: &str, found: &Value, wanted: &str) -> ApiError {
        ApiError::invalid(self.name(key), format!("found {}, wanted {wanted}", kind(found)))
    }

    pub fn str(&self, key: &str) -> ApiResult<Option<&'a str>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(key, other, "a string")),
        }
    }

    pub fn bool(&self, key: &str) -> ApiResult<Option<bool>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(self.wrong(key, other, "a boolean")),
        }
    }

    pub fn f32(&self, key: &str) -> ApiResult<Option<f32>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Number(n)) => {
                let n = n.as_f64().unwrap_or(f64::INFINITY) as f32;
                if n.is_finite() {
                    Ok(Some(n))
                } else {
                    Err(ApiError::invalid(
                        self.name(key),
                        "found a number that is too large",
                    ))
                }
            }
            Some(other) => Err(self.wrong(key, other, "a number")),
        }
    }

    /// A number between two others, both possible.
    pub fn f32_within(&self, key: &str, least: f32, most: f32) -> ApiResult<Option<f32>> {
        match self.f32(key)? {
            Some(n) if !(least..=most).contains(&n) => Err(ApiError::invalid(
                self.name(key),
                format!("found {n}, wanted a number from {least} to {most}"),
            )),
            n => Ok(n),
        }
    }

    /// A whole number; `10.0` is one too.
    pub fn i64(&self, key: &str) -> ApiResult<Option<i64>> {
        let whole = |n: &serde_json::Number| {
            let float = n.as_f64().filter(|f| f.fract() == 0.0 && f.abs() < 9e15);
            n.as_i64()
                .or_else(|| n.as_u64().map(|n| n as i64))
                .or(float.map(|f| f as i64))
        };
        match self.get(key) {
            None => Ok(None),
            Some(Value::Number(n)) => match whole(n) {
                Some(n) => Ok(Some(n)),
                None => Err(ApiError::invalid(
                    self.name(key),
                    format!("found {n}, wanted a whole number"),
                )),
            },
            Some(other) => Err(self.wrong(key, other, "a whole number")),
        }
    }

    pub fn usize(&self, key: &str, least: usize, most: usize) -> ApiResult<Option<usize>> {
        let Some(n) = self.i64(key)? else { return Ok(None) };
        match usize::try_from(n).ok().filter(|n| (least..=most).contains(n)) {
            Some(n) => Ok(Some(n)),
            None => Err(ApiError::invalid(
                self.name(key),
                if most == usize::MAX {
                    format!("found {n}, wanted {least} or more")
                } else {
                    format!("found {n}, wanted a whole number from {least} to {most}")
                },
            )),
        }
    }

    pub fn array(&self, key: &str) -> ApiResult<Option<&'a [Value]>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(list)) => Ok(Some(list)),
            Some(other) => Err(self.wrong(key, other, "a list")),
        }
    }

    pub fn object(&self, key: &str) -> ApiResult<Option<&'a Map<String, Value>>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(map)),
            Some(other) => Err(self.wrong(key, other, "an object")),
        }
    }

    pub fn ids(&self, key: &str) -> ApiResult<Option<Vec<u32>>> {
        let Some(list) = self.array(key)? else {
            return Ok(None);
        };
        let id = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
        match list.iter().map(id).collect() {
            Some(ids) => Ok(Some(ids)),
            None => Err(ApiError::invalid(self.name(key), "wanted a list of token ids")),
        }
    }

    /// A string, or a list of strings.
    pub fn strings(&self, key: &str) -> ApiResult<Option<Vec<String>>> {
        let text = |v: &Value| v.as_str().map(str::to_owned);
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(vec![text.clone()])),
            Some(Value::Array(list)) => match list.iter().map(text).collect() {
                Some(texts) => Ok(Some(texts)),
                None => Err(ApiError::invalid(
                    self.name(key),
                    "wanted a string or a list of strings",
                )),
            },
            Some(other) => Err(self.wrong(key, other, "a string or a list of strings")),
        }
    }
}
