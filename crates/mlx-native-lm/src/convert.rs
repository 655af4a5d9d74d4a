//! Conversion to a folder in MLX's format: what `mlx_lm.convert` writes, from a folder of Hugging Face's or MLX's or from a
//! GGUF file.
//!
//! The tensors of the new folder are those that building the model asks for, under MLX's names: so each family says once what
//! a model is made of. They are read, cast, packed or unpacked one by one and written as they come; at no time is there more
//! than one of them in memory. The folder is written under another name and gets its own when it is whole.

mod predicate;
mod tensor;
mod write;

use std::path::Path;

use mlx_native::DType;
use mlx_native::quant::WeightFormat;
use serde_json::{Map, Value, json};

use crate::adapter::Adapter;
use crate::error::{LmError, Result};
use crate::folder::ModelFolder;
use crate::json::parse_object;
use crate::quantization::{QuantMode, QuantSpec};
use crate::tensors::{Part, Plan, Tensors, generation};
pub use predicate::Recipe;
use predicate::{Choice, Choices};
use tensor::{Converted, Converter};
pub(crate) use write::{Entry, Folder};

/// What [`convert`] does to the tensors.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ConvertOptions {
    /// Pack matrices like this.
    pub quantize: Option<QuantSpec>,
    /// Pack some matrices finer than others; goes with `quantize` in affine mode.
    pub recipe: Option<Recipe>,
    /// Unpack packed matrices.
    pub dequantize: bool,
    /// The dtype of what is not packed, and of scales and biases; else what `config.json` says in `torch_dtype`, else the
    /// tensors' own; for a GGUF file bf16.
    pub dtype: Option<DType>,
}

/// What [`convert`] has written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Report {
    /// Bytes of all tensors.
    pub bytes: u64,
    /// Elements, as they are unpacked.
    pub parameters: u64,
    /// Files with tensors.
    pub shards: usize,
}

impl Report {
    /// Bits of an element on average.
    #[must_use]
    pub fn bits_per_weight(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.parameters.max(1) as f64
    }
}

/// Files that are taken over as they are.
const COPIED: &[&str] = &[
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "tiktoken.model",
    "chat_template.jinja",
];

/// Writes the model in `source` to the new folder `target`, one tensor after the other; `progress` is told the bytes that
/// are written, and how many there will be.
///
/// # Errors
/// [`LmError::InvalidArgument`] when `target` is there already, or options exclude each other; [`LmError::Folder`] when it
/// cannot be written; else as opening the model. Nothing is left of what was begun.
pub fn convert(
    source: &ModelFolder,
    target: &Path,
    options: &ConvertOptions,
    progress: impl FnMut(u64, u64),
) -> Result<Report> {
    write_model(source, target, options, None, progress)
}

/// Writes the model in `source` with the adapter in the folder `adapter` added to its matrices, as `mlx_lm.fuse` does: packed ones are
/// packed again in their format, or, with `dequantize`, left unpacked with all others.
///
/// # Errors
/// As [`convert`] and [`Model::open_adapted`](crate::Model::open_adapted).
pub fn fuse(
    source: &ModelFolder,
    adapter: &Path,
    target: &Path,
    dequantize: bool,
    progress: impl FnMut(u64, u64),
) -> Result<Report> {
    let options = ConvertOptions {
        dequantize,
        ..ConvertOptions::default()
    };
    write_model(source, target, &options, Some(&Adapter::open(adapter)?), progress)
}

