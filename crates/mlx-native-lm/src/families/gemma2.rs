//! Gemma 2: norms on both sides of each branch, capped scores and logits.

use super::Family;
use super::common::{Config, MAX_EXTENT, sandwich_layer};
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::{DecoderSpec, Head, MlpActivation};

pub(super) const FAMILY: Family = Family {
    name: "gemma2",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = &Config::read(input)?;
    let (rope, inner) = (c.plain_rope(c.head_dim, c.flag("rope_traditional", false)?)?, c.count("intermediate_size")?);
    let scale = (1.0 / c.positive("query_pre_attn_scalar", 144.0)?.sqrt()) as f32;
    let cap = c.positive("attn_logit_softcapping", 50.0)? as f32;
    // Every other layer sees a window, as the model was trained; mlx-lm lets them see all, which is the same up to its length.
    let window = c.fields.count("sliding_window", MAX_EXTENT)?;
    let mut spec = c.decoder("", |i, path| {
        let slides = window.filter(|_| i.is_multiple_of(2));
        let attention = c.attention(&format!("{path}.self_attn"));
        let mut attention = attention.turned(Some(rope.clone())).sliding(slides);
        (attention.scale, attention.cap) = (scale, Some(cap));
        let mlp = c.mlp(&format!("{path}.mlp"), inner, MlpActivation::GeluTanh, false);
        Ok(sandwich_layer(c, path, attention, mlp.block()))
    })?;
    spec.embedding.scale = (c.hidden as f64).sqrt() as f32;
    spec.head = Head::new(None);
    spec.head.cap = Some(c.positive("final_logit_softcapping", 30.0)? as f32);
    spec.dropped.push("lm_head.".to_owned());
    Ok(spec.norms_plus_one())
}
