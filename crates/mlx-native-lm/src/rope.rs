//! Rotary positions, as configurations describe them.

use crate::error::{LmError, Result};
use crate::json::Fields;

const MAX_CONTEXT: usize = u32::MAX as usize;

/// How positions turn queries and keys.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeConfig {
    /// Elements of a head that are turned, from its first on.
    pub dims: usize,
    /// Base of the wavelengths.
    pub theta: f32,
    /// Whether neighbours are paired, rather than the two halves.
    pub traditional: bool,
    /// How a longer context than the first training's is reached.
    pub scaling: RopeScaling,
    /// Whether angles are negative.
    pub backwards: bool,
    /// `max_position_embeddings`, which some methods ask for.
    pub max_context: Option<usize>,
}

/// The methods of extending the context that configurations name.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum RopeScaling {
    /// None.
    Default,
    /// Positions divided by `factor`.
    Linear {
        /// What positions are divided by.
        factor: f32,
    },
    /// The base grows with the length of the text.
    Dynamic {
        /// By how much.
        factor: f32,
    },
    /// Long wavelengths stretched by `factor`, short ones kept, those between blended (Llama 3.1).
    Llama3 {
        /// By how much the longest wavelengths are stretched.
        factor: f32,
        /// Wavelengths above `original_context / low_freq_factor` are stretched in full.
        low_freq_factor: f32,
        /// Wavelengths below `original_context / high_freq_factor` are kept.
        high_freq_factor: f32,
        /// Context of the first training, in tokens.
        original_context: usize,
    },
    /// Wavelengths blended over a ramp, and attention scaled (YaRN, <https://arxiv.org/abs/2309.00071>).
    Yarn {
        /// By how much the context is extended.
        factor: f32,
        /// Context of the first training, in tokens.
        original_context: usize,
        /// Rotations over the first context above which a wavelength is kept.
        beta_fast: f32,
        /// Rotations over the first context below which a wavelength is stretched in full.
        beta_slow: f32,
        /// Weight of the logarithm in the scale of attention.
        mscale: f32,
        /// The same for all dimensions.
        mscale_all_dim: f32,
    },
    /// A factor per wavelength (LongRoPE).
    LongRope {
        /// Factors for texts within the first context; as in mlx-lm, they are not used.
        short_factor: Vec<f64>,
        /// Factors for longer ones.
        long_factor: Vec<f64>,
        /// Context of the first training, in tokens.
        original_context: usize,
        /// What rotated features are multiplied with, where the file says so; else it follows from the two contexts.
        factor: Option<f32>,
    },
    /// The base multiplied by `alpha^(dims / (dims - 2))` (NTK).
    Ntk {
        /// By how much.
        alpha: f64,
    },
    /// Only the first share of the pairs turns, the wavelengths being those of all of them, times `factor`.
    Proportional {
        /// The share, from 0 to 1.
        share: f64,
        /// What wavelengths are multiplied with.
        factor: f64,
    },
    /// Another, by its name.
    Other(String),
}

