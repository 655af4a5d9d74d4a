//! Llama 4, text alone and dense: layers without positions by a list.

use super::Family;
use super::common::{Config, pre_norm_layer};
use crate::spec::{DecoderSpec, Head, Matrix, MlpActivation};
use crate::config::FamilyInput;
use crate::error::Result;

pub(super) const FAMILY: Family = Family {
    name: "llama4_text",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = &Config::read(input)?;
    let (rope, normed) = (c.plain_rope(c.head_dim, true)?, c.flag("use_qk_norm", false)?);
    let turning = c.fields.require("no_rope_layers", c.layer_flags("no_rope_layers")?)?;
    let inner = c.count("intermediate_size_mlp")?;
    let mut spec = c.decoder("", |i, path| {
        let attention = c.attention(&format!("{path}.self_attn")).turned(turning[i].then(|| rope.clone()));
        let attention = if normed { attention.normed_plain(c.eps, false) } else { attention };
        let mlp = c.mlp(&format!("{path}.feed_forward"), inner, MlpActivation::Silu, false);
        Ok(pre_norm_layer(c, path, attention, mlp.block()))
    })?;
    let tied = c.flag("tie_word_embeddings", false)?;
    spec.head = Head::new((!tied).then(|| Matrix::new("output", c.vocab, c.hidden)));
    Ok(spec)
}
