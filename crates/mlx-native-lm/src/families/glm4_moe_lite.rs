//! GLM-4.7 Flash: DeepSeek V3 with the epsilon of its configuration.

use super::Family;
use super::common::Config;
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::{DecoderSpec, Score};

use super::experts;
use super::deepseek_v3;

pub(super) const FAMILY: Family = Family {
    name: "glm4_moe_lite",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = &Config::read_latent(input)?;
    deepseek_v3::decoder_with(c, "", deepseek_v3::latent(c, c.eps)?, false, |own| {
        experts::deepseek(c, own, ["switch_mlp", "gate.e_score_correction_bias"], Score::Sigmoid)
    })
}
