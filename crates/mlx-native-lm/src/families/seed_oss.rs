//! Seed-OSS: Llama with biases by flags of their own.

use super::Family;
use super::common::{Config, pre_norm_layer};
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::DecoderSpec;

pub(super) const FAMILY: Family = Family {
    name: "seed_oss",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = &Config::read(input)?;
    let (rope, inner, activation) = (c.rope(c.head_dim)?, c.count("intermediate_size")?, c.silu()?);
    let (bias, out_bias) = (c.flag("attention_bias", false)?, c.flag("attention_out_bias", false)?);
    let mlp_bias = c.flag("mlp_bias", false)?;
    c.decoder("", |_, path| {
        let attention =
            c.attention(&format!("{path}.self_attn")).biased(bias, out_bias).turned(Some(rope.clone()));
        let mlp = c.mlp(&format!("{path}.mlp"), inner, activation.clone(), mlp_bias);
        Ok(pre_norm_layer(c, path, attention, mlp.block()))
    })
}
