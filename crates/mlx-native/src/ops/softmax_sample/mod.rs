//! A token drawn from the softmax of logits: `p = softmax(logits / temperature)`, the first token whose cumulative
//! probability reaches a given number.

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
use crate::encoder::{CommandEncoder, KernelArg, as_bytes};
use crate::error::{Result, invalid};
use crate::registry::KernelRegistry;
use crate::metal::MTLSize;

/// The Metal text of the kernel `softmax_sample_f32`.
pub static SOFTMAX_SAMPLE_SHADER_SOURCE: &str = include_str!("softmax_sample.metal");

pub(crate) static OP: Op = Op {
    name: "softmax_sample",
    source: SOFTMAX_SAMPLE_SHADER_SOURCE,
    kernels: &[("softmax_sample_f32", cpu::softmax_sample)],
};

/// Adds the kernels of this operator to a registry. A new registry has them already.
pub fn register(registry: &mut KernelRegistry) {
    registry.register_op(&OP);
}

/// What is drawn, and how.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SoftmaxSampleParams {
    /// Number of logits, up to 2^31.
    pub n_elements: u32,
    /// What logits are divided by; more than 0 and finite.
    pub temperature: f32,
    /// Uniform in `[0, 1)`: what decides.
    pub random: f32,
}

/// The kernel's parameter struct.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct KernelParams {
    n_elements: u32,
    temperature: f32,
    random: f32,
}

/// Records `token` = the first token `i` with `p[0] + … + p[i] >= random` and `p[i] > 0`, for
/// `p = softmax(logits / temperature)`, and `logprob = ln p[token]`. Where rounding keeps the sum below `random`, the last token
/// that is possible at all.
///
/// `logits` and `probabilities`, which receives `p`, are f32 `[n_elements]`; `token` is one u32, `logprob` one f32. Sums are in
/// f32, so that tokens at the very edge may differ between devices. A NaN among the logits makes every probability NaN; the
/// token is then the last one, the log-probability NaN.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for no logits or more than 2^31, a
/// `temperature` that is not positive and finite, a `random` outside `[0, 1)`, a buffer that is too small or of another dtype,
/// or buffers that overlap.
pub fn softmax_sample(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    logits: &MlxBuffer,
    probabilities: &MlxBuffer,
    token: &MlxBuffer,
    logprob: &MlxBuffer,
    params: &SoftmaxSampleParams,
) -> Result<()> {
    const OP: &str = "softmax_sample";
    let SoftmaxSampleParams { n_elements, temperature, random } = *params;
    check_params(params)?;
    check::row_length(OP, "n_elements", n_elements)?;
    let outputs = [
        ("probabilities", probabilities, DType::F32, n_elements as usize),
        ("token", token, DType::U32, 1),
        ("logprob", logprob, DType::F32, 1),
    ];
    check::dtype(OP, "logits", logits, &[DType::F32])?;
    check::holds(OP, "logits", logits, n_elements as usize)?;
    for (i, &(name, buffer, dtype, len)) in outputs.iter().enumerate() {
        check::dtype(OP, name, buffer, &[dtype])?;
        check::holds(OP, name, buffer, len)?;
        check::disjoint(OP, (name, buffer), &[("logits", logits)])?;
        for other in &outputs[..i] {
            check::disjoint(OP, (name, buffer), &[(other.0, other.1)])?;
        }
    }
    let pipeline = registry.get_pipeline("softmax_sample_f32", device)?;
    let kernel_params = KernelParams { n_elements, temperature, random };
    encoder.try_encode_threadgroups_with_args(
        pipeline,
        &[
            (0, KernelArg::Buffer(logits)),
            (1, KernelArg::Buffer(probabilities)),
            (2, KernelArg::Buffer(token)),
            (3, KernelArg::Buffer(logprob)),
            (4, KernelArg::Bytes(as_bytes(&kernel_params))),
        ],
        MTLSize::new(1, 1, 1),
        MTLSize::new(check::row_threads(n_elements), 1, 1),
    )
}

fn check_params(params: &SoftmaxSampleParams) -> Result<()> {
    const OP: &str = "softmax_sample";
    let SoftmaxSampleParams { n_elements, temperature, random } = *params;
    check::nonzero(OP, &[("n_elements", n_elements)])?;
    if !temperature.is_finite() || temperature <= 0.0 {
        return invalid!("{OP}: temperature is {temperature}, it must be positive and finite");
    }
    if !(0.0..1.0).contains(&random) {
        return invalid!("{OP}: random is {random}, it must be at least 0 and below 1");
    }
    Ok(())
}
