//! Attention of one query position over a cache of 4 bits a coordinate, as
//! [`hadamard_quantize_kv`](super::hadamard_quantize_kv) fills it.
//!
//! Keys and values lie in the cache rotated. A rotation does not change products: the query is rotated once, scores and sums of
//! values are made in the rotated domain, and the result is rotated back.

mod cpu;
mod published;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod tests;

use bytemuck::{Pod, Zeroable};

pub use published::*;

use super::{Op, check};
use crate::buffer::MlxBuffer;
use crate::device::MlxDevice;
use crate::dtype::DType;
use crate::encoder::{CapturedOpKind, CommandEncoder, KernelArg, as_bytes};
use crate::error::{Result, invalid};
use crate::registry::KernelRegistry;
use crate::metal::MTLSize;

/// The Metal text of the kernels `tq_partial` and `tq_reduce`.
pub static FLASH_ATTN_VEC_TQ_SHADER_SOURCE: &str = include_str!("flash_attn_vec_tq.metal");

pub(crate) static OP: Op = Op {
    name: "flash_attn_vec_tq",
    source: FLASH_ATTN_VEC_TQ_SHADER_SOURCE,
    kernels: &[("tq_partial", cpu::partial), ("tq_reduce", cpu::reduce)],
};

/// Adds the kernels of this operator to a registry. A new registry has them already.
pub fn register(registry: &mut KernelRegistry) {
    registry.register_op(&OP);
}

/// The longest head: one in f32 takes half of a threadgroup's memory.
pub const MAX_HEAD_DIM: u32 = 4096;
/// Parts into which the keys of a head are divided at most.
pub const MAX_SPLITS: u32 = 32;
/// Keys below which a split is not worth its while.
const KEYS_PER_SPLIT: u32 = 64;

/// A cache of 4 bits a coordinate.
#[derive(Debug, Clone, Copy)]
pub struct QuantizedCache<'a> {
    /// u8 `[n_kv_heads, capacity, head_dim / 2]`, the even coordinate in the low half of a byte.
    pub packed: &'a MlxBuffer,
    /// f32 `[n_kv_heads, capacity]`.
    pub norms: &'a MlxBuffer,
}

/// Sizes of an attention over a quantised cache.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SdpaTqParams {
    /// Heads of the query; a multiple of `n_kv_heads`.
    pub n_heads: u32,
    /// Heads of the cache.
    pub n_kv_heads: u32,
    /// Coordinates of a head: a power of two from 2 to [`MAX_HEAD_DIM`].
    pub head_dim: u32,
    /// The first key that is looked at.
    pub first_key: u32,
    /// One past the last key that is looked at.
    pub end_key: u32,
    /// Positions that the cache has for each head.
    pub capacity: u32,
    /// What scores are multiplied by.
    pub scale: f32,
    /// Soft cap of the scores, `softcap · tanh(score / softcap)`; 0 = none.
    pub softcap: f32,
}

impl SdpaTqParams {
    fn n_splits(&self) -> u32 {
        (self.end_key - self.first_key).div_ceil(KEYS_PER_SPLIT).clamp(1, MAX_SPLITS)
    }
}

/// The kernels' parameter struct.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct KernelParams {
    n_heads: u32,
    n_kv_heads: u32,
    head_dim: u32,
    first_key: u32,
    end_key: u32,
    capacity: u32,
    scale: f32,
    softcap: f32,
    n_splits: u32,
}

/// Elements of f32 that [`sdpa_tq`] keeps between its two kernels, at most.
#[must_use]
pub fn partial_elements(n_heads: u32, head_dim: u32) -> usize {
    (n_heads as usize).saturating_mul(MAX_SPLITS as usize).saturating_mul((head_dim as usize).saturating_add(2))
}

