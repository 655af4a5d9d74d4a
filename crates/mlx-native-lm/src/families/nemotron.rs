//! Nemotron: layer norms with weights stored less one, and squared ReLU.

use super::Family;
use super::common::{Config, KEYS, Keys};
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::{Block, Branch, DecoderSpec, Layer, MlpActivation, Norm};

pub(super) const FAMILY: Family = Family {
    name: "nemotron",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = &Config::read_keys(input, input.fields, Keys { eps: "norm_eps", ..KEYS })?;
    let mut rope = c.rope(c.rotary_dims(c.head_dim, 0.5)?)?;
    // mlx-lm pairs halves whatever `rope_traditional` says.
    rope.traditional = false;
    let (bias, mlp_bias) = (c.flag("attention_bias", false)?, c.flag("mlp_bias", false)?);
    let inner = c.count("intermediate_size")?;
    let norm = |path: String| Norm::layer(&path, c.hidden, c.eps, true).plus(1.0);
    let mut spec = c.decoder("", |_, path| {
        let attention = c.attention(&format!("{path}.self_attn")).biased(bias, bias).turned(Some(rope.clone()));
        let names = ["up_proj", "down_proj"];
        let mlp = c.mlp_of_two(&format!("{path}.mlp"), names, inner, MlpActivation::Relu2, mlp_bias);
        Ok(Layer {
            alternating: None,
            branches: vec![
                Branch::pre(norm(format!("{path}.input_layernorm")), Block::Attention(Box::new(attention))),
                Branch::pre(norm(format!("{path}.post_attention_layernorm")), mlp.block()),
            ],
        })
    })?;
    spec.norm = Some(norm("model.norm".to_owned()));
    spec.head = c.head("", false)?;
    Ok(spec)
}
