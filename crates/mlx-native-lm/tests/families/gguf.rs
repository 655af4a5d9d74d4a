//! The same tiny models as GGUF files: written as llama.cpp's converter lays them, opened by the ordinary loader.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::golden::Golden;
use crate::weights::formula;

/// Cases whose models GGUF has, and the architecture it calls them.
const ARCHITECTURES: &[(&str, &str)] = &[
    ("llama", "llama"),
    ("mixtral", "llama"),
    ("qwen2", "qwen2"),
    ("qwen3", "qwen3"),
    ("qwen3_moe", "qwen3moe"),
    ("gemma2", "gemma2"),
    ("gemma3_text", "gemma3"),
    ("gpt_oss", "gpt-oss"),
    ("phi3", "phi3"),
    ("phi3.plain", "phi3"),
    ("deepseek_v2.lite", "deepseek2"),
    ("deepseek_v3", "deepseek2"),
];

/// A GGUF file in the making.
#[derive(Default)]
struct Writer {
    metadata: Vec<u8>,
    entries: u64,
    infos: Vec<u8>,
    tensors: u64,
    data: Vec<u8>,
}

impl Writer {
    fn string(out: &mut Vec<u8>, text: &str) {
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(text.as_bytes());
    }

    fn entry(&mut self, key: &str, ty: u32, value: &[u8]) {
        Self::string(&mut self.metadata, key);
        self.metadata.extend(ty.to_le_bytes());
        self.metadata.extend(value);
        self.entries += 1;
    }

    fn u32(&mut self, key: &str, value: u64) {
        self.entry(key, 4, &(value as u32).to_le_bytes());
    }

    fn f32(&mut self, key: &str, value: f64) {
        self.entry(key, 6, &(value as f32).to_le_bytes());
    }

    fn bool(&mut self, key: &str, value: bool) {
        self.entry(key, 7, &[u8::from(value)]);
    }

    fn text(&mut self, key: &str, value: &str) {
        let mut bytes = Vec::new();
        Self::string(&mut bytes, value);
        self.entry(key, 8, &bytes);
    }

    fn texts(&mut self, key: &str, values: &[String]) {
        let mut bytes = 8u32.to_le_bytes().to_vec();
        bytes.extend((values.len() as u64).to_le_bytes());
        values.iter().for_each(|v| Self::string(&mut bytes, v));
        self.entry(key, 9, &bytes);
    }

    fn tensor(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        Self::string(&mut self.infos, name);
        self.infos.extend((shape.len() as u32).to_le_bytes());
        for extent in shape.iter().rev() {
            self.infos.extend((*extent as u64).to_le_bytes());
        }
        self.infos.extend(0u32.to_le_bytes());
        self.infos.extend((self.data.len() as u64).to_le_bytes());
        self.data.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        self.data.resize(self.data.len().next_multiple_of(32), 0);
        self.tensors += 1;
    }

    fn finish(self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend(self.tensors.to_le_bytes());
        out.extend(self.entries.to_le_bytes());
        out.extend(self.metadata);
        out.extend(self.infos);
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(self.data);
        out
    }
}

/// The case's configuration, but for what GGUF has no key for: scores of Gemma are scaled by the width of a head, YaRN's
/// two factors are one, Qwen's weights of experts have the sum 1, every other layer of GPT-OSS has the window. `None`
/// where GGUF has no such model.
pub fn config(case: &Golden) -> Option<Value> {
    ARCHITECTURES.iter().find(|(name, _)| *name == case.case)?;
    let mut config = case.config.clone();
    // What the format has no words for.
    let is_set = |key: &str| config.get(key).and_then(Value::as_bool) == Some(true);
    let llama3 = config["rope_scaling"]["rope_type"].as_str() == Some("llama3");
    if is_set("rope_traditional")
        || case.case.starts_with("deepseek") && is_set("attention_bias")
        || case.case == "gpt_oss" && llama3
    {
        return None;
    }
    match case.case.as_str() {
        "qwen3_moe" => config["norm_topk_prob"] = Value::Bool(true),
        "gpt_oss" => {
            config.as_object_mut()?.remove("layer_types");
        }
        _ => {}
    }
    let method = config["rope_scaling"]
        .get("rope_type")
        .or(config["rope_scaling"].get("type"));
    if method.and_then(Value::as_str) == Some("default") {
        config["rope_scaling"] = Value::Null;
    }
    if config.get("query_pre_attn_scalar").is_some() {
        config["query_pre_attn_scalar"] = config["head_dim"].clone();
    }
    if let Some(all) = config["rope_scaling"].get("mscale_all_dim").cloned() {
        config["rope_scaling"]["mscale"] = all;
    }
    Some(config)
}

