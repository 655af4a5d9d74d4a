//! Rows of a table in any format: the embedding of tokens.

mod cpu;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod tests;

use bytemuck::{Pod, Zeroable};

use super::coding::with_codings;
use super::linear::{planes, strides, weight_constants};
use super::{Op, check};
use crate::backend::cpu::CpuBody;
use crate::buffer::MlxBuffer;
use crate::device::MlxDevice;
use crate::dtype::DType;
use crate::encoder::{CommandEncoder, KernelArg, as_bytes};
use crate::error::{Result, invalid};
use crate::registry::KernelRegistry;
use crate::metal::MTLSize;
use crate::quant::Weight;

/// The Metal text of the kernels `embed_<format>`.
pub static EMBED_SHADER_SOURCE: &str = include_str!("embed.metal");

macro_rules! kernels {
    ([] $($part:literal $coding:ty),* $(,)?) => {
        &[$((concat!("embed_", $part), cpu::embed::<$coding> as CpuBody),)*]
    };
}

pub(crate) static OP: Op = Op { name: "embed", source: EMBED_SHADER_SOURCE, kernels: with_codings!(kernels!()) };

const NAME: &str = "embed";

/// Elements that one thread writes.
const RUN: u32 = 16;

/// Adds the kernels of this operator to a registry. A new registry has them already.
pub fn register(registry: &mut KernelRegistry) {
    registry.register_op(&OP);
}

/// Size of a look-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmbedParams {
    /// Number of ids, and rows of the output.
    pub n_tokens: u32,
}

/// Parameter struct of the kernels.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Shape {
    n_tokens: u32,
    vocab_size: u32,
    dim: u32,
    codes_stride: u32,
    scales_stride: u32,
}

/// Records `output[i] = table[ids[i]]` for all `i < n_tokens`; an id that is no row of the table gives zeros.
///
/// - `ids`: u32, `[n_tokens]`;
/// - `table`: a matrix `[vocab_size, dim]` of any format;
/// - `output`: `[n_tokens, dim]`; f32, f16 or bf16.
///
/// Elements are `code * scale + bias` in f32, rounded to the dtype of the output. Of affine formats whose scales have
/// that dtype the product is rounded to it too, as `mx.dequantize` does on a CPU.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for `n_tokens` of 0, a stack of
/// matrices, sizes that overflow, dtypes other than the above, a buffer that is too small, or an output that shares memory
/// with an input.
pub fn embed(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    ids: &MlxBuffer,
    table: &Weight,
    output: &MlxBuffer,
    params: &EmbedParams,
) -> Result<()> {
    let EmbedParams { n_tokens } = *params;
    let (vocab_size, dim) = (table.rows(), table.columns());
    if let Some(experts) = table.experts() {
        return invalid!("{NAME}: the table is a stack of {experts} matrices, wanted one");
    }
    check::nonzero(NAME, &[("n_tokens", n_tokens)])?;
    let output_len = check::product(NAME, "output", &[n_tokens, dim])?;
    check::dtype(NAME, "ids", ids, &[DType::U32])?;
    check::same_float(NAME, &[("output", output)])?;
    check::holds(NAME, "ids", ids, n_tokens as usize)?;
    check::holds(NAME, "output", output, output_len)?;
    let [codes, scales, biases] = planes(table);
    check::disjoint(
        NAME,
        ("output", output),
        &[("ids", ids), ("table", codes), ("table", scales), ("table", biases)],
    )?;
    let [codes_stride, scales_stride] = strides(NAME, table)?;
    let constants = weight_constants(table, output.dtype())?;
    let name = OP.kernels[table.format().kernel_index()].0;
    let pipeline = registry.get_pipeline_with_constants(name, device, &constants)?;
    let shape = Shape { n_tokens, vocab_size, dim, codes_stride, scales_stride };
    encoder.try_encode_with_args(
        pipeline,
        &[
            (0, KernelArg::Buffer(ids)),
            (1, KernelArg::Buffer(codes)),
            (2, KernelArg::Buffer(scales)),
            (3, KernelArg::Buffer(biases)),
            (4, KernelArg::Buffer(output)),
            (5, KernelArg::Bytes(as_bytes(&shape))),
        ],
        MTLSize::new(u64::from(dim.div_ceil(RUN)), u64::from(n_tokens), 1),
        MTLSize::new(64, 4, 1),
    )
}
