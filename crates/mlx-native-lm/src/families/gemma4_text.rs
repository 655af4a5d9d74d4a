//! Gemma 4: windows, shared keys and values, inputs for each layer, or experts beside the feed-forward layer.

use super::Family;
use super::common::{Config, KEYS, MAX_EXTENT, sandwich_layer};
use super::experts;
use crate::rope::{RopeConfig, RopeScaling};
use crate::spec::{Attention, Block, Branch, DecoderSpec, Layer, LayerInput, LayerInputs, Matrix, MlpActivation, Norm, Part, Score, Values};
use crate::config::FamilyInput;
use crate::error::Result;

pub(super) const FAMILY: Family = Family {
    name: "gemma4_text",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    decoder(&Config::read_with_eps(input, input.fields, KEYS, 1e-6)?, "")
}

/// The decoder, with tensors under `prefix`.
pub(super) fn decoder(c: &Config<'_>, prefix: &str) -> Result<DecoderSpec> {
    let sliding = c.sliding_or_every(c.count_or("sliding_window_pattern", 5)?)?;
    let own = c.layers.saturating_sub(c.natural("num_kv_shared_layers", 20)?);
    let per_layer = c.natural("hidden_size_per_layer_input", 256)?;
    let wide = c.flag("use_double_wide_mlp", true)?;
    let inner = c.count_or("intermediate_size", 6144)?;
    let has_experts = c.flag("enable_moe_block", false)?;
    let kinds = [Kind::read(c, false)?, Kind::read(c, true)?];
    let mut spec = c.decoder(prefix, |i, path| {
        let kind = &kinds[usize::from(sliding[i])];
        let mut attention = kind.attention(c, &format!("{path}.self_attn"));
        if i >= own {
            let shared = (0..own).rev().find(|j| sliding[*j] == sliding[i]);
            let wanted = "fewer layers than leave one of each kind its own keys";
            let key = "num_kv_shared_layers";
            attention.shared_with = Some(shared.ok_or_else(|| c.fields.invalid(key, c.layers - own, wanted))?);
            (attention.k, attention.v) = (None, Values::Shared);
            (attention.k_norm, attention.v_norm) = (None, None);
        }
        let is_wide = wide && i >= own && own > 0;
        let mlp = c.mlp(&format!("{path}.mlp"), inner * (1 + usize::from(is_wide)), MlpActivation::GeluTanh, false);
        let mut layer = sandwich_layer(c, path, attention, mlp.block());
        if has_experts {
            beside_experts(c, path, &mut layer)?;
        }
        if per_layer > 0 {
            layer.branches.push(layer_input(c, path, i, per_layer));
        }
        if let Some(last) = layer.branches.last_mut() {
            last.scale_after = Some(format!("{path}.layer_scalar"));
        }
        Ok(layer)
    })?;
    if per_layer > 0 {
        spec.layer_inputs = Some(layer_inputs(c, &format!("{prefix}model."), per_layer)?);
    }
    spec.embedding.scale = (c.hidden as f64).sqrt() as f32;
    spec.head.cap = Some(c.positive("final_logit_softcapping", 30.0)? as f32);
    spec.dropped.extend(["*self_attn.rotary_emb", "*input_max", "*input_min", "*output_max", "*output_min"].map(str::to_owned));
    for i in own..c.layers {
        let unread = ["k_proj", "v_proj", "k_norm"].map(|name| format!("{prefix}model.layers.{i}.self_attn.{name}"));
        spec.dropped.extend(unread);
    }
    Ok(spec)
}

/// What the layers that slide, or those that see all, have in common.
struct Kind {
    head_dim: usize,
    kv_heads: usize,
    values_are_keys: bool,
    window: Option<usize>,
    rope: RopeConfig,
}

