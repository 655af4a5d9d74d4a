//! SmolLM3: Llama, some layers of which know no positions.

use super::Family;
use super::common::{Config, pre_norm_layer};
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::DecoderSpec;

pub(super) const FAMILY: Family = Family {
    name: "smollm3",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = &Config::read(input)?;
    let (rope, inner, activation) = (c.rope(c.head_dim)?, c.count("intermediate_size")?, c.silu()?);
    let (bias, mlp_bias) = (c.flag("attention_bias", false)?, c.flag("mlp_bias", false)?);
    let interval = c.count_or("no_rope_layer_interval", 4)?;
    let turns: Vec<bool> = match c.numbers("no_rope_layers")? {
        None => (0..c.layers).map(|i| !(i + 1).is_multiple_of(interval)).collect(),
        Some(list) if list.len() == c.layers => list.into_iter().map(|n| n != 0).collect(),
        Some(list) => {
            return Err(c.fields.invalid("no_rope_layers", list.len(), &format!("{} numbers, one a layer", c.layers)));
        }
    };
    c.decoder("", |i, path| {
        let attention = c
            .attention(&format!("{path}.self_attn"))
            .biased(bias, bias)
            .turned(turns[i].then(|| rope.clone()));
        let mlp = c.mlp(&format!("{path}.mlp"), inner, activation.clone(), mlp_bias);
        Ok(pre_norm_layer(c, path, attention, mlp.block()))
    })
}
