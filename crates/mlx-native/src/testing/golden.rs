//! The golden files under `tests/golden`: what MLX computed.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value;

use super::Tensor;
use crate::weights::SafetensorsFile;

/// One case of a golden file.
#[derive(Debug, Clone)]
pub struct Golden {
    /// Parameters, and how it was made.
    pub params: Value,
    /// Tensors by name.
    pub tensors: HashMap<String, Tensor>,
}

impl Golden {
    /// The cases of `tests/golden/<op>.safetensors`, in order.
    ///
    /// # Panics
    /// When the file is missing or damaged.
    #[must_use]
    pub fn load(op: &str) -> Vec<Golden> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{op}.safetensors"));
        let file = SafetensorsFile::open(&path).unwrap_or_else(|e| panic!("{e}"));
        let metadata = file.metadata();
        let all: Vec<Golden> = (0..)
            .map_while(|i| metadata.get(&format!("case{i}")).map(|text| (i, text)))
            .map(|(i, text)| {
                let prefix = format!("case{i}.");
                let tensors = file
                    .tensors()
                    .filter_map(|(name, info)| {
                        let dtype = info.dtype.dtype().expect("a golden file holds what buffers hold");
                        let bytes = file.bytes(name).expect("a golden file is sound").to_vec();
                        Some((
                            name.strip_prefix(&prefix)?.to_owned(),
                            Tensor::from_bytes(dtype, &info.shape, bytes),
                        ))
                    })
                    .collect();
                Golden {
                    params: serde_json::from_str(text).expect("a case's metadata is JSON"),
                    tensors,
                }
            })
            .collect();
        assert!(!all.is_empty(), "{} has no cases", path.display());
        all
    }

    /// The tensor `name`.
    ///
    /// # Panics
    /// When the case has none.
    #[must_use]
    pub fn tensor(&self, name: &str) -> &Tensor {
        self.tensors
            .get(name)
            .unwrap_or_else(|| panic!("no tensor {name}: {}", self.params))
    }

    /// The whole-number parameter `name`.
    ///
    /// # Panics
    /// When the case has none.
    #[must_use]
    pub fn u32(&self, name: &str) -> u32 {
        let value = self.params[name].as_u64().and_then(|v| u32::try_from(v).ok());
        value.unwrap_or_else(|| panic!("no parameter {name}: {}", self.params))
    }
}
