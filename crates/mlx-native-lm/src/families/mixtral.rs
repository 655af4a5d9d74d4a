//! Mixtral: Llama with experts, the chosen weighted by the softmax of their logits.

use super::Family;
use super::common::{Config, pre_norm_layer};
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::{DecoderSpec, MlpActivation, Score};

use super::experts;

pub(super) const FAMILY: Family = Family {
    name: "mixtral",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = &Config::read(input)?;
    let rope = c.plain_rope_from(c.head_dim, 1e6, c.flag("rope_traditional", false)?)?;
    let (n, k) = (c.count("num_local_experts")?, c.count("num_experts_per_tok")?);
    let (inner, window) = (c.count("intermediate_size")?, c.window()?);
    let mut spec = c.decoder("", |_, path| {
        let attention = c.attention(&format!("{path}.self_attn")).turned(Some(rope.clone())).sliding(window);
        let own = format!("{path}.block_sparse_moe");
        let router = experts::router(c, format!("{own}.gate"), n, k, Score::SoftmaxOfChosen)?;
        let all = experts::experts(c, &format!("{own}.switch_mlp"), n, inner, MlpActivation::Silu);
        Ok(pre_norm_layer(c, path, attention, experts::moe(router, all, None)))
    })?;
    spec.head = c.head("", false)?;
    Ok(spec)
}
