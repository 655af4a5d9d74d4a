//! Llama, and the models that copied it: Mistral, XVERSE, IQuest-Coder.

use super::Family;
use super::common::{Config, pre_norm_layer};
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::DecoderSpec;

pub(super) const FAMILY: Family = Family {
    name: "llama",
    also: &["mistral", "xverse", "iquestcoder"],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    decoder(&Config::read(input)?, "")
}

/// The decoder, with tensors under `prefix`. Layers slide where `layer_types` says so; Mistral's have a `sliding_window` for all.
pub(super) fn decoder(c: &Config<'_>, prefix: &str) -> Result<DecoderSpec> {
    let rope = c.rope(c.head_dim)?;
    let (bias, mlp_bias) = (c.flag("attention_bias", false)?, c.flag("mlp_bias", false)?);
    let inner = c.count("intermediate_size")?;
    let activation = c.silu()?;
    let by_layer = c.fields.get("layer_types").is_some();
    let windows = match c.fields.str("model_type")? {
        _ if by_layer => c.windows()?,
        Some("mistral") => vec![c.fields.count("sliding_window", u32::MAX as usize)?; c.layers],
        // Neither transformers nor mlx-lm looks at a window here: it is told as a field without effect.
        _ => vec![None; c.layers],
    };
    c.decoder(prefix, |i, path| {
        let attention = c
            .attention(&format!("{path}.self_attn"))
            .biased(bias, bias)
            .turned(Some(rope.clone()))
            .sliding(windows[i]);
        let mlp = c.mlp(&format!("{path}.mlp"), inner, activation.clone(), mlp_bias);
        Ok(pre_norm_layer(c, path, attention, mlp.block()))
    })
}
