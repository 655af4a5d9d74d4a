//! Hunyuan Large: layers in groups that share what keys and values are projected from, experts beside a shared one.

use super::Family;
use super::common::{Config, MAX_EXTENT, pre_norm_layer};
use super::{experts, hunyuan_v1_dense};
use crate::spec::{Block, DecoderSpec, Head, MlpActivation, Score};
use crate::config::FamilyInput;
use crate::error::Result;

pub(super) const FAMILY: Family = Family {
    name: "hunyuan",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let mut c = Config::read(input)?;
    c.head_dim = c.hidden / c.heads;
    let c = &c;
    let (rope, bias) = (hunyuan_v1_dense::stretched(c)?, c.flag("attention_bias", false)?);
    let qk_norm = c.flag("use_qk_norm", false)?;
    let every = if c.flag("use_cla", false)? { c.count("cla_share_factor")? } else { 1 };
    let n = c.count("num_experts")?;
    let mut spec = c.decoder("", |i, path| {
        let own = format!("{path}.self_attn");
        let mut attention = c.attention(&own).biased(bias, bias).turned(Some(rope.clone()));
        attention.reuse_projected = !i.is_multiple_of(every);
        if qk_norm {
            (attention.q_norm, attention.k_norm) = hunyuan_v1_dense::norms(c, &own);
        }
        let own = format!("{path}.mlp");
        let ff = match n {
            1 => c.mlp(&own, c.count("intermediate_size")?, MlpActivation::Silu, false).block(),
            _ => sparse(c, &own, i, n)?,
        };
        Ok(pre_norm_layer(c, path, attention, ff))
    })?;
    spec.head = Head::new(None);
    spec.dropped.push("lm_head.".to_owned());
    Ok(spec)
}

/// A number, or that of a layer in a list.
fn of_layer(c: &Config<'_>, key: &str, layer: usize) -> Result<usize> {
    match c.fields.get(key) {
        Some(value) if value.is_array() => {
            let list = c.numbers(key)?.unwrap_or_default();
            let of = list.get(layer).copied().filter(|n| (1..=MAX_EXTENT).contains(n));
            of.ok_or_else(|| c.fields.invalid(key, format!("nothing for layer {layer}"), "a number above 0 for each"))
        }
        _ => c.count(key),
    }
}

fn sparse(c: &Config<'_>, path: &str, layer: usize, n: usize) -> Result<Block> {
    let router = experts::router(c, format!("{path}.gate.wg"), n, of_layer(c, "moe_topk", layer)?, Score::Softmax)?;
    let wide = c.count("intermediate_size")?;
    let inner = match c.fields.get("moe_intermediate_size") {
        Some(_) => of_layer(c, "moe_intermediate_size", layer)?,
        None => wide,
    };
    let all = experts::experts(c, &format!("{path}.switch_mlp"), n, inner, MlpActivation::Silu);
    let shared = match c.flag("use_mixed_mlp_moe", false)? {
        false => None,
        true => {
            let count = of_layer(c, "num_shared_expert", layer)?;
            let wide = wide.saturating_mul(count);
            if wide > MAX_EXTENT {
                return Err(c.fields.invalid("num_shared_expert", count, "a number of experts that a layer can have"));
            }
            Some(experts::shared(c.mlp(&format!("{path}.shared_mlp"), wide, MlpActivation::Silu, false)))
        }
    };
    Ok(experts::moe(router, all, shared))
}
