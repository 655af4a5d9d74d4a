//! `config.json` of a GGUF file's metadata.

use mlx_native::gguf::GgufModel;
use mlx_native::quant::GgmlType;
use serde_json::{Map, Value, json};

use super::metadata::Metadata;
use crate::error::Result;

/// The architectures that are read.
const ARCHITECTURES: &[&str] = &[
    "llama",
    "qwen2",
    "qwen3",
    "qwen3moe",
    "gemma2",
    "gemma3",
    "gpt-oss",
    "phi3",
    "deepseek2",
];

/// The configuration that MLX's folder of this model would have.
pub(super) fn config(meta: &Metadata<'_>, model: &GgufModel) -> Result<Map<String, Value>> {
    if !ARCHITECTURES.contains(&meta.arch) {
        return Err(meta.unsupported(format!(
            "architecture {:?}; {} are",
            meta.arch,
            ARCHITECTURES.join(", ")
        )));
    }
    let mut c = usual(meta, model)?;
    let experts = meta.count_or("expert_count")?.unwrap_or(0);
    match meta.arch {
        "llama" => llama(meta, model, experts, &mut c)?,
        "qwen2" => set(&mut c, [("model_type", json!("qwen2"))]),
        "qwen3" => set(&mut c, [("model_type", json!("qwen3"))]),
        "qwen3moe" => set(
            &mut c,
            [
                ("model_type", json!("qwen3_moe")),
                ("num_experts", json!(experts)),
                ("num_experts_per_tok", json!(meta.count("expert_used_count")?)),
                (
                    "moe_intermediate_size",
                    json!(meta.count("expert_feed_forward_length")?),
                ),
                ("norm_topk_prob", json!(true)),
                ("decoder_sparse_step", json!(1)),
                ("mlp_only_layers", json!(dense_layers(meta, model)?)),
            ],
        ),
        "gemma2" => gemma2(meta, &mut c)?,
        "gemma3" => gemma3(meta, &mut c)?,
        "gpt-oss" => set(
            &mut c,
            [
                ("model_type", json!("gpt_oss")),
                ("num_local_experts", json!(experts)),
                ("num_experts_per_tok", json!(meta.count("expert_used_count")?)),
                (
                    "intermediate_size",
                    json!(meta.count("expert_feed_forward_length")?),
                ),
                ("sliding_window", json!(meta.count("attention.sliding_window")?)),
            ],
        ),
        "phi3" => phi3(meta, model, &mut c)?,
        _ => deepseek2(meta, experts, &mut c)?,
    }
    rotation(meta, model, &mut c)?;
    Ok(c)
}

fn set<const N: usize>(c: &mut Map<String, Value>, pairs: [(&str, Value); N]) {
    for (key, value) in pairs {
        c.insert(key.to_owned(), value);
    }
}

