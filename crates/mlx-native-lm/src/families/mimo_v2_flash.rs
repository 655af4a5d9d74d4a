//! MiMo V2 Flash: two kinds of attention with heads of their own sizes, sinks, values scaled.

use super::Family;
use super::common::{Config, KEYS, Keys, MAX_EXTENT, pre_norm_layer};
use super::experts;
use crate::rope::RopeConfig;
use crate::spec::{Attention, DecoderSpec, MlpActivation, Score};
use crate::config::FamilyInput;
use crate::error::Result;

pub(super) const FAMILY: Family = Family {
    name: "mimo_v2_flash",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = &Config::read_keys(input, input.fields, Keys { eps: "layernorm_epsilon", ..KEYS })?;
    let flags = |key: &str| c.fields.require(key, c.layer_flags(key)?);
    let (sliding, sparse) = (flags("hybrid_layer_pattern")?, flags("moe_layer_freq")?);
    let window = c.count("sliding_window_size")?;
    let mut spec = c.decoder("", |i, path| {
        let own = format!("{path}.self_attn");
        let attention = attention(c, &own, sliding[i])?.sliding(sliding[i].then_some(window));
        let own = format!("{path}.mlp");
        let ff = match sparse[i] {
            true => experts::deepseek(c, &own, ["switch_mlp", "gate.e_score_correction_bias"], Score::Sigmoid)?,
            false => c.mlp(&own, c.count("intermediate_size")?, MlpActivation::Silu, false).block(),
        };
        Ok(pre_norm_layer(c, path, attention, ff))
    })?;
    spec.head.matrix = Some(c.lm_head(""));
    spec.dropped = vec!["model.mtp".to_owned()];
    Ok(spec)
}

/// The attention of one kind, without its window.
fn attention(c: &Config<'_>, path: &str, slides: bool) -> Result<Attention> {
    let names = match slides {
        true => ["swa_num_attention_heads", "swa_num_key_value_heads", "swa_head_dim", "swa_v_head_dim", "swa_rope_theta"],
        false => ["num_attention_heads", "num_key_value_heads", "head_dim", "v_head_dim", "rope_theta"],
    };
    let [heads, kv_heads, dim, v_dim] = [0, 1, 2, 3].map(|i| c.count(names[i]));
    let (heads, kv_heads, dim, v_dim) = (heads?, kv_heads?, dim?, v_dim?);
    if !heads.is_multiple_of(kv_heads) || heads.saturating_mul(dim.max(v_dim)) > MAX_EXTENT {
        let wanted = format!("a divisor of {} {heads}, and heads of a possible size", names[0]);
        return Err(c.fields.invalid(names[1], kv_heads, &wanted));
    }
    let theta = c.fields.require(names[4], c.fields.positive(names[4])?)?;
    let turning = c.rotary_dims(dim, 1.0)?;
    let sinks = c.flag(if slides { "add_swa_attention_sink_bias" } else { "add_full_attention_sink_bias" }, false)?;
    let mut attention = c
        .attention_of(path, heads, kv_heads, dim)
        .valued(v_dim)
        .turned(Some(RopeConfig::plain(turning, theta, false)));
    attention.sinks = sinks.then(|| format!("{path}.attention_sink_bias"));
    attention.v_scale = c.number("attention_value_scale", 1.0)? as f32;
    Ok(attention)
}
