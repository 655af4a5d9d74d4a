//! DeepSeek V2: latent attention with keys and values of every head kept, experts by softmax.

use super::Family;
use super::common::Config;
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::{DecoderSpec, MlpActivation, Score};

use super::experts;
use super::deepseek_v3;

pub(super) const FAMILY: Family = Family {
    name: "deepseek_v2",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = &Config::read_latent(input)?;
    let grouped = c.fields.str("topk_method")? == Some("group_limited_greedy");
    let n = c.count_or("n_routed_experts", 1)?;
    deepseek_v3::decoder_with(c, "", deepseek_v3::latent(c, 1e-6)?, false, |own| {
        let inner = c.count("moe_intermediate_size")?;
        let mut router =
            experts::router(c, format!("{own}.gate"), n, c.count("num_experts_per_tok")?, Score::Softmax)?;
        if grouped {
            router.groups = experts::groups(c, n, "n_group", "topk_group", 1)?;
        }
        router.factor = c.positive("routed_scaling_factor", 1.0)? as f32;
        let all = experts::experts(c, &format!("{own}.switch_mlp"), n, inner, MlpActivation::Silu);
        Ok(experts::moe(router, all, experts::shared_of(c, own, inner)?))
    })
}
