//! InternLM3: Llama with a rotary base that follows the length of the text.

use super::Family;
use super::common::{Config, pre_norm_layer};
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::DecoderSpec;

pub(super) const FAMILY: Family = Family {
    name: "internlm3",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = &Config::read(input)?;
    let (rope, inner, activation) = (c.rope(c.head_dim)?, c.count("intermediate_size")?, c.silu()?);
    let (qkv_bias, bias) = (c.flag("qkv_bias", false)?, c.flag("bias", false)?);
    let mut spec = c.decoder("", |_, path| {
        let attention =
            c.attention(&format!("{path}.self_attn")).biased(qkv_bias, qkv_bias).turned(Some(rope.clone()));
        let mlp = c.mlp(&format!("{path}.mlp"), inner, activation.clone(), bias);
        Ok(pre_norm_layer(c, path, attention, mlp.block()))
    })?;
    spec.head = c.head("", false)?;
    Ok(spec)
}
