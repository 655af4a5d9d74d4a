//! Row numbers of tables that are looked up by a token and those before it: `id = (Σ_c token[t - c] · multipliers[c]) mod
//! modulus`, and the memory of the last tokens that goes from step to step.

mod cpu;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod tests;

use bytemuck::{Pod, Zeroable};

use super::{Op, check};
use crate::buffer::MlxBuffer;
use crate::device::MlxDevice;
use crate::dtype::DType;
use crate::encoder::{CommandEncoder, KernelArg, as_bytes};
use crate::error::{Result, invalid};
use crate::metal::MTLSize;
use crate::registry::KernelRegistry;

/// The Metal text of the kernels `ngram_ids` and `ngram_keep`.
pub static NGRAM_IDS_SHADER_SOURCE: &str = include_str!("ngram_ids.metal");

pub(crate) static OP: Op = Op {
    name: "ngram_ids",
    source: NGRAM_IDS_SHADER_SOURCE,
    kernels: &[("ngram_ids", cpu::ids), ("ngram_keep", cpu::keep)],
};

/// Adds the kernels of this operator to a registry. A new registry has them already.
pub fn register(registry: &mut KernelRegistry) {
    registry.register_op(&OP);
}

/// The most tokens of one row number.
pub const MAX_ORDER: u32 = 8;

/// Sizes and the rule. Also the parameter struct of the kernels: `repr(C)`, 48 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct NgramParams {
    /// Tokens of the step.
    pub rows: u32,
    /// Tokens of a row number, its own included: 1 to [`MAX_ORDER`].
    pub order: u32,
    /// Tokens that are remembered: at least `order - 1`.
    pub history: u32,
    /// What row numbers stay below.
    pub modulus: u32,
    /// A factor for the token itself, for the one before, and so on.
    pub multipliers: [u32; MAX_ORDER as usize],
}

const OP_NAME: &str = "ngram_ids";

/// Records the row numbers of `rows` tokens. Tokens before the first of the step are those of `history`, oldest first, f32
/// `[history]`: whole numbers below 2^24. `ids` and `output` are u32 `[rows]`.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a zero `rows` or `modulus`, an
/// `order` beyond its bounds or that `history` has too few tokens for, a buffer that is too small or of another dtype, or an
/// `output` that shares memory with an input.
pub fn ngram_ids(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    ids: &MlxBuffer,
    history: &MlxBuffer,
    output: &MlxBuffer,
    params: &NgramParams,
) -> Result<()> {
    validate(ids, history, params)?;
    check::nonzero(OP_NAME, &[("modulus", params.modulus)])?;
    check::dtype(OP_NAME, "output", output, &[DType::U32])?;
    check::holds(OP_NAME, "output", output, params.rows as usize)?;
    check::disjoint(OP_NAME, ("output", output), &[("ids", ids), ("history", history)])?;
    let pipeline = registry.get_pipeline("ngram_ids", device)?;
    encoder.try_encode_with_args(
        pipeline,
        &[
            (0, KernelArg::Buffer(ids)),
            (1, KernelArg::Buffer(history)),
            (2, KernelArg::Buffer(output)),
            (3, KernelArg::Bytes(as_bytes(params))),
        ],
        MTLSize::new(u64::from(params.rows), 1, 1),
        MTLSize::new(u64::from(params.rows.min(64)), 1, 1),
    )
}

/// Records that `history` becomes the last tokens of what it was and of `ids`.
///
/// # Errors
/// As [`ngram_ids`].
pub fn ngram_keep(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    ids: &MlxBuffer,
    history: &MlxBuffer,
    params: &NgramParams,
) -> Result<()> {
    validate(ids, history, params)?;
    check::disjoint(OP_NAME, ("history", history), &[("ids", ids)])?;
    let pipeline = registry.get_pipeline("ngram_keep", device)?;
    encoder.try_encode_threadgroups_with_args(
        pipeline,
        &[
            (0, KernelArg::Buffer(ids)),
            (1, KernelArg::Buffer(history)),
            (2, KernelArg::Bytes(as_bytes(params))),
        ],
        MTLSize::new(1, 1, 1),
        MTLSize::new(1, 1, 1),
    )
}

fn validate(ids: &MlxBuffer, history: &MlxBuffer, p: &NgramParams) -> Result<()> {
    check::nonzero(OP_NAME, &[("rows", p.rows), ("order", p.order), ("history", p.history)])?;
    if p.order > MAX_ORDER || p.history < p.order - 1 {
        return invalid!(
            "{OP_NAME}: order is {}, history {}; at most {MAX_ORDER} and at least order - 1 are possible",
            p.order,
            p.history
        );
    }
    check::dtype(OP_NAME, "ids", ids, &[DType::U32])?;
    check::holds(OP_NAME, "ids", ids, p.rows as usize)?;
    check::dtype(OP_NAME, "history", history, &[DType::F32])?;
    check::holds(OP_NAME, "history", history, p.history as usize)
}
