//! The language half of LFM2-VL, under `language_model`.

use super::Family;
use super::common::{Config, KEYS, Keys};
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::DecoderSpec;

use super::lfm2;

pub(super) const FAMILY: Family = Family {
    name: "lfm2-vl",
    also: &["lfm2_vl"],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let input = input.within("text_config", "text_config.")?;
    let c = Config::read_keys(&input, input.fields, Keys { eps: "norm_eps", ..KEYS })?;
    Ok(lfm2::decoder(&c, "language_model.")?.language_half())
}
