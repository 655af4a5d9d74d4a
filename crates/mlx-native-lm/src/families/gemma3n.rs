//! Gemma 3n: streams that layers alternate between, inputs for each layer, shared keys and values.

use super::Family;
use super::common::{Config, KEYS, MAX_EXTENT};
use super::gemma4_text;
use crate::error::LmError;
use crate::rope::RopeConfig;
use crate::spec::{AltLayer, AltStreams, Attention, DecoderSpec, Head, Layer, LayerInput, Matrix, MlpActivation, Norm, Values};
use crate::config::FamilyInput;
use crate::error::Result;

pub(super) const FAMILY: Family = Family {
    name: "gemma3n",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let input = input.within("text_config", "text_config.")?;
    let c = &Config::read_with_eps(&input, input.fields, KEYS, 1e-6)?;
    let path = "model.language_model";
    let sliding = c.sliding()?;
    let own = c.layers - c.natural("num_kv_shared_layers", 0)?.min(c.layers);
    let streams = c.count("altup_num_inputs")?;
    if streams > 64 {
        return Err(c.fields.invalid("altup_num_inputs", streams, "at most 64"));
    }
    let active = c.natural("altup_active_idx", 0)?;
    if active >= streams {
        return Err(c.fields.invalid("altup_active_idx", active, &format!("less than altup_num_inputs {streams}")));
    }
    let mut spec = c.decoder_named(path, ["embed_tokens", "layers", "norm"], Head::new(None), |i, path| {
        let mut attention = attention(c, &format!("{path}.self_attn"), sliding[i])?;
        if i >= own {
            let shared = (0..own).rev().find(|j| sliding[*j] == sliding[i]);
            let key = "num_kv_shared_layers";
            let wanted = "fewer layers than leave one of each kind its own keys";
            attention.shared_with = Some(shared.ok_or_else(|| c.fields.invalid(key, c.layers - own, wanted))?);
            (attention.k, attention.v) = (None, Values::Shared);
            (attention.k_norm, attention.v_norm) = (None, None);
        }
        let layer = layer(c, path, i, attention, [streams, active])?;
        Ok(Layer { branches: Vec::new(), alternating: Some(Box::new(layer)) })
    })?;
    let others = |name: &str| {
        (0..streams - 1).map(|i| Matrix::new(format!("{path}.{name}.{i}"), c.hidden, c.hidden)).collect()
    };
    spec.alternating =
        Some(AltStreams { projections: others("altup_projections"), unembed: others("altup_unembed_projections") });
    spec.layer_inputs =
        Some(gemma4_text::layer_inputs(c, &format!("{path}."), c.count("hidden_size_per_layer_input")?)?);
    spec.embedding.scale = (c.hidden as f64).sqrt() as f32;
    let cap = c.number("final_logit_softcapping", 0.0)?;
    spec.head.cap = (cap > 0.0).then_some(cap as f32);
    for i in own..c.layers {
        spec.dropped.extend(["k_proj", "v_proj", "k_norm"].map(|name| format!("{path}.layers.{i}.self_attn.{name}")));
    }
    Ok(spec.language_half())
}

fn attention(c: &Config<'_>, path: &str, slides: bool) -> Result<Attention> {
    let theta = match slides {
        true => c.positive("rope_local_base_freq", 10_000.0)?,
        false => c.positive("rope_theta", 1e6)?,
    };
    let rope = c.nested_rope(slides, c.head_dim, theta)?;
    let rope = rope.unwrap_or_else(|| RopeConfig::plain(c.head_dim, theta, false));
    let window = if slides { Some(c.count("sliding_window")?) } else { None };
    let mut attention = c
        .attention(path)
        .normed(path, c.eps, 0.0)
        .turned(Some(rope))
        .sliding(window);
    attention.v_norm = Some(Norm::rms_plain(c.head_dim, c.eps));
    attention.scale = 1.0;
    Ok(attention)
}

fn layer(c: &Config<'_>, path: &str, i: usize, attention: Attention, [n, active]: [usize; 2]) -> Result<AltLayer> {
    let inner = match c.fields.get("intermediate_size") {
        Some(value) if value.is_array() => {
            let list = c.numbers("intermediate_size")?.unwrap_or_default();
            let found = list.get(i).copied().filter(|n| (1..=MAX_EXTENT).contains(n));
            found.ok_or_else(|| LmError::Config(format!("config.json: intermediate_size has nothing for layer {i}")))?
        }
        _ => c.count("intermediate_size")?,
    };
    let sparsity = c.per_layer("activation_sparsity_pattern")?.and_then(|list| list.get(i).copied()).unwrap_or(0.0);
    if !(0.0..1.0).contains(&sparsity) {
        return Err(c.fields.invalid("activation_sparsity_pattern", sparsity, "shares from 0 to 1"));
    }
    let activation = match sparsity {
        0.0 => MlpActivation::GeluTanh,
        share => MlpActivation::SparseGeluTanh { deviations: quantile(share) as f32 },
    };
    let norm = |name: &str| c.rms(&format!("{path}.{name}"));
    let matrix = |name: &str, outputs, inputs| Matrix::new(format!("{path}.{name}"), outputs, inputs);
    let (rank, dim) = (c.count("laurel_rank")?, c.count("hidden_size_per_layer_input")?);
    let clip = c.fields.positive("altup_coef_clip")?.map(|clip| clip as f32);
    let scaled = c.flag("altup_correct_scale", false)?;
    Ok(AltLayer {
        n_streams: n,
        active,
        router_norm: norm("altup.router_norm"),
        router: matrix("altup.modality_router", n, c.hidden),
        predict: matrix("altup.prediction_coefs", n * n, n),
        correct: matrix("altup.correction_coefs", n, n),
        clip,
        norm: norm("input_layernorm"),
        low_rank: [matrix("laurel.linear_left", rank, c.hidden), matrix("laurel.linear_right", c.hidden, rank)],
        low_rank_norm: norm("laurel.post_laurel_norm"),
        attention,
        attention_post: norm("post_attention_layernorm"),
        mlp_norm: norm("pre_feedforward_layernorm"),
        mlp: c.mlp(&format!("{path}.mlp"), inner, activation, false),
        mlp_post: norm("post_feedforward_layernorm"),
        scale: scaled.then(|| format!("{path}.altup.correct_output_scale")),
        input: LayerInput {
            index: i,
            gate: matrix("per_layer_input_gate", dim, c.hidden),
            projection: matrix("per_layer_projection", c.hidden, dim),
        },
        input_post: norm("post_per_layer_input_norm"),
    })
}

/// The number that a standard normal variable stays below with probability `p`, by bisection of the distribution.
fn quantile(p: f64) -> f64 {
    let (mut low, mut high) = (-10.0, 10.0);
    for _ in 0..80 {
        let middle = (low + high) / 2.0;
        if distribution(middle) < p { low = middle } else { high = middle }
    }
    (low + high) / 2.0
}

/// The standard normal distribution, by its series `1/2 + φ(x)·(x + x³/3 + x⁵/(3·5) + …)`.
fn distribution(x: f64) -> f64 {
    let (mut term, mut sum, mut k) = (x, x, 1.0);
    while term.abs() > 1e-18 * sum.abs() && k < 500.0 {
        k += 2.0;
        term *= x * x / k;
        sum += term;
    }
    (0.5 + (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt() * sum).clamp(0.0, 1.0)
}
