//! The RMS norm of each head and the rotary position embedding behind it, in one pass; either may be left out.
//!
//! [`rope`](super::rope) is the operator for rotations alone whose frequencies are known when they are recorded. This one
//! computes them where it runs, from a base that may itself be in a buffer, and takes a position for each token.

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

/// The Metal text of the kernels `head_norm_rope_f32`, `head_norm_rope_f16`, `head_norm_rope_bf16`.
pub static FUSED_HEAD_NORM_ROPE_SHADER_SOURCE: &str = include_str!("head_norm_rope.metal");

/// The same text, under the name that 0.1 gave the one for f32.
pub static FUSED_HEAD_NORM_ROPE_F32_SHADER_SOURCE: &str = FUSED_HEAD_NORM_ROPE_SHADER_SOURCE;

pub(crate) static OP: Op = Op {
    name: "fused_head_norm_rope",
    source: FUSED_HEAD_NORM_ROPE_SHADER_SOURCE,
    kernels: &[
        ("head_norm_rope_f32", cpu::head_norm_rope::<f32>),
        ("head_norm_rope_f16", cpu::head_norm_rope::<f16>),
        ("head_norm_rope_bf16", cpu::head_norm_rope::<bf16>),
    ],
};

/// Adds the kernels of this operator to a registry. A new registry has them already.
pub fn register(registry: &mut KernelRegistry) {
    registry.register_op(&OP);
}

/// Indices of the function constants.
const HAS_NORM: u32 = 0;
const HAS_WEIGHT: u32 = 1;
const HAS_TABLES: u32 = 2;
const HAS_POSITIONS: u32 = 3;
const HAS_FACTORS: u32 = 4;
const HAS_THETA_BUFFER: u32 = 5;
const INTERLEAVED: u32 = 6;

/// Which features form a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pairs {
    /// Neighbours: features `2i` and `2i + 1`.
    Interleaved,
    /// Features `i` and `i + distance`.
    Apart(u32),
}

/// Where the angle of pair `i` comes from.
#[derive(Debug, Clone, Copy)]
pub enum Angles<'a> {
    /// `positions[token] / theta^(2i / head_dim) / factors[i]`, in f32.
    Computed {
        /// u32 `[n_tokens]`.
        positions: &'a MlxBuffer,
        /// The base.
        theta: Theta<'a>,
        /// f32 `[n_pairs]`; none = ones.
        factors: Option<&'a MlxBuffer>,
    },
    /// Cosines and sines, the same for every token: f32 `[n_pairs]` each.
    Tables {
        /// The cosines.
        cosines: &'a MlxBuffer,
        /// The sines.
        sines: &'a MlxBuffer,
    },
}

/// The base of the frequencies.
#[derive(Debug, Clone, Copy)]
pub enum Theta<'a> {
    /// A number.
    Value(f32),
    /// The first element of an f32 buffer, read when the work runs.
    Buffer(&'a MlxBuffer),
}

/// The norm before the rotation.
#[derive(Debug, Clone, Copy)]
pub struct HeadNorm<'a> {
    /// `[head_dim]`, of the dtype of `x`; none = ones.
    pub weight: Option<&'a MlxBuffer>,
    /// Added to the mean of the squares.
    pub eps: f32,
}

/// Sizes of a norm and rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadNormRopeParams {
    /// Tokens of `x`.
    pub n_tokens: u32,
    /// Heads of a token.
    pub n_heads: u32,
    /// Features of a head.
    pub head_dim: u32,
    /// Pairs that are rotated; all other features are only normalised.
    pub n_pairs: u32,
    /// Which features form a pair.
    pub pairs: Pairs,
}

/// The kernels' parameter struct.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct KernelParams {
    n_rows: u32,
    n_heads: u32,
    head_dim: u32,
    n_pairs: u32,
    pair_distance: u32,
    eps: f32,
    theta: f32,
}

/// Rows that one threadgroup takes.
const ROWS_PER_GROUP: u32 = 8;

