//! Mistral 4: latent attention with a factor of the position, experts by softmax in groups.

use super::Family;
use super::common::Config;
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::{DecoderSpec, Score};

use super::experts;
use super::{deepseek_v3, ministral3};

pub(super) const FAMILY: Family = Family {
    name: "mistral4",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    decoder(&Config::read_latent(input)?, "")
}

/// The decoder, with tensors under `prefix`.
pub(super) fn decoder(c: &Config<'_>, prefix: &str) -> Result<DecoderSpec> {
    let mut template = deepseek_v3::latent(c, 1e-6)?;
    template.temperature = Some(ministral3::position_temperature(c)?);
    let mut spec = deepseek_v3::decoder_with(c, prefix, template, false, |own| {
        experts::deepseek(c, own, ["switch_mlp", "gate.e_score_correction_bias"], Score::Softmax)
    })?;
    spec.head = c.head(prefix, false)?;
    Ok(spec)
}
