//! MiniMax M2: norms over all heads, a share of each head turned, experts by the logistic function.

use super::Family;
use super::common::{Config, pre_norm_layer};
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::{DecoderSpec, MlpActivation, Score};

use super::experts;

pub(super) const FAMILY: Family = Family {
    name: "minimax",
    also: &["minimax_m2"],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = &Config::read(input)?;
    let rope = c.plain_rope(c.count_or("rotary_dim", c.head_dim)?, false)?;
    let (n, k) = (c.count("num_local_experts")?, c.count("num_experts_per_tok")?);
    let (inner, qk_norm) = (c.count("intermediate_size")?, c.flag("use_qk_norm", true)?);
    let mut spec = c.decoder("", |_, path| {
        let own = format!("{path}.self_attn");
        let mut attention = c.attention(&own).turned(Some(rope.clone()));
        if qk_norm {
            attention = attention.normed_whole(&own, c.eps);
        }
        let own = format!("{path}.block_sparse_moe");
        let mut router = experts::router(c, format!("{own}.gate"), n, k, Score::Sigmoid)?;
        router.correction = Some(format!("{own}.e_score_correction_bias"));
        router.normalise = Some(1e-20);
        let all = experts::experts(c, &format!("{own}.switch_mlp"), n, inner, MlpActivation::Silu);
        Ok(pre_norm_layer(c, path, attention, experts::moe(router, all, None)))
    })?;
    spec.head = c.head("", false)?;
    Ok(spec)
}