/// Writes the case as a GGUF file, with a configuration of [`config`].
pub fn write(folder: &Path, case: &Golden, config: &Value) -> Result<PathBuf, String> {
    let arch = ARCHITECTURES.iter().find(|(name, _)| *name == case.case);
    let (_, arch) = arch.ok_or_else(|| format!("{}: not in GGUF", case.case))?;
    let mut w = Writer::default();
    metadata(&mut w, arch, config);
    for tensor in &case.tensors {
        let n = tensor.shape.iter().product();
        let mut values = formula(&tensor.name, case.weights_seed, n, tensor.c, tensor.a);
        let name =
            gguf_name(arch, &tensor.name).ok_or_else(|| format!("{}: no name in GGUF", tensor.name))?;
        if arch.starts_with("gemma") && name.contains("norm") {
            values.iter_mut().for_each(|v| *v += 1.0);
        }
        let heads = |key: &str| config[key].as_u64().unwrap_or(1) as usize;
        if *arch == "llama" && name.contains("attn_q.") {
            values = neighbours(&values, heads("num_attention_heads"), tensor.shape[0]);
        } else if *arch == "llama" && name.contains("attn_k.") {
            values = neighbours(&values, heads("num_key_value_heads"), tensor.shape[0]);
        }
        w.tensor(&name, &tensor.shape, &values);
    }
    if let Some(scaling) = case.config["rope_scaling"]
        .as_object()
        .filter(|_| *arch == "phi3")
    {
        for kind in ["long", "short"] {
            let list = scaling[&format!("{kind}_factor")]
                .as_array()
                .cloned()
                .unwrap_or_default();
            let values: Vec<f32> = list.iter().filter_map(Value::as_f64).map(|v| v as f32).collect();
            w.tensor(&format!("rope_factors_{kind}.weight"), &[values.len()], &values);
        }
    }
    if let Some(factors) = llama3_factors(config) {
        w.tensor("rope_freqs.weight", &[factors.len()], &factors);
    }
    let path = folder.join("model.gguf");
    std::fs::write(&path, w.finish()).map_err(|e| e.to_string())?;
    Ok(path)
}

