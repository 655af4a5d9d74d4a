//! The language half of Qwen2-VL and 2.5-VL: Qwen2 under `language_model`.

use super::Family;
use super::common::Config;
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::DecoderSpec;

use super::qwen2;

pub(super) const FAMILY: Family = Family {
    name: "qwen2_vl",
    also: &["qwen2_5_vl"],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let input = input.within("text_config", "text_config.")?;
    Ok(qwen2::decoder(&Config::read(&input)?, "language_model.")?.language_half())
}
