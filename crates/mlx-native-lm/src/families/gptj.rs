//! GPT-J: attention and MLP side by side behind one norm, neighbouring features turned together.

use super::Family;
use super::common::{Config, KEYS, Keys};
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::{Block, Branch, DecoderSpec, Head, Layer, MlpActivation, Norm};

use crate::rope::RopeConfig;

pub(super) const FAMILY: Family = Family {
    name: "gptj",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let keys = Keys {
        hidden: "n_embd",
        layers: "n_layer",
        heads: "n_head",
        kv_heads: "none",
        eps: "layer_norm_epsilon",
        ..KEYS
    };
    let c = &Config::read_with_eps(input, input.fields, keys, 1e-5)?;
    let rope = RopeConfig::plain(c.count_or("rotary_dim", 64)?, 10_000.0, true);
    let head = Head::new(Some(c.lm_head("").with_bias(true)));
    let mut spec = c.decoder_named("model", ["wte", "h", "ln_f"], head, |_, path| {
        let own = format!("{path}.attn");
        let mut attention = c.attention(&own).turned(Some(rope.clone()));
        attention.o.path = format!("{own}.out_proj");
        let mlp = c.mlp_of_two(&format!("{path}.mlp"), ["fc_in", "fc_out"], 4 * c.hidden, MlpActivation::GeluTanh, true);
        let parts = vec![Block::Attention(Box::new(attention)).into(), mlp.block().into()];
        let norm = Norm::layer(&format!("{path}.ln_1"), c.hidden, c.eps, true);
        Ok(Layer { alternating: None, branches: vec![Branch::parallel(Some(norm), parts)] })
    })?;
    spec.norm = Some(Norm::layer("model.ln_f", c.hidden, c.eps, true));
    spec.max_context = c.fields.count("n_positions", u32::MAX as usize)?;
    Ok(spec)
}
