//! Rows of an affine-quantised table: the embedding of tokens.

mod cpu;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod tests;

use bytemuck::{Pod, Zeroable};
use half::{bf16, f16};

use super::quantized_matmul::check_format;
use super::{Op, check};
use crate::backend::cpu::CpuBody;
use crate::buffer::MlxBuffer;
use crate::device::MlxDevice;
use crate::dtype::DType;
use crate::encoder::{CapturedOpKind, CommandEncoder, KernelArg, as_bytes};
use crate::error::Result;
use crate::kernel::KernelRegistry;
use crate::metal::MTLSize;

/// The Metal text of the kernels `quantized_embedding_<T>_<S>_b<bits>`: `T` the dtype of the output, `S` of the scales.
pub static QUANTIZED_EMBEDDING_SHADER_SOURCE: &str = include_str!("quantized_embedding.metal");

pub(crate) static OP: Op =
    Op { name: "quantized_embedding", source: QUANTIZED_EMBEDDING_SHADER_SOURCE, kernels: KERNELS };

const NAME: &str = "quantized_embedding";

/// Adds the kernels of this operator to a registry. A new registry has them already.
pub fn register(registry: &mut KernelRegistry) {
    registry.register_op(&OP);
}

/// Sizes and format of a look-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuantizedEmbeddingParams {
    /// Number of ids, and rows of the output.
    pub n_tokens: u32,
    /// Rows of the table.
    pub vocab_size: u32,
    /// Elements of a row; a multiple of `group_size`.
    pub embed_dim: u32,
    /// Consecutive elements of a row that share a scale and a bias: 32, 64 or 128.
    pub group_size: u32,
    /// Bits of an element: 4 or 8.
    pub bits: u32,
}

/// Parameter struct of the kernels.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Shape {
    n_tokens: u32,
    vocab_size: u32,
    embed_dim: u32,
    group_size: u32,
}

/// Records `output[i] = table[ids[i]]` for all `i < n_tokens`, zeros where `ids[i] >= vocab_size`.
///
/// - `ids`: u32, `[n_tokens]`;
/// - `weight`: u32, `[vocab_size, embed_dim * bits / 32]`, codes packed lowest bits first;
/// - `scales`, `biases`: `[vocab_size, embed_dim / group_size]`; f32, f16 or bf16, the same;
/// - `output`: `[n_tokens, embed_dim]`; f32, f16 or bf16, whatever the dtype of the scales.
///
/// Elements are `code * scale + bias` in f32, rounded once.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a zero size, a `group_size`
/// or `bits` that is not supported, an `embed_dim` that is no multiple of `group_size`, sizes that overflow, dtypes other
/// than the above, a buffer that is too small, or an output that shares memory with an input.
pub fn quantized_embedding(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    ids: &MlxBuffer,
    weight: &MlxBuffer,
    scales: &MlxBuffer,
    biases: &MlxBuffer,
    output: &MlxBuffer,
    params: &QuantizedEmbeddingParams,
) -> Result<()> {
    let QuantizedEmbeddingParams { n_tokens, vocab_size, embed_dim, group_size, bits } = *params;
    check::nonzero(NAME, &[("n_tokens", n_tokens), ("vocab_size", vocab_size), ("embed_dim", embed_dim)])?;
    let row = check_format(NAME, ("embed_dim", embed_dim), group_size, bits)?;
    let sizes = [
        check::product(NAME, "weight", &[vocab_size, row.words])?,
        check::product(NAME, "scales", &[vocab_size, row.groups])?,
        check::product(NAME, "output", &[n_tokens, embed_dim])?,
    ];
    check::dtype(NAME, "ids", ids, &[DType::U32])?;
    check::dtype(NAME, "weight", weight, &[DType::U32])?;
    check::same_float(NAME, &[("scales", scales), ("biases", biases)])?;
    check::same_float(NAME, &[("output", output)])?;
    check::holds(NAME, "ids", ids, n_tokens as usize)?;
    check::holds(NAME, "weight", weight, sizes[0])?;
    check::holds(NAME, "scales", scales, sizes[1])?;
    check::holds(NAME, "biases", biases, sizes[1])?;
    check::holds(NAME, "output", output, sizes[2])?;
    check::disjoint(
        NAME,
        ("output", output),
        &[("ids", ids), ("weight", weight), ("scales", scales), ("biases", biases)],
    )?;
    let pipeline = registry.get_pipeline(kernel_name(output.dtype(), scales.dtype(), bits), device)?;
    encoder.set_op_kind(CapturedOpKind::Other);
    encoder.try_encode_with_args(
        pipeline,
        &[
            (0, KernelArg::Buffer(ids)),
            (1, KernelArg::Buffer(weight)),
            (2, KernelArg::Buffer(scales)),
            (3, KernelArg::Buffer(biases)),
            (4, KernelArg::Buffer(output)),
            (5, KernelArg::Bytes(as_bytes(&Shape { n_tokens, vocab_size, embed_dim, group_size }))),
        ],
        MTLSize::new(u64::from(row.words), u64::from(n_tokens), 1),
        MTLSize::new(64, 4, 1),
    )
}

/// The host name for an output of dtype `output`, scales of dtype `scales` and codes of `bits` bits.
fn kernel_name(output: DType, scales: DType, bits: u32) -> &'static str {
    let dtype = |d| match d {
        DType::F32 => 0,
        DType::F16 => 1,
        _ => 2,
    };
    // The order in which KERNELS lists them.
    KERNELS[(dtype(output) * 3 + dtype(scales)) * 2 + usize::from(bits == 8)].0
}

macro_rules! kernels {
    ($($T:ident $S:ident $bits:literal),* $(,)?) => {
        &[$((
            concat!("quantized_embedding_", stringify!($T), "_", stringify!($S), "_b", $bits),
            cpu::rows::<$T, $S, $bits> as CpuBody,
        )),*]
    };
}

/// Every pair of dtypes and width; output, scales and bits vary in this order, the last the fastest.
const KERNELS: &[(&str, CpuBody)] = kernels![
    f32 f32 4, f32 f32 8, f32 f16 4, f32 f16 8, f32 bf16 4, f32 bf16 8,
    f16 f32 4, f16 f32 8, f16 f16 4, f16 f16 8, f16 bf16 4, f16 bf16 8,
    bf16 f32 4, bf16 f32 8, bf16 f16 4, bf16 f16 8, bf16 bf16 4, bf16 bf16 8,
];
