//! The published 0.1 function of the module `softmax_sample`: adapts [`softmax_sample`].

use super::{SoftmaxSampleParams, check_params, softmax_sample};
use crate::buffer::MlxBuffer;
use crate::device::DeviceRef;
use crate::dtype::DType;
use crate::encoder::CommandEncoder;
use crate::error::Result;
use crate::registry::KernelRegistry;
use crate::ops::published::{at_least, counted, handle};

/// Records a draw from `softmax(logits / temperature)`: `out_token` the first token whose cumulative probability reaches
/// `random_val`, `out_logprob` the logarithm of its probability. `scratch` receives the probabilities. In 0.1 the kernel took
/// its numbers from `params_buf`, `[n, temperature, random_val]`; here the arguments count, and `params_buf` is not read.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for no elements, a `temperature` that
/// is not positive and finite, a `random_val` outside `[0, 1)`, shapes of another number of elements, buffers of too few bytes,
/// or buffers that overlap.
pub fn dispatch_softmax_sample_f32(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &DeviceRef,
    logits: &MlxBuffer,
    scratch: &MlxBuffer,
    out_token: &MlxBuffer,
    out_logprob: &MlxBuffer,
    params_buf: &MlxBuffer,
    n_elements: u32,
    temperature: f32,
    random_val: f32,
) -> Result<()> {
    const OP: &str = "softmax_sample";
    let _ = params_buf;
    let params = SoftmaxSampleParams { n_elements, temperature, random: random_val };
    check_params(&params)?;
    let n = n_elements as usize;
    let logits = counted(OP, "logits", logits, DType::F32, n)?;
    let scratch = counted(OP, "scratch", scratch, DType::F32, n)?;
    let token = at_least(OP, "out_token", out_token, DType::U32, 1)?;
    let logprob = at_least(OP, "out_logprob", out_logprob, DType::F32, 1)?;
    softmax_sample(encoder, registry, &handle(device), &logits, &scratch, &token, &logprob, &params)
}
