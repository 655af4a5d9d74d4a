//! Which bits and group size each tensor has.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::error::{MlxError, Result};

/// The quantisation of a model: defaults, and exceptions by tensor.
#[derive(Debug, Clone, Deserialize)]
pub struct QuantizationConfig {
    /// Bits of a code; 4 unless the file says otherwise.
    #[serde(default = "default_bits")]
    pub bits: u8,
    /// Codes that share a scale and a bias; 64 unless the file says otherwise.
    #[serde(default = "default_group_size")]
    pub group_size: usize,
    /// Exceptions, by the name of the tensor or module.
    #[serde(default)]
    pub per_tensor: HashMap<String, TensorQuantConfig>,
}

/// The quantisation of one tensor.
#[derive(Debug, Clone, Deserialize)]
pub struct TensorQuantConfig {
    /// Bits of a code.
    pub bits: u8,
    /// Codes that share a scale and a bias.
    pub group_size: usize,
}

fn default_bits() -> u8 {
    4
}

fn default_group_size() -> usize {
    64
}

/// What tensor names may end in, besides the module's name.
const SUFFIXES: [&str; 3] = [".weight", ".scales", ".biases"];
/// What names of models that also see begin with.
const LANGUAGE_MODEL: &str = "language_model.";

impl QuantizationConfig {
    /// Reads a file that holds this very structure.
    ///
    /// # Errors
    /// [`MlxError::IoError`] when it cannot be read; else as [`from_json`](Self::from_json).
    pub fn from_file(path: &Path) -> Result<Self> {
        Self::from_json(&read(path)?)
    }

    /// Reads JSON of this very structure.
    ///
    /// # Errors
    /// [`MlxError::QuantConfigError`] with what the parser says.
    pub fn from_json(json: &str) -> Result<Self> {
        serde_json::from_str(json).map_err(|e| MlxError::QuantConfigError(e.to_string()))
    }

    /// Reads the object `quantization` of an MLX `config.json`: `bits` and `group_size`, and for each other key whose value is
    /// an object with `bits` an exception.
    ///
    /// # Errors
    /// [`MlxError::QuantConfigError`] when there is no such object, or a number in it is out of range.
    pub fn from_model_config_json(json: &str) -> Result<Self> {
        let config: Value =
            serde_json::from_str(json).map_err(|e| MlxError::QuantConfigError(e.to_string()))?;
        let Some(Value::Object(section)) = config.get("quantization") else {
            return Err(MlxError::QuantConfigError(
                "there is no object \"quantization\"".to_owned(),
            ));
        };
        let bits = bits_of("quantization", section.get("bits"))?.unwrap_or(default_bits());
        let group_size = size_of("quantization", section.get("group_size"))?.unwrap_or(default_group_size());
        let mut per_tensor = HashMap::new();
        for (name, value) in section {
            if matches!(name.as_str(), "bits" | "group_size" | "quant_method") {
                continue;
            }
            let Some(bits) = value
                .as_object()
                .map(|o| bits_of(name, o.get("bits")))
                .transpose()?
                .flatten()
            else {
                continue;
            };
            let group_size = size_of(name, value.get("group_size"))?.unwrap_or(group_size);
            per_tensor.insert(name.clone(), TensorQuantConfig { bits, group_size });
        }
        Ok(QuantizationConfig {
            bits,
            group_size,
            per_tensor,
        })
    }

    /// [`from_model_config_json`](Self::from_model_config_json) of a file.
    ///
    /// # Errors
    /// [`MlxError::IoError`] when it cannot be read; else as `from_model_config_json`.
    pub fn from_model_config_file(path: &Path) -> Result<Self> {
        Self::from_model_config_json(&read(path)?)
    }

