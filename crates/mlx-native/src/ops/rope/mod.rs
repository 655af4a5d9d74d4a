//! Rotary position embedding: pairs of features are rotated by an angle that grows with the position.
//!
//! As MLX's GPU does it, with one difference: frequencies from a base are computed in f64 and rounded, once, by the host,
//! so that every device rotates by the same angles. An angle is the product of position and frequency *in f32*, and so
//! knows a position of some ten thousands only to some thousandths of a radian; that is the definition, sine and cosine
//! of it are exact to a few units in the last place.

mod cpu;
mod published;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod tests;

use bytemuck::{Pod, Zeroable};
use half::{bf16, f16};
use smallvec::SmallVec;

pub use published::*;

use super::{Op, check};
use crate::buffer::MlxBuffer;
use crate::device::MlxDevice;
use crate::dtype::DType;
use crate::encoder::{CommandEncoder, KernelArg, as_bytes};
use crate::error::{MlxError, Result, invalid};
use crate::registry::KernelRegistry;
use crate::metal::MTLSize;

/// The Metal text of the kernels `rope_f32`, `rope_f16`, `rope_bf16`.
pub static ROPE_SHADER_SOURCE: &str = include_str!("rope.metal");

pub(crate) static OP: Op = Op {
    name: "rope",
    source: ROPE_SHADER_SOURCE,
    kernels: &[
        ("rope_f32", cpu::rope::<f32>),
        ("rope_f16", cpu::rope::<f16>),
        ("rope_bf16", cpu::rope::<bf16>),
    ],
};

/// Adds the kernels of this operator to a registry. A new registry has them already.
pub fn register(registry: &mut KernelRegistry) {
    registry.register_op(&OP);
}

/// Sizes and angles of a rotation. Also the parameter struct of the kernels: `repr(C)`, 48 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct RopeParams {
    /// Number of heads.
    pub n_heads: u32,
    /// Number of positions.
    pub seq_len: u32,
    /// Features of a head.
    pub head_dim: u32,
    /// Features of a head that are rotated, from the first on: even, at most `head_dim` and 2048.
    pub dims: u32,
    /// 1: pairs are neighbours, `(2i, 2i + 1)`. 0: pairs are halves, `(i, i + dims / 2)`.
    pub traditional: u32,
    /// Frequency `i` is `base^(-2i / dims)`. 0 when frequencies are given.
    pub base: f32,
    /// Positions are multiplied by this.
    pub scale: f32,
    /// Position of the first row.
    pub offset: u32,
    /// Elements from one head of `x` to the next. Both strides 0: dense, `[n_heads, seq_len, head_dim]`.
    pub x_head_stride: u32,
    /// Elements from one position of `x` to the next.
    pub x_seq_stride: u32,
    /// Elements from one head of `output` to the next. Both strides 0: dense.
    pub out_head_stride: u32,
    /// Elements from one position of `output` to the next.
    pub out_seq_stride: u32,
}

/// Most features that are rotated: their frequencies are recorded inline.
const MAX_DIMS: u32 = 2048;
/// Index of the function constant that says whether reciprocals of frequencies are given.
const RECIPROCAL: u32 = 0;
/// Index of the function constant that says whether positions are given.
const AT_POSITIONS: u32 = 1;
/// Heads for each thread, as in the Metal text.
const HEADS_PER_THREAD: u32 = 4;

/// Records the rotation of `n_heads` heads at `seq_len` positions, from `x` to `output`.
///
/// With `p = (offset + t) · scale` and the angle `θ = p · f_i` in f32, pair `i` of position `t` becomes
/// `(a·cos θ - b·sin θ, a·sin θ + b·cos θ)`, computed in f32 and rounded once; features from `dims` on are copied. `f_i`
/// is `base^(-2i / dims)`, or `1 / freqs[i]`, `freqs` being f32 `[dims / 2]`; `base` must be 0 then.
///
/// `x` and `output` are f32, f16 or bf16, the same. The feature `d` of head `h` at row `t` is the element
/// `h · head_stride + t · seq_stride + d`: with strides, `x` may be a projection `[seq_len, n_heads, head_dim]`, and
/// `output` a cache `[n_heads, capacity, head_dim]` seen from the position on. `output` may be `x` when their strides agree.
///
/// # Errors
/// [`MlxError::InvalidArgument`], naming the parameter, for a zero size, an odd `dims` or
/// one beyond `head_dim` or 2048, both or neither of `base` and `freqs`, a `base` or `scale` that is not finite,
/// positions beyond u32, strides that let rows of the output overlap, a buffer that is too small, an `output` that overlaps
/// `x` otherwise than in place or overlaps `freqs`, or dtypes that are mixed or not floating-point.
#[allow(clippy::too_many_arguments)]
pub fn rope(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    x: &MlxBuffer,
    freqs: Option<&MlxBuffer>,
    output: &MlxBuffer,
    params: &RopeParams,
) -> Result<()> {
    record(encoder, registry, device, x, freqs, None, output, params)
}

