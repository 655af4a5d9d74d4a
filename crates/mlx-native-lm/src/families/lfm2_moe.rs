//! LFM2-MoE: LFM2, whose later layers have experts.

use super::Family;
use super::common::{Config, KEYS, Keys};
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::{DecoderSpec, MlpActivation, Score};

use super::experts;
use super::lfm2;

pub(super) const FAMILY: Family = Family {
    name: "lfm2_moe",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = &Config::read_keys(input, input.fields, Keys { eps: "norm_eps", ..KEYS })?;
    let (n, k) = (c.count("num_experts")?, c.count("num_experts_per_tok")?);
    let dense = c.fields.get("num_dense_layers").and_then(serde_json::Value::as_u64).unwrap_or(0) as usize;
    lfm2::decoder_with(c, "", |i, path| {
        let own = format!("{path}.feed_forward");
        if i < dense {
            return Ok(c.mlp(&own, c.count("intermediate_size")?, MlpActivation::Silu, false).block());
        }
        let mut router = experts::router(c, format!("{own}.gate"), n, k, Score::Sigmoid)?;
        router.factor = c.positive("routed_scaling_factor", 1.0)? as f32;
        if c.flag("use_expert_bias", false)? {
            router.correction = Some(format!("{own}.expert_bias"));
        }
        router.normalise = c.flag("norm_topk_prob", false)?.then_some(1e-6);
        let inner = c.count("moe_intermediate_size")?;
        let all = experts::experts(c, &format!("{own}.switch_mlp"), n, inner, MlpActivation::Silu);
        Ok(experts::moe(router, all, None))
    })
}
