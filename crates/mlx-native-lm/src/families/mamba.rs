//! Mamba and Falcon-Mamba: state-space layers with a decay for each element, nothing else.

use super::Family;
use super::common::{Config, KEYS, Keys, MAX_EXTENT};
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
    let sizes = Sizes {
        inner: c.count("intermediate_size")?,
        state: c.count("state_size")?,
        kernel: c.count("conv_kernel")?,
        rank: rank(c, "time_step_rank")?,
        bias: c.flag("use_bias", false)?,
        conv_bias: c.flag("use_conv_bias", true)?,
    };
    c.decoder_named("backbone", ["embeddings", "layers", "norm_f"], head, |_, path| {
        let mut mamba = layer(c, &format!("{path}.mixer"), &sizes);
        if normed {
            let eps = c.positive("mixer_rms_eps", 1e-6)? as f32;
            let norm = |dim| Norm::rms_plain(dim, eps);
            mamba.norms = Some([norm(mamba.dt_rank), norm(mamba.state), norm(mamba.state)]);
        }
        let branch = Branch::pre(c.rms(&format!("{path}.norm")), Block::Mamba1(Box::new(mamba)));
        Ok(Layer { alternating: None, branches: vec![branch] })
    })
}

/// Sizes of a mixer.
pub(super) struct Sizes {
    pub inner: usize,
    pub state: usize,
    pub kernel: usize,
    pub rank: usize,
    pub bias: bool,
    pub conv_bias: bool,
}

/// The width of the step before its projection, `auto` being a sixteenth of the stream's.
pub(super) fn rank(c: &Config<'_>, key: &str) -> Result<usize> {
    match c.fields.get(key).map(|v| v.as_str()) {
        None | Some(Some("auto")) => Ok(c.hidden.div_ceil(16)),
        Some(_) => c.count(key),
    }
}

/// The stream's width times what `key` says.
pub(super) fn expanded(c: &Config<'_>, key: &str) -> Result<usize> {
    let factor = c.count(key)?;
    let inner = c.hidden.saturating_mul(factor);
    if inner > MAX_EXTENT {
        return Err(c.fields.invalid(key, factor, &format!("at most {MAX_EXTENT} in all")));
    }
    Ok(inner)
}

/// The mixer under `path`.
pub(super) fn layer(c: &Config<'_>, path: &str, s: &Sizes) -> Mamba1 {
    let Sizes { inner, state, kernel, rank, bias, conv_bias } = *s;
    let half = |first| {
        Matrix::new(format!("{path}.in_proj"), inner, c.hidden).with_bias(bias).part(first, inner, 2 * inner)
    };
    let of = rank + 2 * state;
    let x = |first, rows| Matrix::new(format!("{path}.x_proj"), rows, inner).part(first, rows, of);
    Mamba1 {
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
    }
}
