//! Apertus: two matrices with the integral of an ELU between.

use super::Family;
use super::common::Config;
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::{Block, Branch, DecoderSpec, Layer, MlpActivation};

pub(super) const FAMILY: Family = Family {
    name: "apertus",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = &Config::read(input)?;
    let (rope, inner) = (c.rope(c.head_dim)?, c.count("intermediate_size")?);
    let (bias, mlp_bias, qk_norm) =
        (c.flag("attention_bias", false)?, c.flag("mlp_bias", false)?, c.flag("qk_norm", false)?);
    c.decoder("", |_, path| {
        let own = format!("{path}.self_attn");
        let mut attention = c.attention(&own).biased(bias, bias).turned(Some(rope.clone()));
        if qk_norm {
            attention = attention.normed(&own, c.eps, 0.0);
        }
        let activation = MlpActivation::Xielu { path: format!("{path}.mlp.act_fn") };
        let mlp = c.mlp_of_two(&format!("{path}.mlp"), ["up_proj", "down_proj"], inner, activation, mlp_bias);
        Ok(Layer {
            alternating: None,
            branches: vec![
                Branch::pre(c.rms(&format!("{path}.attention_layernorm")), Block::Attention(Box::new(attention))),
                Branch::pre(c.rms(&format!("{path}.feedforward_layernorm")), mlp.block()),
            ],
        })
    })
}