/// Records, for each head of each token, `n = x / √(mean(x²) + eps) · weight` (or `n = x` without a norm), and the rotation of
/// its pairs: `(a, b)` to `(a·cos - b·sin, a·sin + b·cos)`.
///
/// `x` and `output` are `[n_tokens, n_heads, head_dim]`, f32, f16 or bf16, both the same; everything is computed in f32 and
/// rounded once, and features that are neither normalised nor rotated keep their value. `output` may be `x` itself.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a zero size, pairs that overlap
/// or leave the head, an `eps` that is negative or not finite, a buffer that is too small or of another dtype, or an `output`
/// that overlaps another operand.
pub fn head_norm_rope(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    x: &MlxBuffer,
    norm: Option<HeadNorm<'_>>,
    angles: Angles<'_>,
    output: &MlxBuffer,
    params: &HeadNormRopeParams,
) -> Result<()> {
    let HeadNormRopeParams { n_heads, head_dim, n_pairs, pairs, .. } = *params;
    let n_rows = check_arguments(x, norm, angles, output, params)?;
    let weight = norm.and_then(|n| n.weight);
    let (mut tables, mut positions, mut factors, mut theta_buffer) = (None, None, None, None);
    let mut theta = 0.0;
    match angles {
        Angles::Tables { cosines, sines } => tables = Some((cosines, sines)),
        Angles::Computed { positions: p, theta: t, factors: f } => {
            (positions, factors) = (Some(p), f);
            match t {
                Theta::Value(value) => theta = value,
                Theta::Buffer(buffer) => theta_buffer = Some(buffer),
            }
        }
    }
    let constants = [
        (HAS_NORM, norm.is_some().into()),
        (HAS_WEIGHT, weight.is_some().into()),
        (HAS_TABLES, tables.is_some().into()),
        (HAS_POSITIONS, positions.is_some().into()),
        (HAS_FACTORS, factors.is_some().into()),
        (HAS_THETA_BUFFER, theta_buffer.is_some().into()),
        (INTERLEAVED, (pairs == Pairs::Interleaved).into()),
    ];
    let kernel = check::by_float(x.dtype(), ["head_norm_rope_f32", "head_norm_rope_f16", "head_norm_rope_bf16"]);
    let pipeline = registry.get_pipeline_with_constants(kernel, device, &constants)?;
    let kernel_params = KernelParams {
        n_rows,
        n_heads,
        head_dim,
        n_pairs,
        pair_distance: if let Pairs::Apart(distance) = pairs { distance } else { 1 },
        eps: norm.map_or(0.0, |n| n.eps),
        theta,
    };
    let mut bindings = vec![
        (0, KernelArg::Buffer(x)),
        (1, KernelArg::Buffer(output)),
        (8, KernelArg::Bytes(as_bytes(&kernel_params))),
    ];
    let optional = [
        (2, weight),
        (3, tables.map(|t| t.0)),
        (4, tables.map(|t| t.1)),
        (5, positions),
        (6, factors),
        (7, theta_buffer),
    ];
    bindings.extend(optional.into_iter().filter_map(|(i, b)| Some((i, KernelArg::Buffer(b?)))));
    encoder.try_encode_threadgroups_with_args(
        pipeline,
        &bindings,
        MTLSize::new(u64::from(n_rows.div_ceil(ROWS_PER_GROUP)), 1, 1),
        MTLSize::new(u64::from(ROWS_PER_GROUP * 32), 1, 1),
    )
}

/// Gives the number of rows.
fn check_arguments(
    x: &MlxBuffer,
    norm: Option<HeadNorm<'_>>,
    angles: Angles<'_>,
    output: &MlxBuffer,
    params: &HeadNormRopeParams,
) -> Result<u32> {
    const OP: &str = "head_norm_rope";
    let HeadNormRopeParams { n_tokens, n_heads, head_dim, n_pairs, pairs } = *params;
    check::nonzero(OP, &[("n_tokens", n_tokens), ("n_heads", n_heads), ("head_dim", head_dim)])?;
    check::row_length(OP, "head_dim", head_dim)?;
    let Some(n_rows) = n_tokens.checked_mul(n_heads).filter(|n| *n <= 1 << 31) else {
        return invalid!("{OP}: n_tokens {n_tokens} · n_heads {n_heads} overflows");
    };
    let reach = match pairs {
        Pairs::Interleaved => n_pairs.checked_mul(2),
        Pairs::Apart(distance) if distance < n_pairs => {
            return invalid!("{OP}: pairs {distance} apart overlap, there are n_pairs {n_pairs}");
        }
        Pairs::Apart(distance) => distance.checked_add(n_pairs),
    };
    if n_pairs > 0 && reach.is_none_or(|reach| reach > head_dim) {
        return invalid!("{OP}: n_pairs {n_pairs}, {pairs:?}, leave head_dim {head_dim}");
    }
    let len = check::product(OP, "x", &[n_rows, head_dim])?;
    check::same_float(OP, &[("x", x), ("output", output)])?;
    check::holds(OP, "x", x, len)?;
    check::holds(OP, "output", output, len)?;
    let mut operands: Vec<(&str, &MlxBuffer, DType, usize)> = Vec::new();
    if let Some(HeadNorm { weight, eps }) = norm {
        if !eps.is_finite() || eps < 0.0 {
            return invalid!("{OP}: eps is {eps}, it must be finite and not negative");
        }
        operands.extend(weight.map(|w| ("weight", w, x.dtype(), head_dim as usize)));
    }
    let pairs = n_pairs as usize;
    match angles {
        Angles::Tables { cosines, sines } => {
            operands.extend([("cosines", cosines, DType::F32, pairs), ("sines", sines, DType::F32, pairs)]);
        }
        Angles::Computed { positions, theta, factors } => {
            operands.push(("positions", positions, DType::U32, n_tokens as usize));
            operands.extend(factors.map(|f| ("factors", f, DType::F32, pairs)));
            if let Theta::Buffer(buffer) = theta {
                operands.push(("theta", buffer, DType::F32, 1));
            }
        }
    }
    for (name, buffer, dtype, len) in operands {
        check::dtype(OP, name, buffer, &[dtype])?;
        check::holds(OP, name, buffer, len)?;
        check::disjoint(OP, ("output", output), &[(name, buffer)])?;
    }
    Ok(n_rows)
}
