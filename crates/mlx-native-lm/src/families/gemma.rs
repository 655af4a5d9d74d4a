//! Gemma: gates of GELU, weights of norms stored less one, a table multiplied by the root of its width.

use super::Family;
use super::common::{Config, pre_norm_layer};
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::{DecoderSpec, Head, MlpActivation};

pub(super) const FAMILY: Family = Family {
    name: "gemma",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = &Config::read(input)?;
    let (rope, inner) = (c.plain_rope(c.head_dim, c.flag("rope_traditional", false)?)?, c.count("intermediate_size")?);
    let mut spec = c.decoder("", |_, path| {
        let attention = c.attention(&format!("{path}.self_attn")).turned(Some(rope.clone()));
        let mlp = c.mlp(&format!("{path}.mlp"), inner, MlpActivation::GeluErf, false);
        Ok(pre_norm_layer(c, path, attention, mlp.block()))
    })?;
    spec.embedding.scale = (c.hidden as f64).sqrt() as f32;
    spec.head = Head::new(None);
    spec.dropped.push("lm_head.".to_owned());
    Ok(spec.norms_plus_one())
}