impl Kind {
    fn read(c: &Config<'_>, slides: bool) -> Result<Self> {
        let head_dim = if slides { c.head_dim } else { c.count_or("global_head_dim", 512)? };
        let values_are_keys = !slides && c.flag("attention_k_eq_v", false)?;
        let kv_heads = match c.fields.count("num_global_key_value_heads", MAX_EXTENT)? {
            Some(n) if values_are_keys => n,
            _ => c.kv_heads,
        };
        if !c.heads.is_multiple_of(kv_heads) || c.heads.saturating_mul(head_dim) > MAX_EXTENT {
            let wanted = format!("a divisor of num_attention_heads {}", c.heads);
            return Err(c.fields.invalid("num_global_key_value_heads", kv_heads, &wanted));
        }
        let traditional = c.flag("rope_traditional", false)?;
        let rope = match c.rope_parameters(slides)? {
            Some(parameters) => {
                let theta = parameters.positive("rope_theta")?.unwrap_or(10_000.0);
                RopeConfig::scaled(RopeConfig::plain(head_dim, theta, traditional), &c.fields, Some(parameters))?
            }
            None if slides => RopeConfig::plain(head_dim, 10_000.0, traditional),
            None => RopeConfig {
                scaling: RopeScaling::Proportional { share: 0.25, factor: 1.0 },
                ..RopeConfig::plain(head_dim, 1e6, traditional)
            },
        };
        let window = if slides { Some(c.count_or("sliding_window", 512)?) } else { None };
        Ok(Kind { head_dim, kv_heads, values_are_keys, window, rope })
    }

    fn attention(&self, c: &Config<'_>, path: &str) -> Attention {
        let mut attention = c
            .attention_of(path, c.heads, self.kv_heads, self.head_dim)
            .normed(path, c.eps, 0.0)
            .turned(Some(self.rope.clone()))
            .sliding(self.window);
        attention.v_norm = Some(Norm::rms_plain(self.head_dim, c.eps));
        attention.scale = 1.0;
        if self.values_are_keys {
            attention.v = Values::Keys;
        }
        attention
    }
}

/// Puts experts beside the feed-forward layer, each with norms of its own.
fn beside_experts(c: &Config<'_>, path: &str, layer: &mut Layer) -> Result<()> {
    let (n, k) = (c.count("num_experts")?, c.count("top_k_experts")?);
    let mut router = experts::router(c, format!("{path}.router.proj"), n, k, Score::SoftmaxOfChosen)?;
    router.reads_unnormed = true;
    router.norm = Some(Norm::rms(format!("{path}.router.scale"), c.hidden, c.eps));
    router.logit_factor = 1.0 / (c.hidden as f32).sqrt();
    router.expert_scale = Some(format!("{path}.router.per_expert_scale"));
    let inner = c.count("moe_intermediate_size")?;
    let all = experts::experts(c, &format!("{path}.experts.switch_glu"), n, inner, MlpActivation::GeluTanh);
    let norm = |name: &str| Some(c.rms(&format!("{path}.{name}")));
    if let Some(branch) = layer.branches.last_mut() {
        let before = branch.norm.take();
        for part in &mut branch.parts {
            part.norm.clone_from(&before);
            part.post = norm("post_feedforward_layernorm_1");
        }
        branch.parts.push(Part {
            norm: norm("pre_feedforward_layernorm_2"),
            block: experts::moe(router, all, None),
            post: norm("post_feedforward_layernorm_2"),
        });
    }
    Ok(())
}

fn layer_input(c: &Config<'_>, path: &str, index: usize, dim: usize) -> Branch {
    let input = LayerInput {
        index,
        gate: Matrix::new(format!("{path}.per_layer_input_gate"), dim, c.hidden),
        projection: Matrix::new(format!("{path}.per_layer_projection"), c.hidden, dim),
    };
    let post = Some(c.rms(&format!("{path}.post_per_layer_input_norm")));
    Branch::new(None, Block::LayerInput(Box::new(input)), post)
}

/// The inputs of all layers, with tensors under `prefix`.
pub(super) fn layer_inputs(c: &Config<'_>, prefix: &str, dim: usize) -> Result<LayerInputs> {
    let width = c.layers.saturating_mul(dim);
    if width > MAX_EXTENT {
        return Err(c.fields.invalid("hidden_size_per_layer_input", dim, "a size that all layers can have"));
    }
    Ok(LayerInputs {
        table: format!("{prefix}embed_tokens_per_layer"),
        rows: c.count_or("vocab_size_per_layer_input", 262_144)?,
        dim,
        layers: c.layers,
        projection: Matrix::new(format!("{prefix}per_layer_model_projection"), width, c.hidden),
        norm: Norm::rms(format!("{prefix}per_layer_projection_norm.weight"), dim, c.eps),
    })
}
