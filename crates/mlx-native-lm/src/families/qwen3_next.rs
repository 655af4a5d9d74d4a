//! Qwen3-Next: the delta rule in three layers of four, its projections by key head, and experts.

use super::Family;
use super::common::{Config, pre_norm_layer_of};
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::{Block, DecoderSpec, Delta, Matrix, MlpActivation, Run};

use super::qwen3_5::{self, DeltaSizes};
use super::{qwen3_5_moe, qwen3_moe};

pub(super) const FAMILY: Family = Family {
    name: "qwen3_next",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = &Config::read(input)?;
    let rope = c.rope(c.rotary_dims(c.head_dim, 1.0)?)?;
    let (interval, bias) = (c.count_or("full_attention_interval", 4)?, c.flag("attention_bias", false)?);
    let mut spec = c.decoder("", |i, path| {
        let mixer = match (i + 1).is_multiple_of(interval) {
            true => {
                let own = format!("{path}.self_attn");
                let attention = qwen3_5::gated(c, &own).biased_gate(bias).normed(&own, c.eps, 0.0);
                Block::Attention(Box::new(attention.turned(Some(rope.clone()))))
            }
            false => Block::Delta(Box::new(by_key_head(c, &format!("{path}.linear_attn"))?)),
        };
        let own = format!("{path}.mlp");
        let ff = match qwen3_moe::is_sparse(c, i)? {
            true => qwen3_5_moe::sparse(c, &own)?,
            false => c.mlp(&own, c.count("intermediate_size")?, MlpActivation::Silu, false).block(),
        };
        Ok(pre_norm_layer_of(c, path, mixer, ff))
    })?;
    spec.head = c.head("", false)?;
    spec.dropped.push("mtp.".to_owned());
    Ok(spec)
}

/// The delta rule whose projections are in two matrices, for each key head `[q | k | v | z]` and `[b | a]`.
fn by_key_head(c: &Config<'_>, path: &str) -> Result<Delta> {
    let s = DeltaSizes::read(c)?;
    let per = s.v_heads / s.k_heads;
    let (values, group) = (per * s.v_dim, 2 * s.k_dim + 2 * per * s.v_dim);
    let rows = |first: usize, count: usize, group: usize| Run { first, block: count, stride: group, count: s.k_heads * count };
    let qkvz = |rows| Matrix::new(format!("{path}.in_proj_qkvz"), 0, c.hidden).picked(rows, s.k_heads * group);
    let ba = |first| Matrix::new(format!("{path}.in_proj_ba"), 0, c.hidden).picked(vec![rows(first, per, 2 * per)], 2 * s.v_heads);
    let qkv = vec![rows(0, s.k_dim, group), rows(s.k_dim, s.k_dim, group), rows(2 * s.k_dim, values, group)];
    let z = vec![rows(2 * s.k_dim + values, values, group)];
    Ok(qwen3_5::delta(c, path, &s, [qkvz(qkv), qkvz(z), ba(0), ba(per)]))
}
