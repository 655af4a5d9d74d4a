//! Phi-3.5 MoE: experts chosen one after the other, layer norms, long rotations.

use super::Family;
use super::common::{Config, KEYS};
use super::experts;
use crate::rope::{RopeConfig, RopeScaling};
use crate::spec::{Block, Branch, DecoderSpec, Head, Layer, MlpActivation, Norm, Score};
use crate::config::FamilyInput;
use crate::error::Result;

pub(super) const FAMILY: Family = Family {
    name: "phimoe",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let mut c = Config::read_with_eps(input, input.fields, KEYS, 1e-6)?;
    c.head_dim = c.hidden / c.heads;
    let c = &c;
    let rope = rope(c)?;
    let (n, k) = (c.count_or("num_local_experts", 16)?, c.count_or("num_experts_per_tok", 2)?);
    let jitter = c.number("router_jitter_noise", 0.01)? as f32;
    if !(0.0..=1.0).contains(&jitter) {
        return Err(c.fields.invalid("router_jitter_noise", jitter, "a number from 0 to 1"));
    }
    let inner = c.count_or("intermediate_size", 6400)?;
    let norm = |path: String| Norm::layer(&path, c.hidden, c.eps, true);
    let mut spec = c.decoder("", |_, path| {
        let attention = c.attention(&format!("{path}.self_attn")).biased(true, true).turned(Some(rope.clone()));
        let own = format!("{path}.block_sparse_moe");
        let router = experts::router(c, format!("{own}.gate"), n, k, Score::SparseMixer { jitter })?;
        let all = experts::experts(c, &format!("{own}.switch_mlp"), n, inner, MlpActivation::Silu);
        Ok(Layer {
            alternating: None,
            branches: vec![
                Branch::pre(norm(format!("{path}.input_layernorm")), Block::Attention(Box::new(attention))),
                Branch::pre(norm(format!("{path}.post_attention_layernorm")), experts::moe(router, all, None)),
            ],
        })
    })?;
    spec.norm = Some(norm("model.norm".to_owned()));
    spec.head = Head::new(Some(c.lm_head("").with_bias(true)));
    Ok(spec)
}

fn rope(c: &Config<'_>) -> Result<RopeConfig> {
    let plain = c.plain_rope(c.head_dim, false)?;
    let Some(scaling) = c.fields.object("rope_scaling", "rope_scaling.")? else { return Ok(plain) };
    let long_factor = scaling.require("long_factor", scaling.positives("long_factor")?)?;
    if long_factor.len() != c.head_dim / 2 {
        let wanted = format!("{} numbers, one a pair", c.head_dim / 2);
        return Err(scaling.invalid("long_factor", long_factor.len(), &wanted));
    }
    Ok(RopeConfig {
        scaling: RopeScaling::LongRope {
            short_factor: scaling.positives("short_factor")?.unwrap_or_default(),
            long_factor,
            original_context: c.count_or("original_max_position_embeddings", 4096)?,
            factor: scaling.positive("long_mscale")?.map(|m| m as f32),
        },
        max_context: Some(c.count_or("max_position_embeddings", 131_072)?),
        ..plain
    })
}
