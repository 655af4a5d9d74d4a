//! DBRX: clipped queries, keys and values, and experts that are stored one by one.

use super::Family;
use super::common::{Config, Keys, MAX_EXTENT, UNSAID};
use super::experts;
use crate::rope::RopeConfig;
use crate::spec::{Branch, DecoderSpec, Head, Layer, Matrix, MlpActivation, Norm, Score};
use crate::config::FamilyInput;
use crate::error::Result;

pub(super) const FAMILY: Family = Family {
    name: "dbrx",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let keys = Keys { hidden: "d_model", layers: "n_layers", heads: "n_heads", kv_heads: UNSAID, head_dim: UNSAID, eps: UNSAID };
    let mut c = Config::read_with_eps(input, input.fields, keys, 1e-5)?;
    let attn = c.fields.object("attn_config", "attn_config.")?;
    let attn = c.fields.require("attn_config", attn)?;
    let ffn = c.fields.object("ffn_config", "ffn_config.")?;
    let ffn = c.fields.require("ffn_config", ffn)?;
    c.kv_heads = attn.require("kv_n_heads", attn.count("kv_n_heads", MAX_EXTENT)?)?;
    if !c.heads.is_multiple_of(c.kv_heads) {
        return Err(attn.invalid("kv_n_heads", c.kv_heads, &format!("a divisor of n_heads {}", c.heads)));
    }
    let c = &c;
    let clip = attn.require("clip_qkv", attn.positive("clip_qkv")?)? as f32;
    let theta = attn.require("rope_theta", attn.positive("rope_theta")?)?;
    let count = |key: &str| ffn.require(key, ffn.count(key, MAX_EXTENT)?);
    let (inner, n, k) = (count("ffn_hidden_size")?, count("moe_num_experts")?, count("moe_top_k")?);
    let norm = |path: String| Norm::layer(&path, c.hidden, c.eps, false);
    let head = Head::new(Some(c.lm_head("")));
    let mut spec = c.decoder_named("transformer", ["wte", "blocks", "norm_f"], head, |_, path| {
        let own = format!("{path}.norm_attn_norm");
        let rope = RopeConfig::plain(c.head_dim, theta, false);
        let mut attention = c
            .attention(&format!("{own}.attn"))
            .fused(&format!("{own}.attn.Wqkv"), false)
            .turned(Some(rope));
        attention.clip = Some(clip);
        attention.o = Matrix::new(format!("{own}.attn.out_proj"), c.hidden, c.hidden);
        let mut router = experts::router(c, format!("{path}.ffn.router.layer"), n, k, Score::Softmax)?;
        router.normalise = Some(0.0);
        let names = [Some("w1"), Some("v1"), Some("w2")];
        let sizes = [inner, c.hidden];
        let all = experts::experts_of(&format!("{path}.ffn.experts.{{}}"), names, n, sizes, MlpActivation::Silu);
        let attention = crate::spec::Block::Attention(Box::new(attention));
        Ok(Layer {
            alternating: None,
            branches: vec![
                Branch::pre(norm(format!("{own}.norm_1")), attention),
                Branch::pre(norm(format!("{own}.norm_2")), experts::moe(router, all, None)),
            ],
        })
    })?;
    spec.norm = Some(norm("transformer.norm_f".to_owned()));
    Ok(spec)
}
