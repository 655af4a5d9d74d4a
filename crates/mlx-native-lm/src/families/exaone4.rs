//! EXAONE 4: norms behind the branches; windows and rotations in the layers that a string names.

use super::Family;
use super::common::{Config, post_norm_layer};
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::DecoderSpec;

pub(super) const FAMILY: Family = Family {
    name: "exaone4",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = &Config::read(input)?;
    let (rope, inner, activation) = (c.rope(c.head_dim)?, c.count("intermediate_size")?, c.silu()?);
    let pattern: Vec<char> = c.fields.str("sliding_window_pattern")?.unwrap_or("").chars().collect();
    let window = c.fields.count("sliding_window", u32::MAX as usize)?;
    c.decoder("", |i, path| {
        let slides = !pattern.is_empty() && pattern[i % pattern.len()] == 'L';
        if slides {
            c.fields.require("sliding_window", window)?;
        }
        let own = format!("{path}.self_attn");
        let attention = c
            .attention(&own)
            .normed(&own, c.eps, 0.0)
            .turned((pattern.is_empty() || slides).then(|| rope.clone()))
            .sliding(window.filter(|_| slides));
        let mlp = c.mlp(&format!("{path}.mlp"), inner, activation.clone(), false);
        Ok(post_norm_layer(c, path, attention, mlp.block()))
    })
}
