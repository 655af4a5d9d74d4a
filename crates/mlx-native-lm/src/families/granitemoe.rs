//! Granite-MoE: Granite with experts, the chosen weighted by the softmax of their logits.

use super::Family;
use super::common::{Config, pre_norm_layer};
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::{Block, DecoderSpec, MlpActivation, Score, SharedExpert};

use super::experts;
use super::granite::Multipliers;

pub(super) const FAMILY: Family = Family {
    name: "granitemoe",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = &Config::read(input)?;
    let (rope, bias) = (c.rope(c.head_dim)?, c.flag("attention_bias", false)?);
    let m = Multipliers::read(c)?;
    let mut spec = c.decoder("", |_, path| {
        let mut attention = c.attention(&format!("{path}.self_attn")).biased(bias, bias).turned(Some(rope.clone()));
        attention.scale = m.attention;
        let ff = sparse(c, &format!("{path}.block_sparse_moe"), None)?;
        Ok(m.scaled(pre_norm_layer(c, path, attention, ff)))
    })?;
    m.apply(&mut spec);
    Ok(spec)
}

/// The family's experts under `path`.
pub(super) fn sparse(c: &Config<'_>, path: &str, shared: Option<SharedExpert>) -> Result<Block> {
    let (n, k) = (c.count("num_local_experts")?, c.count("num_experts_per_tok")?);
    let router = experts::router(c, format!("{path}.router.layer"), n, k, Score::SoftmaxOfChosen)?;
    let inner = c.count("intermediate_size")?;
    let all = experts::experts(c, &format!("{path}.switch_mlp"), n, inner, MlpActivation::Silu);
    Ok(experts::moe(router, all, shared))
}
