//! The language half of Gemma 3, under `language_model`.

use super::Family;
use super::common::Config;
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::DecoderSpec;

use super::gemma3_text;

pub(super) const FAMILY: Family = Family {
    name: "gemma3",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let vocab = input.fields.count("vocab_size", super::common::MAX_EXTENT)?;
    let input = input.within("text_config", "text_config.")?;
    let c = Config::read_with_vocab(&input, vocab.unwrap_or(262_208))?;
    Ok(gemma3_text::decoder(&c, "language_model.")?.language_half())
}
