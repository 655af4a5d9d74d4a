//! Names of tensors: GGUF's to MLX's.

/// Tensors that the configuration is made of.
pub(super) const SAID_ELSEWHERE: &[&str] = &[
    "rope_freqs.weight",
    "rope_factors_long.weight",
    "rope_factors_short.weight",
];

/// What GGUF calls the parts of a layer, and what MLX does, for every architecture that has no other name for it.
const PARTS: &[(&str, &str)] = &[
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_qkv", "self_attn.qkv_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("attn_q_a", "self_attn.q_a_proj"),
    ("attn_q_a_norm", "self_attn.q_a_layernorm"),
    ("attn_q_b", "self_attn.q_b_proj"),
    ("attn_kv_a_mqa", "self_attn.kv_a_proj_with_mqa"),
    ("attn_kv_a_norm", "self_attn.kv_a_layernorm"),
    ("attn_kv_b", "self_attn.kv_b_proj"),
    ("attn_k_b", "self_attn.embed_q"),
    ("attn_v_b", "self_attn.unembed_out"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
    ("ffn_gate_inp", "mlp.gate"),
    ("ffn_gate_exps", "mlp.switch_mlp.gate_proj"),
    ("ffn_up_exps", "mlp.switch_mlp.up_proj"),
    ("ffn_down_exps", "mlp.switch_mlp.down_proj"),
    ("ffn_gate_shexp", "mlp.shared_experts.gate_proj"),
    ("ffn_up_shexp", "mlp.shared_experts.up_proj"),
    ("ffn_down_shexp", "mlp.shared_experts.down_proj"),
];

/// Those of Gemma 2 and 3: a norm before and behind each block.
const GEMMA: &[(&str, &str)] = &[
    ("post_attention_norm", "post_attention_layernorm"),
    ("ffn_norm", "pre_feedforward_layernorm"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
];

const GPT_OSS: &[(&str, &str)] = &[
    ("post_attention_norm", "post_attention_layernorm"),
    ("ffn_gate_inp", "mlp.router"),
    ("ffn_gate_exps", "mlp.experts.gate_proj"),
    ("ffn_up_exps", "mlp.experts.up_proj"),
    ("ffn_down_exps", "mlp.experts.down_proj"),
];

const MIXTRAL: &[(&str, &str)] = &[
    ("ffn_gate_inp", "block_sparse_moe.gate"),
    ("ffn_gate_exps", "block_sparse_moe.switch_mlp.gate_proj"),
    ("ffn_up_exps", "block_sparse_moe.switch_mlp.up_proj"),
    ("ffn_down_exps", "block_sparse_moe.switch_mlp.down_proj"),
];

const PHI3: &[(&str, &str)] = &[("ffn_up", "mlp.gate_up_proj")];

/// MLX's name of a tensor; its own where MLX's model has none.
pub(super) fn mlx_name(arch: &str, is_moe: bool, stored: &str) -> String {
    let whole = match stored {
        "token_embd.weight" => Some("model.embed_tokens.weight"),
        "output_norm.weight" => Some("model.norm.weight"),
        "output.weight" => Some("lm_head.weight"),
        _ => None,
    };
    if let Some(name) = whole {
        return name.to_owned();
    }
    in_layer(arch, is_moe, stored).unwrap_or_else(|| stored.to_owned())
}

/// `blk.3.attn_q.weight` is `model.layers.3.self_attn.q_proj.weight`.
fn in_layer(arch: &str, is_moe: bool, stored: &str) -> Option<String> {
    let (layer, rest) = stored.strip_prefix("blk.")?.split_once('.')?;
    let layer: usize = layer.parse().ok()?;
    let (part, kind) = rest.rsplit_once('.')?;
    match (part, kind) {
        ("attn_sinks", "weight") => return Some(format!("model.layers.{layer}.self_attn.sinks")),
        ("exp_probs_b", "bias") => {
            return Some(format!("model.layers.{layer}.mlp.gate.e_score_correction_bias"));
        }
        (_, "weight" | "bias") => {}
        _ => return None,
    }
    let own: &[(&str, &str)] = match arch {
        "gemma2" | "gemma3" => GEMMA,
        "gpt-oss" => GPT_OSS,
        "phi3" => PHI3,
        "llama" if is_moe => MIXTRAL,
        _ => &[],
    };
    let mut parts = own.iter().chain(PARTS);
    let (_, path) = parts.find(|(name, _)| *name == part)?;
    Some(format!("model.layers.{layer}.{path}.{kind}"))
}