impl RopeScaling {
    /// Its name in configurations.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            RopeScaling::Default => "default",
            RopeScaling::Linear { .. } => "linear",
            RopeScaling::Dynamic { .. } => "dynamic",
            RopeScaling::Llama3 { .. } => "llama3",
            RopeScaling::Yarn { .. } => "yarn",
            RopeScaling::LongRope { .. } => "longrope",
            RopeScaling::Ntk { .. } => "ntk",
            RopeScaling::Proportional { .. } => "proportional",
            RopeScaling::Other(name) => name,
        }
    }

    fn read(fields: &Fields<'_>) -> Result<Self> {
        let name = fields.str("rope_type")?;
        let name = fields.str("type")?.or(name).unwrap_or("default");
        let number = |key: &str| Ok::<_, LmError>(fields.positive(key)?.map(|v| v as f32));
        let factor = || fields.require("factor", number("factor")?);
        let original = || fields.count("original_max_position_embeddings", MAX_CONTEXT);
        Ok(match name {
            "default" => RopeScaling::Default,
            // Three sections of positions, all the same for text.
            "mrope" => RopeScaling::Default,
            "linear" => RopeScaling::Linear { factor: factor()? },
            "dynamic" => RopeScaling::Dynamic { factor: factor()? },
            "llama3" => {
                let low_freq_factor = number("low_freq_factor")?.unwrap_or(1.0);
                let high_freq_factor = number("high_freq_factor")?.unwrap_or(4.0);
                if high_freq_factor <= low_freq_factor {
                    let wanted = format!("more than low_freq_factor {low_freq_factor}");
                    return Err(fields.invalid("high_freq_factor", high_freq_factor, &wanted));
                }
                RopeScaling::Llama3 {
                    factor: factor()?,
                    low_freq_factor,
                    high_freq_factor,
                    original_context: original()?.unwrap_or(8192),
                }
            }
            "yarn" | "deepseek_yarn" | "telechat3-yarn" => RopeScaling::Yarn {
                factor: factor()?,
                original_context: original()?.unwrap_or(4096),
                beta_fast: number("beta_fast")?.unwrap_or(32.0),
                beta_slow: number("beta_slow")?.unwrap_or(1.0),
                mscale: fields.f64("mscale")?.unwrap_or(1.0) as f32,
                mscale_all_dim: fields.f64("mscale_all_dim")?.unwrap_or(0.0) as f32,
            },
            "longrope" => RopeScaling::LongRope {
                short_factor: fields.require("short_factor", fields.positives("short_factor")?)?,
                long_factor: fields.require("long_factor", fields.positives("long_factor")?)?,
                original_context: fields.require("original_max_position_embeddings", original()?)?,
                factor: None,
            },
            "proportional" => RopeScaling::Proportional {
                share: share(fields, "partial_rotary_factor")?.unwrap_or(1.0),
                factor: number("factor")?.map_or(1.0, f64::from),
            },
            other => RopeScaling::Other(other.to_string()),
        })
    }
}

/// What the RoPE operator needs: element pair `i` of position `p` is turned by `p · scale / wavelength[i]`, where the
/// wavelength is `base^(2i/dims)`, or `freqs[i]` where there are such.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeTable {
    /// Elements of a head that are turned.
    pub dims: usize,
    /// Whether neighbours are paired.
    pub traditional: bool,
    /// Base of the wavelengths.
    pub base: f32,
    /// What positions are multiplied with.
    pub scale: f32,
    /// Wavelengths over 2π, `dims / 2` of them, where they are no powers of the base. (MLX calls them so.)
    pub freqs: Option<Vec<f32>>,
    /// What rotated elements are multiplied with.
    pub factor: f32,
    /// The base follows the length of the text: its extension beyond this context by this factor.
    pub dynamic: Option<(f64, usize)>,
}

impl RopeTable {
    /// Whether angles depend on the position alone, not on the length of the text.
    #[must_use]
    pub fn is_fixed(&self) -> bool {
        self.freqs.is_some() || self.dynamic.is_none()
    }

    /// The base for a call that ends at position `end`.
    #[must_use]
    pub fn base_at(&self, end: usize) -> f32 {
        let Some((factor, context)) = self.dynamic else {
            return self.base;
        };
        let (dims, context) = (self.dims as f64, context as f64);
        let length = (end as f64).max(context);
        let growth = factor * length / context - (factor - 1.0);
        (f64::from(self.base) * growth.powf(dims / (dims - 2.0))) as f32
    }
}

/// The base of the wavelengths: nested, where `rope_parameters` or the older `rope_scaling` has one, as in transformers.
pub(crate) fn theta(fields: &Fields<'_>) -> Result<Option<f64>> {
    for (key, path) in [
        ("rope_parameters", "rope_parameters."),
        ("rope_scaling", "rope_scaling."),
    ] {
        let nested = fields.object(key, path)?.map(|n| n.positive("rope_theta"));
        if let Some(theta) = nested.transpose()?.flatten() {
            // The outer one is known, and counts no more.
            let _ = fields.get("rope_theta");
            return Ok(Some(theta));
        }
    }
    fields.positive("rope_theta")
}