/// The keys that every family reads.
fn usual(meta: &Metadata<'_>, model: &GgufModel) -> Result<Map<String, Value>> {
    let (hidden, heads) = (
        meta.count("embedding_length")?,
        meta.count("attention.head_count")?,
    );
    if heads == 0 || hidden == 0 {
        return Err(meta.invalid("attention.head_count", heads, "at least one head"));
    }
    let table = model.tensor_info("token_embd.weight");
    let Some([vocab, _]) = table.map(|info| info.shape.as_slice()) else {
        // Says so where the type is unknown.
        if model.contains("token_embd.weight") {
            model.tensor_bytes("token_embd.weight")?;
        }
        return Err(meta.invalid("token_embd.weight", "no matrix", "the table of tokens"));
    };
    let mut c = Map::new();
    set(
        &mut c,
        [
            ("hidden_size", json!(hidden)),
            ("num_hidden_layers", json!(meta.count("block_count")?)),
            ("num_attention_heads", json!(heads)),
            (
                "num_key_value_heads",
                json!(meta.count_or("attention.head_count_kv")?.unwrap_or(heads)),
            ),
            (
                "rms_norm_eps",
                json!(meta.float("attention.layer_norm_rms_epsilon")?),
            ),
            ("vocab_size", json!(vocab)),
            (
                "hidden_act",
                json!(if meta.arch.starts_with("gemma") {
                    "gelu_pytorch_tanh"
                } else {
                    "silu"
                }),
            ),
            ("max_position_embeddings", json!(meta.count("context_length")?)),
            (
                "rope_theta",
                json!(meta.float_or("rope.freq_base")?.unwrap_or(10_000.0)),
            ),
            ("tie_word_embeddings", json!(!model.contains("output.weight"))),
            ("attention_bias", json!(model.contains("blk.0.attn_q.bias"))),
        ],
    );
    if let Some(inner) = meta.count_or("feed_forward_length")? {
        set(&mut c, [("intermediate_size", json!(inner))]);
    }
    if meta.arch != "deepseek2" {
        let dim = meta.count_or("attention.key_length")?;
        let dim = match (dim, meta.count_or("rope.dimension_count")?) {
            (Some(dim), _) => dim,
            (None, Some(dim)) if meta.arch == "llama" => dim,
            _ => hidden / heads,
        };
        let values = meta.count_or("attention.value_length")?.unwrap_or(dim);
        if values != dim {
            return Err(meta.unsupported(format!("keys of {dim} and values of {values} elements")));
        }
        set(&mut c, [("head_dim", json!(dim))]);
    }
    Ok(c)
}

/// The layers that have no experts.
fn dense_layers(meta: &Metadata<'_>, model: &GgufModel) -> Result<Vec<u64>> {
    // More are refused by whoever reads the configuration.
    let layers = 0..meta.count("block_count")?.min(1 << 12);
    let has_router = |i: &u64| model.contains(&format!("blk.{i}.ffn_gate_inp.weight"));
    Ok(layers.filter(|i| !has_router(i)).collect())
}

fn llama(meta: &Metadata<'_>, model: &GgufModel, experts: u64, c: &mut Map<String, Value>) -> Result<()> {
    set(
        c,
        [
            ("model_type", json!("llama")),
            // The converter has laid the rows of queries and keys so that neighbours turn together.
            ("rope_traditional", json!(true)),
            ("mlp_bias", json!(model.contains("blk.0.ffn_down.bias"))),
        ],
    );
    if experts > 0 {
        let k = meta.count("expert_used_count")?;
        set(
            c,
            [
                ("model_type", json!("mixtral")),
                ("num_local_experts", json!(experts)),
                ("num_experts_per_tok", json!(k)),
            ],
        );
    }
    Ok(())
}

/// What scores of Gemma are divided by the root of: the width of a head, in the largest model that of its share of the
/// stream. `largest` is the number of its layers.
fn query_scalar(meta: &Metadata<'_>, c: &Map<String, Value>, largest: u64) -> Result<Value> {
    if meta.count("block_count")? == largest {
        return Ok(json!(
            meta.count("embedding_length")? / meta.count("attention.head_count")?
        ));
    }
    Ok(c.get("head_dim").cloned().unwrap_or_default())
}

fn gemma2(meta: &Metadata<'_>, c: &mut Map<String, Value>) -> Result<()> {
    let scalar = query_scalar(meta, c, 46)?;
    set(
        c,
        [("model_type", json!("gemma2")), ("query_pre_attn_scalar", scalar)],
    );
    for key in ["attn_logit_softcapping", "final_logit_softcapping"] {
        if let Some(cap) = meta.float_or(key)? {
            set(c, [(key, json!(cap))]);
        }
    }
    Ok(())
}

