//! Bailing MoE with linear attention (Ring): a memory that fades at a fixed rate in most layers.

use super::Family;
use super::bailing_moe;
use super::common::{Config, pre_norm_layer, pre_norm_layer_of};
use crate::rope::RopeConfig;
use crate::spec::{Block, DecoderSpec, Fading, Matrix, Norm};
use crate::config::FamilyInput;
use crate::error::Result;

pub(super) const FAMILY: Family = Family {
    name: "bailing_moe_linear",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = &Config::read(input)?;
    let rope = c.rope(c.rotary_dims(c.head_dim, 1.0)?)?;
    let group = c.count("layer_group_size")?;
    bailing_moe::decoder(c, |i, path| {
        let own = format!("{path}.attention");
        if is_global(i, group, c.layers) {
            let attention = bailing_moe::attention(c, &own)?.turned(Some(rope.clone()));
            return Ok(pre_norm_layer(c, path, attention, Block::Identity));
        }
        let dim = c.hidden / c.heads;
        let turning = RopeConfig { traditional: rope.traditional, ..c.rope(c.rotary_dims(dim, 1.0)?)? };
        let fading = fading(c, &own, dim, turning, i.saturating_sub(1))?;
        Ok(pre_norm_layer_of(c, path, Block::Fading(Box::new(fading)), Block::Identity))
    })
}

/// Whether layer `i` has attention: the last of each group, and those behind the last whole group.
pub(super) fn is_global(i: usize, group: usize, layers: usize) -> bool {
    (i + 1).is_multiple_of(group) || i >= layers / group * group
}

/// Linear attention with heads of `dim`; `position` of the layer sets its rates.
pub(super) fn fading(c: &Config<'_>, path: &str, dim: usize, rope: RopeConfig, position: usize) -> Result<Fading> {
    let (heads, width) = (c.heads, c.heads * dim);
    let bias = c.flag("use_qkv_bias", false)?;
    let qkv = |part: usize| {
        Matrix::new(format!("{path}.query_key_value"), width, c.hidden).with_bias(bias).part(part * width, width, 3 * width)
    };
    let norm = |name: &str| Norm::rms(format!("{path}.{name}.weight"), dim, c.eps);
    let normed = c.flag("use_qk_norm", c.fields.str("model_type")? == Some("bailing_hybrid"))?;
    let groups = c.count("group_norm_size")?;
    if !width.is_multiple_of(groups) {
        return Err(c.fields.invalid("group_norm_size", groups, &format!("a divisor of {width}")));
    }
    let share = 1.0 - position as f64 / (c.layers.max(2) - 1) as f64 + 1e-5;
    Ok(Fading {
        n_heads: heads,
        head_dim: dim,
        q: qkv(0),
        k: qkv(1),
        v: qkv(2),
        qk_norms: normed.then(|| [norm("query_layernorm"), norm("key_layernorm")]),
        rope,
        scale: 1.0 / (dim as f32).sqrt(),
        rate: share,
        norm: Norm::rms(format!("{path}.g_norm.weight"), width / groups, c.eps).weights_for(groups),
        gate: Matrix::new(format!("{path}.g_proj"), width, c.hidden),
        o: Matrix::new(format!("{path}.dense"), c.hidden, width).with_bias(c.flag("use_bias", false)?),
    })
}
