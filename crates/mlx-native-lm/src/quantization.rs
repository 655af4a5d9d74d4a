//! How the weights of a checkpoint are packed: the `quantization` section, and what the tensors themselves say.

use std::collections::BTreeMap;
use std::fmt;

use mlx_native::DType;
use mlx_native::quant::WeightFormat;
use mlx_native::weights::TensorType;
use serde_json::Value;

use crate::error::{LmError, Result};
use crate::json::Fields;
use crate::tensors::Known;

/// A way of packing weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum QuantMode {
    /// Integers with a scale and a bias per group.
    Affine,
    /// 4-bit floats with a power of two per 32.
    Mxfp4,
    /// 8-bit floats with a power of two per 32.
    Mxfp8,
    /// 4-bit floats with an 8-bit float per 16.
    Nvfp4,
}

impl QuantMode {
    const ALL: [QuantMode; 4] = [
        QuantMode::Affine,
        QuantMode::Mxfp4,
        QuantMode::Mxfp8,
        QuantMode::Nvfp4,
    ];

    /// Its name in configurations.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            QuantMode::Affine => "affine",
            QuantMode::Mxfp4 => "mxfp4",
            QuantMode::Mxfp8 => "mxfp8",
            QuantMode::Nvfp4 => "nvfp4",
        }
    }

    /// The one pair of bits and group size of a floating-point mode; `None` for affine, which has many.
    const fn fixed(self) -> Option<(u32, u32)> {
        match self {
            QuantMode::Affine => None,
            QuantMode::Mxfp4 => Some((4, 32)),
            QuantMode::Mxfp8 => Some((8, 32)),
            QuantMode::Nvfp4 => Some((4, 16)),
        }
    }
}

/// How one matrix is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct QuantSpec {
    /// Bits of an element.
    pub bits: u32,
    /// Elements of a row that share a scale.
    pub group_size: u32,
    /// The format.
    pub mode: QuantMode,
}

impl fmt::Display for QuantSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of {} bits in groups of {}",
            self.mode.name(),
            self.bits,
            self.group_size
        )
    }
}

impl QuantSpec {
    /// A way of packing.
    ///
    /// # Errors
    /// [`LmError::InvalidArgument`] for a combination that MLX lacks.
    pub fn new(bits: u32, group_size: u32, mode: QuantMode) -> Result<Self> {
        let spec = QuantSpec {
            bits,
            group_size,
            mode,
        };
        if spec.is_valid() {
            return Ok(spec);
        }
        let wanted = match mode.fixed() {
            Some((bits, group)) => format!("{bits} bits in groups of {group}"),
            None => "1, 2, 3, 4, 5, 6 or 8 bits in groups of 32, 64 or 128".to_owned(),
        };
        Err(LmError::InvalidArgument(format!(
            "{spec}: {} has {wanted}",
            mode.name()
        )))
    }

    /// The format of `path.weight`, which is packed like this: what the shapes leave open is in the dtype of the scales and
    /// in whether there is a global scale.
    ///
    /// # Errors
    /// [`LmError::Weights`] when there are no scales, or of a dtype that the mode does not have.
    pub fn weight_format(&self, path: &str, weights: &dyn Known) -> Result<WeightFormat> {
        let name = format!("{path}.scales");
        let scales = weights.known(&name).and_then(|(dtype, _)| dtype.dtype());
        let Some(scales) = scales.filter(|d| d.is_float() == (self.mode == QuantMode::Affine)) else {
            return Err(LmError::Weights(format!(
                "{name} is missing or of a dtype that {self} does not have"
            )));
        };
        Ok(match self.mode {
            QuantMode::Affine => WeightFormat::affine(self.bits, self.group_size, scales)?,
            QuantMode::Mxfp4 => WeightFormat::Mxfp4,
            QuantMode::Mxfp8 => WeightFormat::Mxfp8,
            QuantMode::Nvfp4 => WeightFormat::Nvfp4 {
                global_scale: weights.known(&format!("{path}.global_scale")).is_some(),
            },
        })
    }

    /// Whether the format has this combination.
    fn is_valid(&self) -> bool {
        match self.mode.fixed() {
            Some(pair) => pair == (self.bits, self.group_size),
            None => {
                matches!(self.bits, 1 | 2 | 3 | 4 | 5 | 6 | 8) && matches!(self.group_size, 32 | 64 | 128)
            }
        }
    }

