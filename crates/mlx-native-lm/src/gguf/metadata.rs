//! Metadata of a GGUF model, with errors that name the file and the key.

use std::fmt::Display;

use mlx_native::gguf::{GgufFile, GgufModel, MetadataValue};

use crate::error::{LmError, Result};

/// The metadata of one model; keys of its architecture are asked for without the architecture.
pub(super) struct Metadata<'a> {
    file: &'a GgufFile,
    /// `general.architecture`.
    pub arch: &'a str,
}

impl<'a> Metadata<'a> {
    /// # Errors
    /// [`LmError::Config`] when the file does not say its architecture.
    pub fn new(model: &'a GgufModel) -> Result<Self> {
        let file = model.first();
        let mut meta = Metadata { file, arch: "" };
        meta.arch = meta.string("general.architecture")?;
        Ok(meta)
    }

    /// An error about a key.
    pub fn invalid(&self, key: &str, found: impl Display, wanted: &str) -> LmError {
        LmError::Config(format!(
            "{}: {key}: found {found}, wanted {wanted}",
            self.file.path().display()
        ))
    }

    /// An error about something that is not supported.
    pub fn unsupported(&self, what: impl Display) -> LmError {
        LmError::Unsupported(format!("{}: {what}", self.file.path().display()))
    }

    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.arch)
    }

    /// A string that must be there.
    pub fn string(&self, key: &str) -> Result<&'a str> {
        self.string_or(key)?
            .ok_or_else(|| self.invalid(key, "nothing", "a string"))
    }

    /// A string.
    pub fn string_or(&self, key: &str) -> Result<Option<&'a str>> {
        match (self.file.metadata_string(key), self.has(key)) {
            (Some(text), _) => Ok(Some(text)),
            (None, false) => Ok(None),
            (None, true) => Err(self.invalid(key, "something else", "a string")),
        }
    }

    /// Whether there is such a key.
    pub fn has(&self, key: &str) -> bool {
        self.file.metadata_keys().any(|k| k == key)
    }

    /// A truth value.
    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        match (self.file.metadata_bool(key), self.has(key)) {
            (None, true) => Err(self.invalid(key, "something else", "true or false")),
            (value, _) => Ok(value),
        }
    }

    /// The strings of an array.
    pub fn strings(&self, key: &str) -> Result<Option<Vec<&'a str>>> {
        match (self.file.metadata_strings(key), self.has(key)) {
            (None, true) => Err(self.invalid(key, "something else", "an array of strings")),
            (value, _) => Ok(value),
        }
    }

    /// The numbers of an array of f32.
    pub fn floats(&self, key: &str) -> Result<Option<Vec<f32>>> {
        match (self.file.metadata_f32s(key), self.has(key)) {
            (None, true) => Err(self.invalid(key, "something else", "an array of f32")),
            (value, _) => Ok(value),
        }
    }

    /// The numbers of an array of i32 or u32.
    pub fn integers(&self, key: &str) -> Result<Option<Vec<i32>>> {
        match (self.file.metadata_i32s(key), self.has(key)) {
            (None, true) => Err(self.invalid(key, "something else", "an array of i32 or u32")),
            (value, _) => Ok(value),
        }
    }

    /// A whole number of at most 32 bits, under its full key.
    pub fn id(&self, key: &str) -> Result<Option<u32>> {
        match (self.file.metadata_u32(key), self.has(key)) {
            (None, true) => Err(self.invalid(key, "something else", "a whole number of 32 bits")),
            (value, _) => Ok(value),
        }
    }

    /// A whole number of the architecture. An array of equal ones, one a layer, counts as one of them.
    pub fn count_or(&self, key: &str) -> Result<Option<u64>> {
        let key = self.key(key);
        let Some(value) = self.file.metadata(&key).filter(|_| self.has(&key)) else {
            return Ok(None);
        };
        if let Some(list) = value.as_array() {
            let numbers: Option<Vec<u64>> = list.iter().map(MetadataValue::as_u64).collect();
            return match numbers.as_deref() {
                Some([first, rest @ ..]) if rest.iter().all(|n| n == first) => Ok(Some(*first)),
                Some([_, ..]) => Err(self.unsupported(format!("{key} differs from layer to layer"))),
                _ => Err(self.invalid(&key, "an array of something else", "a whole number")),
            };
        }
        match value.as_u64() {
            Some(n) => Ok(Some(n)),
            None => Err(self.invalid(&key, "something else", "a whole number")),
        }
    }

    /// The same, which must be there.
    pub fn count(&self, key: &str) -> Result<u64> {
        self.count_or(key)?
            .ok_or_else(|| self.invalid(&self.key(key), "nothing", "a whole number"))
    }

    /// A number of the architecture.
    pub fn float_or(&self, key: &str) -> Result<Option<f64>> {
        let key = self.key(key);
        match (self.file.metadata_f32(&key), self.has(&key)) {
            (Some(v), _) if v.is_finite() => Ok(Some(f64::from(v))),
            (None, false) => Ok(None),
            _ => Err(self.invalid(&key, "something else", "a finite number")),
        }
    }

    /// The same, which must be there.
    pub fn float(&self, key: &str) -> Result<f64> {
        self.float_or(key)?
            .ok_or_else(|| self.invalid(&self.key(key), "nothing", "a finite number"))
    }

    /// A string of the architecture.
    pub fn own_string(&self, key: &str) -> Result<Option<&'a str>> {
        self.string_or(&self.key(key))
    }

    /// A truth value of the architecture.
    pub fn own_flag(&self, key: &str) -> Result<Option<bool>> {
        self.flag(&self.key(key))
    }
}
