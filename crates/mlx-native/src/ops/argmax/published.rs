//! The published 0.1 function of the module `argmax`: adapts [`argmax_with_value`].

use super::{ArgmaxParams, argmax_with_value};
use crate::buffer::MlxBuffer;
use crate::device::DeviceRef;
use crate::dtype::DType;
use crate::encoder::CommandEncoder;
use crate::error::Result;
use crate::registry::KernelRegistry;
use crate::ops::published::{at_least, counted, handle, nonzero};

/// Records `out_index[0]` = the index of the largest of `n_elements` f32, the lowest of equals, and `out_value[0]` the value. NaN
/// never wins: it counts as -infinity, so that nothing but NaN gives index 0 and -infinity. In 0.1 the kernel took its size from
/// `params_buf`, u32 `[n]`; here the argument counts, and `params_buf` is not read.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for no elements, an `input` whose shape has
/// another number of elements, buffers of too few bytes, or buffers that overlap.
pub fn dispatch_argmax_f32(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &DeviceRef,
    input: &MlxBuffer,
    out_index: &MlxBuffer,
    out_value: &MlxBuffer,
    params_buf: &MlxBuffer,
    n_elements: u32,
) -> Result<()> {
    const OP: &str = "argmax_f32";
    let _ = params_buf;
    nonzero(OP, &[("n_elements", n_elements as usize)])?;
    let x = counted(OP, "input", input, DType::F32, n_elements as usize)?;
    let index = at_least(OP, "out_index", out_index, DType::U32, 1)?;
    let value = at_least(OP, "out_value", out_value, DType::F32, 1)?;
    let params = ArgmaxParams { rows: 1, cols: n_elements };
    argmax_with_value(encoder, registry, &handle(device), &x, &index, &value, &params)
}
