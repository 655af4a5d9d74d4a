//! Klear: experts beside a shared one, the two weighed by a softmax of their own.

use super::Family;
use super::common::{Config, pre_norm_layer};
use super::{experts, qwen3_moe};
use crate::spec::{Block, DecoderSpec, Matrix, MlpActivation, Score};
use crate::config::FamilyInput;
use crate::error::Result;

pub(super) const FAMILY: Family = Family {
    name: "Klear",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let mut c = Config::read(input)?;
    // A head is a share of the stream, whatever the file says.
    c.head_dim = c.hidden / c.heads;
    let c = &c;
    let (rope, bias) = (c.plain_rope(c.head_dim, false)?, c.flag("attention_bias", false)?);
    let mut spec = c.decoder("", |i, path| {
        let own = format!("{path}.self_attn");
        let attention = c.attention(&own).biased(bias, bias).normed(&own, c.eps, 0.0).turned(Some(rope.clone()));
        let own = format!("{path}.mlp");
        let ff = match qwen3_moe::is_sparse(c, i)? {
            true => sparse(c, &own)?,
            false => c.mlp(&own, c.count("intermediate_size")?, MlpActivation::Silu, false).block(),
        };
        Ok(pre_norm_layer(c, path, attention, ff))
    })?;
    spec.head.matrix = Some(c.lm_head(""));
    spec.dropped.clear();
    Ok(spec)
}

fn sparse(c: &Config<'_>, path: &str) -> Result<Block> {
    let (n, k) = (c.count("num_experts")?, c.count("num_experts_per_tok")?);
    let mut router = experts::router(c, format!("{path}.gate"), n, k, Score::Sigmoid)?;
    router.correction = Some(format!("{path}.expert_bias"));
    router.normalise = c.flag("norm_topk_prob", true)?.then_some(0.0);
    let inner = c.count("moe_intermediate_size")?;
    let all = experts::experts(c, &format!("{path}.experts"), n, inner, MlpActivation::Silu);
    let mut shared = experts::shared_of(c, path, inner)?;
    if let Some(shared) = &mut shared {
        shared.mix = Some(Matrix::new(format!("{path}.coefficient"), 2, c.hidden).with_bias(true));
    }
    Ok(experts::moe(router, all, shared))
}