/// A share of features, from 0 to 1.
pub(crate) fn share(fields: &Fields<'_>, key: &str) -> Result<Option<f64>> {
    match fields.positive(key)? {
        Some(v) if v > 1.0 => Err(fields.invalid(key, v, "a number from 0 to 1")),
        other => Ok(other),
    }
}

impl RopeConfig {
    /// Powers of `theta`, nothing else.
    #[must_use]
    pub fn plain(dims: usize, theta: f64, traditional: bool) -> Self {
        RopeConfig {
            dims,
            theta: theta as f32,
            traditional,
            scaling: RopeScaling::Default,
            backwards: false,
            max_context: None,
        }
    }

    /// Reads `rope_theta`, `rope_traditional` and `rope_scaling`, or `rope_parameters`, which holds the first and the
    /// last in newer files; where both name a base, the nested one counts, as in transformers.
    pub(crate) fn read(fields: &Fields<'_>, dims: usize) -> Result<Self> {
        let parameters = fields.object("rope_parameters", "rope_parameters.")?;
        let scaling = fields.object("rope_scaling", "rope_scaling.")?.or(parameters);
        let theta = theta(fields)?.unwrap_or(10_000.0);
        let traditional = fields.bool("rope_traditional")?.unwrap_or(false);
        let plain = Self::plain(dims, theta, traditional);
        Self::scaled(plain, fields, scaling)
    }

    /// `plain` with the method that `scaling` describes.
    pub(crate) fn scaled(plain: Self, fields: &Fields<'_>, scaling: Option<Fields<'_>>) -> Result<Self> {
        let mut config = RopeConfig {
            scaling: scaling.map_or(Ok(RopeScaling::Default), |s| RopeScaling::read(&s))?,
            max_context: fields.count("max_position_embeddings", MAX_CONTEXT)?,
            ..plain
        };
        if let RopeScaling::LongRope { long_factor, .. } = &config.scaling
            && long_factor.len() != config.dims / 2
        {
            let wanted = format!("{} numbers, one a pair", config.dims / 2);
            return Err(fields.invalid("long_factor", long_factor.len(), &wanted));
        }
        if let (RopeScaling::LongRope { .. }, Some(scaling)) = (&config.scaling, scaling) {
            // Halves are paired beside long factors whatever `rope_traditional` says, as in mlx-lm; a GGUF file's own
            // factors say it among themselves.
            config.traditional = scaling.bool("rope_traditional")?.unwrap_or(false);
        }
        Ok(config)
    }

