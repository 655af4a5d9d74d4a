//! EXAONE MoE: windows in most layers, which alone know positions; experts in groups.

use super::Family;
use super::common::{Config, pre_norm_layer};
use super::experts;
use crate::rope::RopeConfig;
use crate::spec::{DecoderSpec, MlpActivation};
use crate::config::FamilyInput;
use crate::error::Result;

pub(super) const FAMILY: Family = Family {
    name: "exaone_moe",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = &Config::read(input)?;
    let plain = RopeConfig::plain(c.head_dim, c.theta_or(1_000_000.0)?, false);
    let scaling = c.fields.object("rope_scaling", "rope_scaling.")?;
    let rope = RopeConfig::scaled(plain, &c.fields, scaling)?;
    let (sliding, windows) = (c.sliding()?, c.windows()?);
    let all_turn = !sliding.contains(&true);
    let sparse = c.fields.require("is_moe_layer", c.layer_flags("is_moe_layer")?)?;
    let mut spec = c.decoder("", |i, path| {
        let own = format!("{path}.self_attn");
        let turns = sliding[i] || all_turn;
        let attention = c.attention(&own).normed(&own, c.eps, 0.0);
        let attention = attention.turned(turns.then(|| rope.clone())).sliding(windows[i]);
        let own = format!("{path}.mlp");
        let ff = match sparse[i] {
            true => {
                let inner = c.count("moe_intermediate_size")?;
                let n = c.count("num_experts")?;
                let router = experts::grouped_router(c, &own, n, &experts::GROUPED)?;
                let all = experts::experts(c, &format!("{own}.switch_mlp"), n, inner, MlpActivation::Silu);
                let shared = experts::shared_by(c, &own, "num_shared_experts", inner)?;
                experts::moe(router, all, shared)
            }
            false => c.mlp(&own, c.count("intermediate_size")?, MlpActivation::Silu, false).block(),
        };
        Ok(pre_norm_layer(c, path, attention, ff))
    })?;
    spec.head = c.head("", false)?;
    spec.dropped.push("mtp.".to_owned());
    Ok(spec)
}
