//! Mellum: Qwen3-MoE with windows, each kind of layer with a rotation of its own.

use super::Family;
use super::common::{Config, pre_norm_layer};
use super::qwen3_moe;
use crate::rope::{RopeConfig, RopeScaling};
use crate::spec::DecoderSpec;
use crate::config::FamilyInput;
use crate::error::Result;

pub(super) const FAMILY: Family = Family {
    name: "mellum",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = &Config::read(input)?;
    let (sliding, windows) = (c.sliding()?, c.windows()?);
    let ropes = [rope(c, false)?, rope(c, true)?];
    let mut spec = c.decoder("", |i, path| {
        let own = format!("{path}.self_attn");
        let rope = ropes[usize::from(sliding[i])].clone();
        let attention = c.attention(&own).normed(&own, c.eps, 0.0);
        let attention = attention.turned(Some(rope)).sliding(windows[i]);
        let ff = qwen3_moe::sparse(c, &format!("{path}.mlp"))?;
        Ok(pre_norm_layer(c, path, attention, ff))
    })?;
    spec.head = c.head("", false)?;
    Ok(spec)
}

/// Of the methods, a linear one is passed over.
fn rope(c: &Config<'_>, slides: bool) -> Result<RopeConfig> {
    let mut rope = c.rope_of_kind(slides, c.head_dim, 1.0)?;
    rope.dims = c.head_dim;
    if matches!(rope.scaling, RopeScaling::Linear { .. }) {
        rope.scaling = RopeScaling::Default;
    }
    Ok(rope)
}
