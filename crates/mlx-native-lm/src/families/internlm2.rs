//! InternLM2: Llama with queries, keys and values in one matrix, kv head by kv head.

use super::Family;
use super::common::Config;
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::{Block, Branch, DecoderSpec, Head, Layer, Matrix, MlpActivation};

pub(super) const FAMILY: Family = Family {
    name: "internlm2",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = &Config::read(input)?;
    let (rope, inner, bias) = (c.rope(c.head_dim)?, c.count("intermediate_size")?, c.flag("bias", true)?);
    let tied = c.flag("tie_word_embeddings", false)?;
    let head = Head::new((!tied).then(|| Matrix::new("output", c.vocab, c.hidden)));
    c.decoder_named("model", ["tok_embeddings", "layers", "norm"], head, |_, path| {
        let mut attention = c
            .attention(&format!("{path}.attention"))
            .fused_by_kv_head(&format!("{path}.attention.wqkv"), bias)
            .turned(Some(rope.clone()));
        attention.o.path = format!("{path}.attention.wo");
        attention.o.bias = bias;
        let mlp = c.mlp_named(&format!("{path}.feed_forward"), ["w1", "w3", "w2"], inner, MlpActivation::Silu, false);
        Ok(Layer {
            alternating: None,
            branches: vec![
                Branch::pre(c.rms(&format!("{path}.attention_norm")), Block::Attention(Box::new(attention))),
                Branch::pre(c.rms(&format!("{path}.ffn_norm")), mlp.block()),
            ],
        })
    })
}
