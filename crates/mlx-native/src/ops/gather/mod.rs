//! Rows by index, `output[i] = src[indices[i]]`, and elements by packed codes.

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

/// The Metal text of the kernels `gather_8`, `gather_16`, `gather_32`, named by the bits of an element, and of
/// `gather_codes_4_f32` and so on.
pub static GATHER_SHADER_SOURCE: &str = include_str!("gather.metal");

pub(crate) static OP: Op = Op {
    name: "gather",
    source: GATHER_SHADER_SOURCE,
    kernels: &[
        ("gather_8", cpu::gather::<u8>),
        ("gather_16", cpu::gather::<u16>),
        ("gather_32", cpu::gather::<u32>),
        ("gather_codes_4_f32", cpu::codes_4::<f32>),
        ("gather_codes_4_f16", cpu::codes_4::<f16>),
        ("gather_codes_4_bf16", cpu::codes_4::<bf16>),
    ],
};

/// Adds the kernels of this operator to a registry. A new registry has them already.
pub fn register(registry: &mut KernelRegistry) {
    registry.register_op(&OP);
}

/// Extents of a gather. Also the parameter struct of the kernels: `repr(C)`, 12 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct GatherParams {
    /// Elements of a row.
    pub row_width: u32,
    /// Rows of the output.
    pub n_indices: u32,
    /// Rows of the source.
    pub src_rows: u32,
}

/// Columns that one thread copies.
const PER_THREAD: u32 = 4;

/// Records `output[i] = src[indices[i]]` for all `i < n_indices`; an index that is not below `src_rows` counts as the last
/// row. ([`embedding`](super::embedding) casts, and gives zeros there.)
///
/// `src` is `[src_rows, row_width]`, `indices` u32 `[n_indices]`, `output` `[n_indices, row_width]` of the dtype of `src`,
/// whichever; bits are copied.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a zero size, a buffer that is
/// too small or of another dtype, or an `output` that overlaps an input.
pub fn gather(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    src: &MlxBuffer,
    indices: &MlxBuffer,
    output: &MlxBuffer,
    params: &GatherParams,
) -> Result<()> {
    const OP: &str = "gather";
    check::dtype(OP, "indices", indices, &[DType::U32])?;
    if src.dtype() != output.dtype() {
        return invalid!("{OP}: dtype of output is {}, it must be {} as that of src", output.dtype(), src.dtype());
    }
    let src_len = check::product(OP, "src", &[params.src_rows, params.row_width])?;
    let kernel = match src.dtype().size_of() {
        1 => "gather_8",
        2 => "gather_16",
        _ => "gather_32",
    };
    let inputs = [("src", src, src_len), ("indices", indices, params.n_indices as usize)];
    encode(OP, kernel, encoder, registry, device, inputs, output, params)
}

/// Records `output[r, c] = table[code(r, c), c]`, the codes being 4 bits each: the look-up of a vector quantiser.
///
/// `codes` is u8 `[n_indices, row_width / 2]`, the even column in the low half of a byte; `table` is `[16, row_width]`,
/// `output` `[n_indices, row_width]`, both f32, f16 or bf16 and the same. `src_rows` must be 16.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a zero size, an odd
/// `row_width`, a `src_rows` other than 16, a buffer that is too small or of another dtype, or an `output` that overlaps an
/// input.
pub fn gather_codes_4(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    codes: &MlxBuffer,
    table: &MlxBuffer,
    output: &MlxBuffer,
    params: &GatherParams,
) -> Result<()> {
    const OP: &str = "gather_codes_4";
    let GatherParams { row_width, n_indices, src_rows } = *params;
    if row_width % 2 != 0 {
        return invalid!("{OP}: row_width is {row_width}, it must be even");
    }
    if src_rows != 16 {
        return invalid!("{OP}: src_rows is {src_rows}, 4-bit codes choose from 16");
    }
    check::dtype(OP, "codes", codes, &[DType::U8])?;
    let dtype = check::same_float(OP, &[("table", table), ("output", output)])?;
    let codes_len = check::product(OP, "codes", &[n_indices, row_width / 2])?;
    let table_len = check::product(OP, "table", &[16, row_width])?;
    let kernel = check::by_float(dtype, ["gather_codes_4_f32", "gather_codes_4_f16", "gather_codes_4_bf16"]);
    let inputs = [("codes", codes, codes_len), ("table", table, table_len)];
    encode(OP, kernel, encoder, registry, device, inputs, output, params)
}

fn encode(
    op: &str,
    kernel: &str,
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    inputs: [(&str, &MlxBuffer, usize); 2],
    output: &MlxBuffer,
    params: &GatherParams,
) -> Result<()> {
    let GatherParams { row_width, n_indices, src_rows } = *params;
    check::nonzero(op, &[("row_width", row_width), ("n_indices", n_indices), ("src_rows", src_rows)])?;
    check::row_length(op, "row_width", row_width)?;
    for (name, buffer, len) in inputs {
        check::holds(op, name, buffer, len)?;
        check::disjoint(op, ("output", output), &[(name, buffer)])?;
    }
    check::holds(op, "output", output, check::product(op, "output", &[n_indices, row_width])?)?;
    let pipeline = registry.get_pipeline(kernel, device)?;
    encoder.try_encode_with_args(
        pipeline,
        &[
            (0, KernelArg::Buffer(inputs[0].1)),
            (1, KernelArg::Buffer(inputs[1].1)),
            (2, KernelArg::Buffer(output)),
            (3, KernelArg::Bytes(as_bytes(params))),
        ],
        MTLSize::new(u64::from(row_width.div_ceil(PER_THREAD)), u64::from(n_indices), 1),
        MTLSize::new(64, 4, 1),
    )
}
