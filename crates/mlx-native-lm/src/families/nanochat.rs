//! nanochat: norms without weights, squared ReLU, capped logits.

use super::Family;
use super::common::{Config, KEYS, Keys};
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::{Block, Branch, DecoderSpec, Head, HeadNorm, Layer, Matrix, MlpActivation, Norm, Values};

pub(super) const FAMILY: Family = Family {
    name: "nanochat",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    // Every norm has this epsilon, whatever the file says.
    let c = &Config::read_with_eps(input, input.fields, Keys { eps: "none", ..KEYS }, 1e-5)?;
    let mut rope = c.plain_rope(c.head_dim, false)?;
    rope.backwards = true;
    let inner = c.count_or("intermediate_size", 4 * c.hidden)?;
    let plain = Norm::rms_plain(c.hidden, c.eps);
    let mut head = Head::new(Some(c.lm_head("")));
    head.cap = Some(15.0);
    let mut spec = c.decoder_named("transformer", ["wte", "h", "none"], head, |_, path| {
        let own = format!("{path}.attn");
        let mut attention = c.attention(&own).turned(Some(rope.clone()));
        let kv = c.kv_heads * c.head_dim;
        attention.q.path = format!("{own}.c_q");
        attention.k = Some(Matrix::new(format!("{own}.c_k"), kv, c.hidden));
        attention.v = Values::Own(Matrix::new(format!("{own}.c_v"), kv, c.hidden));
        attention.o.path = format!("{own}.c_proj");
        let norm = Some(HeadNorm { norm: Norm::rms_plain(c.head_dim, c.eps), after_rope: true });
        (attention.q_norm, attention.k_norm) = (norm.clone(), norm);
        let mlp = c.mlp_of_two(&format!("{path}.mlp"), ["c_fc", "c_proj"], inner, MlpActivation::Relu2, false);
        Ok(Layer {
            alternating: None,
            branches: vec![
                Branch::pre(plain.clone(), Block::Attention(Box::new(attention))),
                Branch::pre(plain.clone(), mlp.block()),
            ],
        })
    })?;
    spec.embedding.norm = Some(plain.clone());
    spec.norm = Some(plain);
    Ok(spec)
}
