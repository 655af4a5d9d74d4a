//! StableLM: layer norms around gated layers, perhaps norms of each head with weights of its own.

use super::Family;
use super::common::{Config, KEYS, Keys};
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::{Block, Branch, DecoderSpec, Head, HeadNorm, Layer, MlpActivation, Norm};

pub(super) const FAMILY: Family = Family {
    name: "stablelm",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = &Config::read_keys(input, input.fields, Keys { eps: "layer_norm_eps", ..KEYS })?;
    let rope = c.plain_rope(c.rotary_dims(c.head_dim, 1.0)?, false)?;
    let (inner, bias) = (c.count("intermediate_size")?, c.flag("use_qkv_bias", false)?);
    let (side_by_side, qk_norm) = (c.flag("use_parallel_residual", false)?, c.flag("qk_layernorm", false)?);
    let names = ["embed_tokens", "layers", "norm"];
    let mut spec = c.decoder_named("model", names, Head::new(Some(c.lm_head(""))), |_, path| {
        let own = format!("{path}.self_attn");
        let mut attention = c.attention(&own).biased(bias, false).turned(Some(rope.clone()));
        if qk_norm {
            let norm = |name: &str, heads| {
                let each = Norm::layer(&format!("{own}.{name}.norms.{{}}"), c.head_dim, c.eps, false);
                Some(HeadNorm { norm: each.weights_for(heads), after_rope: false })
            };
            attention.q_norm = norm("q_layernorm", c.heads);
            attention.k_norm = norm("k_layernorm", c.kv_heads);
        }
        let mlp = c.mlp(&format!("{path}.mlp"), inner, MlpActivation::Silu, false).block();
        let attention = Block::Attention(Box::new(attention));
        let norm = |name: &str| Norm::layer(&format!("{path}.{name}"), c.hidden, c.eps, true);
        Ok(Layer {
            alternating: None,
            branches: match side_by_side {
                true => vec![Branch::parallel(Some(norm("input_layernorm")), vec![attention.into(), mlp.into()])],
                false => vec![
                    Branch::pre(norm("input_layernorm"), attention),
                    Branch::pre(norm("post_attention_layernorm"), mlp),
                ],
            },
        })
    })?;
    spec.norm = Some(Norm::layer("model.norm", c.hidden, c.eps, true));
    Ok(spec)
}
