//! The published 0.1 module `gelu`: adapts [`rowwise`](crate::ops::rowwise::rowwise).

use crate::buffer::MlxBuffer;
use crate::device::DeviceRef;
use crate::encoder::CommandEncoder;
use crate::error::Result;
use crate::ops::published::{counted, extents_product, float, handle, nonzero, operand, u32_of};
use crate::ops::rowwise::{self, Function, ROWWISE_SHADER_SOURCE, RowwiseParams};
use crate::registry::KernelRegistry;

/// The Metal text of the kernels behind [`dispatch_gelu`].
pub static GELU_SHADER_SOURCE: &str = ROWWISE_SHADER_SOURCE;

/// Adds the kernels of this function to a registry. A new registry has them already.
pub fn register(registry: &mut KernelRegistry) {
    rowwise::register(registry);
}

/// Records `output[i] = gelu(input[i])`, the tanh form, for as many elements as the shape of `input` has, in its dtype: f32,
/// f16 or bf16. `output` may be `input`.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for no elements or more than
/// `u32::MAX`, another number of elements in `output`, a buffer of too few bytes, another dtype, or an `output` that overlaps
/// `input` without being it.
pub fn dispatch_gelu(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &DeviceRef,
    input: &MlxBuffer,
    output: &MlxBuffer,
) -> Result<()> {
    const OP: &str = "gelu";
    let n = extents_product(input.shape()).unwrap_or(usize::MAX);
    nonzero(OP, &[("the number of elements", n)])?;
    let params = RowwiseParams::dense(1, u32_of(OP, "the number of elements", n)?);
    let dtype = float(OP, input.dtype())?;
    let x = operand(OP, "input", input, dtype, n)?;
    let output = counted(OP, "output", output, dtype, n)?;
    rowwise::rowwise(
        encoder,
        registry,
        &handle(device),
        Function::GeluTanh,
        &x,
        None,
        None,
        &output,
        &params,
    )
}
