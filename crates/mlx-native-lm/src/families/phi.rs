//! Phi 1 to 2: attention and MLP side by side behind one norm, with biases everywhere.

use super::Family;
use super::common::{Config, KEYS, Keys};
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::{Block, Branch, DecoderSpec, Head, Layer, MlpActivation, Norm};

pub(super) const FAMILY: Family = Family {
    name: "phi",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = &Config::read_with_eps(input, input.fields, Keys { eps: "layer_norm_eps", ..KEYS }, 1e-5)?;
    let rope = c.plain_rope(c.rotary_dims(c.head_dim, 0.4)?, false)?;
    let inner = c.count_or("intermediate_size", 10_240)?;
    let head = Head::new(Some(c.lm_head("").with_bias(true)));
    let names = ["embed_tokens", "layers", "final_layernorm"];
    let mut spec = c.decoder_named("model", names, head, |_, path| {
        let own = format!("{path}.self_attn");
        let mut attention = c.attention(&own).biased(true, true).turned(Some(rope.clone()));
        attention.o.path = format!("{own}.dense");
        let mlp = c.mlp_of_two(&format!("{path}.mlp"), ["fc1", "fc2"], inner, MlpActivation::GeluTanh, true);
        let parts = vec![Block::Attention(Box::new(attention)).into(), mlp.block().into()];
        let norm = Norm::layer(&format!("{path}.input_layernorm"), c.hidden, c.eps, true);
        Ok(Layer { alternating: None, branches: vec![Branch::parallel(Some(norm), parts)] })
    })?;
    spec.norm = Some(Norm::layer("model.final_layernorm", c.hidden, c.eps, true));
    Ok(spec)
}
