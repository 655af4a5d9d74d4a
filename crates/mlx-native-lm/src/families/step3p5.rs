//! Step 3.5: heads, base and share of the rotation by layer, a gate for each head, clipped experts.

use super::Family;
use super::common::{Config, KEYS, Keys, pre_norm_layer};
use super::experts;
use crate::error::LmError;
use crate::rope::RopeConfig;
use crate::spec::{Block, DecoderSpec, GateShape, MlpActivation, Score};
use crate::config::FamilyInput;
use crate::error::Result;

pub(super) const FAMILY: Family = Family {
    name: "step3p5",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let keys = Keys { kv_heads: "num_attention_groups", ..KEYS };
    let c = &Config::read_with_eps(input, input.fields, keys, 1e-5)?;
    let sliding = match c.fields.get("layer_types") {
        Some(_) => c.sliding()?,
        None => (0..c.layers).map(|i| i % 2 == 0).collect(),
    };
    let window = c.count_or("sliding_window", 512)?;
    let gated = c.flag("use_head_wise_attn_gate", true)?;
    let (heads, kv_heads) = sliding_heads(c)?;
    let sparse = sparse_layers(c)?;
    let limits = c.per_layer("swiglu_limits")?.unwrap_or_default();
    let shared_limits = c.per_layer("swiglu_limits_shared")?.unwrap_or_default();
    let mut spec = c.decoder("", |i, path| {
        let own = format!("{path}.self_attn");
        let attention = match sliding[i] {
            true => c.attention_of(&own, heads, kv_heads, c.head_dim),
            false => c.attention(&own),
        };
        let attention = attention
            .normed(&own, c.eps, 0.0)
            .turned(Some(rope(c, i, sliding[i])?))
            .sliding(sliding[i].then_some(window));
        let attention = match gated {
            true => attention.gated(format!("{own}.g_proj"), GateShape::Head),
            false => attention,
        };
        let own = format!("{path}.mlp");
        let shared = activation(shared_limits.get(i));
        let ff = match sparse.contains(&i) {
            true => experts_of(c, &own, activation(limits.get(i)), shared)?,
            false => c.mlp(&own, c.count("intermediate_size")?, shared, false).block(),
        };
        Ok(pre_norm_layer(c, path, attention, ff))
    })?;
    spec.head.matrix = Some(c.lm_head(""));
    spec.dropped = vec!["*.mtp".to_owned(), format!("model.layers.{}.", c.layers)];
    Ok(spec)
}

fn activation(limit: Option<&f64>) -> MlpActivation {
    match limit {
        Some(limit) if *limit > 0.0 => MlpActivation::SiluClipped { limit: *limit as f32 },
        _ => MlpActivation::Silu,
    }
}

/// Heads of the layers that slide.
fn sliding_heads(c: &Config<'_>) -> Result<(usize, usize)> {
    let key = "attention_other_setting";
    let Some(other) = c.fields.object(key, "attention_other_setting.")? else {
        return Ok((c.heads, c.kv_heads));
    };
    let count = |key: &str| other.require(key, other.count(key, super::common::MAX_EXTENT)?);
    let (heads, kv_heads) = (count("num_attention_heads")?, count("num_attention_groups")?);
    if !heads.is_multiple_of(kv_heads) || heads.saturating_mul(c.head_dim) > super::common::MAX_EXTENT {
        let wanted = format!("a multiple of num_attention_groups {kv_heads}");
        return Err(other.invalid("num_attention_heads", heads, &wanted));
    }
    Ok((heads, kv_heads))
}

/// `moe_layers_enum`, numbers with commas between; all but the first layer where it is missing.
fn sparse_layers(c: &Config<'_>) -> Result<Vec<usize>> {
    match c.fields.str("moe_layers_enum")? {
        None | Some("") => Ok((1..c.layers).collect()),
        Some(list) => {
            let numbers = list.split(',').map(|n| n.trim().parse().ok()).collect::<Option<Vec<usize>>>();
            let wanted = "whole numbers with commas between";
            numbers.ok_or_else(|| c.fields.invalid("moe_layers_enum", format!("{list:?}"), wanted))
        }
    }
}

fn rope(c: &Config<'_>, i: usize, slides: bool) -> Result<RopeConfig> {
    let theta = match c.fields.get("rope_theta") {
        Some(value) if value.is_array() => c.fields.positives("rope_theta")?.and_then(|list| list.get(i).copied()),
        _ => c.fields.positive("rope_theta")?.or(Some(10_000.0)),
    };
    let theta = theta.ok_or_else(|| LmError::Config(format!("config.json: rope_theta has nothing for layer {i}")))?;
    let shares = c.per_layer("partial_rotary_factors")?.unwrap_or_default();
    let share = shares.get(i).copied().unwrap_or(1.0);
    if !(0.0..=1.0).contains(&share) {
        return Err(c.fields.invalid("partial_rotary_factors", share, "numbers from 0 to 1"));
    }
    let plain = RopeConfig::plain((c.head_dim as f64 * share) as usize, theta, false);
    let kind = if slides { "sliding_attention" } else { "full_attention" };
    // Where there is no list of kinds, the periods follow as if all layers saw all.
    let kind = if c.fields.get("layer_types").is_some() { kind } else { "full_attention" };
    let only = c.fields.get("yarn_only_types").and_then(|v| v.as_array());
    let scaled = only.is_none_or(|list| list.is_empty() || list.iter().any(|v| v.as_str() == Some(kind)));
    let scaling = c.fields.object("rope_scaling", "rope_scaling.")?;
    RopeConfig::scaled(plain, &c.fields, scaling.filter(|_| scaled))
}

fn experts_of(c: &Config<'_>, path: &str, activation: MlpActivation, shared: MlpActivation) -> Result<Block> {
    let (n, k) = (c.count_or("moe_num_experts", 288)?, c.count_or("moe_top_k", 8)?);
    let mut router = experts::router(c, format!("{path}.gate.gate"), n, k, Score::Sigmoid)?;
    router.correction = Some(format!("{path}.gate.router_bias"));
    router.normalise = c.flag("norm_expert_weight", true)?.then_some(1e-20);
    router.factor = c.number("moe_router_scaling_factor", 3.0)? as f32;
    let inner = c.count_or("moe_intermediate_size", 1280)?;
    let all = experts::experts(c, &format!("{path}.switch_mlp"), n, inner, activation);
    let mlp = c.mlp(&format!("{path}.share_expert"), c.count_or("share_expert_dim", 1280)?, shared, false);
    Ok(experts::moe(router, all, Some(experts::shared(mlp))))
}
