//! GPT-BigCode (StarCoder): GPT-2 with one head of keys and values.

use super::Family;
use super::common::{Config, KEYS, Keys};
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::{Block, Branch, DecoderSpec, Layer, MlpActivation, Norm};

pub(super) const FAMILY: Family = Family {
    name: "gpt_bigcode",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let keys =
        Keys { hidden: "n_embd", layers: "n_layer", heads: "n_head", eps: "layer_norm_epsilon", ..KEYS };
    let c = &Config::read_keys(input, input.fields, keys)?;
    let shared = input.fields.get("num_key_value_heads").is_none() && c.flag("multi_query", true)?;
    let kv_heads = if shared { 1 } else { c.kv_heads };
    let (bias, mlp_bias) = (c.flag("attention_bias", true)?, c.flag("mlp_bias", true)?);
    let inner = c.count("n_inner")?;
    let mut spec = c.decoder_named("transformer", ["wte", "h", "ln_f"], c.head("", true)?, |_, path| {
        let own = format!("{path}.attn");
        let mut attention =
            c.attention_of(&own, c.heads, kv_heads, c.head_dim).fused(&format!("{own}.c_attn"), bias);
        attention.o.path = format!("{own}.c_proj");
        attention.o.bias = bias;
        let mlp = c.mlp_of_two(&format!("{path}.mlp"), ["c_fc", "c_proj"], inner, MlpActivation::GeluErf, mlp_bias);
        let norm = |name: &str| Norm::layer(&format!("{path}.{name}"), c.hidden, c.eps, true);
        Ok(Layer {
            alternating: None,
            branches: vec![
                Branch::pre(norm("ln_1"), Block::Attention(Box::new(attention))),
                Branch::pre(norm("ln_2"), mlp.block()),
            ],
        })
    })?;
    spec.norm = Some(Norm::layer("transformer.ln_f", c.hidden, c.eps, true));
    let positions = c.count("n_positions")?;
    spec.embedding.positions = Some(("transformer.wpe".to_owned(), positions));
    spec.max_context = Some(positions);
    Ok(spec)
}
