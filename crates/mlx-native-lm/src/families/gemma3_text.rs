//! Gemma 3: windows in most layers, with a rotary base of their own.

use super::Family;
use super::common::{Config, sandwich_layer};
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::{DecoderSpec, Head, MlpActivation};

use crate::rope::RopeConfig;

pub(super) const FAMILY: Family = Family {
    name: "gemma3_text",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    decoder(&Config::read(input)?, "")
}

/// The decoder, with tensors under `prefix`.
pub(super) fn decoder(c: &Config<'_>, prefix: &str) -> Result<DecoderSpec> {
    let inner = c.count("intermediate_size")?;
    let local = c.positive("rope_local_base_freq", 10_000.0)?;
    let local = c.nested_rope(true, c.head_dim, local)?.unwrap_or_else(|| RopeConfig::plain(c.head_dim, local, false));
    let global = match c.nested_rope(false, c.head_dim, c.theta_or(1e6)?)? {
        Some(rope) => rope,
        None => c.rope_from(c.head_dim, 1e6)?,
    };
    let scale = (1.0 / c.positive("query_pre_attn_scalar", 256.0)?.sqrt()) as f32;
    let (window, pattern) = (c.count_or("sliding_window", 512)?, c.count_or("sliding_window_pattern", 6)?);
    // The same said layer by layer, in newer files.
    let sliding = c.sliding_or_every(pattern)?;
    let mut spec = c.decoder(prefix, |i, path| {
        let slides = sliding[i];
        let own = format!("{path}.self_attn");
        let mut attention = c
            .attention(&own)
            .normed(&own, c.eps, 0.0)
            .turned(Some(if slides { local.clone() } else { global.clone() }))
            .sliding(slides.then_some(window));
        attention.scale = scale;
        let mlp = c.mlp(&format!("{path}.mlp"), inner, MlpActivation::GeluTanh, false);
        Ok(sandwich_layer(c, path, attention, mlp.block()))
    })?;
    // The root is rounded to bf16, whatever the dtype of the model.
    spec.embedding.scale = half::bf16::from_f64((c.hidden as f64).sqrt()).to_f32();
    let matrix = c.lm_head(prefix);
    let has_head = c.input.has(&format!("{}.weight", matrix.path));
    spec.head = Head::new(has_head.then_some(matrix));
    Ok(spec.norms_plus_one())
}
