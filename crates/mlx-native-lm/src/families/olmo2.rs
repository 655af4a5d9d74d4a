//! OLMo 2: norms behind the branches, and over all heads of queries and of keys.

use super::Family;
use super::common::{Config, post_norm_layer};
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::DecoderSpec;

pub(super) const FAMILY: Family = Family {
    name: "olmo2",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = &Config::read(input)?;
    let (rope, inner, activation) = (c.rope(c.head_dim)?, c.count("intermediate_size")?, c.silu()?);
    let (bias, mlp_bias) = (c.flag("attention_bias", false)?, c.flag("mlp_bias", false)?);
    c.decoder("", |_, path| {
        let own = format!("{path}.self_attn");
        let attention =
            c.attention(&own).biased(bias, bias).normed_whole(&own, c.eps).turned(Some(rope.clone()));
        let mlp = c.mlp(&format!("{path}.mlp"), inner, activation.clone(), mlp_bias);
        Ok(post_norm_layer(c, path, attention, mlp.block()))
    })
}
