//! Jamba: Mamba 1 with norms of its parts, attention without positions in some layers, experts in some.

use super::Family;
use super::common::Config;
use super::experts;
use super::mamba::{self, Sizes};
use crate::spec::{Block, Branch, DecoderSpec, Layer, MlpActivation, Norm, Score};
use crate::config::FamilyInput;
use crate::error::Result;

pub(super) const FAMILY: Family = Family {
    name: "jamba",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let mut c = Config::read(input)?;
    c.head_dim = c.hidden / c.heads;
    let c = &c;
    let kinds = c.layer_strings("layers_block_type")?;
    let (period, offset) = (c.count("attn_layer_period")?, c.natural("attn_layer_offset", 0)?);
    let (every, shift) = (c.count("expert_layer_period")?, c.natural("expert_layer_offset", 0)?);
    let n = c.natural("num_experts", 1)?;
    let inner = c.count("intermediate_size")?;
    let head = c.head("", true)?;
    let mut spec = c.decoder_named("model", ["embed_tokens", "layers", "final_layernorm"], head, |i, path| {
        let attends = kinds.as_ref().map_or(i % period == offset, |kinds| kinds[i] == "attention");
        let mixer = match attends {
            true => Block::Attention(Box::new(c.attention(&format!("{path}.self_attn")))),
            false => mixer(c, &format!("{path}.mamba"))?,
        };
        let own = format!("{path}.feed_forward");
        let ff = match n > 1 && (i + shift).is_multiple_of(every) {
            true => {
                let k = c.count("num_experts_per_tok")?;
                let router = experts::router(c, format!("{own}.router"), n, k, Score::SoftmaxOfChosen)?;
                let all = experts::experts(c, &format!("{own}.switch_mlp"), n, inner, MlpActivation::Silu);
                experts::moe(router, all, None)
            }
            false => c.mlp(&own, inner, MlpActivation::Silu, false).block(),
        };
        Ok(Layer {
            alternating: None,
            branches: vec![
                Branch::pre(c.rms(&format!("{path}.input_layernorm")), mixer),
                Branch::pre(c.rms(&format!("{path}.pre_ff_layernorm")), ff),
            ],
        })
    })?;
    if spec.head.matrix.is_none() {
        spec.dropped.push("lm_head.".to_owned());
    }
    Ok(spec)
}

fn mixer(c: &Config<'_>, path: &str) -> Result<Block> {
    let sizes = Sizes {
        inner: mamba::expanded(c, "mamba_expand")?,
        state: c.count("mamba_d_state")?,
        kernel: c.count("mamba_d_conv")?,
        rank: mamba::rank(c, "mamba_dt_rank")?,
        bias: c.flag("mamba_proj_bias", false)?,
        conv_bias: c.flag("mamba_conv_bias", true)?,
    };
    let mut mamba = mamba::layer(c, path, &sizes);
    let norm = |name: &str, dim| Norm::rms(format!("{path}.{name}_layernorm.weight"), dim, c.eps);
    mamba.norms = Some([norm("dt", sizes.rank), norm("b", sizes.state), norm("c", sizes.state)]);
    Ok(Block::Mamba1(Box::new(mamba)))
}
