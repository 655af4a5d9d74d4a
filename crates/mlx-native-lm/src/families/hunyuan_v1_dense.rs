//! Hunyuan, dense: norms of heads behind the rotation, whose base is stretched once.

use super::Family;
use super::common::{Config, pre_norm_layer};
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::{DecoderSpec, HeadNorm, Norm};

use crate::rope::{RopeConfig, RopeScaling};

pub(super) const FAMILY: Family = Family {
    name: "hunyuan_v1_dense",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = &Config::read(input)?;
    let (rope, inner, activation) = (stretched(c)?, c.count("intermediate_size")?, c.silu()?);
    let (bias, qk_norm) = (c.flag("attention_bias", false)?, c.flag("use_qk_norm", true)?);
    let mut spec = c.decoder("", |_, path| {
        let own = format!("{path}.self_attn");
        let mut attention = c.attention(&own).biased(bias, bias).turned(Some(rope.clone()));
        if qk_norm {
            (attention.q_norm, attention.k_norm) = norms(c, &own);
        }
        let mlp = c.mlp(&format!("{path}.mlp"), inner, activation.clone(), false);
        Ok(pre_norm_layer(c, path, attention, mlp.block()))
    })?;
    spec.head = c.head("", false)?;
    if spec.head.matrix.is_none() {
        spec.dropped.push("lm_head.".to_owned());
    }
    Ok(spec)
}

/// The family's norms of heads.
pub(super) fn norms(c: &Config<'_>, path: &str) -> (Option<HeadNorm>, Option<HeadNorm>) {
    let norm = |name: &str| {
        let norm = Norm::rms(format!("{path}.{name}.weight"), c.head_dim, c.eps);
        Some(HeadNorm { norm, after_rope: true })
    };
    (norm("query_layernorm"), norm("key_layernorm"))
}

/// The rotation with `rope_scaling.alpha`.
pub(super) fn stretched(c: &Config<'_>) -> Result<RopeConfig> {
    let mut rope = c.plain_rope(c.head_dim, false)?;
    if let Some(scaling) = c.fields.object("rope_scaling", "rope_scaling.")? {
        let alpha = scaling.require("alpha", scaling.positive("alpha")?)?;
        rope.scaling = RopeScaling::Ntk { alpha };
    }
    Ok(rope)
}
