//! The index of the largest element of each row.

mod cpu;
mod published;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod tests;

use bytemuck::{Pod, Zeroable};
use smallvec::{SmallVec, smallvec};

pub use published::*;

use super::{Op, check};
use crate::buffer::MlxBuffer;
use crate::device::MlxDevice;
use crate::dtype::DType;
use crate::encoder::{CommandEncoder, KernelArg, as_bytes};
use crate::error::Result;
use crate::registry::KernelRegistry;
use crate::metal::MTLSize;

/// The Metal text of the kernels `argmax_f32`, `argmax_f16`, `argmax_bf16`.
pub static ARGMAX_SHADER_SOURCE: &str = include_str!("argmax.metal");

pub(crate) static OP: Op = Op {
    name: "argmax",
    source: ARGMAX_SHADER_SOURCE,
    kernels: &[
        ("argmax_f32", cpu::argmax::<f32>),
        ("argmax_f16", cpu::argmax::<half::f16>),
        ("argmax_bf16", cpu::argmax::<half::bf16>),
    ],
};

/// Adds the kernels of this operator to a registry. A new registry has them already.
pub fn register(registry: &mut KernelRegistry) {
    registry.register_op(&OP);
}

/// Index of the function constant that says whether the values are wanted.
const HAS_VALUES: u32 = 0;

/// Extents of an argmax. Also the parameter struct of the kernels: `repr(C)`, 8 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct ArgmaxParams {
    /// Number of rows.
    pub rows: u32,
    /// Length of a row, up to 2^31.
    pub cols: u32,
}

/// Records `output[r] = argmax(x[r, ..])` for `x[rows, cols]` of f32, f16 or bf16 and `output[rows]` of u32.
///
/// The lowest index of equals; zeros are equal whatever their signs. NaN is larger than everything, so the index of a row's
/// first NaN is given, as MLX and numpy do.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a zero size, more than 2^31
/// columns, a buffer that is too small, another dtype, or an `output` that shares memory with `x`.
pub fn argmax(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    x: &MlxBuffer,
    output: &MlxBuffer,
    params: &ArgmaxParams,
) -> Result<()> {
    record(encoder, registry, device, x, output, None, params)
}

/// [`argmax`] with `values[r] = x[r, output[r]]`, f32 `[rows]`. Here NaN counts as -infinity: a row of nothing else gives index 0
/// and -infinity.
///
/// # Errors
/// As [`argmax`]; also for a `values` that is too small or of another dtype.
pub fn argmax_with_value(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    x: &MlxBuffer,
    output: &MlxBuffer,
    values: &MlxBuffer,
    params: &ArgmaxParams,
) -> Result<()> {
    record(encoder, registry, device, x, output, Some(values), params)
}

fn record(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    x: &MlxBuffer,
    output: &MlxBuffer,
    values: Option<&MlxBuffer>,
    params: &ArgmaxParams,
) -> Result<()> {
    let ArgmaxParams { rows, cols } = *params;
    check::nonzero("argmax", &[("rows", rows), ("cols", cols)])?;
    check::row_length("argmax", "cols", cols)?;
    let len = check::product("argmax", "x", &[rows, cols])?;
    let dtype = check::same_float("argmax", &[("x", x)])?;
    check::dtype("argmax", "output", output, &[DType::U32])?;
    check::holds("argmax", "x", x, len)?;
    check::holds("argmax", "output", output, rows as usize)?;
    let kernel = check::by_float(dtype, ["argmax_f32", "argmax_f16", "argmax_bf16"]);
    if let Some(values) = values {
        check::dtype("argmax", "values", values, &[DType::F32])?;
        check::holds("argmax", "values", values, rows as usize)?;
        check::disjoint("argmax", ("values", values), &[("x", x), ("output", output)])?;
    }
    let pipeline =
        registry.get_pipeline_with_constants(kernel, device, &[(HAS_VALUES, values.is_some().into())])?;
    let mut bindings: SmallVec<[(u64, KernelArg<'_>); 4]> = smallvec![
        (0, KernelArg::Buffer(x)),
        (1, KernelArg::Buffer(output)),
        (2, KernelArg::Bytes(as_bytes(params))),
    ];
    bindings.extend(values.map(|v| (3, KernelArg::Buffer(v))));
    encoder.try_encode_threadgroups_with_args(
        pipeline,
        &bindings,
        MTLSize::new(u64::from(rows), 1, 1),
        MTLSize::new(check::row_threads(cols), 1, 1),
    )
}
