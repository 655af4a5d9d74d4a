//! The language half of Qwen3-VL-MoE: Qwen3-MoE under `language_model`, never tied.

use super::Family;
use super::common::Config;
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::DecoderSpec;

use super::qwen3_moe;

pub(super) const FAMILY: Family = Family {
    name: "qwen3_vl_moe",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let input = input.within("text_config", "text_config.")?;
    let c = Config::read(&input)?;
    let mut spec = qwen3_moe::decoder(&c, "language_model.")?;
    spec.head.matrix = Some(c.lm_head("language_model."));
    Ok(spec.language_half())
}