/// What wavelengths of Llama 3 are multiplied with, which the converter writes as a tensor.
fn llama3_factors(config: &Value) -> Option<Vec<f32>> {
    let scaling = config["rope_scaling"].as_object()?;
    scaling.get("rope_type").filter(|kind| *kind == "llama3")?;
    let n = |key: &str| scaling.get(key).and_then(Value::as_f64);
    let (factor, low, high) = (n("factor")?, n("low_freq_factor")?, n("high_freq_factor")?);
    let context = n("original_max_position_embeddings")?;
    let dim = config["hidden_size"].as_f64()? / config["num_attention_heads"].as_f64()?;
    let base = config["rope_theta"].as_f64()?;
    let of_pair = |i: usize| {
        let length = std::f64::consts::TAU * base.powf(2.0 * i as f64 / dim);
        if length < context / high {
            1.0
        } else if length > context / low {
            factor
        } else {
            let smooth = (context / length - low) / (high - low);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    };
    Some((0..dim as usize / 2).map(|i| of_pair(i) as f32).collect())
}

/// Rows of queries or keys as the converter lays them: the two halves of a head's rotation side by side.
fn neighbours(values: &[f32], heads: usize, rows: usize) -> Vec<f32> {
    let (dim, columns) = (rows / heads, values.len() / rows);
    let mut out = Vec::with_capacity(values.len());
    for head in 0..heads {
        for r in 0..dim {
            let from = head * dim + r / 2 + r % 2 * (dim / 2);
            out.extend(&values[from * columns..][..columns]);
        }
    }
    out
}

/// GGUF's name of a tensor of MLX's.
fn gguf_name(arch: &str, name: &str) -> Option<String> {
    match name {
        "model.embed_tokens.weight" => return Some("token_embd.weight".to_owned()),
        "model.norm.weight" => return Some("output_norm.weight".to_owned()),
        "lm_head.weight" => return Some("output.weight".to_owned()),
        _ => {}
    }
    let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
    if rest == "self_attn.sinks" {
        return Some(format!("blk.{layer}.attn_sinks.weight"));
    }
    if rest == "mlp.gate.e_score_correction_bias" {
        return Some(format!("blk.{layer}.exp_probs_b.bias"));
    }
    let (path, kind) = rest.rsplit_once('.')?;
    let gemma = arch.starts_with("gemma");
    let short = match path {
        "input_layernorm" => "attn_norm",
        "post_attention_layernorm" if gemma || arch == "gpt-oss" => "post_attention_norm",
        "post_attention_layernorm" | "pre_feedforward_layernorm" => "ffn_norm",
        "post_feedforward_layernorm" => "post_ffw_norm",
        "mlp.gate_up_proj" => "ffn_up",
        "mlp.gate" | "mlp.router" | "block_sparse_moe.gate" => "ffn_gate_inp",
        "self_attn.embed_q" => "attn_k_b",
        "self_attn.unembed_out" => "attn_v_b",
        "self_attn.kv_a_proj_with_mqa" => "attn_kv_a_mqa",
        "self_attn.o_proj" => "attn_output",
        _ => {
            let (block, last) = path.rsplit_once('.')?;
            let last = last.replace("_proj", "").replace("layernorm", "norm");
            let (start, end) = match block {
                "self_attn" => ("attn", ""),
                "mlp.shared_experts" => ("ffn", "_shexp"),
                "mlp" => ("ffn", ""),
                _ => ("ffn", "_exps"),
            };
            return Some(format!("blk.{layer}.{start}_{last}{end}.{kind}"));
        }
    };
    Some(format!("blk.{layer}.{short}.{kind}"))
}

fn metadata(w: &mut Writer, arch: &str, config: &Value) {
    let n = |key: &str| config[key].as_u64();
    let x = |key: &str| config[key].as_f64();
    let k = |key: &str| format!("{arch}.{key}");
    w.text("general.architecture", arch);
    w.u32(&k("context_length"), n("max_position_embeddings").unwrap_or(512));
    let counts = [
        ("embedding_length", "hidden_size"),
        ("block_count", "num_hidden_layers"),
        ("feed_forward_length", "intermediate_size"),
        ("attention.head_count", "num_attention_heads"),
        ("expert_used_count", "num_experts_per_tok"),
        ("attention.sliding_window", "sliding_window"),
        ("attention.q_lora_rank", "q_lora_rank"),
        ("attention.kv_lora_rank", "kv_lora_rank"),
        ("leading_dense_block_count", "first_k_dense_replace"),
        ("expert_shared_count", "n_shared_experts"),
    ];
    for (key, of) in counts {
        n(of).into_iter().for_each(|v| w.u32(&k(key), v));
    }
    let experts = ["num_experts", "num_local_experts", "n_routed_experts"];
    experts
        .iter()
        .filter_map(|of| n(of))
        .for_each(|v| w.u32(&k("expert_count"), v));
    let inner = n("moe_intermediate_size").or(n("intermediate_size").filter(|_| arch == "gpt-oss"));
    inner
        .into_iter()
        .for_each(|v| w.u32(&k("expert_feed_forward_length"), v));
    w.f32(
        &k("attention.layer_norm_rms_epsilon"),
        x("rms_norm_eps").unwrap_or(1e-5),
    );
    let heads = n("num_attention_heads").unwrap_or(1);
    let dim = n("head_dim").unwrap_or(n("hidden_size").unwrap_or(1) / heads);
    x("rope_theta")
        .into_iter()
        .for_each(|v| w.f32(&k("rope.freq_base"), v));
    x("rope_local_base_freq")
        .into_iter()
        .for_each(|v| w.f32(&k("rope.freq_base_swa"), v));
    for cap in ["attn_logit_softcapping", "final_logit_softcapping"] {
        x(cap).into_iter().for_each(|v| w.f32(&k(cap), v));
    }
    n("sliding_window_pattern")
        .into_iter()
        .for_each(|v| w.u32(&k("attention.sliding_window_pattern"), v));
    if arch == "deepseek2" {
        latent(w, config);
    } else {
        w.u32(
            &k("attention.head_count_kv"),
            n("num_key_value_heads").unwrap_or(heads),
        );
        w.u32(&k("attention.key_length"), dim);
        w.u32(&k("attention.value_length"), dim);
        let turned = dim as f64 * x("partial_rotary_factor").unwrap_or(1.0);
        w.u32(&k("rope.dimension_count"), turned as u64);
    }
    let scaling = config["rope_scaling"].as_object();
    if let Some(scaling) = scaling.filter(|s| s.get("rope_type").is_none_or(|kind| kind != "llama3")) {
        let number = |key: &str| scaling.get(key).and_then(Value::as_f64);
        let kind = scaling
            .get("rope_type")
            .or(scaling.get("type"))
            .and_then(Value::as_str);
        w.text(&k("rope.scaling.type"), kind.unwrap_or("none"));
        number("factor")
            .into_iter()
            .for_each(|v| w.f32(&k("rope.scaling.factor"), v));
        let original = number("original_max_position_embeddings").or(x("original_max_position_embeddings"));
        let original = original.map(|v| v as u64);
        original
            .into_iter()
            .for_each(|v| w.u32(&k("rope.scaling.original_context_length"), v));
        if let Some(all) = number("mscale_all_dim") {
            w.f32(&k("rope.scaling.yarn_log_multiplier"), 0.1 * all);
        }
    }
    vocabulary(w, n("vocab_size").unwrap_or(0));
}

/// DeepSeek's sizes, as newer files have them where keys are taken to the latent.
fn latent(w: &mut Writer, config: &Value) {
    let n = |key: &str| config[key].as_u64().unwrap_or(0);
    let (turned, plain, value) = (n("qk_rope_head_dim"), n("qk_nope_head_dim"), n("v_head_dim"));
    w.u32("deepseek2.rope.dimension_count", turned);
    let sigmoid = config["scoring_func"] == "sigmoid";
    if sigmoid {
        w.u32("deepseek2.attention.head_count_kv", 1);
        w.u32("deepseek2.attention.key_length", n("kv_lora_rank") + turned);
        w.u32("deepseek2.attention.value_length", n("kv_lora_rank"));
        w.u32("deepseek2.attention.key_length_mla", plain + turned);
        w.u32("deepseek2.attention.value_length_mla", value);
    } else {
        w.u32("deepseek2.attention.head_count_kv", n("num_attention_heads"));
        w.u32("deepseek2.attention.key_length", plain + turned);
        w.u32("deepseek2.attention.value_length", value);
    }
    w.u32("deepseek2.expert_gating_func", if sigmoid { 2 } else { 1 });
    w.bool("deepseek2.expert_weights_norm", config["norm_topk_prob"] == true);
    let scale = config["routed_scaling_factor"].as_f64().unwrap_or(1.0);
    w.f32("deepseek2.expert_weights_scale", scale);
    if config["topk_method"] != "greedy" {
        w.u32("deepseek2.expert_group_count", n("n_group"));
        w.u32("deepseek2.expert_group_used_count", n("topk_group"));
    }
}

/// Bytes written as characters, as many as there are rows: the decoder alone is tested.
fn vocabulary(w: &mut Writer, n: u64) {
    let tokens: Vec<String> = (0..n).map(|i| format!("<{i}>")).collect();
    w.text("tokenizer.ggml.model", "gpt2");
    w.text("tokenizer.ggml.pre", "gpt-2");
    w.texts("tokenizer.ggml.tokens", &tokens);
    w.texts("tokenizer.ggml.merges", &[]);
}
