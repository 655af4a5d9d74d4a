//! Command R: attention and MLP side by side behind one layer norm, tied, logits multiplied.

use super::Family;
use super::common::{Config, KEYS, Keys};
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::{Block, Branch, DecoderSpec, Head, HeadNorm, Layer, MlpActivation, Norm};

use crate::rope::RopeConfig;
use crate::spec::Attention;

pub(super) const FAMILY: Family = Family {
    name: "cohere",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = &Config::read_with_eps(input, input.fields, Keys { eps: "layer_norm_eps", ..KEYS }, 1e-5)?;
    let rope = RopeConfig::plain(c.head_dim, c.theta_or(8e6)?, true);
    let qk_norm = c.flag("use_qk_norm", false)?;
    decoder(c, |_, own, bias| {
        let mut attention = c.attention(own).biased(bias, bias).turned(Some(rope.clone()));
        if qk_norm {
            let norm = |name: &str, heads| {
                let norm = Norm::layer(&format!("{own}.{name}"), c.head_dim, c.eps, false).weights_for(heads);
                Some(HeadNorm { norm, after_rope: false })
            };
            (attention.q_norm, attention.k_norm) = (norm("q_norm", c.heads), norm("k_norm", c.kv_heads));
        }
        Ok(attention)
    })
}

/// The decoder around `attention`, which is given a layer's index, its path and whether it has biases.
pub(super) fn decoder(
    c: &Config<'_>,
    attention: impl Fn(usize, &str, bool) -> Result<Attention>,
) -> Result<DecoderSpec> {
    let (bias, norm_bias) = (c.flag("attention_bias", false)?, c.flag("layer_norm_bias", false)?);
    let inner = c.count("intermediate_size")?;
    let mut spec = c.decoder_named("model", ["embed_tokens", "layers", "norm"], Head::new(None), |i, path| {
        let attention = attention(i, &format!("{path}.self_attn"), bias)?;
        let mlp = c.mlp(&format!("{path}.mlp"), inner, MlpActivation::Silu, false);
        let parts = vec![Block::Attention(Box::new(attention)).into(), mlp.block().into()];
        let norm = Norm::layer(&format!("{path}.input_layernorm"), c.hidden, c.eps, norm_bias);
        Ok(Layer { alternating: None, branches: vec![Branch::parallel(Some(norm), parts)] })
    })?;
    spec.norm = Some(Norm::layer("model.norm", c.hidden, c.eps, norm_bias));
    spec.head.scale = c.positive("logit_scale", 0.0625)? as f32;
    Ok(spec)
}
