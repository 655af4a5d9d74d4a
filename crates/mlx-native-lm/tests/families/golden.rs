//! The golden files, read.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
pub struct Golden {
    pub case: String,
    pub weights_seed: u64,
    pub config: Value,
    pub tensors: Vec<Tensor>,
    pub prompt_ids: Vec<u32>,
    /// `whole`, or `single` where mlx-lm gets longer calls wrong.
    pub feed: String,
    pub variants: BTreeMap<String, Variant>,
}

/// Name, dtype, shape, and the two numbers of the formula, where there is one.
#[derive(Deserialize)]
#[serde(try_from = "Vec<Value>")]
pub struct Tensor {
    pub name: String,
    pub dtype: String,
    pub shape: Vec<usize>,
    pub c: f64,
    pub a: f64,
    /// Instead of the formula: 1 and -1.
    pub signs: bool,
}

#[derive(Deserialize)]
pub struct Variant {
    pub logits_last: Vec<f32>,
    pub logits_positions: BTreeMap<String, Vec<f32>>,
    pub greedy_ids: Vec<u32>,
    pub logits_after: Vec<f32>,
    pub chunked: Option<Chunked>,
    pub sensitivity: f64,
    pub scale: f64,
    pub quantization: Option<Value>,
    #[serde(default)]
    pub packed: Vec<Packed>,
}

#[derive(Deserialize)]
pub struct Chunked {
    pub split: Vec<usize>,
    pub logits_last: Vec<f32>,
}

/// Path, bits, group size, shape of the words, and the hashes of words and of scales and biases.
#[derive(Deserialize)]
pub struct Packed(
    pub String,
    pub usize,
    pub usize,
    pub Vec<usize>,
    pub String,
    pub String,
);

impl Golden {
    /// The files of a folder whose case or family is asked for, all if none is; by name.
    pub fn read_all(folder: &Path, families: &[String]) -> Result<Vec<Golden>, String> {
        let failed = |e: std::io::Error| format!("{}: {e}", folder.display());
        let mut cases: Vec<Golden> = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_none_or(|e| e != "json") {
                continue;
            }
            let text = std::fs::read(&path).map_err(failed)?;
            let case: Golden =
                serde_json::from_slice(&text).map_err(|e| format!("{}: {e}", path.display()))?;
            let family = case.case.split('.').next().unwrap_or_default();
            if families.is_empty() || families.iter().any(|f| *f == case.case || f == family) {
                cases.push(case);
            }
        }
        cases.sort_by(|a, b| a.case.cmp(&b.case));
        if cases.is_empty() {
            return Err(format!("{}: no golden files of {families:?}", folder.display()));
        }
        Ok(cases)
    }

    /// Whether the tokens of a prompt are fed one by one.
    pub fn fed_singly(&self) -> bool {
        self.feed == "single"
    }
}

impl TryFrom<Vec<Value>> for Tensor {
    type Error = String;

    fn try_from(row: Vec<Value>) -> Result<Self, String> {
        let text = |i: usize| row.get(i).and_then(Value::as_str).map(str::to_owned);
        let shape = row.get(2).and_then(Value::as_array);
        let shape = shape.map(|s| s.iter().filter_map(Value::as_u64).map(|n| n as usize).collect());
        let number = |i: usize| row.get(i).and_then(Value::as_f64).unwrap_or(0.0);
        match (text(0), text(1), shape) {
            (Some(name), Some(dtype), Some(shape)) => Ok(Tensor {
                name,
                dtype,
                shape,
                c: number(3),
                a: number(4),
                signs: text(3).as_deref() == Some("signs"),
            }),
            _ => Err(format!("a tensor of {row:?}")),
        }
    }
}
