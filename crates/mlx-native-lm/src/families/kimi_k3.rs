//! Kimi K3: Kimi Linear with experts in a narrower space, capped gates, and attention over the sums of earlier layers.

use super::Family;
use super::common::{Config, Keys, KEYS, MAX_EXTENT, UNSAID, pre_norm_layer_of};
use super::deepseek_v3::{self, LatentSizes};
use super::experts::{self, Grouped};
use crate::error::LmError;
use crate::spec::{Block, Branch, ChannelDecay, Convolution, DecoderSpec, Delta, DeltaDecay, DeltaInputs, GateShape, Gather, Latent, Matrix, MlpActivation, Norm, OutputGate};
use crate::config::FamilyInput;
use crate::error::Result;

pub(super) const FAMILY: Family = Family {
    name: "kimi_k3",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let input = input.within("text_config", "text_config.")?;
    let keys = Keys { kv_heads: UNSAID, head_dim: "qk_nope_head_dim", ..KEYS };
    let c = &Config::read_with_eps(&input, input.fields, keys, 1e-5)?;
    let check = |key: &str, wanted: &str| match c.fields.str(key)?.filter(|v| *v != wanted) {
        Some(other) => Err(LmError::Unsupported(format!("config.json: {key} {other:?}; {wanted:?} is"))),
        None => Ok(()),
    };
    check("hidden_act", "situ")?;
    check("moe_router_activation_func", "sigmoid")?;
    let linear = Linear::read(c)?;
    let template = latent(c)?;
    let activation = activation(c)?;
    let every = c.fields.count("attn_res_block_size", MAX_EXTENT)?;
    let (dense, step) = (c.natural("first_k_dense_replace", 0)?, c.count_or("moe_layer_freq", 1)?);
    let has_experts = c.natural("num_experts", 0)? > 0;
    let mut spec = c.decoder("language_model.", |i, path| {
        let own = format!("{path}.self_attn");
        let mixer = match linear.layers.contains(&((i + 1) as f64)) {
            true => Block::Delta(Box::new(linear.delta(c, &own))),
            false => Block::Latent(Box::new(deepseek_v3::placed(c, &template, &own))),
        };
        let own = format!("{path}.mlp");
        let ff = match has_experts && i >= dense && i.is_multiple_of(step) {
            true => sparse(c, &own, &activation)?,
            false => c.mlp(&own, c.count("intermediate_size")?, activation.clone(), false).block(),
        };
        let mut layer = pre_norm_layer_of(c, path, mixer, ff);
        if let Some(every) = every {
            layer.branches[0].gather = Some(gather(c, &format!("{path}.self_attention_res")));
            layer.branches[0].store = i.is_multiple_of(every);
            layer.branches[1].gather = Some(gather(c, &format!("{path}.mlp_res")));
        }
        Ok(layer)
    })?;
    if every.is_some()
        && let (Some(last), Some(norm)) = (spec.layers.last_mut(), spec.norm.take())
    {
        let mut branch = Branch::normalise(norm);
        branch.gather = Some(gather(c, "language_model.model.output_attn_res"));
        last.branches.push(branch);
    }
    // Nothing is stored before the first layer.
    spec.dropped.push("language_model.model.layers.0.self_attention_res_".to_owned());
    spec.head = c.head("language_model.", false)?;
    Ok(spec.language_half())
}

fn gather(c: &Config<'_>, path: &str) -> Gather {
    Gather { norm: c.rms(&format!("{path}_norm")), projection: Matrix::new(format!("{path}_proj"), 1, c.hidden) }
}

/// The gate of feed-forward layers and experts; without a cap of what it multiplies, one far beyond any value.
fn activation(c: &Config<'_>) -> Result<MlpActivation> {
    let beta = c.number("activation_situ_beta", 1.0)?;
    Ok(MlpActivation::CappedSilu {
        beta: if beta == 0.0 { 1.0 } else { beta as f32 },
        limit: c.positive("activation_situ_linear_beta", 1e30)? as f32,
    })
}

/// Latent attention without positions, its paths to come.
fn latent(c: &Config<'_>) -> Result<Latent> {
    if !c.flag("mla_use_nope", true)? {
        return Err(LmError::Unsupported("config.json: mla_use_nope false".to_owned()));
    }
    let sizes = LatentSizes {
        nope: c.count("qk_nope_head_dim")?,
        rope: c.count("qk_rope_head_dim")?,
        v: c.count("v_head_dim")?,
        eps: 1e-6,
    };
    let mut latent = deepseek_v3::latent_with(c, &sizes, false)?;
    if c.flag("mla_use_output_gate", false)? {
        let matrix = Matrix::new("g_proj", c.heads * sizes.v, c.hidden);
        latent.gate = Some(OutputGate { matrix, shape: GateShape::Element, softplus: false });
    }
    Ok(latent)
}

