//! PLaMo: attention and MLP side by side behind one norm; kv heads serve every n-th query head.

use super::Family;
use super::common::{Config, KEYS, Keys};
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::{Block, Branch, DecoderSpec, Head, Layer, Matrix, MlpActivation, Run, Values};

pub(super) const FAMILY: Family = Family {
    name: "plamo",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = &Config::read_keys(input, input.fields, Keys { kv_heads: "none", ..KEYS })?;
    let rope = c.plain_rope(c.head_dim, c.flag("rope_traditional", false)?)?;
    let inner = c.count("intermediate_size")?;
    let shared = c.count_or("n_shared_head", 8)?;
    let kv_heads = c.heads.div_ceil(shared);
    if !c.heads.is_multiple_of(kv_heads) {
        return Err(c.fields.invalid("n_shared_head", shared, "a divisor of num_attention_heads"));
    }
    c.decoder_named("model", ["embed_tokens", "layers.layers", "norm"], Head::new(Some(c.lm_head(""))), |_, path| {
        // Query head h takes kv head h mod n: the rows of keys and values are repeated, so that each has its own.
        let own = format!("{path}.self_attn");
        let mut attention = c.attention_of(&own, c.heads, c.heads, c.head_dim).turned(Some(rope.clone()));
        let stored = kv_heads * c.head_dim;
        let repeated = |name: &str| {
            let run = Run { first: 0, block: stored, stride: 0, count: c.heads * c.head_dim };
            Matrix::new(format!("{own}.{name}"), 0, c.hidden).picked(vec![run], stored)
        };
        (attention.k, attention.v) = (Some(repeated("k_proj")), Values::Own(repeated("v_proj")));
        let mlp = c.mlp(&format!("{path}.mlp"), inner, MlpActivation::Silu, false);
        let parts = vec![Block::Attention(Box::new(attention)).into(), mlp.block().into()];
        Ok(Layer { alternating: None, branches: vec![Branch::parallel(Some(c.rms(&format!("{path}.norm"))), parts)] })
    })
}
