//! Elementwise products: with a second operand, repeated, `output[i] = a[i] · b[i % b_elements]`, and with a number,
//! `output[i] = x[i] · scalar`. Sums are [`add`](super::add), casts are [`copy`](super::copy).

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
use crate::encoder::{CapturedOpKind, CommandEncoder, KernelArg, as_bytes};
use crate::error::{Result, invalid};
use crate::registry::KernelRegistry;
use crate::metal::MTLSize;

/// The Metal text of the kernels `elementwise_mul_*` and `scalar_mul_*`, in f32, f16 and bf16.
pub static ELEMENTWISE_SHADER_SOURCE: &str = include_str!("elementwise.metal");

pub(crate) static OP: Op = Op {
    name: "elementwise",
    source: ELEMENTWISE_SHADER_SOURCE,
    kernels: &[
        ("elementwise_mul_f32", cpu::mul::<f32>),
        ("elementwise_mul_f16", cpu::mul::<f16>),
        ("elementwise_mul_bf16", cpu::mul::<bf16>),
        ("scalar_mul_f32", cpu::scale::<f32>),
        ("scalar_mul_f16", cpu::scale::<f16>),
        ("scalar_mul_bf16", cpu::scale::<bf16>),
    ],
};

/// Adds the kernels of this operator to a registry. A new registry has them already.
pub fn register(registry: &mut KernelRegistry) {
    registry.register_op(&OP);
}

/// Sizes of a product. Also the parameter struct of the kernels: `repr(C)`, 8 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct MulParams {
    /// Elements of `a` and of `output`.
    pub n_elements: u32,
    /// Elements of `b`, repeated over `a`; `n_elements` for a plain product, the row length for a vector of factors.
    pub b_elements: u32,
}

/// A multiplication by a number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScaleParams {
    /// Elements of `x` and of `output`.
    pub n_elements: u32,
    /// The number.
    pub scalar: f32,
}

/// The parameter struct of `scalar_mul_*`.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct ScaleKernelParams {
    scalar: f32,
    n_elements: u32,
    row: u32,
}

/// Elements that one thread computes.
const PER_THREAD: u32 = 4;

/// Records `output[i] = a[i] · b[i % b_elements]` for all `i < n_elements`.
///
/// `a`, `b` and `output` are f32, f16 or bf16, all the same; the product is computed in f32 and rounded once. `output` may be
/// `a` itself, or `b` if nothing is repeated.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a zero size, an `n_elements`
/// that is no multiple of `b_elements`, a buffer that is too small, an `output` that overlaps an operand without being it,
/// or dtypes that are mixed or not floating-point.
pub fn mul(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    a: &MlxBuffer,
    b: &MlxBuffer,
    output: &MlxBuffer,
    params: &MulParams,
) -> Result<()> {
    const OP: &str = "mul";
    let MulParams { n_elements, b_elements } = *params;
    check::nonzero(OP, &[("n_elements", n_elements), ("b_elements", b_elements)])?;
    if n_elements % b_elements != 0 {
        return invalid!("{OP}: n_elements {n_elements} is no multiple of b_elements {b_elements}");
    }
    let dtype = check::same_float(OP, &[("a", a), ("b", b), ("output", output)])?;
    let (n, b_len) = (n_elements as usize, b_elements as usize);
    check::holds(OP, "a", a, n)?;
    check::holds(OP, "b", b, b_len)?;
    check::holds(OP, "output", output, n)?;
    if b_elements < n_elements && output.mem_range() == b.mem_range() {
        return invalid!("{OP}: output and b share memory, and b is repeated");
    }
    let kernel = check::by_float(dtype, ["elementwise_mul_f32", "elementwise_mul_f16", "elementwise_mul_bf16"]);
    let pipeline = registry.get_pipeline(kernel, device)?;
    encoder.set_op_kind(CapturedOpKind::ElemMul);
    encoder.try_encode_with_args(
        pipeline,
        &[
            (0, KernelArg::Buffer(a)),
            (1, KernelArg::Buffer(b)),
            (2, KernelArg::Buffer(output)),
            (3, KernelArg::Bytes(as_bytes(params))),
        ],
        MTLSize::new(u64::from(n_elements.div_ceil(PER_THREAD)), 1, 1),
        MTLSize::new(256, 1, 1),
    )
}

/// Records `output[i] = x[i] · scalar` for all `i < n_elements`.
///
/// `x` and `output` are f32, f16 or bf16, both the same; the product is computed in f32 and rounded once. `output` may be `x`
/// itself.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a zero size, a buffer that is
/// too small, an `output` that overlaps `x` without being it, or dtypes that differ or are not floating-point.
pub fn scale(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    x: &MlxBuffer,
    output: &MlxBuffer,
    params: &ScaleParams,
) -> Result<()> {
    const OP: &str = "scale";
    let ScaleParams { n_elements, scalar } = *params;
    check::nonzero(OP, &[("n_elements", n_elements)])?;
    let dtype = check::same_float(OP, &[("x", x), ("output", output)])?;
    let n = n_elements as usize;
    check::holds(OP, "x", x, n)?;
    check::holds(OP, "output", output, n)?;
    let kernel = check::by_float(dtype, ["scalar_mul_f32", "scalar_mul_f16", "scalar_mul_bf16"]);
    let pipeline = registry.get_pipeline(kernel, device)?;
    encoder.try_encode_with_args(
        pipeline,
        &[
            (0, KernelArg::Buffer(x)),
            (1, KernelArg::Buffer(output)),
            (2, KernelArg::Bytes(as_bytes(&ScaleKernelParams { scalar, n_elements, row: 0 }))),
        ],
        MTLSize::new(u64::from(n_elements.div_ceil(PER_THREAD)), 1, 1),
        MTLSize::new(256, 1, 1),
    )
}
