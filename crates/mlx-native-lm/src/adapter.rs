//! LoRA and DoRA adapters: low-rank additions to the matrices of a model, `y = x Wᵀ + scale · (x A) B`, computed beside the matrices,
//! which stay as they are packed. DoRA (Liu et al. 2024) gives each row of `W + scale · (A B)ᵀ` a length of its own, its magnitude.
//!
//! Two layouts are read. mlx-lm's: `adapter_config.json` and `adapters.safetensors` with `PATH.lora_a` `[inputs, rank]`,
//! `PATH.lora_b` `[rank, outputs]` and, of DoRA, `PATH.m` `[outputs]`. PEFT's: `adapter_config.json` and `adapter_model.safetensors`
//! with `base_model.model.PATH.lora_A.weight` `[rank, inputs]`, `PATH.lora_B.weight` `[outputs, rank]` and, of DoRA,
//! `PATH.lora_magnitude_vector` `[outputs]`.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use half::{bf16, f16};
use mlx_native::quant::Weight;
use mlx_native::weights::SafetensorsFile;
use mlx_native::{DType, MlxBuffer};

use crate::error::{LmError, Result};
use crate::json::parse_object;
use crate::tensors::{Part, Source};

/// Longest `adapter_config.json`, in bytes.
const MAX_CONFIG: u64 = 1 << 20;
/// Largest rank.
const MAX_RANK: usize = 4096;

/// What is added to one matrix.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LowRank {
    pub rank: usize,
    pub inputs: usize,
    pub outputs: usize,
    /// `[rank, inputs]`: A as a matrix that multiplies from the left.
    pub a: Vec<f32>,
    /// `[outputs, rank]`
    pub b: Vec<f32>,
    pub scale: f32,
    /// Of DoRA: the length of each row.
    pub magnitude: Option<Vec<f32>>,
}

/// An adapter that was read.
#[derive(Debug)]
pub(crate) struct Adapter {
    parts: BTreeMap<String, LowRank>,
    name: String,
    /// Of the files' contents.
    pub fingerprint: [u8; 32],
}

impl Adapter {
    /// Reads the adapter in `folder`.
    ///
    /// # Errors
    /// [`LmError::Folder`], [`LmError::Config`] or [`LmError::Weights`] naming what is missing or damaged; [`LmError::Unsupported`]
    /// for what is no LoRA.
    pub fn open(folder: &Path) -> Result<Self> {
        let name = folder.display().to_string();
        let place = folder.join("adapter_config.json");
        let cannot = |e: std::io::Error| LmError::Folder(format!("{}: {e}", place.display()));
        let size = std::fs::metadata(&place).map_err(cannot)?.len();
        if size > MAX_CONFIG {
            return Err(LmError::Config(format!(
                "{}: {size} bytes, wanted at most {MAX_CONFIG}",
                place.display()
            )));
        }
        let text = std::fs::read(&place).map_err(cannot)?;
        let map = parse_object(&place.display().to_string(), &text)?;
        let is_peft = folder.join("adapter_model.safetensors").is_file();
        let file = if is_peft {
            "adapter_model.safetensors"
        } else {
            "adapters.safetensors"
        };
        let file = SafetensorsFile::open(folder.join(file))?;
        let rules = Rules::read(&map, is_peft).map_err(|e| LmError::Config(format!("{name}: {e}")))?;
        let parts = read_parts(&file, &rules, is_peft)?;
        if parts.is_empty() {
            return Err(LmError::Weights(format!(
                "{name}: the adapter has no tensors of LoRA"
            )));
        }
        let mut hash = <sha2::Sha256 as sha2::Digest>::new();
        sha2::Digest::update(&mut hash, &text);
        for (tensor, _) in file.tensors() {
            sha2::Digest::update(&mut hash, tensor.as_bytes());
            sha2::Digest::update(&mut hash, file.bytes(tensor)?);
        }
        let fingerprint = sha2::Digest::finalize(hash).into();
        Ok(Adapter {
            parts,
            name,
            fingerprint,
        })
    }

    /// What is added to the matrix at `path`.
    pub fn of(&self, path: &str) -> Option<&LowRank> {
        self.parts.get(path)
    }

