//! Qwen2-MoE: Qwen2 with experts, one of which every token takes through a gate.

use super::Family;
use super::common::{Config, pre_norm_layer};
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::{Block, DecoderSpec, Matrix, MlpActivation, Router, Score, SharedExpert};

use super::experts;

pub(super) const FAMILY: Family = Family {
    name: "qwen2_moe",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = &Config::read(input)?;
    let rope = c.plain_rope_from(c.head_dim, 1e6, c.flag("rope_traditional", false)?)?;
    let (n, k) = (c.count("num_experts")?, c.count("num_experts_per_tok")?);
    let mut spec = c.decoder("", |_, path| {
        let attention = c.attention(&format!("{path}.self_attn")).biased(true, false).turned(Some(rope.clone()));
        let own = format!("{path}.mlp");
        let router = experts::router(c, format!("{own}.gate"), n, k, Score::Softmax)?;
        Ok(pre_norm_layer(c, path, attention, gated(c, &own, router)?))
    })?;
    spec.head.matrix = Some(c.lm_head(""));
    spec.dropped.retain(|p| !p.starts_with("lm_head"));
    Ok(spec)
}

/// Experts under `path`, with a shared one behind a gate.
pub(super) fn gated(c: &Config<'_>, path: &str, router: Router) -> Result<Block> {
    let n = c.count("num_experts")?;
    let inner = c.count("moe_intermediate_size")?;
    let wide = c.count("shared_expert_intermediate_size")?;
    let shared = SharedExpert {
        mix: None,
        mlp: c.mlp(&format!("{path}.shared_expert"), wide, MlpActivation::Silu, false),
        gate: Some(Matrix::new(format!("{path}.shared_expert_gate"), 1, c.hidden)),
    };
    let all = experts::experts(c, &format!("{path}.switch_mlp"), n, inner, MlpActivation::Silu);
    Ok(experts::moe(router, all, Some(shared)))
}