fn gemma3(meta: &Metadata<'_>, c: &mut Map<String, Value>) -> Result<()> {
    let scalar = query_scalar(meta, c, 62)?;
    let local = meta.float_or("rope.freq_base_swa")?.unwrap_or(10_000.0);
    let global = meta.float_or("rope.freq_base")?.unwrap_or(1e6);
    set(
        c,
        [
            ("model_type", json!("gemma3_text")),
            ("query_pre_attn_scalar", scalar),
            ("rope_local_base_freq", json!(local)),
            ("rope_theta", json!(global)),
            ("sliding_window", json!(meta.count("attention.sliding_window")?)),
            (
                "sliding_window_pattern",
                json!(meta.count_or("attention.sliding_window_pattern")?.unwrap_or(6)),
            ),
        ],
    );
    Ok(())
}

fn phi3(meta: &Metadata<'_>, model: &GgufModel, c: &mut Map<String, Value>) -> Result<()> {
    set(c, [("model_type", json!("phi3"))]);
    let dim = c.get("head_dim").and_then(Value::as_u64).unwrap_or(1);
    if let Some(turned) = meta.count_or("rope.dimension_count")?.filter(|n| *n != dim) {
        // A little more than the quotient: its product is cut to a whole number.
        let share = (turned as f64 + 1e-6) / dim.max(1) as f64;
        set(c, [("partial_rotary_factor", json!(share))]);
    }
    if model.contains("rope_factors_long.weight") {
        let original = meta.count("rope.scaling.original_context_length")?;
        set(
            c,
            [
                ("original_max_position_embeddings", json!(original)),
                (
                    "rope_scaling",
                    json!({
                        "type": "longrope",
                        "long_factor": factors(meta, model, "rope_factors_long.weight")?,
                        "short_factor": factors(meta, model, "rope_factors_short.weight")?,
                    }),
                ),
            ],
        );
    }
    Ok(())
}

fn deepseek2(meta: &Metadata<'_>, experts: u64, c: &mut Map<String, Value>) -> Result<()> {
    let length = |key: &str| match meta.count_or(&format!("attention.{key}_mla"))? {
        Some(n) => Ok(n),
        None => meta.count(&format!("attention.{key}")),
    };
    let (key, value, turned) = (
        length("key_length")?,
        length("value_length")?,
        meta.count("rope.dimension_count")?,
    );
    let Some(plain) = key.checked_sub(turned).filter(|n| *n > 0) else {
        return Err(meta.invalid(
            "attention.key_length",
            key,
            &format!("more than the {turned} that turn"),
        ));
    };
    // 1: softmax, 2: the logistic function.
    let sigmoid = match meta.count_or("expert_gating_func")?.unwrap_or(1) {
        0 | 1 => false,
        2 => true,
        other => return Err(meta.unsupported(format!("expert_gating_func {other}"))),
    };
    let normalised = meta.own_flag("expert_weights_norm")?.unwrap_or(false);
    if normalised && !sigmoid {
        return Err(meta.unsupported("softmax weights of experts that are normalised"));
    }
    set(
        c,
        [
            (
                "model_type",
                json!(if sigmoid { "deepseek_v3" } else { "deepseek_v2" }),
            ),
            ("kv_lora_rank", json!(meta.count("attention.kv_lora_rank")?)),
            ("qk_rope_head_dim", json!(turned)),
            ("qk_nope_head_dim", json!(plain)),
            ("v_head_dim", json!(value)),
            (
                "num_key_value_heads",
                c.get("num_attention_heads").cloned().unwrap_or_default(),
            ),
            ("attention_bias", json!(false)),
            ("norm_topk_prob", json!(normalised)),
            (
                "routed_scaling_factor",
                json!(
                    meta.float_or("expert_weights_scale")?
                        .filter(|v| *v != 0.0)
                        .unwrap_or(1.0)
                ),
            ),
            (
                "first_k_dense_replace",
                json!(meta.count_or("leading_dense_block_count")?.unwrap_or(0)),
            ),
            ("moe_layer_freq", json!(1)),
        ],
    );
    if let Some(rank) = meta.count_or("attention.q_lora_rank")?.filter(|n| *n > 0) {
        set(c, [("q_lora_rank", json!(rank))]);
    }
    if experts > 0 {
        set(
            c,
            [
                ("n_routed_experts", json!(experts)),
                ("num_experts_per_tok", json!(meta.count("expert_used_count")?)),
                (
                    "moe_intermediate_size",
                    json!(meta.count("expert_feed_forward_length")?),
                ),
            ],
        );
        if let Some(n) = meta.count_or("expert_shared_count")?.filter(|n| *n > 0) {
            set(c, [("n_shared_experts", json!(n))]);
        }
        if let Some(groups) = meta.count_or("expert_group_count")?.filter(|n| *n > 1) {
            let used = meta.count("expert_group_used_count")?;
            set(
                c,
                [
                    ("n_group", json!(groups)),
                    ("topk_group", json!(used)),
                    ("topk_method", json!("group_limited_greedy")),
                ],
            );
        }
    }
    Ok(())
}

