//! The state of a step, in small buffers of u32 that kernels read, so that one recorded step serves every position and
//! many sequences. `docs/step-state.md` says what lies in them and which operators read them.

mod cpu;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod tests;

use std::ops::Range;

use bytemuck::{Pod, Zeroable};

use super::{Op, check};
use crate::buffer::MlxBuffer;
use crate::device::MlxDevice;
use crate::dtype::DType;
use crate::encoder::{CommandEncoder, KernelArg, as_bytes};
use crate::error::{Result, invalid};
use crate::registry::KernelRegistry;
use crate::metal::MTLSize;

/// The Metal text of the kernel `step_positions`.
pub static STEP_SHADER_SOURCE: &str = include_str!("step.metal");

pub(crate) static OP: Op = Op {
    name: "step",
    source: STEP_SHADER_SOURCE,
    kernels: &[("step_positions", cpu::positions)],
};

/// Adds the kernels of this operator to a registry. A new registry has them already.
pub fn register(registry: &mut KernelRegistry) {
    registry.register_op(&OP);
}

/// Where the keys and values of a step's sequences lie: three buffers of u32, read when the step runs.
///
/// Whatever they hold, kernels stay inside their memory: row ranges are cut to the rows there are, lengths to the
/// capacity, and a block that the pool does not have is not written, and read as its last.
#[derive(Debug, Clone, Copy)]
pub struct KvState<'a> {
    /// `[n_seqs, blocks_per_seq]`: position `p` of sequence `s` lies in block
    /// `block_table[s][p / block_size % blocks_per_seq]` of the pool, at `p % block_size`.
    pub block_table: &'a MlxBuffer,
    /// `[n_seqs + 1]`, ascending: sequence `s` has the rows `seq_starts[s]..seq_starts[s + 1]` of the step.
    pub seq_starts: &'a MlxBuffer,
    /// `[n_seqs]`: positions of each sequence, those of this step's rows included.
    pub kv_lens: &'a MlxBuffer,
}

/// Sizes of a pool of blocks of keys and values, and of a table that names them. Part of kernels' parameter structs:
/// `repr(C)`, 16 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct KvPool {
    /// Blocks of the pool, `[n_blocks, n_kv_heads, block_size, head_dim]`.
    pub n_blocks: u32,
    /// Positions of a block: a power of two from 8 on; 64 is what kernels are tuned for.
    pub block_size: u32,
    /// Sequences of the table.
    pub n_seqs: u32,
    /// Entries of the table for each sequence. Positions beyond them begin again at the first: a ring.
    pub blocks_per_seq: u32,
}

impl KvPool {
    /// Checks the sizes; `op` names the operator in errors.
    pub(crate) fn check(&self, op: &str) -> Result<()> {
        check::nonzero(
            op,
            &[
                ("n_blocks", self.n_blocks),
                ("block_size", self.block_size),
                ("n_seqs", self.n_seqs),
                ("blocks_per_seq", self.blocks_per_seq),
            ],
        )?;
        if !self.block_size.is_power_of_two() || self.block_size < 8 {
            return invalid!("{op}: block_size is {}, it must be a power of two, 8 or more", self.block_size);
        }
        if self.n_seqs > MAX_SEQS {
            return invalid!("{op}: n_seqs is {}, it must be at most {MAX_SEQS}", self.n_seqs);
        }
        Ok(())
    }

    /// Elements of a pool with rows of `dim`. Kernels count its rows in 32 bits.
    pub(crate) fn elements(&self, op: &str, name: &str, n_kv_heads: u32, dim: u32) -> Result<usize> {
        let rows = check::product(op, name, &[self.n_blocks, n_kv_heads, self.block_size])?;
        if u32::try_from(rows).is_err() {
            return invalid!(
                "{op}: {name} has {rows} rows (n_blocks, n_kv_heads, block_size), they must be below 2^32"
            );
        }
        check::product(op, name, &[self.n_blocks, n_kv_heads, self.block_size, dim])
    }

    /// Positions that the table has room for.
    pub(crate) fn capacity(&self) -> u64 {
        u64::from(self.block_size) * u64::from(self.blocks_per_seq)
    }
}

/// Sequences of a step, at most.
pub const MAX_SEQS: u32 = 1 << 16;