fn write_model(
    source: &ModelFolder,
    target: &Path,
    options: &ConvertOptions,
    adapter: Option<&Adapter>,
    mut progress: impl FnMut(u64, u64),
) -> Result<Report> {
    check(options)?;
    let mut folder = Folder::create(target)?;
    let mut config = config_of(source)?;
    let dtype = dtype_of(source, &config, options);
    let spec = source.decoder_spec()?;
    let layers = spec.layers.len();
    let mut plan = Plan::of(source.tensors(), source.quantization(), spec, DType::F32, 1)?;
    plan.parts.extend(carried(source, &plan));
    let family = generation(source.family().name, &source.config().fields());
    let choices = Choices::new(family, options, &plan, layers)?;
    let converter = Converter {
        source,
        dtype,
        unpack: options.dequantize,
        adapter,
    };
    if let Some(adapter) = adapter {
        adapter.must_fit(&plan.parts)?;
    }

    // What each part becomes is known before any is read: so the headers can be written first.
    let mut section = quantization_section(&config, options);
    let fine = config.contains_key("quantization");
    let mut entries: Vec<Entry> = Vec::new();
    let mut work: Vec<(usize, Option<QuantSpec>)> = Vec::new();
    let mut parameters = 0u64;
    for (i, part) in plan.parts.iter().enumerate() {
        let choice = choices.of(part)?;
        if let (Some(choice), Some(section)) = (&choice, &mut section) {
            note(section, &part.path, choice, fine, options);
        }
        let spec = choice.map(|c| c.spec);
        entries.extend(converter.entries(part, spec)?);
        parameters += part.elements() as u64;
        work.push((i, spec));
    }
    let total: u64 = entries.iter().map(|e| e.bytes as u64).sum();
    let mut shards = folder.shards(&entries)?;
    let mut done = 0;
    for (i, spec) in work {
        for Converted { name, bytes } in converter.convert(&plan.parts[i], spec)? {
            shards.write(&name, &bytes)?;
            done += bytes.len() as u64;
            progress(done, total);
        }
    }
    let files = shards.finish(total, parameters)?;

    finish_config(&mut config, section, options);
    folder.write_json("config.json", &Value::Object(config))?;
    for name in COPIED {
        if let Some(bytes) = source.file(name)? {
            folder.write(name, &bytes)?;
        }
    }
    folder.finish()?;
    Ok(Report {
        bytes: total,
        parameters,
        shards: files,
    })
}

/// Tensors that no decoder reads, but mlx-lm wants to find: keys and values of layers that share those of others, what stands
/// before the first layer.
const CARRIED: &[(&str, &[&str])] = &[
    (
        "gemma3n",
        &[".self_attn.k_proj.", ".self_attn.v_proj.", ".self_attn.k_norm."],
    ),
    ("kimi_k3", &[".layers.0.self_attention_res_"]),
];

/// Those of them that the model has and that are not packed.
fn carried(source: &ModelFolder, plan: &Plan) -> Vec<Part> {
    let patterns = CARRIED.iter().find(|(family, _)| *family == source.family().name);
    let (Some((_, patterns)), Tensors::Mlx(stored)) = (patterns, source.tensors()) else {
        return Vec::new();
    };
    let part = |name: &str| {
        let path = name.strip_suffix(".weight")?;
        let info = stored.info(name)?;
        let format = WeightFormat::dense(info.dtype.dtype()?).ok()?;
        let matrix = info.shape.len() > 1;
        let path = if matrix { path } else { name };
        let known = plan.parts.iter().any(|p| p.path == path);
        (!known).then(|| Part {
            path: path.to_owned(),
            shape: info.shape.to_vec(),
            format,
            matrix,
        })
    };
    let wanted = stored.names().filter(|n| patterns.iter().any(|p| n.contains(p)));
    wanted.filter_map(part).collect()
}

fn check(options: &ConvertOptions) -> Result<()> {
    if options.quantize.is_some() && options.dequantize {
        return Err(LmError::InvalidArgument(
            "convert: either quantize or dequantize".to_owned(),
        ));
    }
    match (options.recipe, options.quantize) {
        (None, _) => Ok(()),
        (Some(_), None) => Err(LmError::InvalidArgument(
            "convert: a mixed recipe quantizes".to_owned(),
        )),
        (Some(_), Some(spec)) if spec.mode != QuantMode::Affine => Err(LmError::InvalidArgument(
            "convert: mixed recipes are of affine mode".to_owned(),
        )),
        _ => Ok(()),
    }
}

