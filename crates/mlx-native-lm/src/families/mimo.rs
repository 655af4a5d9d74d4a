//! MiMo: Qwen2; its layers for several tokens at once are left unread.

use super::Family;
use super::common::Config;
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::DecoderSpec;

use super::qwen2;

pub(super) const FAMILY: Family = Family {
    name: "mimo",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = Config::read(input)?;
    let mut spec = qwen2::decoder(&c, "")?;
    spec.head = c.head("", false)?;
    spec.dropped.push("model.mtp_layers.".to_owned());
    Ok(spec)
}
