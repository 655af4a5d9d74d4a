//! Qwen2 and 2.5, dense: Llama with biases on queries, keys and values.

use super::Family;
use super::common::{Config, pre_norm_layer};
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::DecoderSpec;

pub(super) const FAMILY: Family = Family {
    name: "qwen2",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    decoder(&Config::read(input)?, "")
}

/// The decoder, with tensors under `prefix`.
pub(super) fn decoder(c: &Config<'_>, prefix: &str) -> Result<DecoderSpec> {
    let (rope, inner, activation) = (c.rope_from(c.head_dim, 1e6)?, c.count("intermediate_size")?, c.silu()?);
    let windows = c.windows()?;
    c.decoder(prefix, |i, path| {
        let attention = c.attention(&format!("{path}.self_attn")).biased(true, false).turned(Some(rope.clone()));
        let attention = attention.sliding(windows[i]);
        let mlp = c.mlp(&format!("{path}.mlp"), inner, activation.clone(), false);
        Ok(pre_norm_layer(c, path, attention, mlp.block()))
    })
}
