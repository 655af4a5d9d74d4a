//! Baichuan M1: keys and values mixed with those of the token before; heads of their own in layers with a window.

use super::Family;
use super::common::{Config, MAX_EXTENT, pre_norm_layer};
use crate::error::LmError;
use crate::spec::{DecoderSpec, Head, MlpActivation, Unit};
use crate::config::FamilyInput;
use crate::error::Result;

pub(super) const FAMILY: Family = Family {
    name: "baichuan_m1",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = &Config::read(input)?;
    let window = c.count("sliding_window")?;
    let sliding = c.fields.require("sliding_window_layers", c.numbers("sliding_window_layers")?)?;
    if c.count("conv_window")? != 2 {
        return Err(LmError::Unsupported(format!("config.json: conv_window {}; 2 is", c.count("conv_window")?)));
    }
    let inner = c.count("intermediate_size")?;
    let kinds = [heads(c, false)?, heads(c, true)?];
    let mut spec = c.decoder("", |i, path| {
        let slides = sliding.contains(&i);
        let (heads, kv_heads) = kinds[usize::from(slides)];
        let dim = c.hidden / heads;
        let own = format!("{path}.self_attn");
        let mut attention = c
            .attention_of(&own, heads, kv_heads, dim)
            .fused(&format!("{own}.W_pack"), false)
            .turned(Some(c.plain_rope(dim, false)?))
            .sliding(slides.then_some(window));
        attention.token_mix = Some((format!("{own}.conv_k"), format!("{own}.conv_v")));
        let mlp = c.mlp(&format!("{path}.mlp"), inner, MlpActivation::Silu, false);
        Ok(pre_norm_layer(c, path, attention, mlp.block()))
    })?;
    let mut head = c.lm_head("");
    head.unit = Some(Unit::Rows);
    spec.head = Head::new(Some(head));
    spec.dropped.clear();
    Ok(spec)
}

/// Heads of queries, and of keys and values.
fn heads(c: &Config<'_>, slides: bool) -> Result<(usize, usize)> {
    let of = |key: &str, default| Ok::<_, LmError>(if slides { c.fields.count(key, MAX_EXTENT)?.unwrap_or(default) } else { default });
    let heads = of("num_swa_attention_heads", c.heads)?;
    let kv_heads = of("num_swa_key_value_heads", c.kv_heads)?;
    if !c.hidden.is_multiple_of(heads) || !heads.is_multiple_of(kv_heads) {
        let wanted = format!("a divisor of hidden_size {} and a multiple of {kv_heads}", c.hidden);
        return Err(c.fields.invalid("num_swa_attention_heads", heads, &wanted));
    }
    Ok((heads, kv_heads))
}