    /// Reads `group_size`, `bits` and `mode`.
    fn read(fields: &Fields<'_>) -> Result<Self> {
        let name = fields.str("mode")?.unwrap_or("affine");
        let Some(mode) = QuantMode::ALL.into_iter().find(|m| m.name() == name) else {
            return Err(fields.invalid("mode", format!("{name:?}"), "affine, mxfp4, mxfp8 or nvfp4"));
        };
        let (bits, group_size) = mode.fixed().unwrap_or((4, 64));
        let number = |key: &str, default: u32| {
            let value = fields.count(key, 1 << 16)?;
            Ok::<_, LmError>(value.and_then(|v| u32::try_from(v).ok()).unwrap_or(default))
        };
        let spec = QuantSpec {
            bits: number("bits", bits)?,
            group_size: number("group_size", group_size)?,
            mode,
        };
        if !spec.is_valid() {
            let wanted = match mode.fixed() {
                Some((bits, group)) => format!("{bits} bits in groups of {group}"),
                None => "1, 2, 3, 4, 5, 6 or 8 bits in groups of 32, 64 or 128".to_string(),
            };
            return Err(fields.invalid("bits and group_size", spec, &wanted));
        }
        Ok(spec)
    }
}

/// What the configuration says of one module by its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Override {
    Dense,
    /// `true`: as the top of the section says.
    Default,
    Packed(QuantSpec),
}

/// The `quantization` section of `config.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QuantizationConfig {
    /// What the top of the section says; `None` when there is no section.
    default: Option<QuantSpec>,
    by_path: BTreeMap<String, Override>,
}

impl QuantizationConfig {
    /// Reads the section out of the fields of `config.json`.
    ///
    /// # Errors
    /// [`LmError::Config`] for a combination that the formats lack or a value of the wrong type; [`LmError::Unsupported`]
    /// for a foreign format under `quantization_config`.
    pub(crate) fn read(config: &Fields<'_>) -> Result<Self> {
        let Some(section) = config.object("quantization", "quantization.")? else {
            return Self::read_foreign(config);
        };
        let mut by_path = BTreeMap::new();
        for (path, value) in section.entries() {
            let spec = match value {
                Value::Bool(false) => Override::Dense,
                Value::Bool(true) => Override::Default,
                Value::Object(_) => {
                    let Some(fields) = section.object(path, "quantization.")? else {
                        continue;
                    };
                    Override::Packed(QuantSpec::read(&fields).map_err(|e| within(path, e))?)
                }
                _ => continue,
            };
            by_path.insert(path.to_string(), spec);
        }
        Ok(QuantizationConfig {
            default: Some(QuantSpec::read(&section)?),
            by_path,
        })
    }

