//! The gate of a gated feed-forward layer: `output[i] = silu(gate[i]) · up[i]`, with `silu(x) = x / (1 + e⁻ˣ)`.

mod cpu;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod tests;

use bytemuck::{Pod, Zeroable};
use half::{bf16, f16};

use super::{Op, check};
use crate::buffer::MlxBuffer;
use crate::device::MlxDevice;
use crate::encoder::{CapturedOpKind, CommandEncoder, KernelArg, as_bytes};
use crate::error::Result;
use crate::registry::KernelRegistry;
use crate::metal::MTLSize;

/// The Metal text of the kernels `silu_mul_f32`, `silu_mul_f16`, `silu_mul_bf16`.
pub static SILU_MUL_SHADER_SOURCE: &str = include_str!("silu_mul.metal");

pub(crate) static OP: Op = Op {
    name: "silu_mul",
    source: SILU_MUL_SHADER_SOURCE,
    kernels: &[
        ("silu_mul_f32", cpu::silu_mul::<f32>),
        ("silu_mul_f16", cpu::silu_mul::<f16>),
        ("silu_mul_bf16", cpu::silu_mul::<bf16>),
    ],
};

/// Adds the kernels of this operator to a registry. A new registry has them already.
pub fn register(registry: &mut KernelRegistry) {
    registry.register_op(&OP);
}

/// Size of a gated product. Also the parameter struct of the kernels: `repr(C)`, 4 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct SiluMulParams {
    /// Elements of `gate`, `up` and `output`.
    pub n_elements: u32,
}

/// Elements that one thread computes.
const PER_THREAD: u32 = 4;

/// Records `output[i] = silu(gate[i]) · up[i]` for all `i < n_elements`.
///
/// The three buffers are f32, f16 or bf16, all the same; the product is computed in f32 and rounded once. No finite gate
/// overflows or gives NaN. `output` may be `gate` or `up` itself.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a zero size, a buffer that
/// is too small, an `output` that overlaps an input without being it, or dtypes that are mixed or not floating-point.
pub fn silu_mul(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    gate: &MlxBuffer,
    up: &MlxBuffer,
    output: &MlxBuffer,
    params: &SiluMulParams,
) -> Result<()> {
    let n_elements = params.n_elements;
    check::nonzero("silu_mul", &[("n_elements", n_elements)])?;
    let dtype = check::same_float("silu_mul", &[("gate", gate), ("up", up), ("output", output)])?;
    let n = n_elements as usize;
    for (name, buffer) in [("gate", gate), ("up", up), ("output", output)] {
        check::holds("silu_mul", name, buffer, n)?;
    }
    let kernel = check::by_float(dtype, ["silu_mul_f32", "silu_mul_f16", "silu_mul_bf16"]);
    let pipeline = registry.get_pipeline(kernel, device)?;
    encoder.set_op_kind(CapturedOpKind::ElemMul);
    encoder.try_encode_with_args(
        pipeline,
        &[
            (0, KernelArg::Buffer(gate)),
            (1, KernelArg::Buffer(up)),
            (2, KernelArg::Buffer(output)),
            (3, KernelArg::Bytes(as_bytes(params))),
        ],
        MTLSize::new(u64::from(n_elements.div_ceil(PER_THREAD)), 1, 1),
        MTLSize::new(256, 1, 1),
    )
}