    /// Every part of the adapter has a matrix of its size among `parts`.
    ///
    /// # Errors
    /// [`LmError::Weights`], naming the first that has none.
    pub fn must_fit(&self, parts: &[Part]) -> Result<()> {
        for (path, low) in &self.parts {
            let found = parts.iter().find(|part| part.matrix && part.path == *path);
            match found.map(|part| &part.shape[..]) {
                Some(shape) if *shape == [low.outputs, low.inputs] => {}
                Some(shape) => {
                    return Err(LmError::Weights(format!(
                        "the adapter's matrices of {path} have {} inputs and {} outputs, the model's matrix is {shape:?}",
                        low.inputs, low.outputs
                    )));
                }
                None => {
                    return Err(LmError::Weights(format!(
                        "the model has no matrix for {path} of the adapter {}",
                        self.name
                    )));
                }
            }
        }
        Ok(())
    }

    /// A source of the model's tensors that knows the adapter too.
    pub fn over<'a>(&'a self, inner: Box<dyn Source + 'a>) -> Box<dyn Source + 'a> {
        Box::new(AdaptedSource {
            inner,
            adapter: self,
            used: RefCell::new(BTreeSet::new()),
        })
    }
}

/// What the configuration says of scales.
struct Rules {
    scale: Scale,
    /// Rank of all matrices, where it is said.
    rank: Option<usize>,
    /// Whether every matrix has a magnitude.
    is_dora: bool,
}

fn rank_of(map: &serde_json::Map<String, serde_json::Value>, key: &str) -> Result<Option<usize>> {
    match map.get(key) {
        None | Some(serde_json::Value::Null) => Ok(None),
        Some(value) => match value.as_u64().filter(|rank| (1..=MAX_RANK as u64).contains(rank)) {
            Some(rank) => Ok(Some(rank as usize)),
            None => Err(LmError::Config(format!(
                "{key}: found {value}, wanted 1 to {MAX_RANK}"
            ))),
        },
    }
}

enum Scale {
    /// mlx-lm's: one number.
    Fixed(f32),
    /// PEFT's: a number by the rank, or by its root.
    ByRank { alpha: f32, root: bool },
}

impl Rules {
    fn read(map: &serde_json::Map<String, serde_json::Value>, is_peft: bool) -> Result<Self> {
        let number = |map: &serde_json::Map<String, serde_json::Value>, key: &str| match map.get(key) {
            None | Some(serde_json::Value::Null) => Ok(None),
            Some(value) => match value.as_f64().filter(|v| v.is_finite()) {
                Some(v) => Ok(Some(v as f32)),
                None => Err(LmError::Config(format!("{key}: found {value}, wanted a number"))),
            },
        };
        let flag = |key: &str| map.get(key).and_then(serde_json::Value::as_bool).unwrap_or(false);
        if is_peft {
            if let Some(kind) = map
                .get("peft_type")
                .and_then(|v| v.as_str())
                .filter(|k| *k != "LORA")
            {
                return Err(LmError::Unsupported(format!("an adapter of type {kind}")));
            }
            for key in ["fan_in_fan_out", "lora_bias"] {
                if flag(key) {
                    return Err(LmError::Unsupported(format!("{key} of an adapter")));
                }
            }
            for key in ["rank_pattern", "alpha_pattern"] {
                let empty = |v: &serde_json::Value| {
                    v.is_null() || v.as_object().is_some_and(serde_json::Map::is_empty)
                };
                if map.get(key).is_some_and(|v| !empty(v)) {
                    return Err(LmError::Unsupported(format!("{key} of an adapter")));
                }
            }
            if let Some(bias) = map.get("bias").and_then(|v| v.as_str()).filter(|b| *b != "none") {
                return Err(LmError::Unsupported(format!("bias {bias:?} of an adapter")));
            }
            let alpha = number(map, "lora_alpha")?.unwrap_or(8.0);
            return Ok(Rules {
                scale: Scale::ByRank {
                    alpha,
                    root: flag("use_rslora"),
                },
                rank: rank_of(map, "r")?,
                is_dora: flag("use_dora"),
            });
        }
        match map.get("fine_tune_type").map(|v| (v, v.as_str())) {
            None | Some((_, Some("lora" | "dora"))) => {}
            Some((value, _)) => {
                return Err(LmError::Unsupported(format!(
                    "fine_tune_type {value} of an adapter"
                )));
            }
        }
        // Older files have the parameters at the top.
        let inner = map
            .get("lora_parameters")
            .and_then(serde_json::Value::as_object)
            .unwrap_or(map);
        let scale = match number(inner, "scale")? {
            Some(scale) => Scale::Fixed(scale),
            None => match number(inner, "alpha")? {
                Some(alpha) => Scale::ByRank { alpha, root: false },
                None => return Err(LmError::Config("lora_parameters.scale is missing".to_owned())),
            },
        };
        Ok(Rules {
            scale,
            rank: rank_of(inner, "rank")?,
            is_dora: map.get("fine_tune_type").and_then(|v| v.as_str()) == Some("dora") || flag("use_dora"),
        })
    }

