//! Soft capping of logits: `output[i] = tanh(x[i] / cap) · cap`.

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
use crate::encoder::{CommandEncoder, KernelArg, as_bytes};
use crate::error::{Result, invalid};
use crate::registry::KernelRegistry;
use crate::metal::MTLSize;

/// The Metal text of the kernels `softcap_f32`, `softcap_f16`, `softcap_bf16`.
pub static SOFTCAP_SHADER_SOURCE: &str = include_str!("softcap.metal");

pub(crate) static OP: Op = Op {
    name: "softcap",
    source: SOFTCAP_SHADER_SOURCE,
    kernels: &[
        ("softcap_f32", cpu::softcap::<f32>),
        ("softcap_f16", cpu::softcap::<f16>),
        ("softcap_bf16", cpu::softcap::<bf16>),
    ],
};

/// Adds the kernels of this operator to a registry. A new registry has them already.
pub fn register(registry: &mut KernelRegistry) {
    registry.register_op(&OP);
}

/// A soft cap. Also the parameter struct of the kernels: `repr(C)`, 8 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct SoftcapParams {
    /// No result is greater in absolute value; more than 0 and finite.
    pub cap: f32,
    /// Elements of `x` and of `output`.
    pub n_elements: u32,
}

/// Elements that one thread computes.
const PER_THREAD: u32 = 4;

/// Records `output[i] = tanh(x[i] / cap) · cap` for all `i < n_elements`.
///
/// `x` and `output` are f32, f16 or bf16, both the same; computed in f32 and rounded once. `output` may be `x` itself.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a `cap` that is not positive
/// and finite, no elements, a buffer that is too small, an `output` that overlaps `x` without being it, or dtypes that differ
/// or are not floating-point.
pub fn softcap(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    x: &MlxBuffer,
    output: &MlxBuffer,
    params: &SoftcapParams,
) -> Result<()> {
    const OP: &str = "softcap";
    check_cap(params.cap)?;
    let n = params.n_elements as usize;
    check::nonzero(OP, &[("n_elements", params.n_elements)])?;
    let dtype = check::same_float(OP, &[("x", x), ("output", output)])?;
    check::holds(OP, "x", x, n)?;
    check::holds(OP, "output", output, n)?;
    let kernel = check::by_float(dtype, ["softcap_f32", "softcap_f16", "softcap_bf16"]);
    let pipeline = registry.get_pipeline(kernel, device)?;
    encoder.try_encode_with_args(
        pipeline,
        &[
            (0, KernelArg::Buffer(x)),
            (1, KernelArg::Buffer(output)),
            (2, KernelArg::Bytes(as_bytes(params))),
        ],
        MTLSize::new(u64::from(params.n_elements.div_ceil(PER_THREAD)), 1, 1),
        MTLSize::new(256, 1, 1),
    )
}

fn check_cap(cap: f32) -> Result<()> {
    if cap.is_finite() && cap > 0.0 {
        return Ok(());
    }
    invalid!("softcap: cap is {cap}, it must be positive and finite")
}
