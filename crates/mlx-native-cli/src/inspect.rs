//! `mlx-native inspect`: what a model is, without running it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use mlx_native::DType;
use mlx_native_lm::{Part, Plan};
use serde_json::{Value, json};

use crate::args::Dtype;
use crate::{place, report};

/// Flags of `inspect`.
#[derive(Debug, Args)]
pub struct Inspect {
    /// Folder of an MLX model, or a .gguf file; without it the demo model.
    #[arg(value_name = "MODEL")]
    pub model: Option<PathBuf>,

    /// Tokens of the context whose memory is computed; default: the model's own, at most 32768.
    #[arg(long, value_name = "N")]
    pub context: Option<usize>,

    /// Type of activations and of the KV cache; `auto` stands for bf16 here.
    #[arg(long, default_value = "auto", value_enum)]
    pub dtype: Dtype,

    /// Every tensor, too.
    #[arg(long)]
    pub tensors: bool,

    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Parts of one format.
#[derive(Default)]
struct Share {
    parts: usize,
    elements: usize,
    bytes: usize,
}

/// Runs the command.
///
/// # Errors
/// What the model's files had to say.
pub fn run(options: &Inspect) -> Result<()> {
    let folder = place::files(options.model.as_ref())?;
    let dtype = options.dtype.dtype().unwrap_or(DType::BF16);
    let spec = folder.decoder_spec()?;
    let context = options
        .context
        .or(spec.max_context.map(|n| n.min(32_768)))
        .unwrap_or(4096);
    // What does not run here is looked at all the same.
    let (plan, reason) = match folder.plan(dtype, context) {
        Ok(plan) => (Some(plan), None),
        Err(error) => (None, Some(error.to_string())),
    };
    let tokenizer = folder
        .tokenizer()
        .map(|t| t.vocab_size())
        .map_err(|e| e.to_string());
    // Read where text is made, so it is known.
    let _ = folder.eos_token_ids(None);
    let unknown = folder.unknown_fields();
    let mut object = json!({
        "family": folder.family().name,
        "model_type": folder.config().model_type()?,
        "layers": spec.layers.len(),
        "hidden_size": spec.hidden_size,
        "vocab_size": spec.vocab_size,
        "max_context": spec.max_context,
        "supported": plan.is_some(),
        "reason": reason,
        "tokenizer": tokenizer.as_ref().ok(),
        "tokenizer_error": tokenizer.as_ref().err(),
        "unknown_fields": unknown,
    });
    if let Some(plan) = &plan {
        let (active_bytes, active) = plan.active(&spec);
        object["parameters"] = json!(plan.parameters());
        object["active_parameters"] = json!(active as u64);
        object["bytes"] = json!(plan.bytes());
        object["bytes_per_token"] = json!(active_bytes as u64);
        object["bits_per_weight"] = json!(plan.bytes() as f64 * 8.0 / plan.parameters().max(1) as f64);
        object["formats"] = formats(plan);
        object["memory"] = json!({
            "context": context,
            "dtype": dtype.name(),
            "weights": plan.bytes(),
            "state": plan.state_bytes,
            "activations": plan.activation_bytes,
            "total": plan.bytes() + plan.state_bytes + plan.activation_bytes,
        });
        if options.tensors {
            object["tensors"] = plan.parts.iter().map(tensor).collect();
        }
    }
    if options.json {
        return report::out(&format!("{object}\n"));
    }
    report::out(&text(&object, plan.as_ref().filter(|_| options.tensors)))
}

fn shares(plan: &Plan) -> BTreeMap<String, Share> {
    let mut shares: BTreeMap<String, Share> = BTreeMap::new();
    for part in &plan.parts {
        let share = shares.entry(part.format.to_string()).or_default();
        share.parts += 1;
        share.elements += part.elements();
        share.bytes += part.bytes();
    }
    shares
}

fn formats(plan: &Plan) -> Value {
    let shares = shares(plan);
    let mut shares: Vec<_> = shares.into_iter().collect();
    shares.sort_by_key(|(_, share)| std::cmp::Reverse(share.elements));
    let total = plan.parameters().max(1) as f64;
    shares
        .into_iter()
        .map(|(format, share)| {
            json!({
                "format": format, "tensors": share.parts, "parameters": share.elements, "bytes": share.bytes,
                "share": share.elements as f64 / total,
            })
        })
        .collect()
}

fn tensor(part: &Part) -> Value {
    json!({"name": part.path, "shape": part.shape, "format": part.format.to_string(), "bytes": part.bytes()})
}

/// Bytes, with a unit that a person reads.
fn size(bytes: &Value) -> String {
    let bytes = bytes.as_f64().unwrap_or(0.0);
    match bytes {
        b if b >= 1e9 => format!("{:.2} GB", b / 1e9),
        b if b >= 1e6 => format!("{:.2} MB", b / 1e6),
        b => format!("{:.1} kB", b / 1e3),
    }
}

fn number(value: &Value) -> String {
    let n = value.as_f64().unwrap_or(0.0);
    match n {
        n if n >= 1e9 => format!("{:.2} B", n / 1e9),
        n => format!("{:.2} M", n / 1e6),
    }
}

fn text(o: &Value, tensors: Option<&Plan>) -> String {
    let mut t = String::new();
    let _ = writeln!(
        t,
        "family      {} (model_type {}), {} layers of {}, vocabulary {}, context {}",
        o["family"].as_str().unwrap_or_default(),
        o["model_type"].as_str().unwrap_or_default(),
        o["layers"],
        o["hidden_size"],
        o["vocab_size"],
        o["max_context"]
            .as_u64()
            .map_or("not said".to_owned(), |n| n.to_string())
    );
    match o["reason"].as_str() {
        Some(reason) => {
            let _ = writeln!(t, "runs here   no: {reason}");
        }
        None => {
            let _ = writeln!(t, "runs here   yes");
        }
    }
    let tokenizer = match (o["tokenizer"].as_u64(), o["tokenizer_error"].as_str()) {
        (Some(n), _) => format!("{n} tokens"),
        (_, error) => format!("none that can be used: {}", error.unwrap_or_default()),
    };
    let _ = writeln!(t, "tokenizer   {tokenizer}");
    if o["parameters"].is_u64() {
        let _ = writeln!(
            t,
            "parameters  {}, {} of them for a token; {:.3} bits each, {} in all, {} for a token",
            number(&o["parameters"]),
            number(&o["active_parameters"]),
            o["bits_per_weight"].as_f64().unwrap_or(0.0),
            size(&o["bytes"]),
            size(&o["bytes_per_token"])
        );
        for f in o["formats"].as_array().into_iter().flatten() {
            let _ = writeln!(
                t,
                "  {:5.1} %   {}: {} tensors, {}",
                100.0 * f["share"].as_f64().unwrap_or(0.0),
                f["format"].as_str().unwrap_or_default(),
                f["tensors"],
                size(&f["bytes"])
            );
        }
        let m = &o["memory"];
        let _ = writeln!(
            t,
            "memory      {} for a context of {} in {}: weights {}, state {}, activations {}",
            size(&m["total"]),
            m["context"],
            m["dtype"].as_str().unwrap_or_default(),
            size(&m["weights"]),
            size(&m["state"]),
            size(&m["activations"])
        );
    }
    let unknown: Vec<&str> = o["unknown_fields"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if !unknown.is_empty() {
        let _ = writeln!(t, "no effect   {}", unknown.join(", "));
    }
    for part in tensors.iter().flat_map(|plan| &plan.parts) {
        let _ = writeln!(t, "{}  {:?}  {}", part.path, part.shape, part.format);
    }
    t
}
