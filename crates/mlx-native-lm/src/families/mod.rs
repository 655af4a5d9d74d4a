//! The model families: what maps a configuration to a decoder. A family is one file here and one line in [`FAMILIES`].

mod llama;
mod qwen3;

use crate::config::{ConfigFile, DecoderConfig};
use crate::error::{LmError, Result};

/// A family of models of one shape.
#[derive(Debug)]
pub struct Family {
    /// Its `model_type`.
    pub name: &'static str,
    /// Other `model_type`s of models that are the same in all but name.
    pub also: &'static [&'static str],
    /// Reads the decoder's shape.
    pub decoder: fn(&ConfigFile) -> Result<DecoderConfig>,
}

/// Every family that can be run.
pub static FAMILIES: &[Family] = &[llama::FAMILY, qwen3::FAMILY];

impl Family {
    /// The family of a configuration, by its `model_type`.
    ///
    /// # Errors
    /// [`LmError::Unsupported`], listing the families there are; [`LmError::Config`] when `model_type` is missing.
    pub fn of(config: &ConfigFile) -> Result<&'static Family> {
        let wanted = config.model_type()?;
        FAMILIES
            .iter()
            .find(|f| f.name == wanted || f.also.contains(&wanted))
            .ok_or_else(|| {
                let mut known: Vec<&str> = FAMILIES
                    .iter()
                    .flat_map(|f| std::iter::once(f.name).chain(f.also.iter().copied()))
                    .collect();
                known.sort_unstable();
                LmError::Unsupported(format!(
                    "config.json: model_type {wanted:?}; supported: {}",
                    known.join(", ")
                ))
            })
    }
}
