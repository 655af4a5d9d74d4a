//! Keys or values into a cache of 4 bits a coordinate: rows are rotated by a Walsh-Hadamard transform, and each coordinate
//! becomes the index of a Lloyd-Max level for N(0, 1); the norm of the row is kept beside. [`turboquant`](crate::turboquant)
//! has the levels, [`flash_attn_vec_tq`](super::flash_attn_vec_tq) the attention over such a cache.

mod cpu;
mod published;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod tests;

use bytemuck::{Pod, Zeroable};
use half::{bf16, f16};

pub use published::*;

use super::{Op, check};
use crate::buffer::MlxBuffer;
use crate::device::MlxDevice;
use crate::dtype::DType;
use crate::encoder::{CommandEncoder, KernelArg, as_bytes};
use crate::error::{Result, invalid};
use crate::registry::KernelRegistry;
use crate::metal::MTLSize;

/// The Metal text of the kernels `hadamard_quantize_kv_f32`, `hadamard_quantize_kv_f16`, `hadamard_quantize_kv_bf16`.
pub static HADAMARD_QUANTIZE_KV_SHADER_SOURCE: &str = include_str!("hadamard_quantize_kv.metal");

pub(crate) static OP: Op = Op {
    name: "hadamard_quantize_kv",
    source: HADAMARD_QUANTIZE_KV_SHADER_SOURCE,
    kernels: &[
        ("hadamard_quantize_kv_f32", cpu::quantize::<f32>),
        ("hadamard_quantize_kv_f16", cpu::quantize::<f16>),
        ("hadamard_quantize_kv_bf16", cpu::quantize::<bf16>),
    ],
};

/// Adds the kernels of this operator to a registry. A new registry has them already.
pub fn register(registry: &mut KernelRegistry) {
    registry.register_op(&OP);
}

/// Sizes of an append to a quantised cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuantizeKvParams {
    /// Coordinates of a row: a power of two from 2 to 4096.
    pub head_dim: u32,
    /// Heads of `x` and of the cache.
    pub n_kv_heads: u32,
    /// Position of the first token.
    pub position: u32,
    /// Positions that the cache has for each head.
    pub capacity: u32,
    /// Whether positions are taken modulo the capacity: a sliding window.
    pub is_ring: bool,
    /// Tokens in `x`.
    pub n_tokens: u32,
}

/// The kernels' parameter struct.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct KernelParams {
    head_dim: u32,
    n_kv_heads: u32,
    position: u32,
    capacity: u32,
    is_ring: u32,
    n_tokens: u32,
}

/// The longest row.
pub const MAX_HEAD_DIM: u32 = 4096;

/// Records the quantised append of `x`, `[n_tokens, n_kv_heads, head_dim]` of f32, f16 or bf16, to a cache: `packed`, u8
/// `[n_kv_heads, capacity, head_dim / 2]`, the even coordinate in the low half of a byte, and `norms`, f32
/// `[n_kv_heads, capacity]`. Nothing else of the cache is touched.
///
/// A coordinate's code is the number of edges between the 16 levels that lie strictly below
/// `rotated / norm · √head_dim`; a row whose norm is at most 1e-10 gets code 7 everywhere.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a zero size, a `head_dim` that
/// is no power of two from 2 to [`MAX_HEAD_DIM`], tokens that go beyond the capacity of a cache that is no ring, a buffer that
/// is too small or of another dtype, or buffers that overlap.
pub fn hadamard_quantize_kv(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    x: &MlxBuffer,
    packed: &MlxBuffer,
    norms: &MlxBuffer,
    params: &QuantizeKvParams,
) -> Result<()> {
    const OP: &str = "hadamard_quantize_kv";
    let QuantizeKvParams { head_dim, n_kv_heads, position, capacity, is_ring, n_tokens } = *params;
    check::nonzero(OP, &[("n_kv_heads", n_kv_heads), ("capacity", capacity), ("n_tokens", n_tokens)])?;
    if !head_dim.is_power_of_two() || !(2..=MAX_HEAD_DIM).contains(&head_dim) {
        return invalid!("{OP}: head_dim is {head_dim}, it must be a power of two from 2 to {MAX_HEAD_DIM}");
    }
    if !is_ring && position.checked_add(n_tokens).is_none_or(|end| end > capacity) {
        return invalid!("{OP}: position {position} + n_tokens {n_tokens} is beyond capacity {capacity}");
    }
    let x_len = check::product(OP, "x", &[n_tokens, n_kv_heads, head_dim])?;
    let slots = check::product(OP, "norms", &[n_kv_heads, capacity])?;
    let dtype = check::same_float(OP, &[("x", x)])?;
    check::dtype(OP, "packed", packed, &[DType::U8])?;
    check::dtype(OP, "norms", norms, &[DType::F32])?;
    check::holds(OP, "x", x, x_len)?;
    check::holds(OP, "packed", packed, check::product(OP, "packed", &[n_kv_heads, capacity, head_dim / 2])?)?;
    check::holds(OP, "norms", norms, slots)?;
    check::disjoint(OP, ("packed", packed), &[("x", x), ("norms", norms)])?;
    check::disjoint(OP, ("norms", norms), &[("x", x)])?;
    let kernel = check::by_float(
        dtype,
        ["hadamard_quantize_kv_f32", "hadamard_quantize_kv_f16", "hadamard_quantize_kv_bf16"],
    );
    let pipeline = registry.get_pipeline(kernel, device)?;
    let kernel_params =
        KernelParams { head_dim, n_kv_heads, position, capacity, is_ring: is_ring.into(), n_tokens };
    encoder.try_encode_threadgroups_with_args_and_shared(
        pipeline,
        &[
            (0, KernelArg::Buffer(x)),
            (1, KernelArg::Buffer(packed)),
            (2, KernelArg::Buffer(norms)),
            (3, KernelArg::Bytes(as_bytes(&kernel_params))),
        ],
        &[(0, (u64::from(head_dim) * 4).next_multiple_of(16))],
        MTLSize::new(u64::from(n_kv_heads), u64::from(n_tokens), 1),
        MTLSize::new(u64::from(head_dim / 2).next_multiple_of(32).clamp(32, 512), 1, 1),
    )
}
