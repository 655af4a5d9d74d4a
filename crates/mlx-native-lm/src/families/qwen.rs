//! Qwen, the first: one matrix for queries, keys and values, and gates under other names.

use super::Family;
use super::common::{Config, KEYS, Keys};
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::{Block, Branch, DecoderSpec, Head, Layer, MlpActivation};

use crate::rope::RopeConfig;

pub(super) const FAMILY: Family = Family {
    name: "qwen",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let keys = Keys { head_dim: "kv_channels", eps: "layer_norm_epsilon", ..KEYS };
    let c = &Config::read_keys(input, input.fields, keys)?;
    let rope = RopeConfig::plain(c.head_dim, 10_000.0, false);
    let (inner, biases) = (c.count("intermediate_size")? / 2, !c.flag("no_bias", true)?);
    let head = Head::new(Some(c.lm_head("").with_bias(biases)));
    c.decoder_named("transformer", ["wte", "h", "ln_f"], head, |_, path| {
        let own = format!("{path}.attn");
        let mut attention = c.attention(&own).fused(&format!("{own}.c_attn"), true).turned(Some(rope.clone()));
        attention.o.path = format!("{own}.c_proj");
        attention.o.bias = biases;
        let mlp = c.mlp_named(&format!("{path}.mlp"), ["w2", "w1", "c_proj"], inner, MlpActivation::Silu, biases);
        Ok(Layer {
            alternating: None,
            branches: vec![
                Branch::pre(c.rms(&format!("{path}.ln_1")), Block::Attention(Box::new(attention))),
                Branch::pre(c.rms(&format!("{path}.ln_2")), mlp.block()),
            ],
        })
    })
}
