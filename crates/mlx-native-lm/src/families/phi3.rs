//! Phi-3 and 4: Llama with fused matrices and a share of each head turned.

use super::Family;
use super::common::{Config, pre_norm_layer};
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::DecoderSpec;

use crate::error::LmError;
use crate::rope::{RopeConfig, RopeScaling};

pub(super) const FAMILY: Family = Family {
    name: "phi3",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = &Config::read(input)?;
    let rope = rope(c, c.rotary_dims(c.head_dim, 1.0)?)?;
    let (inner, window) = (c.count("intermediate_size")?, c.window()?);
    let mut spec = c.decoder("", |_, path| {
        let own = format!("{path}.self_attn");
        let attention = c.attention(&own).fused(&format!("{own}.qkv_proj"), false);
        let attention = attention.turned(Some(rope.clone())).sliding(window);
        let own = format!("{path}.mlp");
        let mlp = c.mlp(&own, inner, c.silu()?, false).fused(&format!("{own}.gate_up_proj"));
        Ok(pre_norm_layer(c, path, attention, mlp.block()))
    })?;
    spec.head = c.head("", false)?;
    if spec.head.matrix.is_none() {
        spec.dropped.push("lm_head.".to_owned());
    }
    Ok(spec)
}

/// The family's rotation: the context of the first training stands beside the factors, not among them.
pub(super) fn rope(c: &Config<'_>, dims: usize) -> Result<RopeConfig> {
    let plain = c.plain_rope(dims, c.flag("rope_traditional", false)?)?;
    let parameters = c.fields.object("rope_parameters", "rope_parameters.")?;
    let Some(scaling) = c.fields.object("rope_scaling", "rope_scaling.")?.or(parameters) else { return Ok(plain) };
    let factors = |key: &str| Ok::<_, LmError>(scaling.positives(key)?.unwrap_or_default());
    let (short_factor, long_factor) = (factors("short_factor")?, factors("long_factor")?);
    let method = scaling.str("type")?.or(scaling.str("rope_type")?);
    let is_long = matches!(method, Some("longrope" | "su"));
    Ok(RopeConfig {
        scaling: match method {
            Some("longrope" | "su") => {
                if long_factor.len() != dims / 2 {
                    let wanted = format!("{} numbers, one a pair", dims / 2);
                    return Err(scaling.invalid("long_factor", long_factor.len(), &wanted));
                }
                RopeScaling::LongRope {
                    short_factor,
                    long_factor,
                    original_context: c.count_or("original_max_position_embeddings", 4096)?,
                    factor: None,
                }
            }
            Some("linear") => {
                RopeScaling::Linear { factor: scaling.require("factor", scaling.positive("factor")?)? as f32 }
            }
            // Others are passed over by mlx-lm, with a warning.
            Some("default") => RopeScaling::Default,
            Some(other) => RopeScaling::Other(other.to_owned()),
            None => RopeScaling::Default,
        },
        // The long factors are for halves that are paired, whatever the file says.
        traditional: plain.traditional && !is_long,
        max_context: Some(c.count_or("max_position_embeddings", 131_072)?),
        ..plain
    })
}
