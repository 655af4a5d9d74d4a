//! OLMo 3: OLMo 2 with windows; only layers that see all stretch their rotations.

use super::Family;
use super::common::{Config, post_norm_layer};
use crate::config::FamilyInput;
use crate::error::Result;
use crate::rope::RopeConfig;
use crate::spec::DecoderSpec;

pub(super) const FAMILY: Family = Family {
    name: "olmo3",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = &Config::read(input)?;
    let theta = c.theta_or(500_000.0)?;
    let of = |slides: bool, plain: Result<RopeConfig>| match c.nested_rope(slides, c.head_dim, theta)? {
        Some(rope) => Ok(rope),
        None => plain,
    };
    let full = of(false, c.rope(c.head_dim))?;
    let local = of(true, c.plain_rope(c.head_dim, false))?;
    let (inner, activation, bias) = (c.count("intermediate_size")?, c.silu()?, c.flag("attention_bias", false)?);
    let sliding = match c.fields.get("layer_types") {
        Some(_) => c.sliding()?,
        None => (0..c.layers).map(|i| !(i + 1).is_multiple_of(4)).collect(),
    };
    let window = c.count("sliding_window")?;
    let mut spec = c.decoder("", |i, path| {
        let own = format!("{path}.self_attn");
        let rope = if sliding[i] { local.clone() } else { full.clone() };
        let attention = c
            .attention(&own)
            .biased(bias, bias)
            .normed_whole(&own, c.eps)
            .turned(Some(rope))
            .sliding(sliding[i].then_some(window));
        let mlp = c.mlp(&format!("{path}.mlp"), inner, activation.clone(), false);
        Ok(post_norm_layer(c, path, attention, mlp.block()))
    })?;
    spec.head = c.head("", false)?;
    Ok(spec)
}
