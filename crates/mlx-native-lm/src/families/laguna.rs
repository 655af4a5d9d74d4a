//! Laguna: heads by layer, a rotation for each kind of layer, a softplus gate for each head, experts.

use super::Family;
use super::common::{Config, KEYS, Keys, MAX_EXTENT, pre_norm_layer};
use super::experts;
use crate::error::LmError;
use crate::spec::{Block, DecoderSpec, GateShape, MlpActivation, Score};
use crate::config::FamilyInput;
use crate::error::Result;

pub(super) const FAMILY: Family = Family {
    name: "laguna",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    // The heads of each layer are read below: those of all need not fit.
    let keys = Keys { heads: "num_key_value_heads", ..KEYS };
    let mut c = Config::read_with_eps(input, input.fields, keys, 1e-6)?;
    c.head_dim = c.count_or("head_dim", 128)?;
    let c = &c;
    let sliding = c.sliding()?;
    let window = c.count_or("sliding_window", 512)?;
    let share = crate::rope::share(&c.fields, "partial_rotary_factor")?.unwrap_or(1.0);
    let ropes = [c.rope_of_kind(false, c.head_dim, share)?, c.rope_of_kind(true, c.head_dim, share)?];
    let heads = heads(c)?;
    let (qkv_bias, o_bias) = (c.flag("qkv_bias", false)?, c.flag("attention_bias", false)?);
    let gated = c.flag("gating", true)?;
    let kinds = c.layer_strings("mlp_layer_types")?;
    let prefix = match input.has("language_model.model.embed_tokens.weight") {
        true => "language_model.",
        false => "",
    };
    let mut spec = c.decoder(prefix, |i, path| {
        let own = format!("{path}.self_attn");
        let mut attention = c
            .attention_of(&own, heads[i], c.kv_heads, c.head_dim)
            .biased(qkv_bias, o_bias)
            .normed(&own, c.eps, 0.0)
            .turned(Some(ropes[usize::from(sliding[i])].clone()))
            .sliding(sliding[i].then_some(window));
        if gated {
            attention = attention.gated(format!("{own}.g_proj"), GateShape::Head);
            attention.gate.iter_mut().for_each(|gate| gate.softplus = true);
        }
        let own = format!("{path}.mlp");
        let is_sparse = kinds.as_ref().map_or(i > 0, |kinds| kinds[i] == "sparse");
        let ff = match is_sparse {
            true => sparse(c, &own)?,
            false => c.mlp(&own, c.count_or("intermediate_size", 8192)?, MlpActivation::Silu, false).block(),
        };
        Ok(pre_norm_layer(c, path, attention, ff))
    })?;
    spec.head = c.head(prefix, false)?;
    Ok(spec)
}

fn heads(c: &Config<'_>) -> Result<Vec<usize>> {
    let key = "num_attention_heads_per_layer";
    let all = c.count("num_attention_heads")?;
    let heads = c.numbers(key)?.unwrap_or_else(|| vec![all; c.layers]);
    let fits = |n: &usize| *n > 0 && n.is_multiple_of(c.kv_heads) && n.saturating_mul(c.head_dim) <= MAX_EXTENT;
    if heads.len() != c.layers || !heads.iter().all(fits) {
        let wanted = format!("{} multiples of num_key_value_heads {}", c.layers, c.kv_heads);
        return Err(c.fields.invalid(key, format!("{heads:?}"), &wanted));
    }
    Ok(heads)
}

fn sparse(c: &Config<'_>, path: &str) -> Result<Block> {
    let score = match c.fields.str("moe_router_score_func")? {
        None | Some("sigmoid") => Score::Sigmoid,
        Some("sqrtsoftplus") => Score::SqrtSoftplus,
        Some(other) => return Err(LmError::Unsupported(format!("config.json: moe_router_score_func {other:?}"))),
    };
    let (n, k) = (c.count_or("num_experts", 256)?, c.count_or("num_experts_per_tok", 8)?);
    let mut router = experts::router(c, format!("{path}.gate.proj"), n, k, score)?;
    router.correction = Some(format!("{path}.gate.e_score_correction_bias"));
    router.normalise = Some(0.0);
    router.factor = c.number("moe_routed_scaling_factor", 1.0)? as f32;
    let cap = c.number("moe_router_logit_softcapping", 0.0)? as f32;
    router.cap = (cap > 0.0).then_some(cap);
    let inner = c.count_or("moe_intermediate_size", 512)?;
    let all = experts::experts(c, &format!("{path}.switch_mlp"), n, inner, MlpActivation::Silu);
    let wide = c.count_or("shared_expert_intermediate_size", 512)?;
    let mlp = c.mlp(&format!("{path}.shared_expert"), wide, MlpActivation::Silu, false);
    Ok(experts::moe(router, all, Some(experts::shared(mlp))))
}
