//! EXAONE 3: Llama under other names.

use super::Family;
use super::common::{Config, KEYS, Keys};
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::{Block, Branch, DecoderSpec, Layer, MlpActivation};

pub(super) const FAMILY: Family = Family {
    name: "exaone",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let keys = Keys { layers: "num_layers", eps: "layer_norm_epsilon", ..KEYS };
    let c = &Config::read_keys(input, input.fields, keys)?;
    let (rope, inner) = (c.rope(c.head_dim)?, c.count("intermediate_size")?);
    let (bias, mlp_bias) = (c.flag("attention_bias", false)?, c.flag("mlp_bias", false)?);
    c.decoder_named("transformer", ["wte", "h", "ln_f"], c.head("", true)?, |_, path| {
        let own = format!("{path}.attn.attention");
        let mut attention = c.attention(&own).biased(bias, bias).turned(Some(rope.clone()));
        attention.o.path = format!("{own}.out_proj");
        let names = ["c_fc_0", "c_fc_1", "c_proj"];
        let mlp = c.mlp_named(&format!("{path}.mlp"), names, inner, MlpActivation::Silu, mlp_bias);
        Ok(Layer {
            alternating: None,
            branches: vec![
                Branch::pre(c.rms(&format!("{path}.ln_1")), Block::Attention(Box::new(attention))),
                Branch::pre(c.rms(&format!("{path}.ln_2")), mlp.block()),
            ],
        })
    })
}
