//! OLMo: Llama with layer norms that have no weights.

use super::Family;
use super::common::{Config, KEYS, Keys, MAX_EXTENT};
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::{Block, Branch, DecoderSpec, Head, Layer, Matrix, MlpActivation, Norm, NormKind};

pub(super) const FAMILY: Family = Family {
    name: "olmo",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let keys = Keys { hidden: "d_model", layers: "n_layers", heads: "n_heads", kv_heads: "n_kv_heads", eps: "none", ..KEYS };
    // Its norms have an epsilon that no key says.
    let c = &Config::read_with_eps(input, input.fields, keys, 1e-5)?;
    let rope = c.rope(c.head_dim)?;
    let doubled = match c.fields.count("mlp_hidden_size", MAX_EXTENT)? {
        Some(size) => size,
        None => c.count_or("mlp_ratio", 4)? * c.hidden,
    };
    let inner = doubled / 2;
    let norm = Norm { kind: NormKind::Layer, ..Norm::rms_plain(c.hidden, c.eps) };
    let tied = c.flag("weight_tying", false)?;
    let rows = c.count_or("embedding_size", c.vocab)?;
    let head = Head::new((!tied).then(|| Matrix::new("model.transformer.ff_out", rows, c.hidden)));
    let mut spec = c.decoder_named("model.transformer", ["wte", "blocks", "none"], head, |_, path| {
        let mut attention =
            c.attention(path).fused(&format!("{path}.att_proj"), false).turned(Some(rope.clone()));
        attention.o.path = format!("{path}.attn_out");
        let mut mlp = c.mlp_named(path, ["ff_proj", "ff_proj", "ff_out"], inner, MlpActivation::Silu, false);
        // Up comes first.
        let part = |first| Matrix::new(format!("{path}.ff_proj"), inner, c.hidden).part(first, inner, doubled);
        (mlp.up, mlp.gate) = (part(0), Some(part(inner)));
        Ok(Layer {
            alternating: None,
            branches: vec![
                Branch::pre(norm.clone(), Block::Attention(Box::new(attention))),
                Branch::pre(norm.clone(), mlp.block()),
            ],
        })
    })?;
    spec.norm = Some(norm.clone());
    spec.vocab_size = rows;
    Ok(spec)
}