/// Records `output[h] = Σₖ softmax(scale · q[h]·key[k]) · value[k]` over the keys `first_key..end_key` of the head
/// `h / (n_heads / n_kv_heads)` of the cache.
///
/// `q` and `output` are f32 `[n_heads, head_dim]`; `partial` is f32 of at least [`partial_elements`], for what is kept between
/// the two kernels. Keys outside the range are not read. No keys give zeros.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a zero size, a `head_dim` that is
/// no power of two from 2 to [`MAX_HEAD_DIM`], heads that do not divide, a range of keys beyond the capacity, a `scale` or
/// `softcap` that is not finite, a buffer that is too small or of another dtype, or buffers that overlap.
pub fn sdpa_tq(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    q: &MlxBuffer,
    keys: QuantizedCache<'_>,
    values: QuantizedCache<'_>,
    output: &MlxBuffer,
    partial: &MlxBuffer,
    params: &SdpaTqParams,
) -> Result<()> {
    check_arguments(q, keys, values, output, partial, params)?;
    let n_splits = params.n_splits();
    let kernel_params = KernelParams {
        n_heads: params.n_heads,
        n_kv_heads: params.n_kv_heads,
        head_dim: params.head_dim,
        first_key: params.first_key,
        end_key: params.end_key,
        capacity: params.capacity,
        scale: params.scale,
        softcap: params.softcap,
        n_splits,
    };
    let head_bytes = [(0, (u64::from(params.head_dim) * 4).next_multiple_of(16))];
    let threads = u64::from(params.head_dim / 2).next_multiple_of(32).clamp(128, 512);
    let pipeline = registry.get_pipeline("tq_partial", device)?;
    encoder.set_op_kind(CapturedOpKind::Sdpa);
    encoder.try_encode_threadgroups_with_args_and_shared(
        pipeline,
        &[
            (0, KernelArg::Buffer(q)),
            (1, KernelArg::Buffer(keys.packed)),
            (2, KernelArg::Buffer(keys.norms)),
            (3, KernelArg::Buffer(values.packed)),
            (4, KernelArg::Buffer(values.norms)),
            (5, KernelArg::Buffer(partial)),
            (6, KernelArg::Bytes(as_bytes(&kernel_params))),
        ],
        &head_bytes,
        MTLSize::new(u64::from(params.n_heads), u64::from(n_splits), 1),
        MTLSize::new(threads, 1, 1),
    )?;
    let pipeline = registry.get_pipeline("tq_reduce", device)?;
    encoder.try_encode_threadgroups_with_args_and_shared(
        pipeline,
        &[
            (0, KernelArg::Buffer(partial)),
            (1, KernelArg::Buffer(output)),
            (2, KernelArg::Bytes(as_bytes(&kernel_params))),
        ],
        &head_bytes,
        MTLSize::new(u64::from(params.n_heads), 1, 1),
        MTLSize::new(threads, 1, 1),
    )
}

fn check_arguments(
    q: &MlxBuffer,
    keys: QuantizedCache<'_>,
    values: QuantizedCache<'_>,
    output: &MlxBuffer,
    partial: &MlxBuffer,
    params: &SdpaTqParams,
) -> Result<()> {
    const OP: &str = "sdpa_tq";
    let SdpaTqParams { n_heads, n_kv_heads, head_dim, first_key, end_key, capacity, scale, softcap } = *params;
    check::nonzero(OP, &[("n_heads", n_heads), ("n_kv_heads", n_kv_heads), ("capacity", capacity)])?;
    if !head_dim.is_power_of_two() || !(2..=MAX_HEAD_DIM).contains(&head_dim) {
        return invalid!("{OP}: head_dim is {head_dim}, it must be a power of two from 2 to {MAX_HEAD_DIM}");
    }
    if n_heads % n_kv_heads != 0 {
        return invalid!("{OP}: n_heads {n_heads} is not divisible by n_kv_heads {n_kv_heads}");
    }
    if first_key > end_key || end_key > capacity {
        return invalid!("{OP}: keys {first_key} to {end_key} are beyond capacity {capacity}");
    }
    if !scale.is_finite() || !softcap.is_finite() || softcap < 0.0 {
        return invalid!("{OP}: scale {scale} and softcap {softcap} must be finite, and softcap not negative");
    }
    let len = check::product(OP, "q", &[n_heads, head_dim])?;
    let codes = check::product(OP, "keys", &[n_kv_heads, capacity, head_dim / 2])?;
    let slots = check::product(OP, "norms", &[n_kv_heads, capacity])?;
    let scratch = check::product(OP, "partial", &[n_heads, params.n_splits(), head_dim + 2])?;
    let inputs = [
        ("q", q, DType::F32, len),
        ("the codes of keys", keys.packed, DType::U8, codes),
        ("the norms of keys", keys.norms, DType::F32, slots),
        ("the codes of values", values.packed, DType::U8, codes),
        ("the norms of values", values.norms, DType::F32, slots),
    ];
    for (name, buffer, dtype, len) in inputs {
        check::dtype(OP, name, buffer, &[dtype])?;
        check::holds(OP, name, buffer, len)?;
        check::disjoint(OP, ("output", output), &[(name, buffer)])?;
        check::disjoint(OP, ("partial", partial), &[(name, buffer)])?;
    }
    check::dtype(OP, "output", output, &[DType::F32])?;
    check::dtype(OP, "partial", partial, &[DType::F32])?;
    check::holds(OP, "output", output, len)?;
    check::holds(OP, "partial", partial, scratch)?;
    check::disjoint(OP, ("output", output), &[("partial", partial)])
}
