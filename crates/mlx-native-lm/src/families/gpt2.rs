//! GPT-2: learned positions, layer norms, two matrices with GELU between.

use super::Family;
use super::common::{Config, KEYS, Keys};
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::{Block, Branch, DecoderSpec, Head, Layer, MlpActivation, Norm};

pub(super) const FAMILY: Family = Family {
    name: "gpt2",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let keys =
        Keys { hidden: "n_embd", layers: "n_layer", heads: "n_head", eps: "layer_norm_epsilon", ..KEYS };
    let c = &Config::read_keys(input, input.fields, keys)?;
    let mut spec = c.decoder_named("model", ["wte", "h", "ln_f"], Head::new(None), |_, path| {
        let own = format!("{path}.attn");
        let mut attention = c.attention(&own).fused(&format!("{own}.c_attn"), true);
        attention.o.path = format!("{own}.c_proj");
        attention.o.bias = true;
        let mlp = c.mlp_of_two(&format!("{path}.mlp"), ["c_fc", "c_proj"], 4 * c.hidden, MlpActivation::GeluTanh, true);
        let norm = |name: &str| Norm::layer(&format!("{path}.{name}"), c.hidden, c.eps, true);
        Ok(Layer {
            alternating: None,
            branches: vec![
                Branch::pre(norm("ln_1"), Block::Attention(Box::new(attention))),
                Branch::pre(norm("ln_2"), mlp.block()),
            ],
        })
    })?;
    spec.norm = Some(Norm::layer("model.ln_f", c.hidden, c.eps, true));
    let positions = c.count("n_positions")?;
    spec.embedding.positions = Some(("model.wpe".to_owned(), positions));
    spec.max_context = Some(positions);
    spec.dropped.push("*.attn.bias".to_owned());
    Ok(spec)
}
