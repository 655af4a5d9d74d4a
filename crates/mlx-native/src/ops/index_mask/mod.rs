//! Which keys a row of a step may attend to, chosen by an indexer: small queries and keys of its own score every key, and
//! the best keys, or the best blocks of keys, stay. What comes out is a mask for [`attention`](super::attention).
//!
//! | | score of a key | who chooses |
//! |---|---|---|
//! | with weights | `Σ_h w_h · max(q_h · k, 0)` | all heads together (DeepSeek's lightning indexer) |
//! | without | `q_h · k` | each head for itself |
//!
//! The score of a block of `group` keys is that of its best key that the row sees; the last `local` blocks of those always
//! stay. Of equal scores the earlier key stays. NaN counts as the least score. Everything in f32.

mod cpu;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod tests;

use bytemuck::{Pod, Zeroable};
use half::{bf16, f16};

use super::step::{KvPool, KvState};
use super::{Op, check};
use crate::buffer::MlxBuffer;
use crate::device::MlxDevice;
use crate::dtype::DType;
use crate::encoder::{CommandEncoder, KernelArg, as_bytes};
use crate::error::{Result, invalid};
use crate::metal::MTLSize;
use crate::registry::KernelRegistry;

/// The Metal text of the kernels `index_scores_f32`, `index_scores_f16`, `index_scores_bf16` and `index_select`.
pub static INDEX_MASK_SHADER_SOURCE: &str = include_str!("index_mask.metal");

pub(crate) static OP: Op = Op {
    name: "index_mask",
    source: INDEX_MASK_SHADER_SOURCE,
    kernels: &[
        ("index_scores_f32", cpu::scores::<f32>),
        ("index_scores_f16", cpu::scores::<f16>),
        ("index_scores_bf16", cpu::scores::<bf16>),
        ("index_select", cpu::select),
    ],
};

/// Adds the kernels of this operator to a registry. A new registry has them already.
pub fn register(registry: &mut KernelRegistry) {
    registry.register_op(&OP);
}

/// Sizes of an indexer. Also the parameter struct of the kernels: `repr(C)`, 56 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct IndexMaskParams {
    /// The pool and the table.
    pub pool: KvPool,
    /// Rows of the step, those of nobody included.
    pub n_rows: u32,
    /// Heads of the indexer's queries; its keys have one.
    pub n_heads: u32,
    /// Features of a head.
    pub head_dim: u32,
    /// Keys of a block: those from `i · group` on. 1 chooses keys.
    pub group: u32,
    /// Blocks that stay.
    pub top: u32,
    /// Of the blocks that a row sees, the last so many always stay.
    pub local: u32,
    /// Rows of a sequence, at most. Those beyond have no row of the mask.
    pub max_rows_per_seq: u32,
    /// Keys of a sequence, at most.
    pub max_kv_len: u32,
    /// 1 with weights.
    pub weighted: u32,
    /// Heads of the mask for each head that chooses, all the same.
    pub repeat: u32,
}

impl IndexMaskParams {
    /// Heads that choose: 1 with weights.
    #[must_use]
    pub const fn choosers(&self) -> u32 {
        if self.weighted == 1 { 1 } else { self.n_heads }
    }

    /// Elements of `scores`.
    ///
    /// # Errors
    /// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument) when they overflow.
    pub fn scores(&self) -> Result<usize> {
        let groups = self.max_kv_len.div_ceil(self.group.max(1));
        check::product(OP_NAME, "scores", &[self.n_rows, self.choosers(), groups])
    }

    /// Elements of `mask`.
    ///
    /// # Errors
    /// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument) when they overflow.
    pub fn mask(&self) -> Result<usize> {
        let shape = [self.pool.n_seqs, self.max_rows_per_seq, self.choosers(), self.repeat, self.max_kv_len];
        check::product(OP_NAME, "mask", &shape)
    }
}

const OP_NAME: &str = "index_mask";

