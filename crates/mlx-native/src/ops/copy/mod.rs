//! Copies and casts: `output[i] = x[i]`.

mod cpu;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod tests;

use bytemuck::{Pod, Zeroable};
use half::{bf16, f16};

use super::{Op, check};
use crate::buffer::MlxBuffer;
use crate::device::MlxDevice;
use crate::dtype::DType;
use crate::encoder::{CommandEncoder, KernelArg, as_bytes};
use crate::error::{Result, invalid};
use crate::registry::KernelRegistry;
use crate::metal::MTLSize;

/// The Metal text of the kernels `copy_bits_8`, `copy_bits_16`, `copy_bits_32` and of the casts, `copy_f32_f16` and so on.
pub static COPY_SHADER_SOURCE: &str = include_str!("copy.metal");

pub(crate) static OP: Op = Op {
    name: "copy",
    source: COPY_SHADER_SOURCE,
    kernels: &[
        ("copy_f32_f16", cpu::cast::<f32, f16>),
        ("copy_f32_bf16", cpu::cast::<f32, bf16>),
        ("copy_f16_f32", cpu::cast::<f16, f32>),
        ("copy_f16_bf16", cpu::cast::<f16, bf16>),
        ("copy_bf16_f32", cpu::cast::<bf16, f32>),
        ("copy_bf16_f16", cpu::cast::<bf16, f16>),
        ("copy_bits_8", cpu::bits::<u8>),
        ("copy_bits_16", cpu::bits::<u16>),
        ("copy_bits_32", cpu::bits::<u32>),
    ],
};

/// Adds the kernels of this operator to a registry. A new registry has them already.
pub fn register(registry: &mut KernelRegistry) {
    registry.register_op(&OP);
}

/// Size of a copy. Also the parameter struct of the kernels: `repr(C)`, 4 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct CopyParams {
    /// Elements of `x` and of `output`.
    pub n_elements: u32,
}

/// Elements that one thread copies.
const PER_THREAD: u32 = 4;

/// Records `output[i] = x[i]` for all `i < n_elements`.
///
/// Buffers of one dtype, whichever, are copied bit by bit. Between f32, f16 and bf16 values are cast: rounded to nearest
/// even; too large becomes infinite, NaN stays NaN. The buffers must not overlap.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a zero size, a buffer that
/// is too small, buffers that overlap, or a cast from or to an integer type.
pub fn copy(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    x: &MlxBuffer,
    output: &MlxBuffer,
    params: &CopyParams,
) -> Result<()> {
    let n_elements = params.n_elements;
    check::nonzero("copy", &[("n_elements", n_elements)])?;
    let Some(kernel) = kernel_for(x.dtype(), output.dtype()) else {
        return invalid!(
            "copy: x is {}, output is {}; casts go between f32, f16 and bf16, other dtypes must be equal",
            x.dtype(),
            output.dtype()
        );
    };
    check::holds("copy", "x", x, n_elements as usize)?;
    check::holds("copy", "output", output, n_elements as usize)?;
    let pipeline = registry.get_pipeline(kernel, device)?;
    encoder.encode_with_args(
        pipeline,
        &[
            (0, KernelArg::Buffer(x)),
            (1, KernelArg::Buffer(output)),
            (2, KernelArg::Bytes(as_bytes(params))),
        ],
        MTLSize::new(u64::from(n_elements.div_ceil(PER_THREAD)), 1, 1),
        MTLSize::new(256, 1, 1),
    )
}

fn kernel_for(from: DType, to: DType) -> Option<&'static str> {
    Some(match (from, to) {
        (from, to) if from == to => match from.size_of() {
            1 => "copy_bits_8",
            2 => "copy_bits_16",
            _ => "copy_bits_32",
        },
        (DType::F32, DType::F16) => "copy_f32_f16",
        (DType::F32, DType::BF16) => "copy_f32_bf16",
        (DType::F16, DType::F32) => "copy_f16_f32",
        (DType::F16, DType::BF16) => "copy_f16_bf16",
        (DType::BF16, DType::F32) => "copy_bf16_f32",
        (DType::BF16, DType::F16) => "copy_bf16_f16",
        _ => return None,
    })
}
