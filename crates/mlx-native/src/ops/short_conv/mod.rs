//! Causal convolution of each channel by itself, over the tokens of a step and the last ones before it.
//!
//! `output[t][c] = Σ_j weight[c][j] · input[t + j - (kernel - 1)][c] + bias[c]`, the inputs before the step coming from
//! `state`, which afterwards holds the last `kernel - 1` inputs. SiLU may follow. Sums in f32, rounded once.

mod cpu;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod tests;

use bytemuck::{Pod, Zeroable};
use half::{bf16, f16};

use super::{Op, check};
use crate::buffer::MlxBuffer;
use crate::device::MlxDevice;
use crate::encoder::{CommandEncoder, KernelArg, as_bytes};
use crate::error::{Result, invalid};
use crate::registry::KernelRegistry;
use crate::metal::MTLSize;

/// The Metal text of the kernels `short_conv_f32`, `short_conv_f16`, `short_conv_bf16`.
pub static SHORT_CONV_SHADER_SOURCE: &str = include_str!("short_conv.metal");

pub(crate) static OP: Op = Op {
    name: "short_conv",
    source: SHORT_CONV_SHADER_SOURCE,
    kernels: &[
        ("short_conv_f32", cpu::short_conv::<f32>),
        ("short_conv_f16", cpu::short_conv::<f16>),
        ("short_conv_bf16", cpu::short_conv::<bf16>),
    ],
};

/// Adds the kernels of this operator to a registry. A new registry has them already.
pub fn register(registry: &mut KernelRegistry) {
    registry.register_op(&OP);
}

/// Sizes of a convolution. Also the parameter struct of the kernels: `repr(C)`, 20 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct ShortConvParams {
    /// Tokens.
    pub rows: u32,
    /// Channels.
    pub channels: u32,
    /// Inputs that an output sees, its own included: 1 to [`MAX_KERNEL`].
    pub kernel: u32,
    /// Elements from one row of `x` to the next; at least `channels`.
    pub x_stride: u32,
    /// 1: SiLU follows.
    pub silu: u32,
}

/// The longest kernel: its inputs are kept in registers.
pub const MAX_KERNEL: u32 = 8;
/// Index of the function constant that says whether there is a bias.
const HAS_BIAS: u32 = 0;

/// Records the convolution of `rows` tokens, and the update of `state`.
///
/// | buffer | shape |
/// |---|---|
/// | `x` | `[rows, channels]`, rows `x_stride` apart |
/// | `weight` | `[channels, kernel]`, the last element for a token itself |
/// | `bias` | `[channels]`, or none |
/// | `state` | `[kernel - 1, channels]`, oldest first: read, then overwritten. With a kernel of 1 it is not used |
/// | `output` | `[rows, channels]` |
///
/// All are f32, f16 or bf16, the same. `output` may be `x` when `x_stride` is `channels`.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a zero size, a `kernel`
/// beyond 8, an `x_stride` below `channels`, a `silu` beyond 1, a buffer that is too small, buffers that share memory, or
/// mixed dtypes.
#[allow(clippy::too_many_arguments)]
pub fn short_conv(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    x: &MlxBuffer,
    weight: &MlxBuffer,
    bias: Option<&MlxBuffer>,
    state: &MlxBuffer,
    output: &MlxBuffer,
    params: &ShortConvParams,
) -> Result<()> {
    const OP: &str = "short_conv";
    let ShortConvParams { rows, channels, kernel, x_stride, silu } = *params;
    check::nonzero(OP, &[("rows", rows), ("channels", channels), ("kernel", kernel)])?;
    if kernel > MAX_KERNEL {
        return invalid!("{OP}: kernel is {kernel}, it must be at most {MAX_KERNEL}");
    }
    if x_stride < channels || silu > 1 {
        return invalid!("{OP}: x_stride {x_stride}, silu {silu}; at least channels {channels} and at most 1 are possible");
    }
    let x_len = check::product(OP, "x", &[rows - 1, x_stride])?.saturating_add(channels as usize);
    let out_len = check::product(OP, "output", &[rows, channels])?;
    let weight_len = check::product(OP, "weight", &[channels, kernel])?;
    let state_len = check::product(OP, "state", &[kernel - 1, channels])?;
    let all = [("x", x), ("weight", weight), ("bias", bias.unwrap_or(x)), ("state", state), ("output", output)];
    let dtype = check::same_float(OP, &all)?;
    let lengths = [x_len, weight_len, if bias.is_some() { channels as usize } else { 1 }, state_len, out_len];
    for ((name, buffer), len) in all.into_iter().zip(lengths) {
        check::holds(OP, name, buffer, len)?;
    }
    if x_stride != channels && output.mem_range() == x.mem_range() {
        return invalid!("{OP}: output is x, whose rows are {x_stride} elements apart and have {channels}");
    }
    let name = check::by_float(dtype, ["short_conv_f32", "short_conv_f16", "short_conv_bf16"]);
    let pipeline = registry.get_pipeline_with_constants(name, device, &[(HAS_BIAS, bias.is_some().into())])?;
    encoder.try_encode_with_args(
        pipeline,
        &[
            (0, KernelArg::Buffer(x)),
            (1, KernelArg::Buffer(weight)),
            (2, KernelArg::Buffer(bias.unwrap_or(weight))),
            (3, KernelArg::Buffer(state)),
            (4, KernelArg::Buffer(output)),
            (5, KernelArg::Bytes(as_bytes(params))),
        ],
        MTLSize::new(u64::from(channels), 1, 1),
        MTLSize::new(u64::from(channels.min(64)), 1, 1),
    )
}
