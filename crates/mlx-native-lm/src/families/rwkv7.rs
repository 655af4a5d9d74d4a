//! RWKV-7: no attention; a memory that changes by a matrix of low rank, and channel mixing.

use super::Family;
use super::common::{Config, Keys, KEYS};
use crate::spec::{Block, Branch, ChannelMix, DecoderSpec, Head, Layer, Matrix, Norm, TimeMix};
use crate::config::FamilyInput;
use crate::error::Result;

pub(super) const FAMILY: Family = Family {
    name: "rwkv7",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = &Config::read_unheaded(input, Keys { eps: "norm_eps", ..KEYS }, 1e-5)?;
    let dim = c.count("head_dim")?;
    if !c.hidden.is_multiple_of(dim) {
        return Err(c.fields.invalid("head_dim", dim, &format!("a divisor of hidden_size {}", c.hidden)));
    }
    let inner = c.count("intermediate_size")?;
    let norm = |path: String| Norm::layer(&path, c.hidden, c.eps, true);
    let tied = c.flag("tie_word_embeddings", false)?;
    let head = Head::new((!tied).then(|| c.lm_head("")));
    let mut spec = c.decoder_named("model", ["embeddings", "layers", "norm"], head, |i, path| {
        let own = format!("{path}.ffn");
        let channels = ChannelMix {
            share: format!("{own}.x_k"),
            key: Matrix::new(format!("{own}.key"), inner, c.hidden),
            value: Matrix::new(format!("{own}.value"), c.hidden, inner),
        };
        let first = (i == 0).then(|| Branch::normalise(norm(format!("{path}.pre_norm"))));
        let time = Block::TimeMix(Box::new(time_mix(c, &format!("{path}.attn"), dim, i == 0)?));
        let rest = [
            Branch::pre(norm(format!("{path}.attn_norm")), time),
            Branch::pre(norm(format!("{path}.ffn_norm")), Block::ChannelMix(Box::new(channels))),
        ];
        Ok(Layer { alternating: None, branches: first.into_iter().chain(rest).collect() })
    })?;
    spec.norm = Some(norm("model.norm".to_owned()));
    Ok(spec)
}

fn time_mix(c: &Config<'_>, path: &str, head_dim: usize, is_first: bool) -> Result<TimeMix> {
    let width = c.hidden;
    let matrix = |name: &str| Matrix::new(format!("{path}.{name}"), width, width);
    let low_rank = |name: &str, key: &str, bias: bool| {
        let rank = c.count(key)?;
        let part = |i: usize, outputs, inputs| Matrix::new(format!("{path}.{name}.lora.{i}"), outputs, inputs);
        Ok::<_, crate::error::LmError>([part(0, rank, width), part(2, width, rank).with_bias(bias)])
    };
    Ok(TimeMix {
        n_heads: width / head_dim,
        head_dim,
        shares: ["x_r", "x_w", "x_k", "x_v", "x_a", "x_g"].map(|name| format!("{path}.{name}")),
        r: matrix("r_proj"),
        k: matrix("k_proj"),
        v: matrix("v_proj"),
        decay: low_rank("w_lora", "decay_low_rank_dim", true)?,
        rate: low_rank("a_lora", "a_low_rank_dim", true)?,
        value_share: match is_first {
            true => None,
            false => Some(low_rank("v_lora", "v_low_rank_dim", true)?),
        },
        gate: low_rank("g_lora", "gate_low_rank_dim", false)?,
        factors: ["k_k", "k_a", "r_k"].map(|name| format!("{path}.{name}")),
        norm: Norm::layer(&format!("{path}.g_norm"), head_dim, 6.4e-4, true).weights_for(width / head_dim),
        o: matrix("o_proj"),
    })
}