    /// The table for the RoPE operator.
    ///
    /// # Errors
    /// [`LmError::Unsupported`], naming the method, for one that is not built; [`LmError::Config`] for sizes that no
    /// rotation has.
    pub fn table(&self) -> Result<RopeTable> {
        let dims = self.dims;
        if dims == 0 || !dims.is_multiple_of(2) {
            return Err(LmError::Config(format!(
                "rope: {dims} features are to be turned, an even number can be"
            )));
        }
        let mut table = RopeTable {
            dims,
            traditional: self.traditional,
            base: self.theta,
            scale: 1.0,
            freqs: None,
            factor: 1.0,
            dynamic: None,
        };
        let context = || {
            self.max_context.ok_or_else(|| {
                LmError::Config(format!(
                    "rope_scaling {:?}: max_position_embeddings is missing",
                    self.scaling.name()
                ))
            })
        };
        match &self.scaling {
            RopeScaling::Default => {}
            RopeScaling::Linear { factor } => table.scale = 1.0 / factor,
            RopeScaling::Dynamic { factor } => table.dynamic = Some((f64::from(*factor), context()?)),
            RopeScaling::Ntk { alpha } => {
                let power = dims as f64 / (dims as f64 - 2.0);
                table.base = (f64::from(self.theta) * alpha.powf(power)) as f32;
            }
            RopeScaling::LongRope {
                long_factor,
                original_context,
                factor,
                ..
            } => {
                let periods = self.periods().zip(long_factor);
                table.freqs = Some(periods.map(|(p, f)| (p * f) as f32).collect());
                let original = *original_context as f64;
                let extension = context()? as f64 / original;
                let natural = if extension <= 1.0 {
                    1.0
                } else {
                    (1.0 + extension.ln() / original.ln()).sqrt() as f32
                };
                table.factor = factor.unwrap_or(natural);
            }
            RopeScaling::Llama3 { .. } => table.freqs = Some(self.llama3()),
            RopeScaling::Yarn {
                factor,
                mscale,
                mscale_all_dim,
                ..
            } => {
                table.freqs = Some(self.yarn());
                table.factor = yarn_scale(*factor, *mscale) / yarn_scale(*factor, *mscale_all_dim);
            }
            RopeScaling::Proportional { share, factor } => {
                let turning = (share * dims as f64 / 2.0) as usize;
                let period = |(i, p): (usize, f64)| {
                    if i < turning {
                        (factor * p) as f32
                    } else {
                        f32::INFINITY
                    }
                };
                table.freqs = Some(self.periods().enumerate().map(period).collect());
            }
            RopeScaling::Other(other) => {
                return Err(LmError::Unsupported(format!("rope_scaling of type {other:?}")));
            }
        }
        if self.backwards {
            let periods = table
                .freqs
                .take()
                .unwrap_or_else(|| self.periods().map(|p| p as f32).collect());
            table.freqs = Some(periods.into_iter().map(|p| -p).collect());
        }
        Ok(table)
    }

    fn llama3(&self) -> Vec<f32> {
        let RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_context,
        } = self.scaling
        else {
            return Vec::new();
        };
        let (factor, context) = (f64::from(factor), original_context as f64);
        let (low, high) = (f64::from(low_freq_factor), f64::from(high_freq_factor));
        let stretch = |period: f64| {
            // Rotations over the first context.
            let turns = context / (std::f64::consts::TAU * period);
            let keep = ((turns - low) / (high - low)).clamp(0.0, 1.0);
            period / (keep + (1.0 - keep) / factor)
        };
        self.periods().map(|period| stretch(period) as f32).collect()
    }

    fn yarn(&self) -> Vec<f32> {
        let RopeScaling::Yarn {
            factor,
            original_context,
            beta_fast,
            beta_slow,
            ..
        } = self.scaling
        else {
            return Vec::new();
        };
        let (dims, theta, context) = (self.dims as f64, f64::from(self.theta), original_context as f64);
        // The pair that turns so often over the first context.
        let pair = |turns: f32| {
            dims * (context / (f64::from(turns) * std::f64::consts::TAU)).ln() / (2.0 * theta.ln())
        };
        let low = pair(beta_fast).floor().max(0.0);
        let high = pair(beta_slow).ceil().min(dims - 1.0);
        let high = if high == low { high + 0.001 } else { high };
        let blend = |(i, p): (usize, f64)| {
            let ramp = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
            (1.0 / ((1.0 - ramp) / p + ramp / (f64::from(factor) * p))) as f32
        };
        self.periods().enumerate().map(blend).collect()
    }

    /// `theta^(2i/dims)`.
    fn periods(&self) -> impl Iterator<Item = f64> {
        let (theta, dims) = (f64::from(self.theta), self.dims as f64);
        (0..self.dims / 2).map(move |i| theta.powf(2.0 * i as f64 / dims))
    }
}

/// YaRN's factor for a weight of the logarithm: `0.1·m·ln f + 1`, 1 where nothing is extended.
#[must_use]
pub(crate) fn yarn_scale(factor: f32, m: f32) -> f32 {
    if factor <= 1.0 {
        1.0
    } else {
        0.1 * m * factor.ln() + 1.0
    }
}
