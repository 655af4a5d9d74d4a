//! Rows of a dense table: `output[token] = table[ids[token]]`.

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
use crate::error::Result;
use crate::kernel::KernelRegistry;
use crate::metal::MTLSize;

/// The Metal text of the kernels `embedding_f32_f16` and so on: the dtype of the table, then that of the output.
pub static EMBEDDING_SHADER_SOURCE: &str = include_str!("embedding.metal");

pub(crate) static OP: Op = Op {
    name: "embedding",
    source: EMBEDDING_SHADER_SOURCE,
    kernels: &[
        ("embedding_f32_f32", cpu::embedding::<f32, f32>),
        ("embedding_f32_f16", cpu::embedding::<f32, f16>),
        ("embedding_f32_bf16", cpu::embedding::<f32, bf16>),
        ("embedding_f16_f32", cpu::embedding::<f16, f32>),
        ("embedding_f16_f16", cpu::embedding::<f16, f16>),
        ("embedding_f16_bf16", cpu::embedding::<f16, bf16>),
        ("embedding_bf16_f32", cpu::embedding::<bf16, f32>),
        ("embedding_bf16_f16", cpu::embedding::<bf16, f16>),
        ("embedding_bf16_bf16", cpu::embedding::<bf16, bf16>),
    ],
};

/// Adds the kernels of this operator to a registry. A new registry has them already.
pub fn register(registry: &mut KernelRegistry) {
    registry.register_op(&OP);
}

/// Sizes of an embedding. Also the parameter struct of the kernels: `repr(C)`, 12 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct EmbeddingParams {
    /// Number of ids, rows of `output`.
    pub n_tokens: u32,
    /// Rows of the table.
    pub vocab_size: u32,
    /// Elements of a row.
    pub embed_dim: u32,
}

/// Elements that one thread copies.
const PER_THREAD: u32 = 4;

/// Records `output[token] = table[ids[token]]` for all tokens. An id that is not below `vocab_size` gives a row of zeros.
///
/// `ids` is u32 `[n_tokens]`, `table` is `[vocab_size, embed_dim]`, `output` is `[n_tokens, embed_dim]`; the two are f32,
/// f16 or bf16 each, and values are rounded to the nearest of `output`'s dtype.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a zero size, a buffer that
/// is too small or of another dtype, or an `output` that overlaps an input.
pub fn embedding(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    ids: &MlxBuffer,
    table: &MlxBuffer,
    output: &MlxBuffer,
    params: &EmbeddingParams,
) -> Result<()> {
    const OP: &str = "embedding";
    const FLOATS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];
    let EmbeddingParams { n_tokens, vocab_size, embed_dim } = *params;
    check::nonzero(
        OP,
        &[("n_tokens", n_tokens), ("vocab_size", vocab_size), ("embed_dim", embed_dim)],
    )?;
    let table_len = check::product(OP, "table", &[vocab_size, embed_dim])?;
    let output_len = check::product(OP, "output", &[n_tokens, embed_dim])?;
    check::dtype(OP, "ids", ids, &[DType::U32])?;
    check::dtype(OP, "table", table, &FLOATS)?;
    check::dtype(OP, "output", output, &FLOATS)?;
    check::holds(OP, "ids", ids, n_tokens as usize)?;
    check::holds(OP, "table", table, table_len)?;
    check::holds(OP, "output", output, output_len)?;
    check::disjoint(OP, ("output", output), &[("ids", ids), ("table", table)])?;
    let pipeline = registry.get_pipeline(kernel_for(table.dtype(), output.dtype()), device)?;
    encoder.try_encode_with_args(
        pipeline,
        &[
            (0, KernelArg::Buffer(ids)),
            (1, KernelArg::Buffer(table)),
            (2, KernelArg::Buffer(output)),
            (3, KernelArg::Bytes(as_bytes(params))),
        ],
        MTLSize::new(u64::from(embed_dim.div_ceil(PER_THREAD)), u64::from(n_tokens), 1),
        MTLSize::new(64, 4, 1),
    )
}

fn kernel_for(table: DType, output: DType) -> &'static str {
    let names = match table {
        DType::F16 => ["embedding_f16_f32", "embedding_f16_f16", "embedding_f16_bf16"],
        DType::BF16 => ["embedding_bf16_f32", "embedding_bf16_f16", "embedding_bf16_bf16"],
        _ => ["embedding_f32_f32", "embedding_f32_f16", "embedding_f32_bf16"],
    };
    check::by_float(output, names)
}
