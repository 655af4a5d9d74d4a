//! Qwen3.5-MoE: Qwen3.5 with experts, one of which every token takes through a gate.

use super::Family;
use super::common::{Config, KEYS};
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::{Block, DecoderSpec, Score};

use super::experts;
use super::{qwen2_moe, qwen3_5};

pub(super) const FAMILY: Family = Family {
    name: "qwen3_5_moe",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let input = input.within("text_config", "text_config.")?;
    let c = &Config::read_with_eps(&input, input.fields, KEYS, 1e-6)?;
    let spec = qwen3_5::decoder(c, "language_model.", |_, path| sparse(c, &format!("{path}.mlp")))?;
    Ok(spec.language_half())
}

/// The family's experts under `path`.
pub(super) fn sparse(c: &Config<'_>, path: &str) -> Result<Block> {
    let (n, k) = (c.count("num_experts")?, c.count("num_experts_per_tok")?);
    let mut router = experts::router(c, format!("{path}.gate"), n, k, Score::Softmax)?;
    router.normalise = c.flag("norm_topk_prob", true)?.then_some(0.0);
    qwen2_moe::gated(c, path, router)
}
