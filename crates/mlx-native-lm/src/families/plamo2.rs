//! PLaMo 2: Mamba 2 and attention in turn, norms on both sides with offsets.

use super::Family;
use super::common::{Config, Keys, KEYS, MAX_EXTENT, sandwich_layer_of};
use crate::rope::RopeConfig;
use crate::spec::{Block, Convolution, DecoderSpec, HeadNorm, Layer, Mamba2, Matrix, MlpActivation, Norm, Run};
use crate::config::FamilyInput;
use crate::error::Result;

pub(super) const FAMILY: Family = Family {
    name: "plamo2",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    let keys = Keys { head_dim: "hidden_size_per_head", ..KEYS };
    let c = &Config::read_with_eps(input, input.fields, keys, 1e-6)?;
    let (enabled, step) = (c.flag("mamba_enabled", true)?, c.count_or("mamba_step", 2)?);
    if enabled && step < 2 {
        return Err(c.fields.invalid("mamba_step", step, "at least 2"));
    }
    let is_mamba = |i: usize| match c.layers <= step / 2 {
        true => i + 1 != c.layers,
        false => i % step != step / 2,
    };
    let inner = c.count_or("intermediate_size", 13_312)?;
    let head = c.head("", true)?;
    let mut spec = c.decoder_named("model", ["embed_tokens", "layers.layers", "norm"], head, |i, path| {
        let own = format!("{path}.mixer");
        let mixer = match enabled && is_mamba(i) {
            true => Block::Mamba2(Box::new(mamba(c, &own)?)),
            false => attention(c, &own),
        };
        let own = format!("{path}.mlp");
        let mlp = c.mlp(&own, inner, MlpActivation::Silu, false).fused(&format!("{own}.gate_up_proj"));
        Ok(with_offsets(sandwich_layer_of(c, path, NORMS, mixer, mlp.block())))
    })?;
    spec.norm = spec.norm.map(|norm| norm.plus(1.0));
    Ok(spec)
}

pub(super) const NORMS: [&str; 4] = ["pre_mixer_norm", "post_mixer_norm", "pre_mlp_norm", "post_mlp_norm"];

/// Adds to the weights of the four norms of a layer what the family stores them without.
pub(super) fn with_offsets(mut layer: Layer) -> Layer {
    for (branch, behind) in layer.branches.iter_mut().zip([1.0 / 5.0, 1.0 / 5f32.powf(1.5)]) {
        branch.norm = branch.norm.take().map(|norm| norm.plus(1.0));
        branch.post = branch.post.take().map(|norm| norm.plus(behind));
    }
    layer
}

fn attention(c: &Config<'_>, path: &str) -> Block {
    let rope = RopeConfig::plain(c.head_dim, 10_000.0, false);
    let mut attention = c.attention(path).fused(&format!("{path}.qkv_proj"), false).turned(Some(rope));
    let norm = |name: &str, heads| {
        let norm = Norm::rms(format!("{path}.{name}"), c.head_dim, 1e-6).weights_for(heads);
        Some(HeadNorm { norm, after_rope: false })
    };
    (attention.q_norm, attention.k_norm) = (norm("q_weight", c.heads), norm("k_weight", c.kv_heads));
    Block::Attention(Box::new(attention))
}

/// The mixer, whose first matrix has for each head the rows of the gate and then those of the input.
fn mamba(c: &Config<'_>, path: &str) -> Result<Mamba2> {
    let (heads, dim, state) = (c.count_or("mamba_num_heads", 64)?, c.head_dim, c.count_or("mamba_d_state", 64)?);
    let inner = heads.saturating_mul(dim);
    if inner > MAX_EXTENT / 2 {
        return Err(c.fields.invalid("mamba_num_heads", heads, "heads of a possible size"));
    }
    let rank = (c.hidden / 16).max(64);
    let half = |first: usize| {
        let run = Run { first, block: dim, stride: 2 * dim, count: inner };
        Matrix::new(format!("{path}.in_proj"), 0, c.hidden).picked(vec![run], 2 * inner)
    };
    let part = |first, rows, norm: &str| {
        let matrix = Matrix::new(format!("{path}.bcdt_proj"), rows, inner).part(first, rows, rank + 2 * state);
        (matrix, Norm::rms(format!("{path}.{norm}_norm_weight"), rows, c.eps))
    };
    Ok(Mamba2 {
        n_heads: heads,
        head_dim: dim,
        n_groups: 1,
        state,
        gate: half(0),
        input: half(dim),
        projected: Some(Box::new([part(0, state, "B"), part(state, state, "C"), part(2 * state, rank, "dt")])),
        dt: Matrix::new(format!("{path}.dt_proj"), heads, rank),
        conv: Convolution {
            weight: format!("{path}.conv1d.weight"),
            bias: None,
            channels: inner,
            kernel: c.count_or("mamba_d_conv", 4)?,
            silu: true,
        },
        dt_bias: format!("{path}.dt_bias"),
        a_log: format!("{path}.A_log"),
        d: format!("{path}.D"),
        dt_limits: (0.001, 100.0),
        norm: None,
        o: Matrix::new(format!("{path}.out_proj"), c.hidden, inner),
    })
}
