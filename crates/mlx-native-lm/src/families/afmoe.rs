//! AFMoE (Trinity): norms on both sides, a gate on attention, windows in the layers that know positions, experts in groups.

use super::Family;
use super::common::{Config, KEYS, sandwich_layer_of};
use super::experts::{self, Grouped};
use crate::rope::RopeConfig;
use crate::spec::{Block, DecoderSpec, GateShape, MlpActivation, Score};
use crate::config::FamilyInput;
use crate::error::Result;

pub(super) const FAMILY: Family = Family {
    name: "afmoe",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = &Config::read_with_eps(input, input.fields, KEYS, 1e-5)?;
    let plain = c.plain_rope(c.head_dim, false)?;
    let scaling = c.fields.object("rope_scaling", "rope_scaling.")?;
    let rope = RopeConfig::scaled(plain, &c.fields, scaling)?;
    let sliding = c.sliding()?;
    let window = c.count_or("sliding_window", 2048)?;
    let dense = c.natural("num_dense_layers", 2)?;
    let mut spec = c.decoder("", |i, path| {
        let own = format!("{path}.self_attn");
        let attention = c
            .attention(&own)
            .normed(&own, c.eps, 0.0)
            .turned(sliding[i].then(|| rope.clone()))
            .sliding(sliding[i].then_some(window))
            .gated(format!("{own}.gate_proj"), GateShape::Element);
        let own = format!("{path}.mlp");
        let ff = match i < dense {
            true => c.mlp(&own, c.count("intermediate_size")?, MlpActivation::Silu, false).block(),
            false => sparse(c, &own)?,
        };
        let names = ["input_layernorm", "post_attention_layernorm", "pre_mlp_layernorm", "post_mlp_layernorm"];
        Ok(sandwich_layer_of(c, path, names, Block::Attention(Box::new(attention)), ff))
    })?;
    spec.head = c.head("", false)?;
    if c.flag("mup_enabled", true)? {
        spec.embedding.scale = (c.hidden as f64).sqrt() as f32;
    }
    Ok(spec)
}

fn sparse(c: &Config<'_>, path: &str) -> Result<Block> {
    let (n, inner) = (c.count("num_experts")?, c.count("moe_intermediate_size")?);
    let grouped = Grouped {
        router: "router.gate",
        correction: Some("expert_bias"),
        score: match c.fields.str("score_func")? {
            None | Some("sigmoid") => Score::Sigmoid,
            Some(_) => Score::Softmax,
        },
        normalise: "route_norm",
        factor: ("route_scale", 2.826),
        ..experts::GROUPED
    };
    let router = experts::grouped_router(c, path, n, &grouped)?;
    let all = experts::experts(c, &format!("{path}.experts"), n, inner, MlpActivation::Silu);
    Ok(experts::moe(router, all, experts::shared_by(c, path, "num_shared_experts", inner)?))
}
