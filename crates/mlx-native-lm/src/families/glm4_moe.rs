//! GLM-4.5 to 4.7: attention with a share of each head turned, the experts of DeepSeek V3.

use super::Family;
use super::common::{Config, pre_norm_layer};
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::{Attention, DecoderSpec, MlpActivation, Score};

use super::experts;

pub(super) const FAMILY: Family = Family {
    name: "glm4_moe",
    also: &["solar_open"],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = &Config::read(input)?;
    let rope = c.plain_rope(c.rotary_dims(c.head_dim, 0.5)?, false)?;
    let (bias, qk_norm) = (c.flag("attention_bias", false)?, c.flag("use_qk_norm", false)?);
    decoder(c, |own| {
        let attention = c.attention(own).biased(bias, false).turned(Some(rope.clone()));
        if qk_norm { attention.normed(own, c.eps, 0.0) } else { attention }
    }, "switch_mlp")
}

/// A decoder of this `attention` and of the experts of DeepSeek V3.
pub(super) fn decoder(c: &Config<'_>, attention: impl Fn(&str) -> Attention, experts_path: &str) -> Result<DecoderSpec> {
    let mut spec = c.decoder("", |i, path| {
        let attention = attention(&format!("{path}.self_attn"));
        let own = format!("{path}.mlp");
        let ff = match experts::is_sparse(c, i)? {
            true => experts::deepseek(c, &own, [experts_path, "gate.e_score_correction_bias"], Score::Sigmoid)?,
            false => c.mlp(&own, c.count("intermediate_size")?, MlpActivation::Silu, false).block(),
        };
        Ok(pre_norm_layer(c, path, attention, ff))
    })?;
    spec.head = c.head("", false)?;
    spec.dropped.push(format!("model.layers.{}.", c.layers));
    Ok(spec)
}
