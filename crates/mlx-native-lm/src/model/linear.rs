//! Weights that multiply: dense or quantised.

use std::sync::Arc;

use mlx_native::ops::add::{AddParams, add};
use mlx_native::ops::embedding::{EmbeddingParams, embedding};
use mlx_native::ops::matmul::{MatmulParams, matmul};
use mlx_native::ops::quantized_embedding::{QuantizedEmbeddingParams, quantized_embedding};
use mlx_native::ops::quantized_matmul::{QuantizedMatmulParams, quantized_matmul};
use mlx_native::{CommandEncoder, KernelRegistry, MlxBuffer, MlxDevice};

use super::loader::u32_of;
use crate::error::Result;

/// What records work: an encoder with what every operator asks for.
pub(super) struct Recorder<'a> {
    pub encoder: &'a mut CommandEncoder,
    pub registry: &'a mut KernelRegistry,
    pub device: &'a MlxDevice,
}

/// A matrix `[rows, columns]`.
#[derive(Debug)]
pub(super) enum Table {
    Dense(MlxBuffer),
    Quantized(Quantized),
}

/// An affine-quantised matrix.
#[derive(Debug)]
pub(super) struct Quantized {
    pub weight: MlxBuffer,
    pub scales: MlxBuffer,
    pub biases: MlxBuffer,
    pub bits: u32,
    pub group_size: u32,
}

/// `y = x Wᵀ + b`.
#[derive(Debug)]
pub(super) struct Linear {
    pub table: Table,
    pub bias: Option<Arc<MlxBuffer>>,
    pub outputs: usize,
    pub inputs: usize,
}

/// Rows by token id; also the output projection of models that tie the two.
#[derive(Debug)]
pub(super) struct Embedding {
    pub table: Table,
    pub vocab_size: usize,
    pub dim: usize,
}

impl Table {
    /// The same with `f` applied to each tensor: rows of it, say.
    pub fn map(&self, f: impl Fn(&MlxBuffer) -> Result<MlxBuffer>) -> Result<Table> {
        Ok(match self {
            Table::Dense(weight) => Table::Dense(f(weight)?),
            Table::Quantized(q) => Table::Quantized(Quantized {
                weight: f(&q.weight)?,
                scales: f(&q.scales)?,
                biases: f(&q.biases)?,
                bits: q.bits,
                group_size: q.group_size,
            }),
        })
    }

    /// Records `y = x Wᵀ` for `m` rows of `x`.
    fn multiply(
        &self,
        r: &mut Recorder<'_>,
        x: &MlxBuffer,
        y: &MlxBuffer,
        m: u32,
        n: u32,
        k: u32,
    ) -> Result<()> {
        match self {
            Table::Dense(weight) => {
                let params = MatmulParams {
                    m,
                    n,
                    k,
                    transpose: true,
                };
                matmul(r.encoder, r.registry, r.device, x, weight, y, &params)?;
            }
            Table::Quantized(q) => {
                let params = QuantizedMatmulParams {
                    m,
                    n,
                    k,
                    group_size: q.group_size,
                    bits: q.bits,
                    transpose: true,
                };
                quantized_matmul(
                    r.encoder, r.registry, r.device, x, &q.weight, &q.scales, &q.biases, y, &params,
                )?;
            }
        }
        Ok(())
    }
}

impl Linear {
    /// Records `y = x Wᵀ + b` for `rows` rows of `x`.
    pub fn apply(&self, r: &mut Recorder<'_>, x: &MlxBuffer, y: &MlxBuffer, rows: usize) -> Result<()> {
        let (m, n) = (u32_of(rows)?, u32_of(self.outputs)?);
        self.table.multiply(r, x, y, m, n, u32_of(self.inputs)?)?;
        if let Some(bias) = &self.bias {
            let params = AddParams {
                n_elements: u32_of(rows * self.outputs)?,
                b_elements: n,
            };
            add(r.encoder, r.registry, r.device, y, bias, y, &params)?;
        }
        Ok(())
    }
}

impl Embedding {
    /// Records the rows of `n` token ids into `y`.
    pub fn look_up(&self, r: &mut Recorder<'_>, ids: &MlxBuffer, y: &MlxBuffer, n: usize) -> Result<()> {
        let (n_tokens, vocab_size, embed_dim) = (u32_of(n)?, u32_of(self.vocab_size)?, u32_of(self.dim)?);
        match &self.table {
            Table::Dense(table) => {
                let params = EmbeddingParams {
                    n_tokens,
                    vocab_size,
                    embed_dim,
                };
                embedding(r.encoder, r.registry, r.device, ids, table, y, &params)?;
            }
            Table::Quantized(q) => {
                let (group_size, bits) = (q.group_size, q.bits);
                let params = QuantizedEmbeddingParams {
                    n_tokens,
                    vocab_size,
                    embed_dim,
                    group_size,
                    bits,
                };
                let table = (&q.weight, &q.scales, &q.biases);
                quantized_embedding(
                    r.encoder, r.registry, r.device, ids, table.0, table.1, table.2, y, &params,
                )?;
            }
        }
        Ok(())
    }

    /// Records `y = x Eᵀ` for `rows` rows of `x`: logits.
    pub fn as_linear(&self, r: &mut Recorder<'_>, x: &MlxBuffer, y: &MlxBuffer, rows: usize) -> Result<()> {
        self.table.multiply(
            r,
            x,
            y,
            u32_of(rows)?,
            u32_of(self.vocab_size)?,
            u32_of(self.dim)?,
        )
    }
}
