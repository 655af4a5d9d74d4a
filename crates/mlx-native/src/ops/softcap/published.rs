//! The published 0.1 function of the module `softcap`: adapts [`softcap`].

use super::{SoftcapParams, check_cap, softcap};
use crate::buffer::MlxBuffer;
use crate::device::DeviceRef;
use crate::encoder::CommandEncoder;
use crate::error::Result;
use crate::registry::KernelRegistry;
use crate::ops::published::{counted, extents_product, float, handle, nonzero, operand, u32_of};

/// Records `output[i] = tanh(input[i] / cap) · cap` for as many elements as the shape of `input` has, in its dtype: f32, f16
/// or bf16. In 0.1 the kernel took its sizes from `params_buf`, `[cap, n]`; here the arguments count, and `params_buf` is
/// not read.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a `cap` that is not positive
/// and finite, no elements, another number of elements in `output`, a buffer of too few bytes, or another dtype.
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
    check_cap(cap)?;
    let n = extents_product(input.shape()).unwrap_or(usize::MAX);
    nonzero(OP, &[("the number of elements", n)])?;
    let n_elements = u32_of(OP, "the number of elements", n)?;
    let dtype = float(OP, input.dtype())?;
    let x = operand(OP, "input", input, dtype, n)?;
    let output = counted(OP, "output", output, dtype, n)?;
    softcap(encoder, registry, &handle(device), &x, &output, &SoftcapParams { cap, n_elements })
}
