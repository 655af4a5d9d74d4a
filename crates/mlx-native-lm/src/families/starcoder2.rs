//! StarCoder2: layer norms and two matrices with GELU between.

use super::Family;
use super::common::{Config, KEYS, Keys};
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::{Block, Branch, DecoderSpec, Layer, MlpActivation, Norm};

use crate::rope::RopeConfig;

pub(super) const FAMILY: Family = Family {
    name: "starcoder2",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = &Config::read_with_eps(input, input.fields, Keys { eps: "norm_epsilon", ..KEYS }, 1e-5)?;
    let rope = RopeConfig::plain(c.head_dim, c.theta_or(100_000.0)?, false);
    let (inner, window) = (c.count("intermediate_size")?, c.window()?);
    let mut spec = c.decoder("", |_, path| {
        let attention = c.attention(&format!("{path}.self_attn")).biased(true, true).turned(Some(rope.clone()));
        let attention = attention.sliding(window);
        let mlp = c.mlp_of_two(&format!("{path}.mlp"), ["c_fc", "c_proj"], inner, MlpActivation::GeluErf, true);
        let norm = |name: &str| Norm::layer(&format!("{path}.{name}"), c.hidden, c.eps, true);
        Ok(Layer {
            alternating: None,
            branches: vec![
                Branch::pre(norm("input_layernorm"), Block::Attention(Box::new(attention))),
                Branch::pre(norm("post_attention_layernorm"), mlp.block()),
            ],
        })
    })?;
    spec.norm = Some(Norm::layer("model.norm", c.hidden, c.eps, true));
    Ok(spec)
}
