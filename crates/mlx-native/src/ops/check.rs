//! Checks that operators share. Each error names the operator, the parameter, what was found and what was wanted.

use crate::buffer::MlxBuffer;
use crate::dtype::DType;
use crate::error::{MlxError, Result, invalid};

/// Every parameter, given as `(name, value)`, must be more than zero.
pub(crate) fn nonzero(op: &str, parameters: &[(&str, u32)]) -> Result<()> {
    match parameters.iter().find(|(_, value)| *value == 0) {
        Some((name, _)) => invalid!("{op}: {name} is 0, it must be at least 1"),
        None => Ok(()),
    }
}

/// The product of `extents`, `what` being its name in the error.
pub(crate) fn product(op: &str, what: &str, extents: &[u32]) -> Result<usize> {
    extents
        .iter()
        .try_fold(1usize, |n, &extent| n.checked_mul(extent as usize))
        .filter(|n| isize::try_from(*n).is_ok())
        .ok_or_else(|| MlxError::InvalidArgument(format!("{op}: the size of {what}, {extents:?}, overflows")))
}

/// The dtype that all `buffers` share, which must be a floating-point one.
pub(crate) fn same_float(op: &str, buffers: &[(&str, &MlxBuffer)]) -> Result<DType> {
    let Some((first_name, first)) = buffers.first() else {
        return invalid!("{op}: no buffers");
    };
    for (name, buffer) in buffers {
        if !buffer.dtype().is_float() {
            return invalid!(
                "{op}: dtype of {name} is {}, f32, f16 or bf16 are possible",
                buffer.dtype()
            );
        }
        if buffer.dtype() != first.dtype() {
            return invalid!(
                "{op}: dtype of {name} is {}, it must be {} as that of {first_name}",
                buffer.dtype(),
                first.dtype()
            );
        }
    }
    Ok(first.dtype())
}

/// The dtype of `buffer` must be one of `possible`.
pub(crate) fn dtype(op: &str, name: &str, buffer: &MlxBuffer, possible: &[DType]) -> Result<()> {
    if possible.contains(&buffer.dtype()) {
        return Ok(());
    }
    let names: Vec<_> = possible.iter().map(|d| d.name()).collect();
    invalid!(
        "{op}: dtype of {name} is {}, possible: {}",
        buffer.dtype(),
        names.join(", ")
    )
}

/// `buffer` must hold at least `elements` elements of its dtype.
pub(crate) fn holds(op: &str, name: &str, buffer: &MlxBuffer, elements: usize) -> Result<()> {
    let wanted = elements.checked_mul(buffer.dtype().size_of());
    if wanted.is_some_and(|wanted| buffer.byte_len() >= wanted) {
        return Ok(());
    }
    invalid!(
        "{op}: {name} holds {} bytes, {elements} elements of {} need more",
        buffer.byte_len(),
        buffer.dtype()
    )
}

/// `output` must not share bytes with any of `inputs`.
pub(crate) fn disjoint(op: &str, output: (&str, &MlxBuffer), inputs: &[(&str, &MlxBuffer)]) -> Result<()> {
    let (out_start, out_end) = output.1.mem_range();
    for (name, input) in inputs {
        let (start, end) = input.mem_range();
        if start < out_end && out_start < end {
            return invalid!("{op}: {} and {name} share memory", output.0);
        }
    }
    Ok(())
}

/// A row that kernels walk with 32-bit indices: at most 2^31 elements, so that an index plus the width of a threadgroup
/// does not wrap.
pub(crate) fn row_length(op: &str, name: &str, value: u32) -> Result<()> {
    if value > 1 << 31 {
        return invalid!("{op}: {name} is {value}, it must be at most 2147483648");
    }
    Ok(())
}

/// Threads of a threadgroup that reduces a row: whole simdgroups, about four elements for each thread, 1024 at most.
pub(crate) fn row_threads(row_length: u32) -> u64 {
    u64::from(row_length.div_ceil(4)).next_multiple_of(32).min(1024)
}

/// The name for f32, f16 or bf16, in this order.
pub(crate) fn by_float(dtype: DType, names: [&'static str; 3]) -> &'static str {
    match dtype {
        DType::F16 => names[1],
        DType::BF16 => names[2],
        _ => names[0],
    }
}