impl KvState<'_> {
    /// Checks dtypes and sizes, and that `written` does not overlap them; `op` names the operator in errors.
    pub(crate) fn check(&self, op: &str, pool: &KvPool, written: &[(&str, &MlxBuffer)]) -> Result<()> {
        let table = check::product(op, "block_table", &[pool.n_seqs, pool.blocks_per_seq])?;
        let all = [
            ("block_table", self.block_table, table),
            ("seq_starts", self.seq_starts, pool.n_seqs as usize + 1),
            ("kv_lens", self.kv_lens, pool.n_seqs as usize),
        ];
        for (name, buffer, elements) in all {
            check::dtype(op, name, buffer, &[DType::U32])?;
            check::holds(op, name, buffer, elements)?;
            for output in written {
                check::disjoint(op, *output, &[(name, buffer)])?;
            }
        }
        Ok(())
    }
}

/// Sizes of a step. Also the parameter struct of the kernel: `repr(C)`, 12 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct StepParams {
    /// Rows of the step, those of nobody included.
    pub n_rows: u32,
    /// Sequences, at most [`MAX_SEQS`].
    pub n_seqs: u32,
    /// 1: `kv_lens` holds the positions before this step, and is increased by the rows of the step. 0: it counts them
    /// already and stays.
    pub advance: u32,
}

/// Records the first thing of a step: for row `i` of the rows of sequence `s`, `positions[row]` becomes `i` more than the
/// positions that `s` had before the step; rows of nobody get 0. With `advance`, `kv_lens[s]` grows by the rows of `s`
/// then, so that a step replayed again goes on where the last one ended.
///
/// `seq_starts` `[n_seqs + 1]`, `kv_lens` `[n_seqs]` and `positions` `[n_rows]` are u32; see [`KvState`].
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a zero size, an `advance` beyond 1, a buffer of another dtype
/// or too small, or buffers that share memory.
pub fn positions(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    seq_starts: &MlxBuffer,
    kv_lens: &MlxBuffer,
    positions: &MlxBuffer,
    params: &StepParams,
) -> Result<()> {
    const OP: &str = "step::positions";
    let StepParams { n_rows, n_seqs, advance } = *params;
    check::nonzero(OP, &[("n_rows", n_rows), ("n_seqs", n_seqs)])?;
    if n_seqs > MAX_SEQS || advance > 1 {
        return invalid!("{OP}: n_seqs is {n_seqs}, advance {advance}; at most {MAX_SEQS} and 1 are possible");
    }
    for (name, buffer, elements) in [
        ("seq_starts", seq_starts, n_seqs as usize + 1),
        ("kv_lens", kv_lens, n_seqs as usize),
        ("positions", positions, n_rows as usize),
    ] {
        check::dtype(OP, name, buffer, &[DType::U32])?;
        check::holds(OP, name, buffer, elements)?;
    }
    check::disjoint(OP, ("kv_lens", kv_lens), &[("seq_starts", seq_starts)])?;
    check::disjoint(OP, ("positions", positions), &[("seq_starts", seq_starts), ("kv_lens", kv_lens)])?;
    let pipeline = registry.get_pipeline("step_positions", device)?;
    encoder.try_encode_threadgroups_with_args(
        pipeline,
        &[
            (0, KernelArg::Buffer(seq_starts)),
            (1, KernelArg::Buffer(kv_lens)),
            (2, KernelArg::Buffer(positions)),
            (3, KernelArg::Bytes(as_bytes(params))),
        ],
        MTLSize::new(1, 1, 1),
        MTLSize::new(u64::from(n_rows.max(n_seqs).next_multiple_of(32).min(256)), 1, 1),
    )
}

/// The sequence that `row` belongs to; the twin of `sequence_of` in `segments.h`. `starts` has an entry more than there
/// are sequences.
pub(crate) fn sequence_of(starts: &[u32], row: u32) -> Option<usize> {
    starts.partition_point(|s| *s <= row).checked_sub(1).filter(|s| s + 1 < starts.len())
}

/// The rows of each sequence, made disjoint and cut to `n_rows` whatever `starts` holds.
pub(crate) fn rows_of_sequences(starts: &[u32], n_rows: u32) -> impl Iterator<Item = Range<usize>> {
    starts.windows(2).scan(0, move |reached, ends| {
        let start = ends[0].min(n_rows).max(*reached);
        *reached = ends[1].min(n_rows).max(start);
        Some(start as usize..*reached as usize)
    })
}