/// The delta rule's sizes.
struct Linear {
    heads: usize,
    dim: usize,
    kernel: usize,
    layers: Vec<f64>,
    bound: Option<f32>,
    full_gate: bool,
}

impl Linear {
    fn read(c: &Config<'_>) -> Result<Self> {
        let key = "linear_attn_config";
        let fields = c.fields.require(key, c.fields.object(key, "linear_attn_config.")?)?;
        let count = |key: &str| fields.require(key, fields.count(key, MAX_EXTENT)?);
        let (heads, dim) = (count("num_heads")?, count("head_dim")?);
        if heads.saturating_mul(dim) > MAX_EXTENT / 3 {
            return Err(fields.invalid("head_dim", dim, "heads of a possible size"));
        }
        let bound = fields.f64("gate_lower_bound")?.map(|bound| bound as f32);
        if let Some(bound) = bound.filter(|bound| !bound.is_finite()) {
            return Err(fields.invalid("gate_lower_bound", bound, "a finite number"));
        }
        Ok(Linear {
            heads,
            dim,
            kernel: count("short_conv_kernel_size")?,
            layers: fields.require("kda_layers", fields.positives("kda_layers")?)?,
            bound,
            full_gate: fields.bool("use_full_rank_gate")?.unwrap_or(false),
        })
    }

    fn delta(&self, c: &Config<'_>, path: &str) -> Delta {
        let (dim, width) = (self.dim, self.heads * self.dim);
        let matrix = |name: &str, outputs, inputs| Matrix::new(format!("{path}.{name}"), outputs, inputs);
        let conv = Convolution {
            weight: format!("{path}.qkv_conv.conv.weight"),
            bias: None,
            channels: 3 * width,
            kernel: self.kernel,
            silu: true,
        };
        Delta {
            k_heads: self.heads,
            v_heads: self.heads,
            k_dim: dim,
            v_dim: dim,
            inputs: DeltaInputs::Joint(matrix("qkv_proj", 3 * width, c.hidden), conv),
            beta: matrix("b_proj", self.heads, c.hidden),
            beta_factor: 1.0,
            decay: DeltaDecay::Channel(ChannelDecay {
                matrices: vec![matrix("f_a_proj", dim, c.hidden), matrix("f_b_proj", width, dim)],
                a_log: format!("{path}.A_log"),
                dt_bias: format!("{path}.dt_bias"),
                bound: self.bound,
            }),
            gate: match self.full_gate {
                true => vec![matrix("g_proj", width, c.hidden)],
                false => vec![matrix("g_a_proj", dim, c.hidden), matrix("g_b_proj", width, dim)],
            },
            norm: Norm::rms(format!("{path}.o_norm.weight"), dim, c.eps),
            sigmoid_gate: true,
            qk_eps: 1e-6,
            o: matrix("o_proj", c.hidden, width),
        }
    }
}

fn sparse(c: &Config<'_>, path: &str, activation: &MlpActivation) -> Result<Block> {
    let (n, inner) = (c.count("num_experts")?, c.count("moe_intermediate_size")?);
    let grouped = Grouped {
        correction: Some("e_score_correction_bias"),
        top_k: ("num_experts_per_token", Some(16)),
        groups: "num_expert_group",
        normalise: "moe_renormalize",
        factor: ("routed_scaling_factor", 1.0),
        ..experts::GROUPED
    };
    let router = experts::grouped_router(c, path, n, &grouped)?;
    let latent = c.fields.count("routed_expert_hidden_size", MAX_EXTENT)?;
    let names = [Some("gate_proj"), Some("up_proj"), Some("down_proj")];
    let sizes = [inner, latent.unwrap_or(c.hidden)];
    let all = experts::experts_of(&format!("{path}.switch_mlp"), names, n, sizes, activation.clone());
    let mut shared = experts::shared_by(c, path, "num_shared_experts", inner)?;
    if let Some(shared) = &mut shared {
        shared.mlp.activation = activation.clone();
    }
    let mut block = experts::moe(router, all, shared);
    if let (Block::Moe(moe), Some(width)) = (&mut block, latent) {
        let matrix = |name: &str, outputs, inputs| Matrix::new(format!("{path}.routed_expert_{name}_proj"), outputs, inputs);
        let norm = c.flag("latent_moe_use_norm", false)?;
        let norm = norm.then(|| Norm::rms(format!("{path}.routed_expert_norm.weight"), width, c.eps));
        moe.latent = Some((matrix("down", width, c.hidden), norm, matrix("up", c.hidden, width)));
    }
    Ok(block)
}