    fn of_rank(&self, rank: usize) -> f32 {
        match self.scale {
            Scale::Fixed(scale) => scale,
            Scale::ByRank { alpha, root: false } => alpha / rank as f32,
            Scale::ByRank { alpha, root: true } => alpha / (rank as f32).sqrt(),
        }
    }
}

/// A tensor's part in what is added to a matrix.
#[derive(Debug, Clone, Copy)]
enum Piece {
    A,
    B,
    Magnitude,
}

/// The module's path in a name, and which of its tensors it is.
fn part_of(name: &str, is_peft: bool) -> Option<(&str, Piece)> {
    let endings: &[(&str, Piece)] = match is_peft {
        true => &[
            (".lora_A.weight", Piece::A),
            (".lora_B.weight", Piece::B),
            (".lora_A.default.weight", Piece::A),
            (".lora_B.default.weight", Piece::B),
            (".lora_magnitude_vector", Piece::Magnitude),
            (".lora_magnitude_vector.weight", Piece::Magnitude),
            (".lora_magnitude_vector.default.weight", Piece::Magnitude),
        ],
        false => &[
            (".lora_a", Piece::A),
            (".lora_b", Piece::B),
            (".m", Piece::Magnitude),
        ],
    };
    let name = if is_peft {
        name.strip_prefix("base_model.model.").unwrap_or(name)
    } else {
        name
    };
    endings
        .iter()
        .find_map(|(ending, part)| Some((name.strip_suffix(ending)?, *part)))
}

fn read_parts(file: &SafetensorsFile, rules: &Rules, is_peft: bool) -> Result<BTreeMap<String, LowRank>> {
    let mut tensors: BTreeMap<String, [Option<String>; 3]> = BTreeMap::new();
    for name in file.tensor_names() {
        let Some((path, part)) = part_of(name, is_peft) else {
            return Err(LmError::Unsupported(format!(
                "the adapter's tensor {name}: only those of LoRA and DoRA are known"
            )));
        };
        tensors.entry(path.to_owned()).or_default()[part as usize] = Some(name.to_owned());
    }
    let mut parts = BTreeMap::new();
    for (path, names) in tensors {
        let part = read_part(file, rules, is_peft, &path, names)?;
        parts.insert(path, part);
    }
    Ok(parts)
}