/// `config.json`, with the ends of a text that `generation_config.json` has, as mlx-lm reads it.
fn config_of(source: &ModelFolder) -> Result<Map<String, Value>> {
    let text = source.file("config.json")?.unwrap_or_default();
    let mut config = parse_object("config.json", &text)?;
    if let Some(text) = source.file("generation_config.json")? {
        let ends = parse_object("generation_config.json", &text).ok();
        let ends = ends.and_then(|g| g.get("eos_token_id").cloned());
        let said = |v: &Value| !(v.is_null() || *v == json!(0) || *v == json!([]));
        if let Some(ends) = ends.filter(said) {
            config.insert("eos_token_id".to_owned(), ends);
        }
    }
    let foreign = !config.contains_key("quantization");
    if let Some(spec) = source.quantization().default_spec().filter(|_| foreign) {
        let mut section = spec_json(spec);
        if spec.mode == QuantMode::Affine {
            section = json!({"group_size": spec.group_size, "bits": spec.bits});
        }
        config.insert("quantization".to_owned(), section);
    }
    if source.weights().is_none() {
        // Rows of queries and keys get the order that they have in MLX.
        config.remove("rope_traditional");
    }
    Ok(config)
}

fn dtype_of(source: &ModelFolder, config: &Map<String, Value>, options: &ConvertOptions) -> Option<DType> {
    let said = config.get("torch_dtype").filter(|v| !v.is_null());
    let said = said.or_else(|| config.get("text_config")?.get("dtype"));
    let said = match said.and_then(Value::as_str) {
        Some("float16") => Some(DType::F16),
        Some("bfloat16") => Some(DType::BF16),
        Some("float32") => Some(DType::F32),
        _ => None,
    };
    let default = source.weights().is_none().then_some(DType::BF16);
    options.dtype.or(said).or(default)
}

fn spec_json(spec: QuantSpec) -> Value {
    json!({"group_size": spec.group_size, "bits": spec.bits, "mode": spec.mode.name()})
}

/// The `quantization` section to begin with: the source's, else what is asked for.
fn quantization_section(config: &Map<String, Value>, options: &ConvertOptions) -> Option<Map<String, Value>> {
    if options.dequantize {
        return None;
    }
    let own = config.get("quantization").and_then(Value::as_object).cloned();
    own.or_else(|| spec_json(options.quantize?).as_object().cloned())
}

/// Notes how a matrix is packed, where the top of the section does not say it.
fn note(section: &mut Map<String, Value>, path: &str, choice: &Choice, fine: bool, options: &ConvertOptions) {
    if let Some(own) = &choice.noted {
        section.insert(path.to_owned(), own.clone());
    } else if let (true, Some(spec)) = (fine, options.quantize) {
        section.insert(path.to_owned(), spec_json(spec));
    }
}

/// Sorted by key, with the section twice, without what mlx-lm leaves out.
fn finish_config(
    config: &mut Map<String, Value>,
    section: Option<Map<String, Value>>,
    options: &ConvertOptions,
) {
    config.remove("_name_or_path");
    config.remove("vision_config");
    if options.dequantize {
        config.remove("quantization");
        config.remove("quantization_config");
    }
    if let Some(section) = section {
        config.insert("quantization".to_owned(), Value::Object(section.clone()));
        config.insert("quantization_config".to_owned(), Value::Object(section));
    }
    let mut sorted: Vec<(String, Value)> = std::mem::take(config).into_iter().collect();
    sorted.sort_by(|a, b| a.0.cmp(&b.0));
    config.extend(sorted);
}

/// The format of a matrix that is packed like `spec`, with scales of `dtype`.
fn format_of(spec: QuantSpec, dtype: DType) -> Result<WeightFormat> {
    Ok(match spec.mode {
        QuantMode::Affine => WeightFormat::affine(spec.bits, spec.group_size, dtype)?,
        QuantMode::Mxfp4 => WeightFormat::Mxfp4,
        QuantMode::Mxfp8 => WeightFormat::Mxfp8,
        QuantMode::Nvfp4 => WeightFormat::Nvfp4 { global_scale: false },
    })
}