/// `rope_scaling`, of the metadata or of a tensor of factors.
fn rotation(meta: &Metadata<'_>, model: &GgufModel, c: &mut Map<String, Value>) -> Result<()> {
    let kind = meta.own_string("rope.scaling.type")?.unwrap_or("none");
    let factor = meta.float_or("rope.scaling.factor")?;
    if meta.arch != "phi3" && meta.arch != "deepseek2" {
        let dim = c.get("head_dim").and_then(Value::as_u64).unwrap_or(0);
        let turned = meta.count_or("rope.dimension_count")?.unwrap_or(dim);
        if turned != dim {
            return Err(meta.unsupported(format!("{turned} of {dim} elements of a head that turn")));
        }
    }
    if model.contains("rope_freqs.weight") {
        if kind != "none" {
            return Err(meta.unsupported(format!("rope scaling {kind:?} beside rope_freqs.weight")));
        }
        let long = factors(meta, model, "rope_freqs.weight")?;
        // Factors alone: of equal contexts no factor of attention follows.
        let context = c.get("max_position_embeddings").cloned().unwrap_or_default();
        let pairs = c.get("rope_traditional").cloned().unwrap_or(json!(false));
        let scaling = json!({
            "rope_type": "longrope", "rope_traditional": pairs, "long_factor": long, "short_factor": long,
            "original_max_position_embeddings": context,
        });
        set(c, [("rope_scaling", scaling)]);
        return Ok(());
    }
    let scaling = match (kind, factor) {
        ("none", _) | ("linear", None) => return Ok(()),
        ("longrope", _) if meta.arch == "phi3" => return Ok(()),
        ("linear", Some(factor)) => json!({"type": "linear", "factor": factor}),
        ("yarn", Some(factor)) => {
            let mut scaling = json!({
                "type": "yarn", "factor": factor,
                "original_max_position_embeddings": meta.count("rope.scaling.original_context_length")?,
                "beta_fast": meta.float_or("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
                "beta_slow": meta.float_or("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
            });
            // A tenth of what configurations call mscale_all_dim; DeepSeek's files have the same for mscale.
            if let Some(log) = meta
                .float_or("rope.scaling.yarn_log_multiplier")?
                .filter(|v| *v != 0.0)
            {
                scaling["mscale"] = json!(log * 10.0);
                scaling["mscale_all_dim"] = json!(log * 10.0);
            }
            scaling
        }
        (kind, _) => return Err(meta.unsupported(format!("rope scaling {kind:?}, factor {factor:?}"))),
    };
    set(c, [("rope_scaling", scaling)]);
    Ok(())
}

/// The numbers of a small F32 tensor.
fn factors(meta: &Metadata<'_>, model: &GgufModel, name: &str) -> Result<Vec<f32>> {
    const MOST: usize = 1 << 12;
    match model.tensor_info(name) {
        Some(info) if info.ggml_type == GgmlType::F32 && info.byte_len <= 4 * MOST => {
            let bytes = model.tensor_bytes(name)?;
            let words = bytes.chunks_exact(4);
            Ok(words
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect())
        }
        _ => Err(meta.invalid(name, "something else", "a short F32 tensor")),
    }
}