    /// `quantization_config` without `quantization`: what other programs than MLX wrote.
    fn read_foreign(config: &Fields<'_>) -> Result<Self> {
        let Some(section) = config.object("quantization_config", "quantization_config.")? else {
            return Ok(Self::default());
        };
        let of = |mode: QuantMode| {
            let (bits, group_size) = mode.fixed().unwrap_or((4, 64));
            let default = Some(QuantSpec {
                bits,
                group_size,
                mode,
            });
            Ok(QuantizationConfig {
                default,
                by_path: BTreeMap::new(),
            })
        };
        match section.str("quant_method")? {
            // Names that mlx-lm maps to MLX's own formats.
            Some("mxfp4") => of(QuantMode::Mxfp4),
            Some("mxfp8") => of(QuantMode::Mxfp8),
            Some("awq" | "gptq") => {
                let number = |key: &str, default: u32| {
                    let value = section.count(key, 1 << 16)?;
                    Ok::<_, LmError>(value.and_then(|v| u32::try_from(v).ok()).unwrap_or(default))
                };
                let (bits, group_size) = (number("bits", 4)?, number("group_size", 128)?);
                if bits != 4 {
                    return Err(LmError::Unsupported(format!(
                        "config.json: weights packed by AWQ or GPTQ with {bits} bits; 4 are"
                    )));
                }
                Ok(QuantizationConfig {
                    default: Some(QuantSpec::new(bits, group_size, QuantMode::Affine)?),
                    by_path: BTreeMap::new(),
                })
            }
            // Powers of two for each 32 x 32 are mxfp8's; what has other scales is unpacked when it is read.
            Some("fp8") => match section.get("scale_fmt").and_then(Value::as_str) {
                Some("ue8m0") if Self::has_small_blocks(&section) => of(QuantMode::Mxfp8),
                _ => Ok(Self::default()),
            },
            Some("compressed-tensors") => match section.str("format")? {
                Some("nvfp4-pack-quantized") => of(QuantMode::Nvfp4),
                Some("mxfp4-pack-quantized") => of(QuantMode::Mxfp4),
                Some("pack-quantized") => Ok(QuantizationConfig {
                    default: Some(QuantSpec::new(4, 32, QuantMode::Affine)?),
                    by_path: BTreeMap::new(),
                }),
                other => Err(LmError::Unsupported(format!(
                    "config.json: weights in the compressed-tensors format {:?}; nvfp4-pack-quantized, mxfp4-pack-quantized and pack-quantized are",
                    other.unwrap_or("(none)")
                ))),
            },
            Some("modelopt") => {
                let inner = section.object("quantization", "quantization_config.quantization.")?;
                let settings = inner.unwrap_or(section);
                match settings.str("quant_algo")? {
                    Some("NVFP4") => {
                        let group_size = settings.count("group_size", 1 << 16)?.unwrap_or(16);
                        let default =
                            QuantSpec::new(4, u32::try_from(group_size).unwrap_or(0), QuantMode::Nvfp4)?;
                        Ok(QuantizationConfig {
                            default: Some(default),
                            by_path: BTreeMap::new(),
                        })
                    }
                    other => Err(LmError::Unsupported(format!(
                        "config.json: weights packed by ModelOpt's quant_algo {:?}; NVFP4 is",
                        other.unwrap_or("(none)")
                    ))),
                }
            }
            // Rows of -1, 0 and 1 are found by their shapes; other classes divide by the scale.
            Some("bitnet") if section.str("linear_class")? == Some("autobitlinear") => Ok(Self::default()),
            Some(method) => Err(LmError::Unsupported(format!(
                "config.json: weights packed by quant_method {method:?}; MLX's are"
            ))),
            None => Ok(QuantizationConfig {
                default: Some(QuantSpec::read(&section)?),
                by_path: BTreeMap::new(),
            }),
        }
    }

    fn has_small_blocks(section: &Fields<'_>) -> bool {
        let sizes = section.get("weight_block_size").and_then(Value::as_array);
        sizes.is_some_and(|s| s.len() == 2 && s.iter().all(|n| n.as_u64() == Some(32)))
    }

    /// What the top of the section says; `None` for a checkpoint that is not quantised.
    #[must_use]
    pub fn default_spec(&self) -> Option<QuantSpec> {
        self.default
    }

    /// How `path.weight`, of `in_dims` columns when unpacked, is packed; `None` when it is dense.
    ///
    /// A path that the section names is what it says. Any other is packed where the weights have `path.scales`, and then
    /// the shapes and the dtype of the scales say how, whatever the top of the section says: so mlx-lm 0.32.2 does it.
    /// Either way the tensors must fit.
    ///
    /// # Errors
    /// [`LmError::Weights`], naming the tensor, when tensors are missing, do not fit the format, or are there without a
    /// `quantization` section.
    pub fn for_module(&self, path: &str, in_dims: usize, weights: &dyn Known) -> Result<Option<QuantSpec>> {
        let scales_name = format!("{path}.scales");
        let named = match (self.by_path.get(path), self.default) {
            (Some(Override::Dense), _) => return Ok(None),
            (Some(Override::Packed(spec)), _) => Some(*spec),
            (Some(Override::Default), default) => default,
            (None, _) if weights.known(&scales_name).is_none() => return Ok(None),
            (None, None) => {
                return Err(LmError::Weights(format!(
                    "{scales_name} is there, but config.json has no quantization section"
                )));
            }
            (None, Some(_)) => None,
        };
        let packed = Packed::find(path, weights)?;
        let spec = match named {
            Some(spec) => spec,
            None => packed.infer(path, in_dims)?,
        };
        packed.check(path, in_dims, &spec)?;
        let global_scale = format!("{path}.global_scale");
        if weights.known(&global_scale).is_some() && spec.mode != QuantMode::Nvfp4 {
            return Err(LmError::Weights(format!(
                "{global_scale} is there, {spec} has none"
            )));
        }
        Ok(Some(spec))
    }
}

/// Puts the path of an override into an error about one of its keys.
fn within(path: &str, error: LmError) -> LmError {
    match error {
        LmError::Config(message) => {
            LmError::Config(message.replacen("quantization.", &format!("quantization.{path}."), 1))
        }
        other => other,
    }
}

