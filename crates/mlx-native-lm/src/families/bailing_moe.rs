//! Bailing MoE (Ling): fused attention, experts in groups.

use super::Family;
use super::common::{Config, pre_norm_layer};
use super::experts::{self, Grouped};
use crate::rope::RopeConfig;
use crate::spec::{Attention, Block, DecoderSpec, Head, Layer, Matrix, MlpActivation, Score, Unit};
use crate::config::FamilyInput;
use crate::error::Result;

pub(super) const FAMILY: Family = Family {
    name: "bailing_moe",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let mut c = Config::read(input)?;
    c.head_dim = c.hidden / c.heads;
    let c = &c;
    let turning = match c.fields.count("rotary_dim", c.head_dim)? {
        Some(dims) => dims,
        None => c.rotary_dims(c.head_dim, 1.0)?,
    };
    let rope = RopeConfig { traditional: false, ..c.rope(turning)? };
    decoder(c, |_, path| {
        let own = format!("{path}.attention");
        Ok(pre_norm_layer(c, path, attention(c, &own)?.turned(Some(rope.clone())), Block::Identity))
    })
}

/// The decoder around mixers: layers come with something in the place of the feed-forward layer.
pub(super) fn decoder(c: &Config<'_>, mixed: impl Fn(usize, &str) -> Result<Layer>) -> Result<DecoderSpec> {
    let bias = c.flag("use_bias", false)?;
    let dense = c.natural("first_k_dense_replace", 0)?;
    let mut head = c.head("", false)?;
    if c.flag("norm_head", false)?
        && let Some(matrix) = &mut head.matrix
    {
        matrix.unit = Some(Unit::Columns);
    }
    let mut spec = decoder_named(c, head, |i, path| {
        let mut layer = mixed(i, path)?;
        let own = format!("{path}.mlp");
        let ff = match c.fields.get("num_experts").is_some() && i >= dense {
            true => sparse(c, &own, bias)?,
            false => c.mlp(&own, c.count("intermediate_size")?, MlpActivation::Silu, bias).block(),
        };
        if let Some(part) = layer.branches.last_mut().and_then(|branch| branch.parts.first_mut()) {
            part.block = ff;
        }
        Ok(layer)
    })?;
    if spec.head.matrix.is_none() {
        spec.dropped.push("lm_head.".to_owned());
    }
    Ok(spec)
}

/// A decoder with the family's names.
pub(super) fn decoder_named(
    c: &Config<'_>,
    head: Head,
    layer: impl Fn(usize, &str) -> Result<Layer>,
) -> Result<DecoderSpec> {
    let mut spec = c.decoder_named("model", ["word_embeddings", "layers", "norm"], head, layer)?;
    // Layers that predict several tokens.
    spec.dropped.push(format!("model.layers.{}.", c.layers));
    Ok(spec)
}

/// The family's attention, without its rotation.
pub(super) fn attention(c: &Config<'_>, path: &str) -> Result<Attention> {
    let qkv_bias = c.flag("use_qkv_bias", false)?;
    let mut attention = c.attention(path).fused(&format!("{path}.query_key_value"), qkv_bias);
    let dense = Matrix::new(format!("{path}.dense"), c.hidden, c.heads * c.head_dim);
    attention.o = dense.with_bias(c.flag("use_bias", false)?);
    Ok(match c.flag("use_qk_norm", false)? {
        true => attention.normed_by(&format!("{path}.query_layernorm"), &format!("{path}.key_layernorm"), c.eps, false),
        false => attention,
    })
}

fn sparse(c: &Config<'_>, path: &str, bias: bool) -> Result<Block> {
    let is_hybrid = c.fields.str("model_type")? == Some("bailing_hybrid");
    let score = match c.fields.str("score_function")? {
        Some("sigmoid") => Score::Sigmoid,
        None if is_hybrid => Score::Sigmoid,
        _ => Score::Softmax,
    };
    let has_correction = c.flag("moe_router_enable_expert_bias", is_hybrid)?;
    let grouped = Grouped {
        router: "gate.gate_proj",
        correction: has_correction.then_some("gate.expert_bias"),
        score,
        factor: ("routed_scaling_factor", 1.0),
        others: if is_hybrid { f32::NEG_INFINITY } else { 0.0 },
        ..experts::GROUPED
    };
    let (n, inner) = (c.count("num_experts")?, c.count("moe_intermediate_size")?);
    let router = experts::grouped_router(c, path, n, &grouped)?;
    let all = experts::experts(c, &format!("{path}.switch_mlp"), n, inner, MlpActivation::Silu).biased(bias);
    let wide = c.count_or("moe_shared_expert_intermediate_size", inner)?;
    let is_shared = c.flag("moe_router_enable_shared_expert", true)?;
    let count = c.natural("num_shared_experts", 0)?;
    // The hybrid's key says the width of all of them.
    let wide = if is_hybrid && c.fields.get("moe_shared_expert_intermediate_size").is_some() { wide } else { wide.saturating_mul(count) };
    let mut shared = None;
    if is_shared && count > 0 {
        if wide > super::common::MAX_EXTENT {
            return Err(c.fields.invalid("num_shared_experts", count, "a number of experts that a layer can have"));
        }
        shared = Some(experts::shared(c.mlp(&format!("{path}.shared_experts"), wide, MlpActivation::Silu, bias)));
    }
    Ok(experts::moe(router, all, shared))
}
