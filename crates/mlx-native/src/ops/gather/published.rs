//! The published 0.1 function of the module `gather`: adapts [`gather`].

use super::{GatherParams, gather};
use crate::buffer::MlxBuffer;
use crate::device::DeviceRef;
use crate::dtype::DType;
use crate::encoder::CommandEncoder;
use crate::error::Result;
use crate::registry::KernelRegistry;
use crate::ops::published::{handle, nonzero, operand, product};

/// Records `output[i, ..] = src[min(indices[i], src_rows - 1), ..]`: `src` f32 `[src_rows, row_width]`, `indices` u32
/// `[n_indices]`, `output` f32 `[n_indices, row_width]`. Indices beyond the source count as its last row.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a zero size, a buffer of too
/// few bytes, or an `output` that overlaps an input.
pub fn dispatch_gather_f32(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &DeviceRef,
    src: &MlxBuffer,
    indices: &MlxBuffer,
    output: &MlxBuffer,
    src_rows: u32,
    row_width: u32,
    n_indices: u32,
) -> Result<()> {
    const OP: &str = "gather_f32";
    let (rows, width, n) = (src_rows as usize, row_width as usize, n_indices as usize);
    nonzero(OP, &[("src_rows", rows), ("row_width", width), ("n_indices", n)])?;
    let src = operand(OP, "src", src, DType::F32, product(OP, "src", &[rows, width])?)?;
    let indices = operand(OP, "indices", indices, DType::U32, n)?;
    let output = operand(OP, "output", output, DType::F32, product(OP, "output", &[n, width])?)?;
    let params = GatherParams { row_width, n_indices, src_rows };
    gather(encoder, registry, &handle(device), &src, &indices, &output, &params)
}
