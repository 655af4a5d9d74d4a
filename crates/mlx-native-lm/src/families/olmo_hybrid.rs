//! OLMo hybrid: OLMo 2 in some layers, the delta rule behind a norm in the others.

use super::Family;
use super::common::{Config, post_norm_layer, pre_norm_layer_of};
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::{Block, Convolution, DecoderSpec, Delta, DeltaDecay, DeltaInputs, Matrix, MlpActivation, Norm};

use super::qwen3_5::DeltaSizes;
use crate::rope::RopeConfig;

pub(super) const FAMILY: Family = Family {
    name: "olmo_hybrid",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let c = &Config::read(input)?;
    let (inner, bias) = (c.count("intermediate_size")?, c.flag("attention_bias", false)?);
    let rope = RopeConfig::plain(c.head_dim, c.theta_or(10_000.0)?, false);
    let full: Vec<bool> = match c.layer_strings("layer_types")? {
        Some(kinds) => kinds.into_iter().map(|kind| kind == "full_attention").collect(),
        None => (0..c.layers).map(|i| i % 4 == 3).collect(),
    };
    let mut spec = c.decoder("", |i, path| {
        let mlp = c.mlp(&format!("{path}.mlp"), inner, MlpActivation::Silu, false).block();
        if !full[i] {
            let delta = delta(c, &format!("{path}.linear_attn"))?;
            return Ok(pre_norm_layer_of(c, path, Block::Delta(Box::new(delta)), mlp));
        }
        let own = format!("{path}.self_attn");
        let attention = c.attention(&own).biased(bias, bias).normed_whole(&own, c.eps).turned(Some(rope.clone()));
        Ok(post_norm_layer(c, path, attention, mlp))
    })?;
    spec.head = c.head("", false)?;
    Ok(spec)
}

fn delta(c: &Config<'_>, path: &str) -> Result<Delta> {
    let s = DeltaSizes::read(c)?;
    let matrix = |name: &str, outputs| Matrix::new(format!("{path}.{name}"), outputs, c.hidden);
    let input = |name: &str, width: usize| {
        let conv = Convolution {
            weight: format!("{path}.{name}_conv1d.weight"),
            bias: None,
            channels: width,
            kernel: s.kernel,
            silu: true,
        };
        (matrix(&format!("{name}_proj"), width), conv)
    };
    let inputs = [input("q", s.keys()), input("k", s.keys()), input("v", s.values())];
    let eps = c.positive("layer_norm_epsilon", 1e-5)? as f32;
    Ok(Delta {
        k_heads: s.k_heads,
        v_heads: s.v_heads,
        k_dim: s.k_dim,
        v_dim: s.v_dim,
        inputs: DeltaInputs::Apart(Box::new(inputs)),
        beta: matrix("b_proj", s.v_heads),
        beta_factor: if c.flag("linear_allow_neg_eigval", false)? { 2.0 } else { 1.0 },
        decay: DeltaDecay::Head {
            matrix: matrix("a_proj", s.v_heads),
            a_log: format!("{path}.A_log"),
            dt_bias: format!("{path}.dt_bias"),
        },
        gate: vec![matrix("g_proj", s.values())],
        norm: Norm::rms(format!("{path}.o_norm.weight"), s.v_dim, eps),
        sigmoid_gate: false,
        qk_eps: 1e-6,
        o: Matrix::new(format!("{path}.o_proj"), c.hidden, s.values()),
    })
}
