//! The published 0.1 function of the module `copy`: adapts [`copy_strided`].

use super::{StridedParams, copy_strided};
use crate::buffer::MlxBuffer;
use crate::device::DeviceRef;
use crate::dtype::DType;
use crate::encoder::CommandEncoder;
use crate::error::{Result, invalid};
use crate::registry::KernelRegistry;
use crate::ops::published::{handle, nonzero, operand, product};

/// What [`dispatch_strided_copy_f32`] walks, in elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StridedCopyParams {
    /// Rows of the output.
    pub rows: u32,
    /// Columns of the output.
    pub cols: u32,
    /// Elements of the source from one row to the next.
    pub stride_row: u32,
    /// Elements of the source from one column to the next.
    pub stride_col: u32,
}

/// Records `dst[r · cols + c] = src[r · stride_row + c · stride_col]` in f32.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a zero size, a buffer of too
/// few bytes, or buffers that overlap.
pub fn dispatch_strided_copy_f32(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &DeviceRef,
    src: &MlxBuffer,
    dst: &MlxBuffer,
    params: &StridedCopyParams,
) -> Result<()> {
    const OP: &str = "strided_copy_f32";
    let StridedCopyParams { rows, cols, stride_row, stride_col } = *params;
    let (r, c) = (rows as usize, cols as usize);
    nonzero(OP, &[("rows", r), ("cols", c)])?;
    let output = operand(OP, "dst", dst, DType::F32, product(OP, "dst", &[r, c])?)?;
    let far = (r - 1).checked_mul(stride_row as usize).zip((c - 1).checked_mul(stride_col as usize));
    let Some(reach) = far.and_then(|(row, col)| row.checked_add(col)?.checked_add(1)) else {
        return invalid!("{OP}: the size of src overflows");
    };
    let x = operand(OP, "src", src, DType::F32, reach)?;
    let params = StridedParams { shape: [1, 1, rows, cols], strides: [0, 0, stride_row, stride_col] };
    copy_strided(encoder, registry, &handle(device), &x, &output, &params)
}
