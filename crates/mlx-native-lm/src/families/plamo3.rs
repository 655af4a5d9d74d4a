//! PLaMo 3: windows in most layers, norms on both sides with offsets.

use super::Family;
use super::common::{Config, KEYS, MAX_EXTENT, sandwich_layer_of};
use super::plamo2;
use crate::rope::RopeConfig;
use crate::spec::{Block, DecoderSpec, MlpActivation};
use crate::config::FamilyInput;
use crate::error::Result;

pub(super) const FAMILY: Family = Family {
    name: "plamo3",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = &Config::read_with_eps(input, input.fields, KEYS, 1e-6)?;
    let window = match c.fields.count("sliding_window", MAX_EXTENT)? {
        Some(window) => window,
        None => c.count_or("window_size", 2048)?,
    };
    let pattern = c.count_or("sliding_window_pattern", 8)?;
    let global = RopeConfig::plain(c.head_dim, c.positive("rope_theta", 1e6)?, false);
    let local = RopeConfig::plain(c.head_dim, c.positive("rope_local_theta", 10_000.0)?, false);
    let inner = c.count_or("intermediate_size", 13_312)?;
    let head = c.head("", true)?;
    let mut spec = c.decoder_named("model", ["embed_tokens", "layers.layers", "norm"], head, |i, path| {
        let slides = !(i + 1).is_multiple_of(pattern);
        let own = format!("{path}.mixer");
        let mut attention = c
            .attention(&own)
            .fused(&format!("{own}.qkv_proj"), false)
            .normed(&own, c.eps, 1.0)
            .turned(Some(if slides { local.clone() } else { global.clone() }))
            .sliding(slides.then_some(window + 1));
        // As in mlx-lm, whose ring holds one key fewer than its mask shows.
        attention.short_ring = slides;
        let own = format!("{path}.mlp");
        let mlp = c.mlp(&own, inner, MlpActivation::Silu, false).fused(&format!("{own}.gate_up_proj"));
        let mixer = Block::Attention(Box::new(attention));
        Ok(plamo2::with_offsets(sandwich_layer_of(c, path, plamo2::NORMS, mixer, mlp.block())))
    })?;
    spec.norm = spec.norm.map(|norm| norm.plus(1.0));
    if spec.head.matrix.is_none() {
        spec.dropped.push("lm_head.".to_owned());
    }
    Ok(spec)
}
