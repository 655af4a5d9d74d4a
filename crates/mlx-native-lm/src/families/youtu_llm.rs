//! Youtu-LLM: latent attention with keys and values of every head kept, dense.

use super::Family;
use super::common::Config;
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::DecoderSpec;

use super::deepseek_v3;

pub(super) const FAMILY: Family = Family {
    name: "youtu_llm",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = &Config::read_latent(input)?;
    let mut spec = deepseek_v3::decoder_with(c, "", deepseek_v3::latent(c, c.eps)?, c.flag("mlp_bias", false)?, |own| {
        Err(crate::LmError::Unsupported(format!("{own}: experts in this family")))
    })?;
    spec.head = c.head("", true)?;
    if spec.head.matrix.is_none() {
        spec.dropped.push("lm_head.".to_owned());
    }
    Ok(spec)
}
