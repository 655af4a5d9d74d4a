//! Lille: Llama with the norms inside the blocks, tied.

use super::Family;
use super::common::{Config, KEYS, Keys};
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::{Block, Branch, DecoderSpec, Head, Layer, MlpActivation, Norm};

pub(super) const FAMILY: Family = Family {
    name: "lille-130m",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let keys = Keys {
        hidden: "n_embd",
        layers: "n_layer",
        heads: "n_head",
        kv_heads: "n_kv_heads",
        eps: "layer_norm_eps",
        ..KEYS
    };
    let c = &Config::read_keys(input, input.fields, keys)?;
    let rope = c.plain_rope(c.head_dim, true)?;
    let inner = 256 * ((8 * c.hidden / 3) as f64 / 256.0).round_ties_even() as usize;
    // Tied whatever the file says, as in mlx-lm.
    c.flag("tie_word_embeddings", true)?;
    let head = Head::new(None);
    let mut spec = c.decoder_named("transformer", ["tok_embeddings", "layers", "norm"], head, |_, path| {
        let own = format!("{path}.attention");
        let mut attention = c.attention(&own).fused(&format!("{own}.qkv_proj"), false).turned(Some(rope.clone()));
        attention.o.path = format!("{own}.out_proj");
        let mlp = c.mlp(&format!("{path}.feed_forward"), inner, MlpActivation::Silu, false);
        let norm = |name: &str| Norm::rms(format!("{path}.{name}.norm.weight"), c.hidden, c.eps);
        Ok(Layer {
            alternating: None,
            branches: vec![
                Branch::pre(norm("attention"), Block::Attention(Box::new(attention))),
                Branch::pre(norm("feed_forward"), mlp.block()),
            ],
        })
    })?;
    spec.dropped.push("lm_head.".to_owned());
    Ok(spec)
}
