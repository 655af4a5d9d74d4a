//! Kimi Linear: the delta rule with a decay for each channel, latent attention without positions in some layers.

use super::Family;
use super::common::{Config, Keys, KEYS, MAX_EXTENT, UNSAID, pre_norm_layer_of};
use super::deepseek_v3;
use super::experts::{self, Grouped};
use crate::error::LmError;
use crate::spec::{Block, ChannelDecay, Convolution, DecoderSpec, Delta, DeltaDecay, DeltaInputs, Matrix, MlpActivation, Norm, Score};
use crate::config::FamilyInput;
use crate::error::Result;

pub(super) const FAMILY: Family = Family {
    name: "kimi_linear",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = &Config::read_keys(input, input.fields, Keys { kv_heads: UNSAID, ..KEYS })?;
    let linear = c.fields.object("linear_attn_config", "linear_attn_config.")?;
    let linear = c.fields.require("linear_attn_config", linear)?;
    let count = |key: &str| linear.require(key, linear.count(key, MAX_EXTENT)?);
    let (heads, dim) = (count("num_heads")?, count("head_dim")?);
    let kernel = linear.count("short_conv_kernel_size", MAX_EXTENT)?.unwrap_or(4);
    let layers = linear.positives("kda_layers")?;
    let layers = linear.require("kda_layers", layers)?;
    let is_linear = |i: usize| layers.contains(&((i + 1) as f64));
    if heads.saturating_mul(dim) > MAX_EXTENT {
        return Err(linear.invalid("head_dim", dim, "heads of a possible size"));
    }
    let template = deepseek_v3::latent_with(c, &Sizes::read(c)?.latent(c), false)?;
    let first = c.natural("first_k_dense_replace", 0)?;
    let every = c.count_or("moe_layer_freq", 1)?;
    let mut spec = c.decoder("", |i, path| {
        let own = format!("{path}.self_attn");
        let mixer = match is_linear(i) {
            true => Block::Delta(Box::new(delta(c, &own, heads, dim, kernel))),
            false => Block::Latent(Box::new(deepseek_v3::placed(c, &template, &own))),
        };
        let own = format!("{path}.mlp");
        let ff = match c.natural("num_experts", 0)? > 0 && i >= first && i.is_multiple_of(every) {
            true => sparse(c, &own)?,
            false => c.mlp(&own, c.count("intermediate_size")?, MlpActivation::Silu, false).block(),
        };
        Ok(pre_norm_layer_of(c, path, mixer, ff))
    })?;
    spec.head = c.head("", false)?;
    spec.dropped.push("model.mtp".to_owned());
    Ok(spec)
}

/// Sizes of the latent attention, with those of a usual head where the file says none.
struct Sizes {
    nope: usize,
    rope: usize,
    v: usize,
}

impl Sizes {
    fn read(c: &Config<'_>) -> Result<Self> {
        let rope = c.natural("qk_rope_head_dim", 0)?;
        if rope == 0 {
            return Err(LmError::Unsupported("config.json: qk_rope_head_dim 0".to_owned()));
        }
        Ok(Sizes {
            nope: c.count_or("qk_nope_head_dim", c.head_dim)?,
            rope,
            v: c.count_or("v_head_dim", c.head_dim)?,
        })
    }

    fn latent(&self, c: &Config<'_>) -> deepseek_v3::LatentSizes {
        deepseek_v3::LatentSizes { nope: self.nope, rope: self.rope, v: self.v, eps: c.eps }
    }
}

/// The delta rule whose gate and decay come through a narrow layer each.
fn delta(c: &Config<'_>, path: &str, heads: usize, dim: usize, kernel: usize) -> Delta {
    let width = heads * dim;
    let matrix = |name: &str, outputs, inputs| Matrix::new(format!("{path}.{name}"), outputs, inputs);
    let input = |name: &str| {
        let conv = Convolution {
            weight: format!("{path}.{name}_conv.conv.weight"),
            bias: None,
            channels: width,
            kernel,
            silu: true,
        };
        (matrix(&format!("{name}_proj"), width, c.hidden), conv)
    };
    Delta {
        k_heads: heads,
        v_heads: heads,
        k_dim: dim,
        v_dim: dim,
        inputs: DeltaInputs::Apart(Box::new([input("q"), input("k"), input("v")])),
        beta: matrix("b_proj", heads, c.hidden),
        beta_factor: 1.0,
        decay: DeltaDecay::Channel(ChannelDecay {
            matrices: vec![matrix("f_a_proj", dim, c.hidden), matrix("f_b_proj", width, dim)],
            a_log: format!("{path}.A_log"),
            dt_bias: format!("{path}.dt_bias"),
            bound: None,
        }),
        gate: vec![matrix("g_a_proj", dim, c.hidden), matrix("g_b_proj", width, dim)],
        norm: Norm::rms(format!("{path}.o_norm.weight"), dim, c.eps),
        sigmoid_gate: true,
        qk_eps: 1e-6,
        o: matrix("o_proj", c.hidden, width),
    }
}

fn sparse(c: &Config<'_>, path: &str) -> Result<Block> {
    let (n, inner) = (c.count("num_experts")?, c.count("moe_intermediate_size")?);
    let grouped = Grouped {
        correction: Some("e_score_correction_bias"),
        score: match c.fields.str("moe_router_activation_func")? {
            None | Some("sigmoid") => Score::Sigmoid,
            Some("softmax") => Score::Softmax,
            Some(other) => {
                return Err(LmError::Unsupported(format!("config.json: moe_router_activation_func {other:?}")));
            }
        },
        top_k: ("num_experts_per_token", Some(1)),
        groups: "num_expert_group",
        normalise: "moe_renormalize",
        factor: ("routed_scaling_factor", 1.0),
        ..experts::GROUPED
    };
    let router = experts::grouped_router(c, path, n, &grouped)?;
    let all = experts::experts(c, &format!("{path}.switch_mlp"), n, inner, MlpActivation::Silu);
    Ok(experts::moe(router, all, experts::shared_by(c, path, "num_shared_experts", inner)?))
}
