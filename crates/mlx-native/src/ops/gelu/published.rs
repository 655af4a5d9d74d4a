//! The published 0.1 function of the module `gelu`: adapts [`gelu`].

use super::{GeluParams, gelu};
use crate::buffer::MlxBuffer;
use crate::device::DeviceRef;
use crate::encoder::CommandEncoder;
use crate::error::Result;
use crate::registry::KernelRegistry;
use crate::ops::published::{counted, extents_product, float, handle, nonzero, operand, u32_of};

/// Records `output[i] = gelu(input[i])`, the tanh form, for as many elements as the shape of `input` has, in its dtype: f32,
/// f16 or bf16. `output` may be `input`.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for no elements or more than
/// `u32::MAX`, another number of elements in `output`, a buffer of too few bytes, or another dtype.
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
    let count = u32_of(OP, "the number of elements", n)?;
    let dtype = float(OP, input.dtype())?;
    let x = operand(OP, "input", input, dtype, n)?;
    let output = counted(OP, "output", output, dtype, n)?;
    gelu(encoder, registry, &handle(device), &x, None, &output, &GeluParams::flat(count))
}