/// The tensors of a packed matrix.
struct Packed<'a> {
    weight: Plane<'a>,
    scales: Plane<'a>,
    biases: Option<Plane<'a>>,
}

/// What is known of one of them.
#[derive(Clone, Copy)]
struct Plane<'a> {
    dtype: TensorType,
    shape: &'a [usize],
}

impl<'a> Packed<'a> {
    fn find(path: &str, weights: &'a dyn Known) -> Result<Self> {
        let plane = |name: &str| {
            let (dtype, shape) = weights.known(name)?;
            Some(Plane { dtype, shape })
        };
        let get = |suffix: &str| {
            let name = format!("{path}.{suffix}");
            plane(&name).ok_or_else(|| LmError::Weights(format!("{name} is missing")))
        };
        let (weight, scales) = (get("weight")?, get("scales")?);
        let rank = weight.shape.len();
        if weight.dtype != TensorType::U32 || !(2..=3).contains(&rank) || scales.shape.len() != rank {
            return Err(LmError::Weights(format!(
                "{path}: weight is {} {:?} with scales {:?}, wanted U32 of rank 2, or 3 for a stack, with scales of that rank",
                weight.dtype, weight.shape, scales.shape
            )));
        }
        Ok(Packed {
            weight,
            scales,
            biases: plane(&format!("{path}.biases")),
        })
    }

    /// Bits, group size and mode that these shapes and the dtype of the scales leave.
    fn infer(&self, path: &str, in_dims: usize) -> Result<QuantSpec> {
        let last = |info: Plane<'_>| info.shape.last().copied().unwrap_or(0);
        let (words, groups) = (last(self.weight), last(self.scales));
        let cannot = || {
            LmError::Weights(format!(
                "{path}: {words} words and {groups} scales for rows of {in_dims} fit no packing"
            ))
        };
        let bits = words
            .checked_mul(32)
            .and_then(|b| b.checked_div(in_dims))
            .ok_or_else(cannot)?;
        let group_size = in_dims.checked_div(groups).ok_or_else(cannot)?;
        let number = |n: usize| u32::try_from(n).map_err(|_| cannot());
        let (bits, group_size) = (number(bits)?, number(group_size)?);
        let mode = if self.scales.dtype == TensorType::U8 {
            QuantMode::ALL
                .into_iter()
                .find(|m| m.fixed() == Some((bits, group_size)))
                .ok_or_else(cannot)?
        } else {
            QuantMode::Affine
        };
        let spec = QuantSpec {
            bits,
            group_size,
            mode,
        };
        if spec.is_valid() { Ok(spec) } else { Err(cannot()) }
    }

    /// Whether the tensors are what `spec` makes of rows of `in_dims`.
    fn check(&self, path: &str, in_dims: usize, spec: &QuantSpec) -> Result<()> {
        let (bits, group_size) = (spec.bits as usize, spec.group_size as usize);
        let lead = &self.weight.shape[..self.weight.shape.len() - 1];
        let row_bits = in_dims.checked_mul(bits).filter(|b| b.is_multiple_of(32));
        let (Some(row_bits), true) = (row_bits, in_dims.is_multiple_of(group_size)) else {
            return Err(LmError::Weights(format!(
                "{path}: rows of {in_dims} are no whole groups of {group_size}"
            )));
        };
        let fit = |name: &str, found: Plane<'_>, columns: usize, dtype_fits: bool| {
            let wanted = [lead, &[columns]].concat();
            if found.shape == wanted && dtype_fits {
                return Ok(());
            }
            Err(LmError::Weights(format!(
                "{path}.{name}: found {} {:?}, wanted {wanted:?} for {spec}",
                found.dtype, found.shape
            )))
        };
        let groups = in_dims / group_size;
        let affine = spec.mode == QuantMode::Affine;
        let scales_fit = if affine {
            self.scales.dtype.dtype().is_some_and(DType::is_float)
        } else {
            self.scales.dtype == TensorType::U8
        };
        fit("weight", self.weight, row_bits / 32, true)?;
        fit("scales", self.scales, groups, scales_fit)?;
        match self.biases {
            Some(biases) if affine => fit("biases", biases, groups, biases.dtype == self.scales.dtype),
            None if affine => Err(LmError::Weights(format!("{path}.biases is missing for {spec}"))),
            Some(_) => Err(LmError::Weights(format!(
                "{path}.biases is there, {spec} has none"
            ))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
