//! GLM-4: GLM with norms before and behind each branch, and a share of each head turned.

use super::Family;
use super::common::Config;
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::{Block, Branch, DecoderSpec, Layer};

pub(super) const FAMILY: Family = Family {
    name: "glm4",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = &Config::read(input)?;
    let traditional = c.flag("rope_traditional", true)?;
    let rope = c.plain_rope(c.rotary_dims(c.head_dim, 1.0)?, traditional)?;
    let (inner, bias) = (c.count("intermediate_size")?, c.flag("attention_bias", false)?);
    let mut spec = c.decoder("", |_, path| {
        let attention = c.attention(&format!("{path}.self_attn")).biased(bias, false).turned(Some(rope.clone()));
        let own = format!("{path}.mlp");
        let mlp = c.mlp(&own, inner, c.silu()?, false).fused(&format!("{own}.gate_up_proj"));
        let norm = |name: &str| Some(c.rms(&format!("{path}.{name}")));
        let attention = Block::Attention(Box::new(attention));
        Ok(Layer {
            alternating: None,
            branches: vec![
                Branch::new(norm("input_layernorm"), attention, norm("post_self_attn_layernorm")),
                Branch::new(norm("post_attention_layernorm"), mlp.block(), norm("post_mlp_layernorm")),
            ],
        })
    })?;
    spec.head.matrix = Some(c.lm_head(""));
    spec.dropped.retain(|p| !p.starts_with("lm_head"));
    Ok(spec)
}
