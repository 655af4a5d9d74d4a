//! ERNIE 4.5 MoE: ERNIE 4.5 with experts in a range of layers.

use super::Family;
use super::common::{Config, pre_norm_layer};
use super::experts;
use crate::error::LmError;
use crate::spec::{Block, DecoderSpec, MlpActivation, Score};
use crate::config::FamilyInput;
use crate::error::Result;

pub(super) const FAMILY: Family = Family {
    name: "ernie4_5_moe",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = &Config::read(input)?;
    let bias = c.flag("use_bias", false)?;
    let rope = c.plain_rope(c.head_dim, true)?;
    let first = bound(c, "moe_layer_start_index", 0, usize::min)?;
    let last = bound(c, "moe_layer_end_index", c.layers - 1, usize::max)?;
    let interval = c.count_or("moe_layer_interval", 1)?;
    let mut spec = c.decoder("", |i, path| {
        let attention = c.attention(&format!("{path}.self_attn")).biased(bias, bias).turned(Some(rope.clone()));
        let own = format!("{path}.mlp");
        let ff = match (i + 1).is_multiple_of(interval) && (first..=last).contains(&i) {
            true => sparse(c, &own, bias)?,
            false => c.mlp(&own, c.count("intermediate_size")?, MlpActivation::Silu, bias).block(),
        };
        Ok(pre_norm_layer(c, path, attention, ff))
    })?;
    let unread = ["*mtp_block.", "*mtp_linear_proj.", "*mtp_hidden_norm.", "*mtp_emb_norm.", "*e_score_correction_bias"];
    spec.dropped.extend(unread.map(str::to_owned));
    Ok(spec)
}

/// A layer's number, or the least or greatest of a list of them.
fn bound(c: &Config<'_>, key: &str, default: usize, of: fn(usize, usize) -> usize) -> Result<usize> {
    match c.fields.get(key) {
        Some(value) if value.is_array() => {
            let list = c.numbers(key)?.unwrap_or_default();
            list.into_iter().reduce(of).ok_or_else(|| c.fields.invalid(key, "nothing", "a list of numbers"))
        }
        _ => c.natural(key, default),
    }
}

fn sparse(c: &Config<'_>, path: &str, bias: bool) -> Result<Block> {
    let score = match c.fields.str("moe_gate_act")? {
        None | Some("softmax") => Score::Softmax,
        Some("sigmoid") => Score::Sigmoid,
        Some(other) => return Err(LmError::Unsupported(format!("config.json: moe_gate_act {other:?}"))),
    };
    let n = c.count("moe_num_experts")?;
    let mut router = experts::router(c, format!("{path}.gate"), n, c.count_or("moe_k", 1)?, score)?;
    router.normalise = Some(1e-12);
    let inner = match c.natural("moe_intermediate_size", 0)? {
        0 => c.count("intermediate_size")?,
        inner => inner,
    };
    let all = experts::experts(c, &format!("{path}.switch_mlp"), n, inner, MlpActivation::Silu).biased(bias);
    let mut shared = experts::shared_by(c, path, "moe_num_shared_experts", inner)?;
    if let Some(shared) = &mut shared {
        let mlp = &mut shared.mlp;
        mlp.gate.iter_mut().chain([&mut mlp.up, &mut mlp.down]).for_each(|m| m.bias = bias);
    }
    Ok(experts::moe(router, all, shared))
}
