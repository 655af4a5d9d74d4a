//! The language half of Mistral 3 and of LLaVA: what `text_config` names, under `language_model`.

use super::Family;
use super::common::Config;
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::DecoderSpec;

use super::{llama, ministral3, mistral4};

pub(super) const FAMILY: Family = Family {
    name: "mistral3",
    also: &["llava"],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let input = input.within("text_config", "text_config.")?;
    if input.fields.str("model_type")? == Some("mistral4") {
        let c = Config::read_latent(&input)?;
        return Ok(mistral4::decoder(&c, "language_model.")?.language_half());
    }
    let c = Config::read(&input)?;
    let spec = match input.fields.str("model_type")? {
        Some("ministral3") => ministral3::decoder(&c, "language_model.")?,
        _ => llama::decoder(&c, "language_model.")?,
    };
    Ok(spec.language_half())
}
