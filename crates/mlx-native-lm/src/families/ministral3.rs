//! Ministral 3: windows by layer, and queries multiplied by a factor that grows with the position.

use super::Family;
use super::common::{Config, pre_norm_layer};
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::{DecoderSpec, Temperature};

pub(super) const FAMILY: Family = Family {
    name: "ministral3",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    decoder(&Config::read(input)?, "")
}

/// The decoder, with tensors under `prefix`.
pub(super) fn decoder(c: &Config<'_>, prefix: &str) -> Result<DecoderSpec> {
    let (rope, inner) = (c.rope(c.head_dim)?, c.count("intermediate_size")?);
    let temperature = position_temperature(c)?;
    let windows = c.windows()?;
    c.decoder(prefix, |i, path| {
        let mut attention = c
            .attention(&format!("{path}.self_attn"))
            .turned(Some(rope.clone()))
            .sliding(windows[i]);
        attention.temperature = Some(temperature);
        let mlp = c.mlp(&format!("{path}.mlp"), inner, c.silu()?, false);
        Ok(pre_norm_layer(c, path, attention, mlp.block()))
    })
}

/// `1 + β·ln(1 + ⌊p / original context⌋)`, its numbers under `rope_parameters`.
pub(super) fn position_temperature(c: &Config<'_>) -> Result<Temperature> {
    let parameters = c.fields.object("rope_parameters", "rope_parameters.")?;
    let parameters = c.fields.require("rope_parameters", parameters)?;
    let beta = "llama_4_scaling_beta";
    let original = "original_max_position_embeddings";
    Ok(Temperature {
        scale: parameters.require(beta, parameters.f64(beta)?)? as f32,
        shift: 0,
        every: parameters.require(original, parameters.count(original, u32::MAX as usize)?)?,
    })
}
