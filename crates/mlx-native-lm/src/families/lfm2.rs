//! LFM2: short convolutions between gates, and attention in some layers.

use super::Family;
use super::common::{Config, KEYS, Keys, MAX_EXTENT};
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::{Block, Branch, Convolution, DecoderSpec, Head, HeadNorm, Layer, Matrix, MlpActivation, Norm, ShortConv};

use crate::rope::RopeConfig;

pub(super) const FAMILY: Family = Family {
    name: "lfm2",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    decoder(&Config::read_keys(input, input.fields, Keys { eps: "norm_eps", ..KEYS })?, "")
}

/// The decoder, with tensors under `prefix`.
pub(super) fn decoder(c: &Config<'_>, prefix: &str) -> Result<DecoderSpec> {
    let inner = inner(c)?;
    decoder_with(c, prefix, |_, path| {
        let names = ["w1", "w3", "w2"];
        Ok(c.mlp_named(&format!("{path}.feed_forward"), names, inner, MlpActivation::Silu, false).block())
    })
}

/// The same around other feed-forward layers.
pub(super) fn decoder_with(
    c: &Config<'_>,
    prefix: &str,
    feed_forward: impl Fn(usize, &str) -> Result<Block>,
) -> Result<DecoderSpec> {
    let rope = RopeConfig::plain(c.head_dim, c.theta_or(1e6)?, false);
    let attends = attends(c)?;
    let names = ["embed_tokens", "layers", "embedding_norm"];
    let bias = c.flag("conv_bias", false)?;
    let kernel = c.count("conv_L_cache")?;
    c.decoder_named(&format!("{prefix}model"), names, Head::new(None), |i, path| {
        let mixer = match attends[i] {
            true => {
                let own = format!("{path}.self_attn");
                let mut attention = c.attention(&own).turned(Some(rope.clone()));
                attention.o.path = format!("{own}.out_proj");
                let norm = |name: &str| {
                    let norm = Norm::rms(format!("{own}.{name}.weight"), c.head_dim, c.eps);
                    Some(HeadNorm { norm, after_rope: false })
                };
                (attention.q_norm, attention.k_norm) = (norm("q_layernorm"), norm("k_layernorm"));
                Block::Attention(Box::new(attention))
            }
            false => {
                let own = format!("{path}.conv");
                let matrix = |name: &str, outputs| Matrix::new(format!("{own}.{name}"), outputs, c.hidden).with_bias(bias);
                Block::ShortConv(Box::new(ShortConv {
                    input: matrix("in_proj", 3 * c.hidden),
                    conv: Convolution {
                        weight: format!("{own}.conv.weight"),
                        bias: bias.then(|| format!("{own}.conv.bias")),
                        channels: c.hidden,
                        kernel,
                        silu: false,
                    },
                    output: matrix("out_proj", c.hidden),
                }))
            }
        };
        Ok(Layer {
            alternating: None,
            branches: vec![
                Branch::pre(c.rms(&format!("{path}.operator_norm")), mixer),
                Branch::pre(c.rms(&format!("{path}.ffn_norm")), feed_forward(i, path)?),
            ],
        })
    })
}

/// Which layers attend.
fn attends(c: &Config<'_>) -> Result<Vec<bool>> {
    if let Some(list) = c.numbers("full_attn_idxs")? {
        return Ok((0..c.layers).map(|i| list.contains(&i)).collect());
    }
    let kinds = c.fields.require("layer_types", c.layer_strings("layer_types")?)?;
    Ok(kinds.into_iter().map(|kind| kind == "full_attention").collect())
}

/// Two thirds of what the file says, times a factor, rounded up to a multiple.
fn inner(c: &Config<'_>) -> Result<usize> {
    let size = match c.fields.count("block_ff_dim", MAX_EXTENT)? {
        Some(size) => size,
        None => c.count("intermediate_size")?,
    };
    if !c.flag("block_auto_adjust_ff_dim", true)? {
        return Ok(size);
    }
    let factor = c.positive("block_ffn_dim_multiplier", 1.0)?;
    let scaled = (factor * (2 * size / 3) as f64) as usize;
    let multiple = c.count("block_multiple_of")?;
    match scaled.checked_next_multiple_of(multiple).filter(|n| *n <= MAX_EXTENT) {
        Some(inner) => Ok(inner),
        None => Err(c.fields.invalid("block_ffn_dim_multiplier", factor, "a small number")),
    }
}
