//! LongCat Flash: two halves a layer, experts that read the first and are added behind the second.

use super::Family;
use super::common::{Config, Keys, KEYS, UNSAID};
use super::deepseek_v3::{self, LatentSizes};
use super::experts;
use crate::error::LmError;
use crate::rope::{RopeScaling, yarn_scale};
use crate::spec::{Block, Branch, DecoderSpec, Head, Latent, Layer, MlpActivation, Score};
use crate::config::FamilyInput;
use crate::error::Result;

pub(super) const FAMILY: Family = Family {
    name: "longcat_flash",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = &read(input)?;
    let template = latent(c)?;
    c.decoder_named("model", ["embed_tokens", "layers", "norm"], Head::new(Some(c.lm_head(""))), |_, path| {
        layer(c, &template, path)
    })
}

/// Reads the family's keys.
pub(super) fn read<'a>(input: &'a FamilyInput<'a>) -> Result<Config<'a>> {
    let keys = Keys { layers: "num_layers", kv_heads: UNSAID, head_dim: "qk_nope_head_dim", ..KEYS };
    let c = Config::read_keys(input, input.fields, keys)?;
    if let Some(other) = c.fields.str("zero_expert_type")?.filter(|kind| *kind != "identity") {
        return Err(LmError::Unsupported(format!("config.json: zero_expert_type {other:?}; identity is")));
    }
    Ok(c)
}

/// The attention of both halves, its paths to come.
pub(super) fn latent(c: &Config<'_>) -> Result<Latent> {
    let sizes = LatentSizes {
        nope: c.count("qk_nope_head_dim")?,
        rope: c.count("qk_rope_head_dim")?,
        v: c.count("v_head_dim")?,
        eps: 1e-5,
    };
    let mut latent = deepseek_v3::latent_with(c, &sizes, c.flag("attention_bias", false)?)?;
    let mut rope = c.rope(sizes.rope)?;
    rope.traditional = true;
    if let RopeScaling::Yarn { factor, mscale_all_dim, .. } = rope.scaling
        && mscale_all_dim != 0.0
    {
        latent.scale *= yarn_scale(factor, mscale_all_dim).powi(2);
    }
    latent.rope = Some(rope);
    let by_root = |rank: usize| (c.hidden as f32 / rank as f32).sqrt();
    if c.flag("mla_scale_q_lora", false)? {
        let rank = latent.q.last.inputs;
        latent.q_factor = by_root(rank);
    }
    if c.flag("mla_scale_kv_lora", false)? {
        latent.latent_factor = by_root(latent.rank);
    }
    Ok(latent)
}

/// A layer.
pub(super) fn layer(c: &Config<'_>, template: &Latent, path: &str) -> Result<Layer> {
    let inner = c.count("ffn_hidden_size")?;
    let mut branches = Vec::new();
    for half in 0..2 {
        let attention = deepseek_v3::placed(c, template, &format!("{path}.self_attn.{half}"));
        branches.push(Branch::pre(
            c.rms(&format!("{path}.input_layernorm.{half}")),
            Block::Latent(Box::new(attention)),
        ));
        let mlp = c.mlp(&format!("{path}.mlps.{half}"), inner, MlpActivation::Silu, false);
        let mut branch = Branch::pre(c.rms(&format!("{path}.post_attention_layernorm.{half}")), mlp.block());
        if half == 0 {
            branch.late = Some(sparse(c, &format!("{path}.mlp"))?);
        }
        branches.push(branch);
    }
    Ok(branches.into())
}

fn sparse(c: &Config<'_>, path: &str) -> Result<Block> {
    let (n, zero) = (c.count("n_routed_experts")?, c.natural("zero_expert_num", 0)?);
    let all = n.saturating_add(zero);
    if all > super::common::MAX_EXTENT {
        return Err(c.fields.invalid("zero_expert_num", zero, "a number of experts that a layer can have"));
    }
    let mut router = experts::router(c, format!("{path}.router.classifier"), all, c.count("moe_topk")?, Score::Softmax)?;
    router.matrix.bias = c.flag("router_bias", false)?;
    router.correction = Some(format!("{path}.router.e_score_correction_bias"));
    router.normalise = c.flag("norm_topk_prob", false)?.then_some(1e-20);
    router.factor = c.number("routed_scaling_factor", 1.0)? as f32;
    router.n_identity = zero;
    let inner = c.count("expert_ffn_hidden_size")?;
    let stacks = experts::experts(c, &format!("{path}.switch_mlp"), n, inner, MlpActivation::Silu);
    Ok(experts::moe(router, stacks, None))
}
