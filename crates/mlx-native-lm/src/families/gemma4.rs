//! Gemma 4 with other modes: the language half, whose configuration is `text_config`.

use super::Family;
use super::common::{Config, KEYS};
use super::gemma4_text;
use crate::spec::DecoderSpec;
use crate::config::FamilyInput;
use crate::error::Result;

pub(super) const FAMILY: Family = Family {
    name: "gemma4",
    also: &["gemma4_unified"],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let input = input.within("text_config", "text_config.")?;
    let c = Config::read_with_eps(&input, input.fields, KEYS, 1e-6)?;
    Ok(gemma4_text::decoder(&c, "language_model.")?.language_half())
}