    /// Bits and group size of a tensor. The first exception that fits counts: under the name itself; without `.weight`, `.scales`
    /// or `.biases`; without a leading `language_model.`, or with one put before, and that without the suffix; else the defaults.
    #[must_use]
    pub fn config_for_tensor(&self, tensor_name: &str) -> (u8, usize) {
        let stem = |name: &str| {
            SUFFIXES
                .iter()
                .find_map(|suffix| name.strip_suffix(suffix))
                .unwrap_or(name)
                .to_owned()
        };
        let other = match tensor_name.strip_prefix(LANGUAGE_MODEL) {
            Some(rest) => rest.to_owned(),
            None => format!("{LANGUAGE_MODEL}{tensor_name}"),
        };
        [
            tensor_name.to_owned(),
            stem(tensor_name),
            other.clone(),
            stem(&other),
        ]
        .iter()
        .find_map(|name| self.per_tensor.get(name))
        .map_or((self.bits, self.group_size), |c| (c.bits, c.group_size))
    }
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|e| MlxError::IoError(format!("{}: {e}", path.display())))
}

/// An integer that is there and fits; what is no integer counts as not there.
fn bits_of(name: &str, value: Option<&Value>) -> Result<Option<u8>> {
    let Some(bits) = value.filter(|v| v.is_u64() || v.is_i64()) else {
        return Ok(None);
    };
    match bits.as_u64().and_then(|b| u8::try_from(b).ok()) {
        Some(bits) => Ok(Some(bits)),
        None => Err(MlxError::QuantConfigError(format!(
            "{name}: bits is {bits}, it must be 0 to 255"
        ))),
    }
}

fn size_of(name: &str, value: Option<&Value>) -> Result<Option<usize>> {
    let Some(size) = value.filter(|v| v.is_u64() || v.is_i64()) else {
        return Ok(None);
    };
    match size.as_u64().and_then(|s| usize::try_from(s).ok()) {
        Some(size) => Ok(Some(size)),
        None => Err(MlxError::QuantConfigError(format!(
            "{name}: group_size is {size}, it must not be negative"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_and_exceptions() {
        let c = QuantizationConfig::from_json("{}").unwrap();
        assert_eq!((c.bits, c.group_size, c.per_tensor.len()), (4, 64, 0));
        let c = QuantizationConfig::from_json(
            r#"{"bits": 8, "group_size": 32, "per_tensor": {"a.b": {"bits": 6, "group_size": 16},
                "language_model.c": {"bits": 3, "group_size": 8}}}"#,
        )
        .unwrap();
        for (name, want) in [
            ("a.b", (6, 16)),
            ("a.b.weight", (6, 16)),
            ("a.b.scales", (6, 16)),
            ("language_model.a.b.weight", (6, 16)),
            ("c.biases", (3, 8)),
            ("language_model.c", (3, 8)),
            ("a", (8, 32)),
            ("a.b.bias", (8, 32)),
        ] {
            assert_eq!(c.config_for_tensor(name), want, "{name}");
        }
        assert!(matches!(
            QuantizationConfig::from_json("{"),
            Err(MlxError::QuantConfigError(_))
        ));
        assert!(QuantizationConfig::from_json(r#"{"bits": 256}"#).is_err());
        let gone = QuantizationConfig::from_file(Path::new("/nonexistent.json"));
        assert!(matches!(gone, Err(MlxError::IoError(_))));
    }

    #[test]
    fn the_section_of_a_model_config() {
        let c = QuantizationConfig::from_model_config_json(
            r#"{"model_type": "x", "quantization": {"group_size": 128, "bits": 4, "mode": "affine", "quant_method": {"bits": 1},
                "lm_head": {"bits": 6}, "embed": {"bits": 8, "group_size": 32}, "norm": false, "odd": {"group_size": 1}}}"#,
        )
        .unwrap();
        assert_eq!((c.bits, c.group_size, c.per_tensor.len()), (4, 128, 2));
        assert_eq!(c.config_for_tensor("lm_head.weight"), (6, 128));
        assert_eq!(c.config_for_tensor("embed.scales"), (8, 32));
        for wrong in [
            "{}",
            r#"{"quantization": 4}"#,
            r#"{"quantization": {"bits": 260}}"#,
            "[",
        ] {
            let result = QuantizationConfig::from_model_config_json(wrong);
            assert!(matches!(result, Err(MlxError::QuantConfigError(_))), "{wrong}");
        }
    }
}