/// Records the choice for the rows of every sequence of a step. Row `i` of the rows of sequence `s` is at position
/// `kv_lens[s] - rows of s + i`, and sees the keys up to there.
///
/// | buffer | shape |
/// |---|---|
/// | `q` | `[n_rows, n_heads, head_dim]` |
/// | `k_pool` | `[n_blocks, 1, block_size, head_dim]` |
/// | `weights` | `[n_rows, n_heads]`, or none |
/// | `scores` | f32 `[n_rows, choosers, ⌈max_kv_len / group⌉]`: scratch memory |
/// | `mask` | u8 `[n_seqs, max_rows_per_seq, choosers · repeat, max_kv_len]`: 1 for a key that stays |
///
/// `q`, `k_pool` and `weights` are f32, f16 or bf16, the same. Of keys that a row does not see the mask says nothing.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a zero size, a `block_size` that
/// is no power of two from 8 on, a `max_kv_len` beyond the table's capacity, a `weighted` that is not 1 with weights and 0
/// without, a buffer that is too small or of another dtype, or outputs that share memory with another buffer.
#[allow(clippy::too_many_arguments)]
pub fn index_mask(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    q: &MlxBuffer,
    k_pool: &MlxBuffer,
    weights: Option<&MlxBuffer>,
    scores: &MlxBuffer,
    mask: &MlxBuffer,
    state: &KvState<'_>,
    params: &IndexMaskParams,
) -> Result<()> {
    let dtype = validate(q, k_pool, weights, scores, mask, state, params)?;
    let kernel = check::by_float(dtype, ["index_scores_f32", "index_scores_f16", "index_scores_bf16"]);
    let pipeline = registry.get_pipeline(kernel, device)?;
    let groups = params.max_kv_len.div_ceil(params.group);
    let (choosers, rows) = (u64::from(params.choosers()), u64::from(params.n_rows));
    encoder.try_encode_with_args(
        pipeline,
        &[
            (0, KernelArg::Buffer(q)),
            (1, KernelArg::Buffer(k_pool)),
            // Without weights, something that is not read.
            (2, KernelArg::Buffer(weights.unwrap_or(q))),
            (3, KernelArg::Buffer(scores)),
            (4, KernelArg::Bytes(as_bytes(params))),
            (5, KernelArg::Buffer(state.block_table)),
            (6, KernelArg::Buffer(state.seq_starts)),
            (7, KernelArg::Buffer(state.kv_lens)),
        ],
        MTLSize::new(u64::from(groups), choosers, rows),
        MTLSize::new(u64::from(groups.min(64)), 1, 1),
    )?;
    let pipeline = registry.get_pipeline("index_select", device)?;
    encoder.try_encode_threadgroups_with_args(
        pipeline,
        &[
            (0, KernelArg::Buffer(scores)),
            (1, KernelArg::Buffer(mask)),
            (2, KernelArg::Bytes(as_bytes(params))),
            (3, KernelArg::Buffer(state.seq_starts)),
            (4, KernelArg::Buffer(state.kv_lens)),
        ],
        MTLSize::new(rows, choosers, 1),
        MTLSize::new(32, 1, 1),
    )
}

fn validate(
    q: &MlxBuffer,
    k_pool: &MlxBuffer,
    weights: Option<&MlxBuffer>,
    scores: &MlxBuffer,
    mask: &MlxBuffer,
    state: &KvState<'_>,
    p: &IndexMaskParams,
) -> Result<DType> {
    check::nonzero(
        OP_NAME,
        &[
            ("n_rows", p.n_rows),
            ("n_heads", p.n_heads),
            ("head_dim", p.head_dim),
            ("group", p.group),
            ("top", p.top),
            ("max_rows_per_seq", p.max_rows_per_seq),
            ("max_kv_len", p.max_kv_len),
            ("repeat", p.repeat),
        ],
    )?;
    p.pool.check(OP_NAME)?;
    if u64::from(p.max_kv_len) > p.pool.capacity() {
        return invalid!("{OP_NAME}: max_kv_len is {}, the table has room for {}", p.max_kv_len, p.pool.capacity());
    }
    if p.weighted != u32::from(weights.is_some()) {
        return invalid!("{OP_NAME}: weighted is {}, weights are given: {}", p.weighted, weights.is_some());
    }
    let floats = [("q", q), ("k_pool", k_pool), ("weights", weights.unwrap_or(q))];
    let dtype = check::same_float(OP_NAME, &floats)?;
    check::holds(OP_NAME, "q", q, check::product(OP_NAME, "q", &[p.n_rows, p.n_heads, p.head_dim])?)?;
    check::holds(OP_NAME, "k_pool", k_pool, p.pool.elements(OP_NAME, "k_pool", 1, p.head_dim)?)?;
    if let Some(weights) = weights {
        check::holds(OP_NAME, "weights", weights, check::product(OP_NAME, "weights", &[p.n_rows, p.n_heads])?)?;
    }
    check::dtype(OP_NAME, "scores", scores, &[DType::F32])?;
    check::holds(OP_NAME, "scores", scores, p.scores()?)?;
    check::dtype(OP_NAME, "mask", mask, &[DType::U8])?;
    check::holds(OP_NAME, "mask", mask, p.mask()?)?;
    check::disjoint(OP_NAME, ("scores", scores), &floats)?;
    check::disjoint(OP_NAME, ("mask", mask), &floats)?;
    check::disjoint(OP_NAME, ("mask", mask), &[("scores", scores)])?;
    state.check(OP_NAME, &p.pool, &[("scores", scores), ("mask", mask)])?;
    Ok(dtype)
}
