//! Helium: Llama with neighbouring features turned together and an output matrix whatever the file says of ties.

use super::Family;
use super::common::{Config, KEYS, Keys, UNSAID, pre_norm_layer};
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::DecoderSpec;

pub(super) const FAMILY: Family = Family {
    name: "helium",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    // Heads divide the stream, whatever `head_dim` says.
    let c = &Config::read_keys(input, input.fields, Keys { head_dim: UNSAID, ..KEYS })?;
    let (rope, inner, activation) = (c.plain_rope(c.head_dim, true)?, c.count("intermediate_size")?, c.silu()?);
    let (bias, mlp_bias) = (c.flag("attention_bias", false)?, c.flag("mlp_bias", false)?);
    let mut spec = c.decoder("", |_, path| {
        let attention = c.attention(&format!("{path}.self_attn")).biased(bias, false).turned(Some(rope.clone()));
        let mlp = c.mlp(&format!("{path}.mlp"), inner, activation.clone(), mlp_bias);
        Ok(pre_norm_layer(c, path, attention, mlp.block()))
    })?;
    // There is an `lm_head` even where the table is used instead.
    spec.head = c.head("", false)?;
    Ok(spec)
}
