//! The language half of Kimi K2.5: DeepSeek V3 under `language_model`.

use super::Family;
use super::common::Config;
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::DecoderSpec;

use super::deepseek_v3;

pub(super) const FAMILY: Family = Family {
    name: "kimi_k25",
    also: &["kimi_vl"],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let input = input.within("text_config", "text_config.")?;
    Ok(deepseek_v3::decoder(&Config::read_latent(&input)?, "language_model.")?.language_half())
}
