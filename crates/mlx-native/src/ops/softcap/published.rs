//! The published 0.1 module `softcap`: adapts [`rowwise`](crate::ops::rowwise::rowwise).

use crate::buffer::MlxBuffer;
use crate::device::DeviceRef;
use crate::encoder::CommandEncoder;
use crate::error::{Result, invalid};
use crate::ops::published::{counted, extents_product, float, handle, nonzero, operand, u32_of};
use crate::ops::rowwise::{self, Function, ROWWISE_SHADER_SOURCE, RowwiseParams};
use crate::registry::KernelRegistry;

/// The Metal text of the kernels behind [`dispatch_softcap`].
pub static SOFTCAP_SHADER_SOURCE: &str = ROWWISE_SHADER_SOURCE;

/// Adds the kernels of this function to a registry. A new registry has them already.
pub fn register(registry: &mut KernelRegistry) {
    rowwise::register(registry);
}

/// Records `output[i] = tanh(input[i] / cap) · cap` for as many elements as the shape of `input` has, in its dtype: f32, f16
/// or bf16. In 0.1 the kernel took its sizes from `params_buf`, `[cap, n]`; here the arguments count, and `params_buf` is
/// not read.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a `cap` that is not positive
/// and finite, no elements, another number of elements in `output`, a buffer of too few bytes, another dtype, or an `output`
/// that overlaps `input` without being it.
pub fn dispatch_softcap(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &DeviceRef,
    input: &MlxBuffer,
    output: &MlxBuffer,
    params_buf: &MlxBuffer,
    cap: f32,
) -> Result<()> {
    const OP: &str = "softcap";
    let _ = params_buf;
    if !cap.is_finite() || cap <= 0.0 {
        return invalid!("{OP}: cap is {cap}, it must be positive and finite");
    }
    let n = extents_product(input.shape()).unwrap_or(usize::MAX);
    nonzero(OP, &[("the number of elements", n)])?;
    let params = RowwiseParams {
        p: [cap, 0.0, 0.0, 0.0],
        ..RowwiseParams::dense(1, u32_of(OP, "the number of elements", n)?)
    };
    let dtype = float(OP, input.dtype())?;
    let x = operand(OP, "input", input, dtype, n)?;
    let output = counted(OP, "output", output, dtype, n)?;
    rowwise::rowwise(
        encoder,
        registry,
        &handle(device),
        Function::Cap,
        &x,
        None,
        None,
        &output,
        &params,
    )
}
