//! Attention of the rows of a step over paged keys and values: many sequences in one pass, decoding rows and chunks of
//! prompts mixed, the same recording for every position.
//!
//! [`attention`] records it; `docs/step-state.md` says what the state is. A dense cache is a pool too, of one block a
//! sequence: [`sdpa`](super::sdpa) runs on the same kernels. They are in `attention.metal`, their twins for the CPU in
//! `cpu/`; `plan.rs` says which run.

mod cpu;
mod plan;
mod record;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod tests;
mod validate;

use half::{bf16, f16};

pub use plan::{FUSED_HEAD_DIMS, Family, PART, rows_cut};

use super::Op;
use super::step::{KvPool, KvState};
use crate::buffer::MlxBuffer;
use crate::device::MlxDevice;
use crate::encoder::CommandEncoder;
use crate::error::Result;
use crate::registry::KernelRegistry;
pub(crate) use record::{Buffers, Dense, Layout, record};
pub(crate) use validate::{check_heads, check_scale};

/// The Metal text of the attention kernels.
pub static ATTENTION_SHADER_SOURCE: &str = include_str!("attention.metal");

macro_rules! kernels {
    ($($family:ident $($head_dim:literal)*;)*) => {
        &[
            $($(
                (concat!("attention_", stringify!($family), "_d", $head_dim, "_f32"), cpu::$family::<f32>),
                (concat!("attention_", stringify!($family), "_d", $head_dim, "_f16"), cpu::$family::<f16>),
                (concat!("attention_", stringify!($family), "_d", $head_dim, "_bf16"), cpu::$family::<bf16>),
            )*)*
            ("sdpa", cpu::tiles::<f32>),
            ("sdpa_f16", cpu::tiles::<f16>),
            ("sdpa_bf16", cpu::tiles::<bf16>),
            ("attention_merge_f32", cpu::merge::<f32>),
            ("attention_merge_f16", cpu::merge::<f16>),
            ("attention_merge_bf16", cpu::merge::<bf16>),
        ]
    };
}

pub(crate) static OP: Op = Op {
    name: "attention",
    source: ATTENTION_SHADER_SOURCE,
    kernels: kernels! {
        rows 64 128 256 512 576;
        tiles 64 72 80 96 192 256 512 576;
    },
};

/// Adds the kernels of this operator to a registry. A new registry has them already.
pub fn register(registry: &mut KernelRegistry) {
    registry.register_op(&OP);
}

/// The greatest head dimension: a latent of 512 with 64 rotated features behind it.
pub const MAX_HEAD_DIM: u32 = 576;

/// The most keys of a sequence.
pub const MAX_KV_LEN: u32 = 1 << 30;

/// Sizes of an attention. Those of rows and lengths are bounds: they set how much is launched, the state says what is
/// there.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionParams {
    /// The pool and the table.
    pub pool: KvPool,
    /// Rows of the step, those of nobody included.
    pub n_rows: u32,
    /// Heads of the queries; a multiple of `n_kv_heads`.
    pub n_heads: u32,
    /// Heads of keys and values. Query head `h` attends to kv head `h / (n_heads / n_kv_heads)`.
    pub n_kv_heads: u32,
    /// Features of a head of queries and keys, 1 to 576.
    pub head_dim: u32,
    /// Features of a head of values and of the output, 1 to 576; 0 for `head_dim`.
    pub v_dim: u32,
    /// What scores are multiplied by: `1 / sqrt(head_dim)` mostly.
    pub scale: f32,
    /// Scores become `softcap * tanh(score / softcap)`, before the mask; 0 for none.
    pub softcap: f32,
    /// A row sees the last `window` keys of those it would see, its own included; 0 for all.
    pub window: u32,
    /// Whether a row sees only the keys up to its own position; if not, it sees all of its sequence.
    pub causal: bool,
    /// Rows of a sequence, at most. A sequence that has more in `seq_starts` is left out.
    pub max_rows_per_seq: u32,
    /// Keys of a sequence, at most. What `kv_lens` says beyond is cut.
    pub max_kv_len: u32,
    /// Elements from one row of `q` to the next; 0 for `n_heads * head_dim`.
    pub q_row_stride: u32,
    /// Which kernels. Within one family the bits of a row do not depend on the other rows.
    pub family: Family,
}

/// A mask over rows and keys, one for all sequences and heads or one for each.
#[derive(Debug, Clone, Copy)]
pub struct Mask<'a> {
    /// u8: 0 hides a key. The dtype of `q`: added to scores, -infinity hides a key.
    ///
    /// Element `seq * seq_stride + head * head_stride + i * row_stride + key` is for row `i` of the rows of a sequence.
    pub buffer: &'a MlxBuffer,
    /// Elements from one sequence to the next; 0 if all have the same.
    pub seq_stride: u32,
    /// Elements from one query head to the next; 0 if all have the same.
    pub head_stride: u32,
    /// Elements from one row to the next; 0 if all have the same.
    pub row_stride: u32,
}

/// What an attention may have besides queries, keys and values.
#[derive(Debug, Clone, Copy, Default)]
pub struct Extras<'a> {
    /// f32 `[n_heads]`: logits of one more key a head, whose value is zero. Not scaled, not capped, not masked.
    pub sinks: Option<&'a MlxBuffer>,
    /// A mask, besides causality and window.
    pub mask: Option<Mask<'a>>,
}

/// Records attention for the rows of every sequence of a step: `output[row] = softmax(scale q k^T) v` over the keys that
/// the row sees. Row `i` of the rows of sequence `s` is at position `kv_lens[s] - rows of s + i`.
///
/// | buffer | shape |
/// |---|---|
/// | `q` | `[n_rows, n_heads, head_dim]`, rows `q_row_stride` apart |
/// | `k_pool`, `v_pool` | `[n_blocks, n_kv_heads, block_size, head_dim]`, `[n_blocks, n_kv_heads, block_size, v_dim]` |
/// | `output` | `[n_rows, n_heads, v_dim]` |
///
/// All are f32, f16 or bf16, the same; everything is computed in f32 and rounded once. A key whose weight is zero adds
/// nothing, be its value NaN. A row that sees no key becomes zeros. Rows of nobody are not written.
///
/// Keys are summed in parts of [`PART`] from position 0 on (family `Rows`), or in tiles from 0 on (`Tiles`): a row's bits
/// depend neither on its company nor on how its keys are paged nor on the bounds in `params`, within a family.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a zero size, a head dimension
/// beyond 576, `n_heads` not divisible by `n_kv_heads`, a `block_size` that is no power of two from 8 on, a `max_kv_len`
/// beyond the table's capacity (with a window: a capacity below `window + max_rows_per_seq - 1`), a window without
/// causality, a `scale` or `softcap` that is not finite or a negative `softcap`; then for dtypes that are mixed or not
/// floating-point, a buffer that is too small, or an `output` that shares memory with what is read.
#[allow(clippy::too_many_arguments)]
pub fn attention(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    q: &MlxBuffer,
    k_pool: &MlxBuffer,
    v_pool: &MlxBuffer,
    output: &MlxBuffer,
    extras: &Extras<'_>,
    state: &KvState<'_>,
    params: &AttentionParams,
) -> Result<()> {
    let (layout, dtype) = validate::validate([q, k_pool, v_pool, output], extras, state, params)?;
    let buffers = Buffers { q, k: k_pool, v: v_pool, output, extras: *extras, state: Some(*state) };
    record(encoder, registry, device, &buffers, dtype, &layout)
}