fn read_part(
    file: &SafetensorsFile,
    rules: &Rules,
    is_peft: bool,
    path: &str,
    names: [Option<String>; 3],
) -> Result<LowRank> {
    let [Some(a), Some(b), m] = names else {
        return Err(LmError::Weights(format!(
            "the adapter lacks one of the two matrices of {path}"
        )));
    };
    let (a_shape, b_shape) = (matrix_shape(file, &a)?, matrix_shape(file, &b)?);
    let ([rank, inputs], [outputs, other]) = match is_peft {
        true => (a_shape, b_shape),
        false => ([a_shape[1], a_shape[0]], [b_shape[1], b_shape[0]]),
    };
    if rank == 0 || rank > MAX_RANK || rank != other || rules.rank.is_some_and(|r| r != rank) {
        let said = rules
            .rank
            .map(|r| format!(", the rank is said to be {r}"))
            .unwrap_or_default();
        return Err(LmError::Weights(format!(
            "the adapter's matrices of {path} are {a_shape:?} and {b_shape:?}{said}"
        )));
    }
    let (mut a, mut b) = (floats(file, &a)?, floats(file, &b)?);
    if !is_peft {
        (a, b) = (transposed(&a, a_shape), transposed(&b, b_shape));
    }
    let magnitude = match m {
        None if rules.is_dora => {
            return Err(LmError::Weights(format!(
                "the adapter is DoRA and lacks the magnitude of {path}"
            )));
        }
        None => None,
        Some(m) => {
            let values = floats(file, &m)?;
            if values.len() != outputs {
                return Err(LmError::Weights(format!(
                    "the adapter's tensor {m}: found {} elements, wanted {outputs}",
                    values.len()
                )));
            }
            Some(values)
        }
    };
    Ok(LowRank {
        rank,
        inputs,
        outputs,
        a,
        b,
        scale: rules.of_rank(rank),
        magnitude,
    })
}

fn matrix_shape(file: &SafetensorsFile, name: &str) -> Result<[usize; 2]> {
    let shape = file.info(name).map(|info| info.shape.clone()).unwrap_or_default();
    shape.as_slice().try_into().map_err(|_| {
        LmError::Weights(format!(
            "the adapter's tensor {name}: found {shape:?}, wanted a matrix"
        ))
    })
}

/// The elements of a tensor of the file.
fn floats(file: &SafetensorsFile, name: &str) -> Result<Vec<f32>> {
    let wrong = |what: String| LmError::Weights(format!("the adapter's tensor {name}: {what}"));
    let info = file.info(name).ok_or_else(|| wrong("missing".to_owned()))?;
    let bytes = file.bytes(name)?;
    let values: Vec<f32> = match info.dtype.dtype() {
        Some(DType::F32) => bytes
            .as_chunks()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect(),
        Some(DType::F16) => bytes
            .as_chunks()
            .0
            .iter()
            .map(|b| f16::from_le_bytes(*b).to_f32())
            .collect(),
        Some(DType::BF16) => bytes
            .as_chunks()
            .0
            .iter()
            .map(|b| bf16::from_le_bytes(*b).to_f32())
            .collect(),
        _ => return Err(wrong(format!("found {}, wanted floats", info.dtype.name()))),
    };
    match values.iter().find(|v| !v.is_finite()) {
        Some(value) => Err(wrong(format!("found {value} in it"))),
        None => Ok(values),
    }
}

fn transposed(values: &[f32], [rows, columns]: [usize; 2]) -> Vec<f32> {
    let mut out = Vec::with_capacity(values.len());
    for column in 0..columns {
        out.extend((0..rows).map(|row| values[row * columns + column]));
    }
    out
}

/// A model's tensors with an adapter's beside them.
struct AdaptedSource<'a> {
    inner: Box<dyn Source + 'a>,
    adapter: &'a Adapter,
    used: RefCell<BTreeSet<String>>,
}

impl Source for AdaptedSource<'_> {
    fn shape(&self, name: &str) -> Option<&[usize]> {
        self.inner.shape(name)
    }

    fn load(&mut self, name: &str, dtypes: &[DType], shape: &[usize]) -> Result<MlxBuffer> {
        self.inner.load(name, dtypes, shape)
    }

    fn weight(&mut self, path: &str, lead: &[usize], columns: usize) -> Result<Weight> {
        self.inner.weight(path, lead, columns)
    }

    fn low_rank(&self, path: &str) -> Option<&LowRank> {
        let found = self.adapter.parts.get(path)?;
        self.used.borrow_mut().insert(path.to_owned());
        Some(found)
    }

    fn unread(&self) -> Vec<String> {
        let used = self.used.borrow();
        let mut left = self.inner.unread();
        // What the model has no matrix for, or one that takes no additions, would have no effect.
        let unused = self.adapter.parts.keys().filter(|path| !used.contains(*path));
        left.extend(unused.map(|path| format!("{path} of the adapter {}", self.adapter.name)));
        left
    }
}
