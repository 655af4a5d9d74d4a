//! What an attention's parameters and buffers are held against.

use super::record::Layout;
use super::{AttentionParams, Extras, MAX_HEAD_DIM, MAX_KV_LEN};
use crate::buffer::MlxBuffer;
use crate::dtype::DType;
use crate::error::{MlxError, Result, invalid};
use crate::ops::check;
use crate::ops::step::KvState;

const OP: &str = "attention";

/// Checks everything; gives what kernels need to know, and the dtype.
pub(super) fn validate(
    [q, k, v, output]: [&MlxBuffer; 4],
    extras: &Extras<'_>,
    state: &KvState<'_>,
    params: &AttentionParams,
) -> Result<(Layout, DType)> {
    let p = sizes(params)?;
    let dtype = check::same_float(OP, &[("q", q), ("k_pool", k), ("v_pool", v), ("output", output)])?;
    let q_row = check::product(OP, "q", &[p.n_heads, p.head_dim])?;
    let before_last = check::product(OP, "q", &[p.n_rows - 1, p.q_row_stride])?;
    check::holds(OP, "q", q, before_last.saturating_add(q_row))?;
    check::holds(OP, "k_pool", k, p.pool.elements(OP, "k_pool", p.n_kv_heads, p.head_dim)?)?;
    check::holds(OP, "v_pool", v, p.pool.elements(OP, "v_pool", p.n_kv_heads, p.v_dim)?)?;
    check::holds(OP, "output", output, check::product(OP, "output", &[p.n_rows, p.n_heads, p.v_dim])?)?;
    let written = ("output", output);
    check::disjoint(OP, written, &[("q", q), ("k_pool", k), ("v_pool", v)])?;
    state.check(OP, &p.pool, &[written])?;
    check_extras(OP, extras, dtype, [p.pool.n_seqs, p.n_heads, p.max_rows_per_seq, p.max_kv_len], output)?;
    Ok((Layout::paged(&p, extras), dtype))
}

/// Checks the sizes, and fills in those that were left out.
fn sizes(params: &AttentionParams) -> Result<AttentionParams> {
    let mut p = *params;
    check_heads(OP, p.n_heads, p.n_kv_heads, p.head_dim)?;
    if p.v_dim == 0 {
        p.v_dim = p.head_dim;
    }
    if p.v_dim > MAX_HEAD_DIM {
        return invalid!("{OP}: v_dim is {}, it must be at most {MAX_HEAD_DIM}", p.v_dim);
    }
    check::nonzero(
        OP,
        &[("n_rows", p.n_rows), ("max_rows_per_seq", p.max_rows_per_seq), ("max_kv_len", p.max_kv_len)],
    )?;
    p.pool.check(OP)?;
    p.max_rows_per_seq = p.max_rows_per_seq.min(p.n_rows);
    if p.max_kv_len > MAX_KV_LEN {
        return invalid!("{OP}: max_kv_len is {}, it must be at most {MAX_KV_LEN}", p.max_kv_len);
    }
    if p.window != 0 && !p.causal {
        return invalid!("{OP}: window is {}, it must be 0 unless causal", p.window);
    }
    // Through a ring only a window can be seen.
    let seen = if p.window == 0 { u64::MAX } else { u64::from(p.window) + u64::from(p.max_rows_per_seq) - 1 };
    let needed = u64::from(p.max_kv_len).min(seen);
    if p.pool.capacity() < needed {
        return invalid!(
            "{OP}: block_size {} times blocks_per_seq {} is less than the {needed} positions that are seen",
            p.pool.block_size,
            p.pool.blocks_per_seq
        );
    }
    check_scale(OP, p.scale, p.softcap)?;
    let row = check::product(OP, "q", &[p.n_heads, p.head_dim])?;
    let out_row = check::product(OP, "output", &[p.n_heads, p.v_dim])?;
    for (name, row) in [("q", row), ("output", out_row)] {
        if u32::try_from(row).is_err() {
            return invalid!("{OP}: a row of {name} has {row} elements, it must have fewer than 2^32");
        }
    }
    if p.q_row_stride == 0 {
        p.q_row_stride = row as u32;
    }
    if (p.q_row_stride as usize) < row {
        return invalid!("{OP}: q_row_stride is {}, a row has {row} elements", p.q_row_stride);
    }
    Ok(p)
}

pub(crate) fn check_heads(op: &str, n_heads: u32, n_kv_heads: u32, head_dim: u32) -> Result<()> {
    check::nonzero(op, &[("head_dim", head_dim), ("n_heads", n_heads), ("n_kv_heads", n_kv_heads)])?;
    if head_dim > MAX_HEAD_DIM {
        return invalid!("{op}: head_dim is {head_dim}, it must be at most {MAX_HEAD_DIM}");
    }
    if !n_heads.is_multiple_of(n_kv_heads) {
        return invalid!("{op}: n_heads {n_heads} is not divisible by n_kv_heads {n_kv_heads}");
    }
    Ok(())
}

pub(crate) fn check_scale(op: &str, scale: f32, softcap: f32) -> Result<()> {
    if !scale.is_finite() {
        return invalid!("{op}: scale is {scale}, it must be finite");
    }
    if !(softcap.is_finite() && softcap >= 0.0) {
        return invalid!("{op}: softcap is {softcap}, it must be finite, and 0 or more");
    }
    Ok(())
}

/// Checks sinks and mask of an attention of `[n_seqs, n_heads, rows, keys]` at most.
pub(crate) fn check_extras(
    op: &str,
    extras: &Extras<'_>,
    dtype: DType,
    extents: [u32; 4],
    output: &MlxBuffer,
) -> Result<()> {
    if let Some(sinks) = extras.sinks {
        check::dtype(op, "sinks", sinks, &[DType::F32])?;
        check::holds(op, "sinks", sinks, extents[1] as usize)?;
        check::disjoint(op, ("output", output), &[("sinks", sinks)])?;
    }
    if let Some(mask) = &extras.mask {
        check::dtype(op, "mask", mask.buffer, &[DType::U8, dtype])?;
        let last = [(extents[0], mask.seq_stride), (extents[1], mask.head_stride), (extents[2], mask.row_stride)]
            .into_iter()
            .try_fold(extents[3] as usize, |sum, (n, stride)| {
                sum.checked_add((n as usize - 1).checked_mul(stride as usize)?)
            })
            .ok_or_else(|| MlxError::InvalidArgument(format!("{op}: the size of mask overflows")))?;
        check::holds(op, "mask", mask.buffer, last)?;
        check::disjoint(op, ("output", output), &[("mask", mask.buffer)])?;
    }
    Ok(())
}
