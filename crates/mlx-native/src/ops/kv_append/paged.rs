//! Appends the keys and values of a step to a pool of blocks, through the sequences' tables.

use bytemuck::{Pod, Zeroable};

use super::PER_THREAD;
use crate::backend::cpu::Launch;
use crate::buffer::MlxBuffer;
use crate::device::MlxDevice;
use crate::encoder::{CommandEncoder, KernelArg, as_bytes};
use crate::error::{Result, invalid};
use crate::registry::KernelRegistry;
use crate::metal::MTLSize;
use crate::ops::check;
use crate::ops::step::{KvPool, KvState, sequence_of};

/// Sizes of an append to a pool. Also the parameter struct of the kernels: `repr(C)`, 40 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct PagedAppendParams {
    /// The pool and the table.
    pub pool: KvPool,
    /// Rows of the step, those of nobody included.
    pub n_rows: u32,
    /// Heads of keys and values.
    pub n_kv_heads: u32,
    /// Features of a head of keys.
    pub k_dim: u32,
    /// Features of a head of values.
    pub v_dim: u32,
    /// Elements from one row of `k` to the next; 0: `n_kv_heads * k_dim`.
    pub k_row_stride: u32,
    /// Elements from one row of `v` to the next; 0: `n_kv_heads * v_dim`.
    pub v_row_stride: u32,
}

/// Records the append of a step's keys and values: row `i` of the rows of sequence `s` goes to its position
/// `kv_lens[s] - rows of s + i`, in the block that the table names. Rows of nobody, and rows whose block the pool does not
/// have, go nowhere; nothing else of the pools is touched. If two sequences share a block and both write it, one of
/// them wins.
///
/// | buffer | shape |
/// |---|---|
/// | `k`, `v` | `[n_rows, n_kv_heads, k_dim]` and `[n_rows, n_kv_heads, v_dim]`, rows as far apart as the strides say |
/// | `k_pool`, `v_pool` | `[n_blocks, n_kv_heads, block_size, k_dim]` and `[n_blocks, n_kv_heads, block_size, v_dim]` |
///
/// All four have the same dtype, whichever; bits are copied.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a zero size, a `block_size`
/// that is no power of two from 8 on, a pool of 2^32 rows or more, a row stride shorter than a row, a buffer that is too
/// small, dtypes that differ, or pools that share memory with each other or anything that is read.
#[allow(clippy::too_many_arguments)]
pub fn kv_append_paged(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    k: &MlxBuffer,
    v: &MlxBuffer,
    k_pool: &MlxBuffer,
    v_pool: &MlxBuffer,
    state: &KvState<'_>,
    params: &PagedAppendParams,
) -> Result<()> {
    let params = &validate(k, v, k_pool, v_pool, state, params)?;
    let kernel = match k.dtype().size_of() {
        1 => "kv_append_paged_8",
        2 => "kv_append_paged_16",
        _ => "kv_append_paged_32",
    };
    let pipeline = registry.get_pipeline(kernel, device)?;
    let widest = params.k_dim.max(params.v_dim);
    encoder.try_encode_with_args(
        pipeline,
        &[
            (0, KernelArg::Buffer(k)),
            (1, KernelArg::Buffer(v)),
            (2, KernelArg::Buffer(k_pool)),
            (3, KernelArg::Buffer(v_pool)),
            (4, KernelArg::Bytes(as_bytes(params))),
            (5, KernelArg::Buffer(state.block_table)),
            (6, KernelArg::Buffer(state.seq_starts)),
            (7, KernelArg::Buffer(state.kv_lens)),
        ],
        MTLSize::new(
            u64::from(widest.div_ceil(PER_THREAD)),
            u64::from(params.n_kv_heads),
            u64::from(params.n_rows),
        ),
        MTLSize::new(32, 4, 2),
    )
}

