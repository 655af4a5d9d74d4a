//! DeepSeek, the first with experts: Llama, its first layers dense.

use super::Family;
use super::common::{Config, pre_norm_layer};
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::{DecoderSpec, MlpActivation, Score};

use super::experts;

pub(super) const FAMILY: Family = Family {
    name: "deepseek",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = &Config::read(input)?;
    let (rope, bias) = (c.rope(c.head_dim)?, c.flag("attention_bias", false)?);
    let mut spec = c.decoder("", |i, path| {
        let attention = c.attention(&format!("{path}.self_attn")).biased(bias, bias).turned(Some(rope.clone()));
        let own = format!("{path}.mlp");
        let ff = match experts::is_sparse(c, i)? {
            true => {
                let n = c.count("n_routed_experts")?;
                let k = c.count("num_experts_per_tok")?;
                let inner = c.count("moe_intermediate_size")?;
                let router = experts::router(c, format!("{own}.gate"), n, k, Score::Softmax)?;
                let all = experts::experts(c, &format!("{own}.switch_mlp"), n, inner, MlpActivation::Silu);
                experts::moe(router, all, experts::shared_of(c, &own, inner)?)
            }
            false => c.mlp(&own, c.count("intermediate_size")?, MlpActivation::Silu, false).block(),
        };
        Ok(pre_norm_layer(c, path, attention, ff))
    })?;
    spec.head.matrix = Some(c.lm_head(""));
    spec.dropped.retain(|p| !p.starts_with("lm_head"));
    Ok(spec)
}
