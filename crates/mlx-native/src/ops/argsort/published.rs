//! The published 0.1 function of the module `argsort`: adapts [`argsort`].

use super::{ArgsortParams, argsort};
use crate::buffer::MlxBuffer;
use crate::device::DeviceRef;
use crate::dtype::DType;
use crate::encoder::CommandEncoder;
use crate::error::Result;
use crate::registry::KernelRegistry;
use crate::ops::published::{handle, nonzero, operand, product};

/// Records, for each of `batch_size` rows of `row_len` f32, the columns in descending order of their elements; of equals the
/// higher column first, as 0.1 has it. NaN is greater than everything. 0.1 took rows of up to 256; here any length is fine.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a zero size, a buffer of too
/// few bytes, or an `output` that shares memory with `input`.
pub fn dispatch_argsort_desc_f32(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &DeviceRef,
    input: &MlxBuffer,
    output: &MlxBuffer,
    batch_size: u32,
    row_len: u32,
) -> Result<()> {
    const OP: &str = "argsort_desc_f32";
    nonzero(OP, &[("row_len", row_len as usize), ("batch_size", batch_size as usize)])?;
    let len = product(OP, "input", &[batch_size as usize, row_len as usize])?;
    let x = operand(OP, "input", input, DType::F32, len)?;
    let output = operand(OP, "output", output, DType::U32, len)?;
    let params = ArgsortParams { rows: batch_size, cols: row_len, descending: true, later_first: true };
    argsort(encoder, registry, &handle(device), &x, &output, &params)
}
