//! Elementwise addition, the second operand repeated: `output[i] = a[i] + b[i % b_elements]`.

mod cpu;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod tests;

use bytemuck::{Pod, Zeroable};

use super::{Op, check};
use crate::buffer::MlxBuffer;
use crate::device::MlxDevice;
use crate::encoder::{CapturedOpKind, CommandEncoder, KernelArg, as_bytes};
use crate::error::{Result, invalid};
use crate::registry::KernelRegistry;
use crate::metal::MTLSize;

/// The Metal text of the kernels `add_f32`, `add_f16`, `add_bf16`.
pub static ADD_SHADER_SOURCE: &str = include_str!("add.metal");

pub(crate) static OP: Op = Op {
    name: "add",
    source: ADD_SHADER_SOURCE,
    kernels: &[("add_f32", cpu::f32), ("add_f16", cpu::f16), ("add_bf16", cpu::bf16)],
};

/// Adds the kernels of this operator to a registry. A new registry has them already.
pub fn register(registry: &mut KernelRegistry) {
    registry.register_op(&OP);
}

/// Sizes of an addition. Also the parameter struct of the kernels: `repr(C)`, 8 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct AddParams {
    /// Elements of `a` and of `output`.
    pub n_elements: u32,
    /// Elements of `b`, repeated over `a`; `n_elements` for plain addition, the row length for a bias.
    pub b_elements: u32,
}

/// Elements that one thread adds.
const PER_THREAD: u32 = 4;

/// Records `output[i] = a[i] + b[i % b_elements]` for all `i < n_elements`.
///
/// `a`, `b` and `output` are f32, f16 or bf16, all the same; the sum is computed in f32 and rounded once. `output` may be
/// `a` itself, to add in place, or `b` where the two are of one size.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a zero size, an `n_elements`
/// that is no multiple of `b_elements`, a buffer that is too small, or dtypes that are mixed or not floating-point.
pub fn add(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    a: &MlxBuffer,
    b: &MlxBuffer,
    output: &MlxBuffer,
    params: &AddParams,
) -> Result<()> {
    let AddParams { n_elements, b_elements } = *params;
    check::nonzero("add", &[("n_elements", n_elements), ("b_elements", b_elements)])?;
    if n_elements % b_elements != 0 {
        return invalid!("add: n_elements {n_elements} is no multiple of b_elements {b_elements}");
    }
    let dtype = check::same_float("add", &[("a", a), ("b", b), ("output", output)])?;
    check::holds("add", "a", a, n_elements as usize)?;
    check::holds("add", "b", b, b_elements as usize)?;
    check::holds("add", "output", output, n_elements as usize)?;
    if b_elements < n_elements && output.mem_range() == b.mem_range() {
        return invalid!("add: output is b, of which {b_elements} elements serve {n_elements}");
    }
    let kernel = check::by_float(dtype, ["add_f32", "add_f16", "add_bf16"]);
    let pipeline = registry.get_pipeline(kernel, device)?;
    encoder.set_op_kind(CapturedOpKind::ElemAdd);
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
