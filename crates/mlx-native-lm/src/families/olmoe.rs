//! OLMoE: norms over all heads, and experts.

use super::Family;
use super::common::{Config, pre_norm_layer};
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::{DecoderSpec, MlpActivation, Score};

use super::experts;

pub(super) const FAMILY: Family = Family {
    name: "olmoe",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = &Config::read(input)?;
    let (rope, bias) = (c.rope(c.head_dim)?, c.flag("attention_bias", false)?);
    let (n, k) = (c.count("num_experts")?, c.count("num_experts_per_tok")?);
    let normalise = c.flag("norm_topk_prob", false)?;
    c.decoder("", |_, path| {
        let own = format!("{path}.self_attn");
        let attention = c.attention(&own).biased(bias, bias).normed_whole(&own, c.eps).turned(Some(rope.clone()));
        let own = format!("{path}.mlp");
        let mut router = experts::router(c, format!("{own}.gate"), n, k, Score::Softmax)?;
        router.normalise = normalise.then_some(0.0);
        let inner = c.count("intermediate_size")?;
        let all = experts::experts(c, &format!("{own}.switch_mlp"), n, inner, MlpActivation::Silu);
        Ok(pre_norm_layer(c, path, attention, experts::moe(router, all, None)))
    })
}
