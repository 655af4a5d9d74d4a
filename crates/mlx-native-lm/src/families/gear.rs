//! Gear: Gemma 3 with capped scores, some of whose layers are two short convolutions.

use super::Family;
use super::common::{Config, SANDWICH, sandwich_layer_of};
use crate::error::LmError;
use crate::rope::RopeConfig;
use crate::spec::{Block, Convolution, ConvMixer, DecoderSpec, Matrix, MlpActivation, Norm};
use crate::config::FamilyInput;
use crate::error::Result;

pub(super) const FAMILY: Family = Family {
    name: "gear",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = &Config::read(input)?;
    if c.flag("use_bidirectional_attention", false)? {
        return Err(LmError::Unsupported("config.json: use_bidirectional_attention".to_owned()));
    }
    let kinds = c.layer_strings("layer_types")?.unwrap_or_else(|| vec!["full_attention"; c.layers]);
    let activation = match c.fields.str("hidden_activation")? {
        None | Some("gelu_pytorch_tanh" | "gelu_new" | "gelu_fast") => MlpActivation::GeluTanh,
        Some("gelu") => MlpActivation::GeluErf,
        Some("silu" | "swish") => MlpActivation::Silu,
        Some(other) => return Err(LmError::Unsupported(format!("config.json: hidden_activation {other:?}"))),
    };
    let (bias, window) = (c.flag("attention_bias", false)?, c.count_or("sliding_window", 512)?);
    let scale = (1.0 / c.positive("query_pre_attn_scalar", c.head_dim as f64)?.sqrt()) as f32;
    let cap = nonzero(c, "attn_logit_softcapping")?;
    let local = RopeConfig::plain(c.head_dim, c.positive("rope_local_base_freq", 10_000.0)?, false);
    let global = RopeConfig::plain(c.head_dim, c.positive("rope_theta", 1e6)?, false);
    let global = RopeConfig::scaled(global, &c.fields, c.fields.object("rope_scaling", "rope_scaling.")?)?;
    let inner = c.count("intermediate_size")?;
    let mut spec = c.decoder("", |i, path| {
        let mixer = match kinds[i] {
            "conv_mixer" => conv_mixer(c, &format!("{path}.local_mixer"), bias)?,
            kind => {
                let slides = kind == "sliding_attention";
                let own = format!("{path}.self_attn");
                let mut attention = c
                    .attention(&own)
                    .biased(bias, bias)
                    .normed(&own, c.eps, 1.0)
                    .turned(Some(if slides { local.clone() } else { global.clone() }))
                    .sliding(slides.then_some(window));
                (attention.scale, attention.cap) = (scale, cap);
                Block::Attention(Box::new(attention))
            }
        };
        let mlp = c.mlp(&format!("{path}.mlp"), inner, activation.clone(), false);
        Ok(sandwich_layer_of(c, path, SANDWICH, mixer, mlp.block()))
    })?;
    spec.embedding.scale = (c.hidden as f64).sqrt() as f32;
    spec.head.cap = nonzero(c, "final_logit_softcapping")?;
    spec.dropped.push("*embed_scale".to_owned());
    Ok(spec.norms_plus_one())
}

/// A cap, none where it is zero or missing.
fn nonzero(c: &Config<'_>, key: &str) -> Result<Option<f32>> {
    let cap = c.number(key, 0.0)?;
    if cap < 0.0 {
        return Err(c.fields.invalid(key, cap, "a number above 0"));
    }
    Ok((cap > 0.0).then_some(cap as f32))
}

fn conv_mixer(c: &Config<'_>, path: &str, bias: bool) -> Result<Block> {
    let (q, kv) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
    let kernel = c.count_or("conv_L_cache", 3)?;
    let matrix = |name: &str, outputs, inputs| Matrix::new(format!("{path}.{name}"), outputs, inputs).with_bias(bias);
    let norm = |name: &str| Norm::rms(format!("{path}.{name}.weight"), c.head_dim, c.eps).plus(1.0);
    let conv = |name: &str| Convolution {
        weight: format!("{path}.{name}.weight"),
        bias: bias.then(|| format!("{path}.{name}.bias")),
        channels: kv,
        kernel,
        silu: false,
    };
    Ok(Block::ConvMixer(Box::new(ConvMixer {
        n_heads: c.heads,
        n_kv_heads: c.kv_heads,
        head_dim: c.head_dim,
        q: matrix("q_proj", q, c.hidden),
        k: matrix("k_proj", kv, c.hidden),
        v: matrix("v_proj", kv, c.hidden),
        qk_norms: [norm("q_norm"), norm("k_norm")],
        k_conv: conv("key_conv"),
        v_conv: conv("value_conv"),
        o: matrix("o_proj", c.hidden, q),
    })))
}