/// As [`rope`], with the position of each row in a buffer: row `t` is at `positions[t]`, and `offset` must be 0. What is in
/// the buffer when the work runs counts, so that one recorded step serves every position and rows of many sequences.
///
/// `positions` is u32 `[seq_len]`; for a step's rows `[n_rows, n_heads, head_dim]`, the head stride is `head_dim` and the
/// position stride `n_heads * head_dim`.
///
/// # Errors
/// As [`rope`]; also for `positions` of another dtype, too small, or sharing memory with the output.
#[allow(clippy::too_many_arguments)]
pub fn rope_at(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    x: &MlxBuffer,
    freqs: Option<&MlxBuffer>,
    positions: &MlxBuffer,
    output: &MlxBuffer,
    params: &RopeParams,
) -> Result<()> {
    if params.offset != 0 {
        return invalid!("{OP_NAME}: offset is {}, it must be 0 when positions are given", params.offset);
    }
    check::dtype(OP_NAME, "positions", positions, &[DType::U32])?;
    check::holds(OP_NAME, "positions", positions, params.seq_len as usize)?;
    record(encoder, registry, device, x, freqs, Some(positions), output, params)
}

/// [`rope`] or [`rope_at`].
#[allow(clippy::too_many_arguments)]
fn record(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    x: &MlxBuffer,
    freqs: Option<&MlxBuffer>,
    positions: Option<&MlxBuffer>,
    output: &MlxBuffer,
    params: &RopeParams,
) -> Result<()> {
    check_params(freqs.is_some(), params)?;
    let params = &with_strides(params)?;
    check_buffers(x, freqs, output, params)?;
    let RopeParams { n_heads, seq_len, head_dim, dims, .. } = *params;
    let kernel = check::by_float(x.dtype(), ["rope_f32", "rope_f16", "rope_bf16"]);
    let constants = [(RECIPROCAL, freqs.is_some().into()), (AT_POSITIONS, positions.is_some().into())];
    let pipeline = registry.get_pipeline_with_constants(kernel, device, &constants)?;
    let table: SmallVec<[f32; 256]> = match freqs {
        Some(_) => SmallVec::new(),
        None => frequencies(params.base, dims).collect(),
    };
    let frequencies = match freqs {
        Some(freqs) => KernelArg::Buffer(freqs),
        None => KernelArg::Bytes(bytemuck::cast_slice(&table)),
    };
    let mut args: SmallVec<[(u64, KernelArg<'_>); 5]> = SmallVec::from_slice(&[
        (0, KernelArg::Buffer(x)),
        (1, frequencies),
        (2, KernelArg::Buffer(output)),
        (3, KernelArg::Bytes(as_bytes(params))),
    ]);
    args.extend(positions.map(|p| (4, KernelArg::Buffer(p))));
    encoder.try_encode_with_args(
        pipeline,
        &args,
        MTLSize::new(
            u64::from(head_dim - dims / 2),
            u64::from(seq_len),
            u64::from(n_heads.div_ceil(HEADS_PER_THREAD)),
        ),
        MTLSize::new(32, 2, 4),
    )
}

/// `base^(-2i / dims)` for each pair `i`, rounded to f32. Powers by repeated multiplication in f64: far below the
/// rounding for any `dims` possible.
fn frequencies(base: f32, dims: u32) -> impl Iterator<Item = f32> {
    let ratio = f64::from(base).powf(-2.0 / f64::from(dims));
    (0..dims / 2).scan(1.0, move |power, _| {
        let frequency = *power as f32;
        *power *= ratio;
        Some(frequency)
    })
}

const OP_NAME: &str = "rope";

