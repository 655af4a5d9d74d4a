//! Nemotron-NAS: Llama, halves of whose layers are missing, narrower, or one matrix.

use super::Family;
use super::common::{Config, MAX_EXTENT};
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::{Attention, Block, Branch, DecoderSpec, Layer, Matrix, MlpActivation};

use crate::error::LmError;

pub(super) const FAMILY: Family = Family {
    name: "nemotron-nas",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = &Config::read(input)?;
    let rope = c.rope_from(c.head_dim, 500_000.0)?;
    let (bias, mlp_bias) = (c.flag("attention_bias", false)?, c.flag("mlp_bias", false)?);
    let activation = match c.fields.str("hidden_act")? {
        None | Some("silu") => MlpActivation::Silu,
        Some("gelu") => MlpActivation::GeluErf,
        Some("gelu_new" | "gelu_fast") => MlpActivation::GeluTanh,
        Some(other) => return Err(LmError::Unsupported(format!("config.json: hidden_act {other:?}"))),
    };
    let blocks = c.fields.objects("block_configs", "block_configs[].")?;
    if blocks.len() != c.layers {
        return Err(c.fields.invalid("block_configs", blocks.len(), &format!("{} blocks, one a layer", c.layers)));
    }
    let mut spec = c.decoder("", |i, path| {
        let half = |key: &'static str, within: &'static str| {
            let half = blocks[i].object(key, within)?;
            blocks[i].require(key, half)
        };
        let (attention, ffn) = (half("attention", "block_configs[].attention.")?, half("ffn", "block_configs[].ffn.")?);
        let mut branches = Vec::new();
        let own = format!("{path}.self_attn");
        let replaced = |f: &crate::Fields<'_>| Ok::<_, LmError>(f.bool("replace_with_linear")?.unwrap_or(false));
        let absent = |f: &crate::Fields<'_>| Ok::<_, LmError>(f.bool("no_op")?.unwrap_or(false));
        if !absent(&attention)? {
            let block = match replaced(&attention)? {
                true => Block::Linear(Matrix::new(format!("{own}.linear_attn"), c.hidden, c.hidden).with_bias(bias)),
                false => {
                    let per = attention.require("n_heads_in_group", attention.count("n_heads_in_group", c.heads)?)?;
                    if !c.heads.is_multiple_of(per) {
                        return Err(attention.invalid("n_heads_in_group", per, "a divisor of num_attention_heads"));
                    }
                    let a: Attention = c.attention_of(&own, c.heads, c.heads / per, c.head_dim);
                    Block::Attention(Box::new(a.biased(bias, bias).turned(Some(rope.clone()))))
                }
            };
            branches.push(Branch::pre(c.rms(&format!("{path}.input_layernorm")), block));
        }
        if !absent(&ffn)? {
            let block = match replaced(&ffn)? {
                true => Block::Linear(Matrix::new(format!("{path}.mlp.linear_mlp"), c.hidden, c.hidden).with_bias(mlp_bias)),
                false => {
                    let mult = ffn.require("ffn_mult", ffn.positive("ffn_mult")?)?;
                    if mult * c.hidden as f64 > MAX_EXTENT as f64 {
                        return Err(ffn.invalid("ffn_mult", mult, "a small number"));
                    }
                    let inner = ((2.0 * mult * c.hidden as f64 / 3.0) as usize).next_multiple_of(256);
                    c.mlp(&format!("{path}.mlp"), inner, activation.clone(), mlp_bias).block()
                }
            };
            branches.push(Branch::pre(c.rms(&format!("{path}.post_attention_layernorm")), block));
        }
        Ok(Layer { alternating: None, branches })
    })?;
    spec.head = c.head("", false)?;
    Ok(spec)
}
