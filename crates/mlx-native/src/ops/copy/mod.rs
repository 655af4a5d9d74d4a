//! Copies and casts: `output[i] = x[i]`, and copies with other strides: transposes and permutations.

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
use crate::dtype::DType;
use crate::encoder::{CommandEncoder, KernelArg, as_bytes};
use crate::error::{Result, invalid};
use crate::registry::KernelRegistry;
use crate::metal::MTLSize;

/// The Metal text of the kernels `copy_bits_8`, `copy_bits_16`, `copy_bits_32`, `copy_strided_8` and so on,
/// and of the casts, `copy_f32_f16` and so on.
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
        ("copy_strided_8", cpu::strided::<u8>),
        ("copy_strided_16", cpu::strided::<u16>),
        ("copy_strided_32", cpu::strided::<u32>),
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

/// What a strided copy walks. Also the parameter struct of the kernels: `repr(C)`, 32 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct StridedParams {
    /// Extents of the output, outermost first; 1 where there are fewer.
    pub shape: [u32; 4],
    /// Elements of `x` from one index to the next, for each extent. 0 repeats.
    pub strides: [u32; 4],
}

impl StridedParams {
    /// The transposes of `batch` matrices `[rows, cols]` whose elements are runs of `inner` ones:
    /// `[batch, rows, cols, inner]` to `[batch, cols, rows, inner]`.
    ///
    /// # Errors
    /// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument) when a stride overflows 32 bits.
    pub fn transpose(batch: u32, rows: u32, cols: u32, inner: u32) -> Result<Self> {
        let matrix = |row: u32| if batch == 1 { Some(0) } else { row.checked_mul(rows) };
        let Some((row, matrix)) = cols.checked_mul(inner).and_then(|row| Some((row, matrix(row)?))) else {
            return invalid!("transpose: the size of [{rows}, {cols}, {inner}] overflows");
        };
        Ok(StridedParams { shape: [batch, cols, rows, inner], strides: [matrix, inner, row, 1] }.squeezed())
    }

    /// The same copy with the innermost extents that are 1 left out, so that the last stride is one that is walked.
    fn squeezed(mut self) -> Self {
        for _ in 0..3 {
            if self.shape[3] == 1 {
                self.shape.rotate_right(1);
                self.strides.rotate_right(1);
            }
        }
        self
    }
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
    encoder.try_encode_with_args(
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

/// Records `output[i, j, k, l] = x[i·s₀ + j·s₁ + k·s₂ + l·s₃]` for all indices below `shape`; `output` is contiguous.
///
/// Buffers of one dtype, whichever; bits are copied. The buffers must not overlap.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a zero extent, extents whose
/// product overflows, a buffer that is too small, buffers that overlap, or dtypes that differ.
pub fn copy_strided(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    x: &MlxBuffer,
    output: &MlxBuffer,
    params: &StridedParams,
) -> Result<()> {
    const OP: &str = "copy_strided";
    let [d0, d1, d2, d3] = params.shape;
    check::nonzero(OP, &[("shape[0]", d0), ("shape[1]", d1), ("shape[2]", d2), ("shape[3]", d3)])?;
    if x.dtype() != output.dtype() {
        return invalid!("{OP}: dtype of output is {}, it must be {} as that of x", output.dtype(), x.dtype());
    }
    let Some(planes) = d0.checked_mul(d1) else {
        return invalid!("{OP}: shape {:?} overflows", params.shape);
    };
    let reach = params.shape.iter().zip(params.strides).try_fold(1usize, |reach, (&extent, stride)| {
        reach.checked_add((extent as usize - 1).checked_mul(stride as usize)?)
    });
    let Some(reach) = reach else {
        return invalid!("{OP}: shape {:?} with strides {:?} overflows", params.shape, params.strides);
    };
    check::holds(OP, "x", x, reach)?;
    check::holds(OP, "output", output, check::product(OP, "output", &params.shape)?)?;
    check::disjoint(OP, ("output", output), &[("x", x)])?;
    let kernel = match x.dtype().size_of() {
        1 => "copy_strided_8",
        2 => "copy_strided_16",
        _ => "copy_strided_32",
    };
    let pipeline = registry.get_pipeline(kernel, device)?;
    encoder.try_encode_with_args(
        pipeline,
        &[
            (0, KernelArg::Buffer(x)),
            (1, KernelArg::Buffer(output)),
            (2, KernelArg::Bytes(as_bytes(params))),
        ],
        MTLSize::new(u64::from(d3), u64::from(d2), u64::from(planes)),
        MTLSize::new(32, 8, 1),
    )
}
