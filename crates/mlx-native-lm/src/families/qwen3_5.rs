//! Qwen3.5, dense: the delta rule in three layers of four, gated attention in the fourth.

use super::Family;
use super::common::{Config, KEYS};
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::{Attention, Block, Branch, Convolution, DecoderSpec, Delta, DeltaDecay, DeltaInputs, GateShape, Layer, Matrix, MlpActivation, Norm, OutputGate, Run};

pub(super) const FAMILY: Family = Family {
    name: "qwen3_5",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let input = input.within("text_config", "text_config.")?;
    let c = &Config::read_with_eps(&input, input.fields, KEYS, 1e-6)?;
    let inner = c.count("intermediate_size")?;
    let spec = decoder(c, "language_model.", |_, path| {
        Ok(c.mlp(&format!("{path}.mlp"), inner, MlpActivation::Silu, false).block())
    })?;
    Ok(spec.language_half())
}

/// The decoder around feed-forward layers.
pub(super) fn decoder(
    c: &Config<'_>,
    prefix: &str,
    feed_forward: impl Fn(usize, &str) -> Result<Block>,
) -> Result<DecoderSpec> {
    let parameters = c.fields.object("rope_parameters", "rope_parameters.")?;
    let share = match parameters {
        Some(p) => crate::rope::share(&p, "partial_rotary_factor")?.unwrap_or(0.25),
        None => 0.25,
    };
    let rope = c.rope_from((c.head_dim as f64 * share) as usize, 100_000.0)?;
    let interval = c.count_or("full_attention_interval", 4)?;
    let bias = c.flag("attention_bias", false)?;
    let mut spec = c.decoder(prefix, |i, path| {
        let mixer = match (i + 1).is_multiple_of(interval) {
            true => {
                let own = format!("{path}.self_attn");
                Block::Attention(Box::new(gated(c, &own).biased_gate(bias).normed(&own, c.eps, 0.0).turned(Some(rope.clone()))))
            }
            false => Block::Delta(Box::new(separate(c, &format!("{path}.linear_attn"))?)),
        };
        Ok(Layer {
            alternating: None,
            branches: vec![
                Branch::pre(c.rms(&format!("{path}.input_layernorm")), mixer),
                Branch::pre(c.rms(&format!("{path}.post_attention_layernorm")), feed_forward(i, path)?),
            ],
        })
    })?;
    spec.head = c.head(prefix, false)?;
    spec.dropped.push("*mtp.".to_owned());
    Ok(spec)
}

/// Attention whose queries and gates are rows of one matrix, head by head.
pub(super) fn gated(c: &Config<'_>, path: &str) -> Attention {
    let mut attention = c.attention(path);
    let (dim, of) = (c.head_dim, 2 * c.heads * c.head_dim);
    let part = |first| {
        let run = Run { first, block: dim, stride: 2 * dim, count: c.heads * dim };
        Matrix::new(format!("{path}.q_proj"), 0, c.hidden).picked(vec![run], of)
    };
    attention.q = part(0);
    attention.gate = Some(OutputGate { matrix: part(dim), shape: GateShape::Element, softplus: false });
    attention
}

impl Attention {
    /// Biases on all four matrices and on the gate.
    pub(super) fn biased_gate(self, bias: bool) -> Self {
        let mut attention = self.biased(bias, bias);
        if let Some(gate) = &mut attention.gate {
            gate.matrix.bias = bias;
        }
        attention
    }
}

/// Sizes of the family's delta rule.
pub(super) struct DeltaSizes {
    pub k_heads: usize,
    pub v_heads: usize,
    pub k_dim: usize,
    pub v_dim: usize,
    pub kernel: usize,
}

impl DeltaSizes {
    pub fn read(c: &Config<'_>) -> Result<Self> {
        let sizes = DeltaSizes {
            k_heads: c.count("linear_num_key_heads")?,
            v_heads: c.count("linear_num_value_heads")?,
            k_dim: c.count("linear_key_head_dim")?,
            v_dim: c.count("linear_value_head_dim")?,
            kernel: c.count("linear_conv_kernel_dim")?,
        };
        if !sizes.v_heads.is_multiple_of(sizes.k_heads) {
            return Err(c.fields.invalid("linear_num_value_heads", sizes.v_heads, "a multiple of linear_num_key_heads"));
        }
        Ok(sizes)
    }

    pub fn keys(&self) -> usize {
        self.k_heads * self.k_dim
    }

    pub fn values(&self) -> usize {
        self.v_heads * self.v_dim
    }
}

/// The delta rule with separate projections.
fn separate(c: &Config<'_>, path: &str) -> Result<Delta> {
    let s = DeltaSizes::read(c)?;
    let matrix = |name: &str, outputs| Matrix::new(format!("{path}.{name}"), outputs, c.hidden);
    let width = 2 * s.keys() + s.values();
    Ok(delta(
        c,
        path,
        &s,
        [matrix("in_proj_qkv", width), matrix("in_proj_z", s.values()), matrix("in_proj_b", s.v_heads), matrix("in_proj_a", s.v_heads)],
    ))
}

/// The family's delta rule with its four projections.
pub(super) fn delta(c: &Config<'_>, path: &str, s: &DeltaSizes, [qkv, z, b, a]: [Matrix; 4]) -> Delta {
    let conv = Convolution {
        weight: format!("{path}.conv1d.weight"),
        bias: None,
        channels: qkv.outputs,
        kernel: s.kernel,
        silu: true,
    };
    Delta {
        k_heads: s.k_heads,
        v_heads: s.v_heads,
        k_dim: s.k_dim,
        v_dim: s.v_dim,
        inputs: DeltaInputs::Joint(qkv, conv),
        beta: b,
        beta_factor: 1.0,
        decay: DeltaDecay::Head { matrix: a, a_log: format!("{path}.A_log"), dt_bias: format!("{path}.dt_bias") },
        gate: vec![z],
        norm: Norm::rms(format!("{path}.norm.weight"), s.v_dim, c.eps),
        sigmoid_gate: false,
        qk_eps: 1e-6,
        o: Matrix::new(format!("{path}.out_proj"), c.hidden, s.values()),
    }
}
