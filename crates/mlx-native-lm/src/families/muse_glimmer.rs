//! Muse Glimmer: norms on both sides, queries and keys normed without weights, a gate on attention.

use super::Family;
use super::common::{Config, KEYS, sandwich_layer};
use crate::error::LmError;
use crate::rope::RopeConfig;
use crate::spec::{DecoderSpec, GateShape, MlpActivation, Norm};
use crate::config::FamilyInput;
use crate::error::Result;

pub(super) const FAMILY: Family = Family {
    name: "muse_glimmer",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    // What `text_config` says comes first.
    let inner = input.within("text_config", "text_config.")?;
    let c = &Config::read_with_eps(&inner, inner.fields, KEYS, 1e-5)?;
    if let Some(other) = c.fields.str("hidden_activation")?.filter(|a| *a != "silu") {
        return Err(LmError::Unsupported(format!("config.json: hidden_activation {other:?}; silu is")));
    }
    let (sliding, window) = (c.sliding_or_every(4)?, c.count_or("sliding_window", 2048)?);
    let rope = RopeConfig::plain(c.head_dim, c.theta_or(500_000.0)?, false);
    let turning = match c.per_layer("layer_rope_theta")? {
        Some(list) if list.len() >= c.layers => list.iter().map(|theta| *theta != 0.0).collect(),
        Some(list) => return Err(c.fields.invalid("layer_rope_theta", list.len(), "a number for each layer")),
        None => sliding.clone(),
    };
    let (factor, post_eps) = (c.number("qk_scale_factor", 3.87)? as f32, c.number("post_norm_eps", 1e-8)? as f32);
    let prefix = ["language_model.", ""].into_iter().find(|p| input.has(&format!("{p}model.embed_tokens.weight")));
    let inner_size = c.count_or("intermediate_size", 19_968)?;
    let mut spec = c.decoder(prefix.unwrap_or(""), |i, path| {
        let own = format!("{path}.self_attn");
        let mut attention = c
            .attention(&own)
            .normed_plain(c.eps, false)
            .turned(turning[i].then(|| rope.clone()))
            .sliding(sliding[i].then_some(window))
            .gated(format!("{own}.gate_proj"), GateShape::Element);
        attention.q_factor = factor;
        let mlp = c.mlp(&format!("{path}.mlp"), inner_size, MlpActivation::Silu, false);
        let mut layer = sandwich_layer(c, path, attention, mlp.block());
        for branch in &mut layer.branches {
            branch.norm = branch.norm.take().map(|norm| norm.plus(1.0));
            branch.post = branch.post.take().map(|norm| Norm { eps: post_eps, ..norm.plus(1.0) });
        }
        Ok(layer)
    })?;
    spec.head = c.head(prefix.unwrap_or(""), false)?;
    spec.head.scale = c.number("output_multiplier", 0.196_116_135_138_184_04)? as f32;
    spec.head.cap = Some(c.positive("final_logit_softcapping", 20.0)? as f32);
    spec.embedding.norm = Some(Norm::rms_plain(c.hidden, c.eps));
    spec.dropped.extend(["vision_tower", "vision_adapter", "vision_projection"].map(str::to_owned));
    Ok(spec)
}
