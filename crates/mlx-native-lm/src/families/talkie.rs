//! Talkie: norms without weights, gains instead, and the embedded row added in every layer.

use super::Family;
use super::common::{Config, KEYS};
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::{Block, Branch, DecoderSpec, Head, HeadNorm, Layer, Matrix, Mlp, MlpActivation, Norm, Values};

use crate::rope::RopeConfig;

pub(super) const FAMILY: Family = Family {
    name: "talkie",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = &Config::read_with_eps(input, input.fields, KEYS, f64::from(f32::EPSILON))?;
    let mut rope = RopeConfig::plain(c.head_dim, c.theta_or(1e6)?, false);
    rope.backwards = true;
    let inner = c.count("intermediate_size")?;
    let plain = Norm::rms_plain(c.hidden, c.eps);
    let mut head = Head::new(Some(c.lm_head("").bare()));
    head.gain = Some("lm_head_gain.w_g".to_owned());
    let mut spec = c.decoder_named("model", ["embed", "blocks", "none"], head, |_, path| {
        let own = format!("{path}.attn");
        let mut attention = c.attention(&own).turned(Some(rope.clone()));
        attention.q.path = format!("{own}.attn_query");
        let width = c.heads * c.head_dim;
        attention.k = Some(Matrix::new(format!("{own}.attn_key"), width, c.hidden));
        attention.v = Values::Own(Matrix::new(format!("{own}.attn_value"), width, c.hidden));
        attention.o.path = format!("{own}.attn_resid");
        attention.n_kv_heads = c.heads;
        let norm = Some(HeadNorm { norm: Norm::rms_plain(c.head_dim, c.eps), after_rope: true });
        (attention.q_norm, attention.k_norm) = (norm.clone(), norm);
        attention.q_gain = Some(format!("{own}.head_gain.head_g"));
        let names = ["mlp_gate", "mlp_linear", "mlp_resid"];
        let mlp: Mlp = c.mlp_named(&format!("{path}.mlp"), names, inner, MlpActivation::Silu, false);
        let gained = |block: Block, gain: &str| Branch {
            gain: Some(format!("{path}.{gain}.a_g")),
            ..Branch::pre(plain.clone(), block)
        };
        Ok(Layer {
            alternating: None,
            branches: vec![
                gained(Block::Attention(Box::new(attention)), "attn_gain"),
                gained(mlp.block(), "mlp_gain"),
                Branch { gain: Some(format!("{path}.embed_skip.a_g")), ..Branch::new(None, Block::Embedded, None) },
            ],
        })
    })?;
    spec.embedding.norm = Some(plain.clone());
    spec.norm = Some(plain);
    spec.dropped.push("*rotary".to_owned());
    Ok(spec)
}
