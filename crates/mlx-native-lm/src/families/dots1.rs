//! dots.llm1: norms of heads, the experts of DeepSeek V3.

use super::Family;
use super::common::Config;
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::DecoderSpec;

use super::glm4_moe;

pub(super) const FAMILY: Family = Family {
    name: "dots1",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = &Config::read(input)?;
    let (rope, bias) = (c.rope(c.head_dim)?, c.flag("attention_bias", false)?);
    // mlx-lm builds none whatever the file says.
    let bias = bias && input.has("model.layers.0.self_attn.q_proj.bias");
    glm4_moe::decoder(
        c,
        |own| c.attention(own).biased(bias, bias).normed(own, c.eps, 0.0).turned(Some(rope.clone())),
        "experts",
    )
}
