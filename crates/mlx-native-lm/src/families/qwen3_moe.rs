//! Qwen3-MoE: Qwen3, some of whose layers have experts.

use super::Family;
use super::common::{Config, pre_norm_layer};
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::{Block, DecoderSpec, MlpActivation, Score};

use super::experts;

pub(super) const FAMILY: Family = Family {
    name: "qwen3_moe",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    decoder(&Config::read(input)?, "")
}

/// The decoder, with tensors under `prefix`.
pub(super) fn decoder(c: &Config<'_>, prefix: &str) -> Result<DecoderSpec> {
    let rope = c.rope(c.head_dim)?;
    let mut spec = c.decoder(prefix, |i, path| {
        let own = format!("{path}.self_attn");
        let attention = c.attention(&own).normed(&own, c.eps, 0.0).turned(Some(rope.clone()));
        let own = format!("{path}.mlp");
        let ff = match is_sparse(c, i)? {
            true => sparse(c, &own)?,
            false => c.mlp(&own, c.count("intermediate_size")?, MlpActivation::Silu, false).block(),
        };
        Ok(pre_norm_layer(c, path, attention, ff))
    })?;
    spec.head = c.head(prefix, false)?;
    Ok(spec)
}

/// Whether layer `i` has experts, by `mlp_only_layers` and `decoder_sparse_step`.
pub(super) fn is_sparse(c: &Config<'_>, i: usize) -> Result<bool> {
    let dense = c.numbers("mlp_only_layers")?.unwrap_or_default();
    Ok(!dense.contains(&i) && (i + 1).is_multiple_of(c.count_or("decoder_sparse_step", 1)?))
}

/// The experts.
pub(super) fn sparse(c: &Config<'_>, path: &str) -> Result<Block> {
    let n = c.count("num_experts")?;
    let mut router = experts::router(c, format!("{path}.gate"), n, c.count("num_experts_per_tok")?, Score::Softmax)?;
    router.normalise = c.flag("norm_topk_prob", true)?.then_some(0.0);
    let inner = c.count("moe_intermediate_size")?;
    let all = experts::experts(c, &format!("{path}.switch_mlp"), n, inner, MlpActivation::Silu);
    Ok(experts::moe(router, all, None))
}