/// Checks everything; gives the parameters with strides filled in.
fn validate(
    k: &MlxBuffer,
    v: &MlxBuffer,
    k_pool: &MlxBuffer,
    v_pool: &MlxBuffer,
    state: &KvState<'_>,
    params: &PagedAppendParams,
) -> Result<PagedAppendParams> {
    const OP: &str = "kv_append_paged";
    let mut p = *params;
    check::nonzero(
        OP,
        &[("n_rows", p.n_rows), ("n_kv_heads", p.n_kv_heads), ("k_dim", p.k_dim), ("v_dim", p.v_dim)],
    )?;
    p.pool.check(OP)?;
    for (name, buffer, dim, stride, pool_name, pool) in [
        ("k", k, p.k_dim, &mut p.k_row_stride, "k_pool", k_pool),
        ("v", v, p.v_dim, &mut p.v_row_stride, "v_pool", v_pool),
    ] {
        let row = check::product(OP, name, &[p.n_kv_heads, dim])?;
        if *stride == 0 {
            *stride = u32::try_from(row).unwrap_or(0);
        }
        if (*stride as usize) < row {
            return invalid!("{OP}: rows of {name} are {stride} elements apart, one has {row}");
        }
        if buffer.dtype() != k.dtype() || pool.dtype() != k.dtype() {
            return invalid!(
                "{OP}: dtypes of {name} and {pool_name} are {} and {}, they must be {} as that of k",
                buffer.dtype(),
                pool.dtype(),
                k.dtype()
            );
        }
        let before_last = check::product(OP, name, &[p.n_rows - 1, *stride])?;
        check::holds(OP, name, buffer, before_last.saturating_add(row))?;
        check::holds(OP, pool_name, pool, p.pool.elements(OP, pool_name, p.n_kv_heads, dim)?)?;
        check::disjoint(OP, (pool_name, pool), &[("k", k), ("v", v)])?;
    }
    check::disjoint(OP, ("v_pool", v_pool), &[("k_pool", k_pool)])?;
    state.check(OP, &p.pool, &[("k_pool", k_pool), ("v_pool", v_pool)])?;
    Ok(p)
}

/// The body for the CPU. Parts share by destination, a block of a head being one part's, so that tables which name a block
/// twice let no two threads write the same memory, and the later row wins for any number of them.
pub(super) fn body<Word: bytemuck::Pod>(launch: &Launch<'_>, part: usize, parts: usize) {
    let p: PagedAppendParams = launch.params(4);
    let (k, v) = (launch.input::<Word>(0), launch.input::<Word>(1));
    let (k_pool, v_pool) = (launch.output::<Word>(2), launch.output::<Word>(3));
    let [table, starts, lens] = [5, 6, 7].map(|i| launch.input::<u32>(i));
    let starts = &starts[..p.pool.n_seqs as usize + 1];
    let (heads, block_size) = (p.n_kv_heads as usize, p.pool.block_size.max(1));
    let (k_dim, v_dim) = (p.k_dim as usize, p.v_dim as usize);
    for row in 0..p.n_rows {
        let Some(s) = sequence_of(starts, row) else { continue };
        let position = lens[s].wrapping_sub(starts[s + 1].wrapping_sub(row));
        let entry = position / block_size % p.pool.blocks_per_seq;
        let block = table[s * p.pool.blocks_per_seq as usize + entry as usize];
        if block >= p.pool.n_blocks {
            continue;
        }
        for head in 0..heads {
            let unit = block as usize * heads + head;
            if unit % parts != part {
                continue;
            }
            let to = unit * block_size as usize + (position % block_size) as usize;
            let k_from = row as usize * p.k_row_stride as usize + head * k_dim;
            let v_from = row as usize * p.v_row_stride as usize + head * v_dim;
            // SAFETY: the head's rows of this block are this part's alone.
            unsafe {
                k_pool.slice_mut(to * k_dim..(to + 1) * k_dim).copy_from_slice(&k[k_from..k_from + k_dim]);
                v_pool.slice_mut(to * v_dim..(to + 1) * v_dim).copy_from_slice(&v[v_from..v_from + v_dim]);
            }
        }
    }
}
