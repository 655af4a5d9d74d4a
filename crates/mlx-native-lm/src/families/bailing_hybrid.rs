//! Bailing hybrid (Ling 2.5, Ring 2.5): latent attention with fading linear attention, or, in V3, with the delta rule.

use super::Family;
use super::bailing_moe_linear::{fading, is_global};
use super::common::{Config, Keys, KEYS, MAX_EXTENT, UNSAID, pre_norm_layer_of};
use super::deepseek_v3::{self, LatentSizes};
use super::experts::{self, Grouped};
use super::bailing_moe;
use crate::error::LmError;
use crate::rope::{RopeConfig, RopeScaling, yarn_scale};
use crate::spec::{Block, ChannelDecay, Convolution, DecoderSpec, Delta, DeltaDecay, DeltaInputs, GateShape, Latent, Matrix, MlpActivation, Norm, OutputGate};
use crate::config::FamilyInput;
use crate::error::Result;

pub(super) const FAMILY: Family = Family {
    name: "bailing_hybrid",
    also: &["bailing_moe_v3"],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = &Config::read_with_eps(input, input.fields, Keys { kv_heads: UNSAID, ..KEYS }, 1e-6)?;
    let architectures = c.fields.get("architectures").and_then(|v| v.as_array());
    let is_v3 = architectures.is_some_and(|list| list.iter().any(|v| v.as_str() == Some("BailingMoeV3ForCausalLM")));
    if is_v3 || c.fields.str("model_type")? == Some("bailing_moe_v3") {
        return third(c);
    }
    let template = latent(c, c.flag("use_qkv_bias", false)?)?;
    let dims = c.rotary_dims(c.head_dim, 0.5)?;
    let rope = RopeConfig { traditional: false, ..c.rope(dims)? };
    let group = c.count("layer_group_size")?;
    bailing_moe::decoder(c, |i, path| {
        let own = format!("{path}.attention");
        let mixer = match is_global(i, group, c.layers) {
            true => Block::Latent(Box::new(deepseek_v3::placed(c, &template, &own))),
            false => Block::Fading(Box::new(fading(c, &own, c.head_dim, rope.clone(), i)?)),
        };
        Ok(pre_norm_layer_of(c, path, mixer, Block::Identity))
    })
}

/// The latent attention, its paths to come.
fn latent(c: &Config<'_>, bias: bool) -> Result<Latent> {
    let sizes = LatentSizes {
        nope: c.count("qk_nope_head_dim")?,
        rope: c.count("qk_rope_head_dim")?,
        v: c.count("v_head_dim")?,
        eps: c.eps,
    };
    let mut latent = deepseek_v3::latent_with(c, &sizes, bias)?;
    latent.o.path = "dense".to_owned();
    let mut rope = c.rope(sizes.rope)?;
    rope.traditional = c.flag("rope_interleave", true)?;
    if let RopeScaling::Yarn { factor, mscale_all_dim, .. } = rope.scaling
        && mscale_all_dim != 0.0
    {
        latent.scale *= yarn_scale(factor, mscale_all_dim).powi(2);
    }
    latent.rope = Some(rope);
    Ok(latent)
}

/// The third version: the delta rule with a bounded decay for each channel.
fn third(c: &Config<'_>) -> Result<DecoderSpec> {
    for key in ["kda_safe_gate", "no_kda_lora", "rope_interleave"] {
        if !c.flag(key, true)? {
            return Err(LmError::Unsupported(format!("config.json: {key} false")));
        }
    }
    let mut template = latent(c, false)?;
    template.gate =
        Some(OutputGate { matrix: Matrix::new("g_proj", c.heads, c.hidden), shape: GateShape::Head, softplus: false });
    let group = c.count_or("layer_group_size", 4)?;
    let dense = c.natural("first_k_dense_replace", 1)?;
    let mut spec = bailing_moe::decoder_named(c, c.head("", false)?, |i, path| {
        let own = format!("{path}.attention");
        let mixer = match is_global(i, group, c.layers) {
            true => Block::Latent(Box::new(deepseek_v3::placed(c, &template, &own))),
            false => Block::Delta(Box::new(delta(c, &own)?)),
        };
        let own = format!("{path}.mlp");
        let ff = match i < dense {
            true => c.mlp(&own, c.count_or("intermediate_size", 4608)?, MlpActivation::Silu, false).block(),
            false => sparse(c, &own)?,
        };
        Ok(pre_norm_layer_of(c, path, mixer, ff))
    })?;
    if spec.head.matrix.is_none() {
        spec.dropped.push("lm_head.".to_owned());
    }
    Ok(spec)
}

fn sparse(c: &Config<'_>, path: &str) -> Result<Block> {
    let n = c.count_or("num_experts", 128)?;
    let grouped = Grouped {
        correction: Some("gate.expert_bias"),
        top_k: ("num_experts_per_tok", Some(8)),
        others: f32::NEG_INFINITY,
        normalise: UNSAID,
        ..experts::GROUPED
    };
    let mut router = experts::grouped_router(c, path, n, &grouped)?;
    router.normalise = Some(1e-20);
    let inner = c.count_or("moe_intermediate_size", 512)?;
    let all = experts::experts(c, &format!("{path}.switch_mlp"), n, inner, MlpActivation::Silu);
    let wide = c.count_or("moe_shared_expert_intermediate_size", 512)?.saturating_mul(c.natural("num_shared_experts", 1)?);
    if !(1..=MAX_EXTENT).contains(&wide) {
        return Err(c.fields.invalid("num_shared_experts", wide, "a number of experts that a layer can have"));
    }
    let shared = c.mlp(&format!("{path}.shared_experts"), wide, MlpActivation::Silu, false);
    Ok(experts::moe(router, all, Some(experts::shared(shared))))
}

fn delta(c: &Config<'_>, path: &str) -> Result<Delta> {
    let (heads, dim, width) = (c.heads, c.head_dim, c.heads * c.head_dim);
    let kernel = c.count_or("short_conv_kernel_size", 4)?;
    let matrix = |name: &str, outputs, inputs| Matrix::new(format!("{path}.{name}"), outputs, inputs);
    let input = |name: &str| {
        let conv = Convolution {
            weight: format!("{path}.{name}_conv1d.weight"),
            bias: None,
            channels: width,
            kernel,
            silu: true,
        };
        (matrix(&format!("{name}_proj"), width, c.hidden), conv)
    };
    Ok(Delta {
        k_heads: heads,
        v_heads: heads,
        k_dim: dim,
        v_dim: dim,
        inputs: DeltaInputs::Apart(Box::new([input("q"), input("k"), input("v")])),
        beta: matrix("b_proj", heads, c.hidden),
        beta_factor: 1.0,
        decay: DeltaDecay::Channel(ChannelDecay {
            matrices: vec![matrix("f_proj", width, c.hidden)],
            a_log: format!("{path}.A_log"),
            dt_bias: format!("{path}.dt_bias"),
            bound: Some(c.number("kda_lower_bound", -5.0)? as f32),
        }),
        gate: vec![matrix("g_proj", width, c.hidden)],
        norm: Norm::rms(format!("{path}.o_norm.weight"), dim, c.eps),
        sigmoid_gate: true,
        qk_eps: 1e-6,
        o: matrix("o_proj", c.hidden, width),
    })
}
