//! Qwen3, dense: Llama with queries and keys normalised per head.

use super::Family;
use super::common::{Config, pre_norm_layer};
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::DecoderSpec;

pub(super) const FAMILY: Family = Family {
    name: "qwen3",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    decoder(&Config::read(input)?, "")
}

/// The decoder, with tensors under `prefix`.
pub(super) fn decoder(c: &Config<'_>, prefix: &str) -> Result<DecoderSpec> {
    let rope = c.rope(c.head_dim)?;
    let bias = c.flag("attention_bias", false)?;
    let inner = c.count("intermediate_size")?;
    let activation = c.silu()?;
    let windows = c.windows()?;
    c.decoder(prefix, |i, path| {
        let path_of = format!("{path}.self_attn");
        let attention = c
            .attention(&path_of)
            .biased(bias, bias)
            .normed(&path_of, c.eps, 0.0)
            .turned(Some(rope.clone()))
            .sliding(windows[i]);
        let mlp = c.mlp(&format!("{path}.mlp"), inner, activation.clone(), false);
        Ok(pre_norm_layer(c, path, attention, mlp.block()))
    })
}
