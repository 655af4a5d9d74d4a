//! MiniCPM: Llama with factors for the table, the residuals and the hidden state before the head.

use super::Family;
use super::common::{Config, pre_norm_layer};
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::DecoderSpec;

pub(super) const FAMILY: Family = Family {
    name: "minicpm",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = &Config::read(input)?;
    let (rope, inner) = (c.rope_from(c.head_dim, 1e6)?, c.count("intermediate_size")?);
    let mut spec = c.decoder("", |_, path| {
        let attention = c.attention(&format!("{path}.self_attn")).turned(Some(rope.clone()));
        let mlp = c.mlp(&format!("{path}.mlp"), inner, c.silu()?, false);
        Ok(pre_norm_layer(c, path, attention, mlp.block()))
    })?;
    scale(c, &mut spec)?;
    Ok(spec)
}

/// The family's factors.
pub(super) fn scale(c: &Config<'_>, spec: &mut DecoderSpec) -> Result<()> {
    let number = |key: &str| c.fields.require(key, c.fields.positive(key)?);
    let residual = number("scale_depth")? / (c.layers as f64).sqrt();
    for branch in spec.layers.iter_mut().flat_map(|l| &mut l.branches) {
        branch.factor = residual as f32;
    }
    spec.embedding.scale = number("scale_emb")? as f32;
    spec.head = c.head("", false)?;
    if spec.head.matrix.is_some() {
        spec.head.scale = (c.count("dim_model_base")? as f64 / c.hidden as f64) as f32;
    }
    Ok(())
}
