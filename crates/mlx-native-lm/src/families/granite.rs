//! Granite: Llama with factors for the table, the residuals, the scores and the logits.

use super::Family;
use super::common::{Config, pre_norm_layer};
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::DecoderSpec;

use crate::spec::Layer;

pub(super) const FAMILY: Family = Family {
    name: "granite",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = &Config::read(input)?;
    let (rope, inner, activation) = (c.rope(c.head_dim)?, c.count("intermediate_size")?, c.silu()?);
    let (bias, mlp_bias) = (c.flag("attention_bias", false)?, c.flag("mlp_bias", false)?);
    let m = Multipliers::read(c)?;
    let mut spec = c.decoder("", |_, path| {
        let mut attention =
            c.attention(&format!("{path}.self_attn")).biased(bias, bias).turned(Some(rope.clone()));
        attention.scale = m.attention;
        let mlp = c.mlp(&format!("{path}.mlp"), inner, activation.clone(), mlp_bias);
        Ok(m.scaled(pre_norm_layer(c, path, attention, mlp.block())))
    })?;
    m.apply(&mut spec);
    Ok(spec)
}

/// The factors of the family.
pub(super) struct Multipliers {
    pub attention: f32,
    pub residual: f32,
    pub embedding: f32,
    pub logits: f32,
}

impl Multipliers {
    pub fn read(c: &Config<'_>) -> Result<Self> {
        let number = |key: &str| Ok::<_, crate::LmError>(c.fields.require(key, c.fields.positive(key)?)? as f32);
        Ok(Multipliers {
            attention: number("attention_multiplier")?,
            residual: number("residual_multiplier")?,
            embedding: number("embedding_multiplier")?,
            logits: 1.0 / number("logits_scaling")?,
        })
    }

    /// A layer whose branches are multiplied before they are added.
    pub fn scaled(&self, mut layer: Layer) -> Layer {
        layer.branches.iter_mut().for_each(|b| b.factor *= self.residual);
        layer
    }

    pub fn apply(&self, spec: &mut DecoderSpec) {
        spec.embedding.scale = self.embedding;
        spec.head.scale = self.logits;
    }
}
