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
}

/// The methods of extending the context that configurations name. Not all are built: [`RopeConfig::table`] says which.
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
        /// Factors for texts within the first context.
        short_factor: Vec<f64>,
        /// Factors for longer ones.
        long_factor: Vec<f64>,
        /// Context of the first training, in tokens.
        original_context: usize,
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
            "yarn" => RopeScaling::Yarn {
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
            },
            other => RopeScaling::Other(other.to_string()),
        })
    }
}

/// What the RoPE operator needs: element pair `i` of position `p` is turned by `p · scale / wavelength[i]`, where the
/// wavelength is `base^(2i/dims)`, or `freqs[i]` where there are such.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeTable {
    /// Base of the wavelengths.
    pub base: f32,
    /// What positions are multiplied with.
    pub scale: f32,
    /// Wavelengths over 2π, `dims / 2` of them, where they are no powers of the base. (MLX calls them so.)
    pub freqs: Option<Vec<f32>>,
}

impl RopeConfig {
    /// Reads `rope_theta`, `rope_traditional` and `rope_scaling`, or `rope_parameters`, which holds the first and the
    /// last in newer files.
    pub(crate) fn read(fields: &Fields<'_>, head_dim: usize) -> Result<Self> {
        let parameters = fields.object("rope_parameters", "rope_parameters.")?;
        let scaling = fields.object("rope_scaling", "rope_scaling.")?.or(parameters);
        let nested = parameters
            .map(|p| p.positive("rope_theta"))
            .transpose()?
            .flatten();
        let theta = fields.positive("rope_theta")?.or(nested).unwrap_or(10_000.0);
        Ok(RopeConfig {
            dims: head_dim,
            theta: theta as f32,
            traditional: fields.bool("rope_traditional")?.unwrap_or(false),
            scaling: scaling.map_or(Ok(RopeScaling::Default), |s| RopeScaling::read(&s))?,
        })
    }

    /// The table for the RoPE operator.
    ///
    /// # Errors
    /// [`LmError::Unsupported`], naming the method, for one that is not built.
    pub fn table(&self) -> Result<RopeTable> {
        let plain = RopeTable {
            base: self.theta,
            scale: 1.0,
            freqs: None,
        };
        match self.scaling {
            RopeScaling::Default => Ok(plain),
            RopeScaling::Linear { factor } => Ok(RopeTable {
                scale: 1.0 / factor,
                ..plain
            }),
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_context,
            } => {
                let (factor, context) = (f64::from(factor), original_context as f64);
                let (low, high) = (f64::from(low_freq_factor), f64::from(high_freq_factor));
                let stretch = |period: f64| {
                    // Rotations over the first context.
                    let turns = context / (std::f64::consts::TAU * period);
                    let keep = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    period / (keep + (1.0 - keep) / factor)
                };
                let freqs = self.periods().map(|period| stretch(period) as f32).collect();
                Ok(RopeTable {
                    freqs: Some(freqs),
                    ..plain
                })
            }
            ref other => Err(LmError::Unsupported(format!(
                "rope_scaling of type {:?}; default, linear and llama3 are",
                other.name()
            ))),
        }
    }

    /// `theta^(2i/dims)`.
    fn periods(&self) -> impl Iterator<Item = f64> {
        let (theta, dims) = (f64::from(self.theta), self.dims as f64);
        (0..self.dims / 2).map(move |i| theta.powf(2.0 * i as f64 / dims))
    }
}
