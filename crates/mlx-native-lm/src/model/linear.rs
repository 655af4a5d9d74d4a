//! Weights that multiply, of any format.

use std::sync::Arc;

use mlx_native::ops::embed::{EmbedParams, embed};
use mlx_native::ops::linear::{LinearParams, linear};
use mlx_native::quant::Weight;
use mlx_native::{CommandEncoder, KernelRegistry, MlxBuffer, MlxDevice};

use super::number::u32_of;
use crate::error::Result;

/// What records work: an encoder with what every operator asks for.
pub(super) struct Recorder<'a> {
    pub encoder: &'a mut CommandEncoder,
    pub registry: &'a mut KernelRegistry,
    pub device: &'a MlxDevice,
}

/// `y = x Wᵀ + b`.
#[derive(Debug)]
pub(super) struct Linear {
    pub weight: Weight,
    pub bias: Option<Arc<MlxBuffer>>,
}

/// Rows by token id; also the output projection of models that tie the two.
#[derive(Debug)]
pub(super) struct Embedding {
    pub table: Weight,
}

impl Linear {
    /// Records `y = x Wᵀ + b` for `rows` rows of `x`.
    pub fn apply(&self, r: &mut Recorder<'_>, x: &MlxBuffer, y: &MlxBuffer, rows: usize) -> Result<()> {
        let (bias, params) = (self.bias.as_deref(), LinearParams { m: u32_of(rows)? });
        linear(r.encoder, r.registry, r.device, x, &self.weight, bias, y, &params)?;
        Ok(())
    }
}

impl Embedding {
    /// Records the rows of `n` token ids into `y`.
    pub fn look_up(&self, r: &mut Recorder<'_>, ids: &MlxBuffer, y: &MlxBuffer, n: usize) -> Result<()> {
        let params = EmbedParams { n_tokens: u32_of(n)? };
        embed(r.encoder, r.registry, r.device, ids, &self.table, y, &params)?;
        Ok(())
    }

    /// Records `y = x Eᵀ` for `rows` rows of `x`: logits.
    pub fn as_linear(&self, r: &mut Recorder<'_>, x: &MlxBuffer, y: &MlxBuffer, rows: usize) -> Result<()> {
        let params = LinearParams { m: u32_of(rows)? };
        linear(r.encoder, r.registry, r.device, x, &self.table, None, y, &params)?;
        Ok(())
    }
}
