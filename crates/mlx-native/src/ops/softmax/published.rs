//! The published 0.1 function of the module `softmax`: adapts [`softmax`].

use super::{SoftmaxParams, softmax};
use crate::buffer::MlxBuffer;
use crate::device::DeviceRef;
use crate::encoder::CommandEncoder;
use crate::error::Result;
use crate::registry::KernelRegistry;
use crate::ops::published::{counted, float, handle, nonzero, product};

/// Records the softmax of each of `rows` rows of `cols` elements, in the dtype of `input`: f32, f16 or bf16, computed in f32 and
/// rounded once. In 0.1 the kernel took its sizes from `params_buf`, f32 `[cols, 0]`; here the arguments count, and `params_buf` is
/// not read. `output` may be `input`.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a zero size, another dtype, shapes of
/// another number of elements, or buffers of too few bytes.
pub fn dispatch_softmax(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &DeviceRef,
    input: &MlxBuffer,
    output: &MlxBuffer,
    params_buf: &MlxBuffer,
    rows: u32,
    cols: u32,
) -> Result<()> {
    const OP: &str = "softmax";
    let _ = params_buf;
    nonzero(OP, &[("rows", rows as usize), ("cols", cols as usize)])?;
    let len = product(OP, "input", &[rows as usize, cols as usize])?;
    let dtype = float(OP, input.dtype())?;
    let x = counted(OP, "input", input, dtype, len)?;
    let output = counted(OP, "output", output, dtype, len)?;
    softmax(encoder, registry, &handle(device), &x, &output, &SoftmaxParams { rows, cols })
}
