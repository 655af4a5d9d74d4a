//! GLM: Llama with gate and up in one matrix and neighbouring features turned together.

use super::Family;
use super::common::{Config, pre_norm_layer};
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::DecoderSpec;

pub(super) const FAMILY: Family = Family {
    name: "glm",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = &Config::read(input)?;
    let (rope, inner) = (c.plain_rope(c.head_dim, true)?, c.count("intermediate_size")?);
    let bias = c.flag("attention_bias", false)?;
    c.decoder("", |_, path| {
        let attention = c.attention(&format!("{path}.self_attn")).biased(bias, false).turned(Some(rope.clone()));
        let own = format!("{path}.mlp");
        let mlp = c.mlp(&own, inner, c.silu()?, false).fused(&format!("{own}.gate_up_proj"));
        Ok(pre_norm_layer(c, path, attention, mlp.block()))
    })
}
