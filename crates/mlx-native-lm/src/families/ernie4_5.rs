//! ERNIE 4.5, dense: Llama with neighbouring features turned together.

use super::Family;
use super::common::{Config, pre_norm_layer};
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::DecoderSpec;

pub(super) const FAMILY: Family = Family {
    name: "ernie4_5",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = &Config::read(input)?;
    let (rope, inner, activation) = (c.plain_rope(c.head_dim, true)?, c.count("intermediate_size")?, c.silu()?);
    let bias = c.flag("use_bias", false)?;
    c.decoder("", |_, path| {
        let attention = c.attention(&format!("{path}.self_attn")).biased(bias, bias).turned(Some(rope.clone()));
        let mlp = c.mlp(&format!("{path}.mlp"), inner, activation.clone(), bias);
        Ok(pre_norm_layer(c, path, attention, mlp.block()))
    })
}
