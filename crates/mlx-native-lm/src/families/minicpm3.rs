//! MiniCPM3: MiniCPM with latent attention, keys and values of every head kept.

use super::Family;
use super::common::Config;
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::DecoderSpec;

use super::{deepseek_v3, minicpm};

pub(super) const FAMILY: Family = Family {
    name: "minicpm3",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = &Config::read_latent(input)?;
    let mut template = deepseek_v3::latent_of(c, 1e-5, c.hidden / c.heads)?;
    if let Some(rope) = &mut template.rope {
        rope.traditional = false;
    }
    let mut spec = deepseek_v3::decoder_with(c, "", template, false, |own| {
        Err(crate::LmError::Unsupported(format!("{own}: experts in this family")))
    })?;
    minicpm::scale(c, &mut spec)?;
    Ok(spec)
}
