//! Mamba 2: state-space layers with a decay for each head, nothing else.

use super::Family;
use super::common::{Config, KEYS, Keys};
use crate::config::FamilyInput;
use crate::error::Result;
use crate::spec::{Block, Branch, Convolution, DecoderSpec, GroupedNorm, Head, Layer, Mamba2, Matrix, Norm};

pub(super) const FAMILY: Family = Family {
    name: "mamba2",
    also: &[],
    spec,
};

fn spec(input: &FamilyInput<'_>) -> Result<DecoderSpec> {
    // Norms of the stream have this epsilon, whatever the file says; those inside the layers have the file's.
    let keys = Keys { eps: "none", ..KEYS };
    let c = &Config::read_unheaded(input, keys, 1e-5)?;
    let tied = c.flag("tie_word_embeddings", true)?;
    let head = Head::new((!tied).then(|| c.lm_head("")));
    let sizes = Sizes {
        heads: c.count("num_heads")?,
        head_dim: c.count("head_dim")?,
        groups: c.count("n_groups")?,
        state: c.fields.count("ssm_state_size", super::common::MAX_EXTENT)?.map_or_else(|| c.count("state_size"), Ok)?,
        kernel: c.count("conv_kernel")?,
        bias: c.flag("use_bias", false)?,
        conv_bias: c.flag("use_conv_bias", true)?,
        dt_limits: limits(c, (0.0, f32::INFINITY))?,
    };
    let eps = c.positive("layer_norm_epsilon", 1e-5)? as f32;
    let mut spec = c.decoder_named("backbone", ["embeddings", "layers", "norm_f"], head, |_, path| {
        let own = format!("{path}.mixer");
        let mut mamba = layer(c, &own, &sizes);
        mamba.norm = Some(GroupedNorm { norm: Norm::rms(format!("{own}.norm.weight"), sizes.inner(), eps), gate_first: true });
        let branch = Branch::pre(c.rms(&format!("{path}.norm")), Block::Mamba2(Box::new(mamba)));
        Ok(Layer { alternating: None, branches: vec![branch] })
    })?;
    spec.norm = Some(Norm { eps, ..c.rms("backbone.norm_f") });
    Ok(spec)
}

/// Sizes of a mixer.
pub(super) struct Sizes {
    pub heads: usize,
    pub head_dim: usize,
    pub groups: usize,
    pub state: usize,
    pub kernel: usize,
    pub bias: bool,
    pub conv_bias: bool,
    pub dt_limits: (f32, f32),
}

impl Sizes {
    /// Heads in whole groups, of a possible size.
    pub fn check(&self, c: &Config<'_>, key: &str) -> Result<()> {
        let wide = self.heads.saturating_mul(self.head_dim);
        let all = wide.saturating_add(self.groups.saturating_mul(self.state).saturating_mul(2));
        if !self.heads.is_multiple_of(self.groups) || all > super::common::MAX_EXTENT {
            let wanted = format!("a multiple of {} groups, of a possible size in all", self.groups);
            return Err(c.fields.invalid(key, self.heads, &wanted));
        }
        Ok(())
    }

    pub fn inner(&self) -> usize {
        self.heads * self.head_dim
    }
}

/// `time_step_limit`, two numbers, the second perhaps infinite.
pub(super) fn limits(c: &Config<'_>, default: (f32, f32)) -> Result<(f32, f32)> {
    let key = "time_step_limit";
    let Some(list) = c.fields.floats(key)? else { return Ok(default) };
    match list[..] {
        [low, high] if low >= 0.0 && high >= low => Ok((low as f32, high as f32)),
        _ => Err(c.fields.invalid(key, format!("{list:?}"), "two numbers, the second no less than the first")),
    }
}

/// The mixer under `path`, with rows `[gate | u B C | dt]` in one matrix and no norm.
pub(super) fn layer(c: &Config<'_>, path: &str, s: &Sizes) -> Mamba2 {
    let (inner, conv) = (s.inner(), s.inner() + 2 * s.groups * s.state);
    let of = inner + conv + s.heads;
    let part = |first, rows| {
        Matrix::new(format!("{path}.in_proj"), rows, c.hidden).with_bias(s.bias).part(first, rows, of)
    };
    Mamba2 {
        n_heads: s.heads,
        head_dim: s.head_dim,
        n_groups: s.groups,
        state: s.state,
        gate: part(0, inner),
        input: part(inner, conv),
        projected: None,
        dt: part(inner + conv, s.heads),
        conv: Convolution {
            weight: format!("{path}.conv1d.weight"),
            bias: s.conv_bias.then(|| format!("{path}.conv1d.bias")),
            channels: conv,
            kernel: s.kernel,
            silu: true,
        },
        dt_bias: format!("{path}.dt_bias"),
        a_log: format!("{path}.A_log"),
        d: format!("{path}.D"),
        dt_limits: s.dt_limits,
        norm: None,
        o: Matrix::new(format!("{path}.out_proj"), c.hidden, inner).with_bias(s.bias),
    }
}
