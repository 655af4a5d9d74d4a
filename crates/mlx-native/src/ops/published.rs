//! What the adapters of the published 0.1 interface share: its functions are thin, they check as 0.1 promised (and where it
//! forgot to), bring the operands into the shape that our operators ask for, and call those.
//!
//! In 0.1 a buffer's dtype and shape are labels that nobody holds against the call; what counts is the call's own dtype and
//! the bytes. [`operand`] therefore makes a view of exactly the elements that the call speaks of.

use crate::buffer::MlxBuffer;
use crate::device::{DeviceRef, MlxDevice};
use crate::dtype::DType;
use crate::error::{MlxError, Result, invalid};

/// The handle that our operators take, of the device that the published functions take.
pub(crate) fn handle(device: &DeviceRef) -> MlxDevice {
    MlxDevice::of(device.backend().clone())
}

/// The first `elements` elements of `buffer` as `dtype`, whatever its labels say; too few bytes are refused.
pub(crate) fn operand(
    op: &str,
    name: &str,
    buffer: &MlxBuffer,
    dtype: DType,
    elements: usize,
) -> Result<MlxBuffer> {
    operand_at(op, name, buffer, 0, dtype, elements)
}

/// [`operand`], from a byte of `buffer` on.
pub(crate) fn operand_at(
    op: &str,
    name: &str,
    buffer: &MlxBuffer,
    byte_offset: usize,
    dtype: DType,
    elements: usize,
) -> Result<MlxBuffer> {
    let end = elements
        .checked_mul(dtype.size_of())
        .and_then(|bytes| bytes.checked_add(byte_offset));
    if end.is_none_or(|end| end > buffer.byte_len()) {
        return invalid!(
            "{op}: {name} holds {} bytes, {elements} elements of {dtype} from byte {byte_offset} on need more",
            buffer.byte_len()
        );
    }
    buffer
        .view(byte_offset, dtype, vec![elements])
        .map_err(|e| MlxError::InvalidArgument(format!("{op}: {name}: {e}")))
}

/// [`operand`], for the functions of 0.1 that also ask that the shape has exactly so many elements.
pub(crate) fn counted(
    op: &str,
    name: &str,
    buffer: &MlxBuffer,
    dtype: DType,
    elements: usize,
) -> Result<MlxBuffer> {
    let found = extents_product(buffer.shape());
    if found != Some(elements) {
        return invalid!(
            "{op}: {name} has the shape {:?}, wanted are {elements} elements",
            buffer.shape()
        );
    }
    operand(op, name, buffer, dtype, elements)
}

/// [`operand`], for those that ask that the shape has at least so many elements.
pub(crate) fn at_least(
    op: &str,
    name: &str,
    buffer: &MlxBuffer,
    dtype: DType,
    elements: usize,
) -> Result<MlxBuffer> {
    if extents_product(buffer.shape()).is_some_and(|found| found < elements) {
        return invalid!(
            "{op}: {name} has the shape {:?}, wanted are at least {elements} elements",
            buffer.shape()
        );
    }
    operand(op, name, buffer, dtype, elements)
}

/// The number of elements of a shape label, if it is one.
pub(crate) fn extents_product(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |n, &extent| n.checked_mul(extent))
}

/// `value` as the 32 bits that kernels count in; `name` is what the error calls it.
pub(crate) fn u32_of(op: &str, name: &str, value: usize) -> Result<u32> {
    u32::try_from(value).map_err(|_| {
        MlxError::InvalidArgument(format!(
            "{op}: {name} is {value}, it must be at most {}",
            u32::MAX
        ))
    })
}

/// A product of sizes that overflows is refused.
pub(crate) fn product(op: &str, what: &str, extents: &[usize]) -> Result<usize> {
    extents_product(extents)
        .filter(|n| isize::try_from(*n).is_ok())
        .ok_or_else(|| MlxError::InvalidArgument(format!("{op}: the size of {what}, {extents:?}, overflows")))
}

/// Every size, given as `(name, value)`, must be more than zero.
pub(crate) fn nonzero(op: &str, sizes: &[(&str, usize)]) -> Result<()> {
    match sizes.iter().find(|(_, value)| *value == 0) {
        Some((name, _)) => invalid!("{op}: {name} is 0, it must be at least 1"),
        None => Ok(()),
    }
}

/// The dtype must be one of f32, f16 and bf16.
pub(crate) fn float(op: &str, dtype: DType) -> Result<DType> {
    if dtype.is_float() {
        return Ok(dtype);
    }
    invalid!("{op}: dtype {dtype}, possible: f32, f16, bf16")
}
