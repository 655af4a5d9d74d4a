//! The Gaussian error linear unit in its tanh form, alone or as the gate of a feed-forward layer:
//! `output[r, c] = gelu(x[r, c]) · up[r, c]`, `gelu(x) = x/2 · (1 + tanh(√(2/π)·(x + 0.044715·x³)))`.

mod cpu;
mod published;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod tests;

use bytemuck::{Pod, Zeroable};
use half::{bf16, f16};

pub use published::*;

use super::{Op, check};
use crate::buffer::MlxBuffer;
use crate::device::MlxDevice;
use crate::encoder::{CommandEncoder, KernelArg, as_bytes};
use crate::error::{Result, invalid};
use crate::registry::KernelRegistry;
use crate::metal::MTLSize;

/// The Metal text of the kernels `gelu_f32`, `gelu_f16`, `gelu_bf16`.
pub static GELU_SHADER_SOURCE: &str = include_str!("gelu.metal");

pub(crate) static OP: Op = Op {
    name: "gelu",
    source: GELU_SHADER_SOURCE,
    kernels: &[("gelu_f32", cpu::gelu::<f32>), ("gelu_f16", cpu::gelu::<f16>), ("gelu_bf16", cpu::gelu::<bf16>)],
};

/// Adds the kernels of this operator to a registry. A new registry has them already.
pub fn register(registry: &mut KernelRegistry) {
    registry.register_op(&OP);
}

/// Index of the function constant that says whether there is an `up`.
const HAS_UP: u32 = 0;

/// Extents of a gelu. Also the parameter struct of the kernels: `repr(C)`, 16 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct GeluParams {
    /// Rows of all operands; 1 where everything is contiguous.
    pub rows: u32,
    /// Elements of a row.
    pub cols: u32,
    /// Elements from one row of `x` to the next; at least `cols`.
    pub x_stride: u32,
    /// Elements from one row of `up` to the next; at least `cols`. Without `up`, anything.
    pub up_stride: u32,
}

impl GeluParams {
    /// `n_elements` elements, one behind the other.
    #[must_use]
    pub const fn flat(n_elements: u32) -> Self {
        GeluParams { rows: 1, cols: n_elements, x_stride: n_elements, up_stride: n_elements }
    }
}

/// Elements that one thread computes.
const PER_THREAD: u32 = 4;

/// Records `output[r, c] = gelu(x[r, c])`, times `up[r, c]` if there is one.
///
/// `x`, `up` and `output` are f32, f16 or bf16, all the same; computed in f32 and rounded once. `output` is contiguous,
/// `[rows, cols]`; the rows of `x` and `up` may be further apart, as halves of a joint projection are. `output` may be `x` or
/// `up` itself where those are contiguous. NaN gives NaN, and so does -infinity, as in MLX.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a zero size, a stride below
/// `cols`, a buffer that is too small, an `output` that overlaps an operand without being it, or dtypes that are mixed or not
/// floating-point.
pub fn gelu(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    x: &MlxBuffer,
    up: Option<&MlxBuffer>,
    output: &MlxBuffer,
    params: &GeluParams,
) -> Result<()> {
    const OP: &str = "gelu";
    let GeluParams { rows, cols, x_stride, up_stride } = *params;
    check::nonzero(OP, &[("rows", rows), ("cols", cols)])?;
    check::row_length(OP, "cols", cols)?;
    let dtype = check::same_float(OP, &[("x", x), ("up", up.unwrap_or(x)), ("output", output)])?;
    let len = check::product(OP, "output", &[rows, cols])?;
    check::holds(OP, "output", output, len)?;
    strided(OP, ("x", x, x_stride), output, params)?;
    if let Some(up) = up {
        strided(OP, ("up", up, up_stride), output, params)?;
    }
    let kernel = check::by_float(dtype, ["gelu_f32", "gelu_f16", "gelu_bf16"]);
    let pipeline = registry.get_pipeline_with_constants(kernel, device, &[(HAS_UP, up.is_some().into())])?;
    let mut bindings = vec![
        (0, KernelArg::Buffer(x)),
        (2, KernelArg::Buffer(output)),
        (3, KernelArg::Bytes(as_bytes(params))),
    ];
    bindings.extend(up.map(|up| (1, KernelArg::Buffer(up))));
    encoder.try_encode_with_args(
        pipeline,
        &bindings,
        MTLSize::new(u64::from(cols.div_ceil(PER_THREAD)), u64::from(rows), 1),
        MTLSize::new(256, 1, 1),
    )
}

fn strided(
    op: &str,
    (name, buffer, stride): (&str, &MlxBuffer, u32),
    output: &MlxBuffer,
    params: &GeluParams,
) -> Result<()> {
    let GeluParams { rows, cols, .. } = *params;
    if stride < cols {
        return invalid!("{op}: the stride of {name}, {stride}, is below cols {cols}");
    }
    let before = check::product(op, name, &[rows - 1, stride])?;
    let Some(reach) = before.checked_add(cols as usize) else {
        return invalid!("{op}: the size of {name} overflows");
    };
    check::holds(op, name, buffer, reach)?;
    if stride == cols || rows == 1 {
        return Ok(());
    }
    check::disjoint(op, ("output", output), &[(name, buffer)])
}
