//! Mamba and Falcon-Mamba: state-space layers with a decay for each element, nothing else.

use super::Family;
use super::common::{Config, KEYS, Keys};
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::{Block, Branch, Convolution, DecoderSpec, Head, Layer, Mamba1, Matrix, Norm};

pub(super) const FAMILY: Family = Family {
    name: "mamba",
    also: &["falcon_mamba"],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    // Norms have this epsilon, whatever the file says.
    let keys = Keys { eps: "none", ..KEYS };
    let c = &Config::read_unheaded(input, keys, 1e-5)?;
    let normed = input.fields.str("model_type")? == Some("falcon_mamba") || c.flag("use_bcdt_rms", false)?;
    let tied = c.flag("tie_word_embeddings", true)?;
    let head = Head::new((!tied).then(|| c.lm_head("")));
    c.decoder_named("backbone", ["embeddings", "layers", "norm_f"], head, |_, path| {
        let mut mamba = layer(c, &format!("{path}.mixer"), &Names {
            inner: "intermediate_size",
            state: "state_size",
            kernel: "conv_kernel",
            rank: "time_step_rank",
            bias: "use_bias",
            conv_bias: "use_conv_bias",
        })?;
        if normed {
            let eps = c.positive("mixer_rms_eps", 1e-6)? as f32;
            let norm = |dim| Norm::rms_plain(dim, eps);
            mamba.norms = Some([norm(mamba.dt_rank), norm(mamba.state), norm(mamba.state)]);
        }
        let branch = Branch::pre(c.rms(&format!("{path}.norm")), Block::Mamba1(Box::new(mamba)));
        Ok(Layer { branches: vec![branch] })
    })
}

/// Keys of the sizes.
pub(super) struct Names {
    pub inner: &'static str,
    pub state: &'static str,
    pub kernel: &'static str,
    pub rank: &'static str,
    pub bias: &'static str,
    pub conv_bias: &'static str,
}

/// The mixer under `path`.
pub(super) fn layer(c: &Config<'_>, path: &str, names: &Names) -> Result<Mamba1> {
    let (inner, state, kernel) = (c.count(names.inner)?, c.count(names.state)?, c.count(names.kernel)?);
    let rank = match c.fields.get(names.rank).and_then(|v| v.as_str()) {
        Some("auto") => c.hidden.div_ceil(16),
        _ => c.count(names.rank)?,
    };
    let (bias, conv_bias) = (c.flag(names.bias, false)?, c.flag(names.conv_bias, true)?);
    let half = |first| {
        Matrix::new(format!("{path}.in_proj"), inner, c.hidden).with_bias(bias).part(first, inner, 2 * inner)
    };
    let of = rank + 2 * state;
    let x = |first, rows| Matrix::new(format!("{path}.x_proj"), rows, inner).part(first, rows, of);
    Ok(Mamba1 {
        inner,
        state,
        dt_rank: rank,
        input: half(0),
        gate: half(inner),
        conv: Convolution {
            weight: format!("{path}.conv1d.weight"),
            bias: conv_bias.then(|| format!("{path}.conv1d.bias")),
            channels: inner,
            kernel,
            silu: true,
        },
        x: [x(0, rank), x(rank, state), x(rank + state, state)],
        dt: Matrix::new(format!("{path}.dt_proj"), inner, rank).with_bias(true),
        norms: None,
        a_log: format!("{path}.A_log"),
        d: format!("{path}.D"),
        o: Matrix::new(format!("{path}.out_proj"), c.hidden, inner).with_bias(bias),
    })
}
