//! What a mixture of experts needs besides its products: [`zero`] and [`accumulate`]; sums of all its
//! experts are [`weighted_sum`](super::weighted_sum). The products of a routed layer are those of the quantised products.

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
use crate::error::Result;
use crate::registry::KernelRegistry;
use crate::metal::MTLSize;

/// The Metal text of the kernels `zero_buffer` and `moe_accumulate_*`, the latter in f32, f16 and bf16.
pub static MOE_DISPATCH_SHADER_SOURCE: &str = include_str!("moe_dispatch.metal");

pub(crate) static OP: Op = Op {
    name: "moe_dispatch",
    source: MOE_DISPATCH_SHADER_SOURCE,
    kernels: &[
        ("zero_buffer", cpu::zero),
        ("moe_accumulate_f32", cpu::accumulate::<f32>),
        ("moe_accumulate_f16", cpu::accumulate::<f16>),
        ("moe_accumulate_bf16", cpu::accumulate::<bf16>),
    ],
};

/// Adds the kernels of this operator to a registry. A new registry has them already.
pub fn register(registry: &mut KernelRegistry) {
    registry.register_op(&OP);
}

/// The parameter struct of `zero_buffer`.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct ZeroParams {
    n_elements: u32,
}

/// An accumulation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AccumulateParams {
    /// Elements of both operands.
    pub n_elements: u32,
    /// The factor.
    pub weight: f32,
}

/// The parameter struct of `moe_accumulate_*`.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct AccumulateKernelParams {
    n_elements: u32,
    weight: f32,
}

/// Elements that one thread computes.
const PER_THREAD: u32 = 4;

/// Records zeros in the first `n_words` words of 4 bytes of `output`, whose dtype must be one of 4 bytes.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for no words, a buffer that is too
/// small, or a dtype of another size.
pub fn zero(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    output: &MlxBuffer,
    n_words: u32,
) -> Result<()> {
    const OP: &str = "zero";
    check::nonzero(OP, &[("n_words", n_words)])?;
    check::dtype(OP, "output", output, &[DType::F32, DType::U32, DType::I32])?;
    check::holds(OP, "output", output, n_words as usize)?;
    let pipeline = registry.get_pipeline("zero_buffer", device)?;
    encoder.try_encode_with_args(
        pipeline,
        &[
            (0, KernelArg::Buffer(output)),
            (1, KernelArg::Bytes(as_bytes(&ZeroParams { n_elements: n_words }))),
        ],
        MTLSize::new(u64::from(n_words.div_ceil(PER_THREAD)), 1, 1),
        MTLSize::new(256, 1, 1),
    )
}

/// Records `sum[i] += weight · x[i]` for all `i < n_elements`: `sum` is f32, `x` f32, f16 or bf16.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for no elements, a buffer that is too
/// small or of another dtype, or buffers that overlap.
pub fn accumulate(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    sum: &MlxBuffer,
    x: &MlxBuffer,
    params: &AccumulateParams,
) -> Result<()> {
    const OP: &str = "accumulate";
    let AccumulateParams { n_elements, weight } = *params;
    check::nonzero(OP, &[("n_elements", n_elements)])?;
    check::dtype(OP, "sum", sum, &[DType::F32])?;
    let dtype = check::same_float(OP, &[("x", x)])?;
    check::holds(OP, "sum", sum, n_elements as usize)?;
    check::holds(OP, "x", x, n_elements as usize)?;
    check::disjoint(OP, ("sum", sum), &[("x", x)])?;
    let kernel = check::by_float(dtype, ["moe_accumulate_f32", "moe_accumulate_f16", "moe_accumulate_bf16"]);
    let pipeline = registry.get_pipeline(kernel, device)?;
    encoder.try_encode_with_args(
        pipeline,
        &[
            (0, KernelArg::Buffer(sum)),
            (1, KernelArg::Buffer(x)),
            (2, KernelArg::Bytes(as_bytes(&AccumulateKernelParams { n_elements, weight }))),
        ],
        MTLSize::new(u64::from(n_elements.div_ceil(PER_THREAD)), 1, 1),
        MTLSize::new(256, 1, 1),
    )
}
