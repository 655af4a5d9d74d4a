//! The language half of Qwen3-VL: Qwen3 under `language_model`.

use super::Family;
use super::common::Config;
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::DecoderSpec;

use super::qwen3;

pub(super) const FAMILY: Family = Family {
    name: "qwen3_vl",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let input = input.within("text_config", "text_config.")?;
    Ok(qwen3::decoder(&Config::read(&input)?, "language_model.")?.language_half())
}
