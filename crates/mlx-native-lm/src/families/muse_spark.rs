//! Muse Spark: a stream mixed by vectors, experts in a narrower space with norms of their own.

use super::Family;
use super::common::Config;
use super::experts;
use crate::error::LmError;
use crate::rope::RopeConfig;
use crate::spec::{Attention, Block, Branch, DecoderSpec, GateShape, Layer, Matrix, MlpActivation, Norm, OutputGate, Score, Values};
use crate::config::FamilyInput;
use crate::error::Result;

pub(super) const FAMILY: Family = Family {
    name: "muse_spark",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let input = input.within("text_config", "text_config.")?;
    let c = &Config::read(&input)?;
    if c.natural("num_shared_experts", 0)? > 0
        || c.layer_strings("mlp_layer_types")?.is_some_and(|kinds| kinds.iter().any(|kind| *kind != "sparse"))
    {
        return Err(LmError::Unsupported("config.json: layers that are not sparse, or shared experts".to_owned()));
    }
    let post_eps = c.fields.require("post_norm_eps", c.fields.f64("post_norm_eps")?)? as f32;
    let (sliding, window) = (c.sliding()?, c.count("sliding_window")?);
    let turning = c.fields.require("layer_rope_theta", c.per_layer("layer_rope_theta")?)?;
    if turning.len() < c.layers || !(0.0..=1.0).contains(&post_eps) {
        return Err(c.fields.invalid("layer_rope_theta", turning.len(), &format!("{} numbers", c.layers)));
    }
    let rope = RopeConfig::plain(c.head_dim, c.theta_or(10_000.0)?, true);
    let path = "model.language_model";
    let head = crate::spec::Head::new(Some(c.lm_head("")));
    let mut spec = c.decoder_named(path, ["embed_tokens", "layers", "norm"], head, |i, path| {
        let mut attention = attention(c, &format!("{path}.self_attn"))?
            .turned((turning[i] != 0.0).then(|| rope.clone()))
            .sliding(sliding[i].then_some(window));
        attention.q_factor = c.number("qk_scale_factor", 5.473_006_486_387_5)? as f32;
        let mix = |name: &str| Some((format!("{path}.add_{name}_alpha"), format!("{path}.add_{name}_beta")));
        let after = Norm {
            weight_first: true,
            ..Norm::rms(format!("{path}.post_feedforward_layernorm.weight"), c.hidden, post_eps)
        };
        let before = |name: &str| Some(c.rms(&format!("{path}.{name}")));
        let mixer = Block::Attention(Box::new(attention));
        let mut first = Branch::new(before("input_layernorm"), mixer, Some(Norm::rms_plain(c.hidden, post_eps)));
        first.mix = mix("attn");
        let mut second =
            Branch::new(before("pre_feedforward_layernorm"), sparse(c, &format!("{path}.mlp"), post_eps)?, Some(after));
        second.mix = mix("ffn");
        Ok(Layer::from(vec![first, second]))
    })?;
    spec.embedding.norm = Some(Norm::rms_plain(c.hidden, c.eps));
    spec.head.scale = c.fields.require("output_multiplier", c.fields.positive("output_multiplier")?)? as f32;
    let cap = c.fields.positive("final_logit_softcapping")?;
    spec.head.cap = Some(c.fields.require("final_logit_softcapping", cap)? as f32);
    spec.dropped.extend(["model.vision_", "model.audio_tower."].map(str::to_owned));
    Ok(spec.language_half())
}

/// Attention of one matrix `[q | k | v | gate]`, normed by head before its gate.
fn attention(c: &Config<'_>, path: &str) -> Result<Attention> {
    let (q, kv) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
    let of = 2 * (q + kv);
    let part = |first, rows| Matrix::new(format!("{path}.qkvg_proj"), rows, c.hidden).part(first, rows, of);
    let mut attention = c.attention(path).normed_plain(c.eps, false);
    (attention.q, attention.k, attention.v) = (part(0, q), Some(part(q, kv)), Values::Own(part(q + kv, kv)));
    attention.out_norm = Some(Norm::rms_plain(c.head_dim, c.eps));
    attention.gate = Some(OutputGate { matrix: part(q + 2 * kv, q), shape: GateShape::Element, softplus: false });
    Ok(attention)
}

fn sparse(c: &Config<'_>, path: &str, post_eps: f32) -> Result<Block> {
    let (n, k) = (c.count("num_local_experts")?, c.count("num_experts_per_tok")?);
    let (inner, width) = (c.count("moe_intermediate_size")?, c.count("moe_hidden_size")?);
    let mut router = experts::router(c, format!("{path}.gate"), n, k, Score::Sigmoid)?;
    router.correction = Some(format!("{path}.gate.e_score_correction_bias"));
    router.logit_factor = c.number("output_multiplier", 1.0)? as f32;
    router.normalise = Some(1e-15);
    router.factor = c.number("routed_scaling_factor", 1.0)? as f32;
    let names = [Some("gate_proj"), Some("up_proj"), Some("down_proj")];
    let all = experts::experts_of(&format!("{path}.experts"), names, n, [inner, width], MlpActivation::Silu);
    let mut block = experts::moe(router, all, None);
    if let Block::Moe(moe) = &mut block {
        let matrix = |name: &str, outputs, inputs| Matrix::new(format!("{path}.{name}_expert_proj"), outputs, inputs);
        moe.latent = Some((matrix("pre", width, c.hidden), None, matrix("post", c.hidden, width)));
        moe.latent_pre = Some(Norm::rms(format!("{path}.pre_expert_norm.weight"), width, c.eps));
        moe.expert_norm = Some(Norm {
            weight_first: true,
            ..Norm::rms(format!("{path}.experts.post_expert_norm.weight"), width, post_eps)
        });
    }
    Ok(block)
}