fn check_params(has_freqs: bool, params: &RopeParams) -> Result<()> {
    let RopeParams { n_heads, seq_len, head_dim, dims, traditional, base, scale, offset, .. } = *params;
    check::nonzero(
        OP_NAME,
        &[("n_heads", n_heads), ("seq_len", seq_len), ("head_dim", head_dim), ("dims", dims)],
    )?;
    if dims % 2 != 0 || dims > head_dim || dims > MAX_DIMS {
        return invalid!(
            "{OP_NAME}: dims is {dims}, it must be even, and at most head_dim {head_dim} and {MAX_DIMS}"
        );
    }
    if traditional > 1 {
        return invalid!("{OP_NAME}: traditional is {traditional}, it must be 0 or 1");
    }
    if has_freqs && base != 0.0 {
        return invalid!("{OP_NAME}: base is {base}, it must be 0 when freqs are given");
    }
    if !has_freqs && (!base.is_finite() || base <= 0.0) {
        return invalid!("{OP_NAME}: base is {base}, it must be finite and positive when no freqs are given");
    }
    if !scale.is_finite() {
        return invalid!("{OP_NAME}: scale is {scale}, it must be finite");
    }
    if offset.checked_add(seq_len).is_none() {
        return invalid!("{OP_NAME}: offset {offset} + seq_len {seq_len} is beyond 32 bits");
    }
    Ok(())
}

/// The parameters with strides of dense tensors filled in.
fn with_strides(params: &RopeParams) -> Result<RopeParams> {
    let mut p = *params;
    let is_dense = |head_stride, seq_stride| head_stride == 0 && seq_stride == 0;
    let (dense_x, dense_out) =
        (is_dense(p.x_head_stride, p.x_seq_stride), is_dense(p.out_head_stride, p.out_seq_stride));
    if dense_x || dense_out {
        let head_stride = p.seq_len.checked_mul(p.head_dim).ok_or_else(|| {
            MlxError::InvalidArgument(format!(
                "{OP_NAME}: seq_len {} times head_dim {} is beyond 32 bits",
                p.seq_len, p.head_dim
            ))
        })?;
        if dense_x {
            (p.x_head_stride, p.x_seq_stride) = (head_stride, p.head_dim);
        }
        if dense_out {
            (p.out_head_stride, p.out_seq_stride) = (head_stride, p.head_dim);
        }
    }
    // Rows of the output must lie apart: the wider stride must step over all rows of the narrower one.
    let (heads, positions) = ((p.out_head_stride, p.n_heads), (p.out_seq_stride, p.seq_len));
    let (inner, outer) = if heads.0 < positions.0 { (heads, positions) } else { (positions, heads) };
    let lie_apart = |(narrow, count): (u32, u32), (wide, wide_count): (u32, u32)| {
        let rows = u64::from(narrow) * u64::from(count - 1) + u64::from(p.head_dim);
        (count == 1 || narrow >= p.head_dim) && (wide_count == 1 || u64::from(wide) >= rows)
    };
    if !lie_apart(inner, outer) {
        return invalid!(
            "{OP_NAME}: out_head_stride {} and out_seq_stride {} let rows of {} elements overlap",
            p.out_head_stride,
            p.out_seq_stride,
            p.head_dim
        );
    }
    Ok(p)
}

fn check_buffers(
    x: &MlxBuffer,
    freqs: Option<&MlxBuffer>,
    output: &MlxBuffer,
    p: &RopeParams,
) -> Result<()> {
    check::same_float(OP_NAME, &[("x", x), ("output", output)])?;
    let extent = |name: &str, head_stride: u32, seq_stride: u32| {
        let last = |stride: u32, count: u32| (stride as usize).checked_mul(count as usize - 1);
        last(head_stride, p.n_heads)
            .and_then(|h| h.checked_add(last(seq_stride, p.seq_len)?)?.checked_add(p.head_dim as usize))
            .ok_or_else(|| MlxError::InvalidArgument(format!("{OP_NAME}: the size of {name} overflows")))
    };
    let x_len = extent("x", p.x_head_stride, p.x_seq_stride)?;
    let out_len = extent("output", p.out_head_stride, p.out_seq_stride)?;
    check::holds(OP_NAME, "x", x, x_len)?;
    check::holds(OP_NAME, "output", output, out_len)?;
    if let Some(freqs) = freqs {
        check::dtype(OP_NAME, "freqs", freqs, &[DType::F32])?;
        check::holds(OP_NAME, "freqs", freqs, p.dims as usize / 2)?;
    }
    let same_strides = (p.x_head_stride, p.x_seq_stride) == (p.out_head_stride, p.out_seq_stride);
    if output.mem_range().0 == x.mem_range().0 && !same_strides {
        return invalid!("{OP_NAME}: output is x, but their strides differ");
    }
    Ok(())
}
