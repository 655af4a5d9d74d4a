//! Products with weights that are decoded one by one, for formats and roundings that the fast kernels do not have: MLX's affine
//! codes with operands rounded to bf16, as 0.1 multiplies them, any group size and any row length; and blocks of GGML.

mod cpu;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod tests;

use bytemuck::{Pod, Zeroable};
use half::bf16;

use super::{Op, check};
use crate::buffer::MlxBuffer;
use crate::device::MlxDevice;
use crate::dtype::DType;
use crate::encoder::{CommandEncoder, KernelArg, as_bytes};
use crate::error::{MlxError, Result, invalid};
use crate::registry::KernelRegistry;
use crate::metal::MTLSize;
use crate::quant::{GgmlType, ggml};

/// The Metal text of the kernels `decoded_matmul_affine_f32`, `decoded_matmul_affine_bf16`, `decoded_matmul_q4_0` and
/// so on, and `decoded_rows`.
pub static DECODED_MATMUL_SHADER_SOURCE: &str = include_str!("decoded_matmul.metal");

pub(crate) static OP: Op = Op {
    name: "decoded_matmul",
    source: DECODED_MATMUL_SHADER_SOURCE,
    kernels: &[
        ("decoded_matmul_affine_f32", cpu::affine::<f32>),
        ("decoded_matmul_affine_bf16", cpu::affine::<bf16>),
        ("decoded_matmul_q4_0", cpu::blocks::<ggml::Q4_0>),
        ("decoded_matmul_q8_0", cpu::blocks::<ggml::Q8_0>),
        ("decoded_matmul_q4_k", cpu::blocks::<ggml::Q4K>),
        ("decoded_matmul_q6_k", cpu::blocks::<ggml::Q6K>),
        ("decoded_rows", cpu::rows),
    ],
};

/// Adds the kernels of this operator to a registry. A new registry has them already.
pub fn register(registry: &mut KernelRegistry) {
    registry.register_op(&OP);
}

/// Indices of the function constants.
const HAS_IDS: u32 = 0;
const IS_AFFINE: u32 = 1;
const ROUNDS_WEIGHT: u32 = 2;

/// A matrix `[n, k]`, or a stack of them, row after row.
#[derive(Debug, Clone, Copy)]
pub enum Coded<'a> {
    /// MLX's affine codes: `code · scale + bias` of the group.
    Affine {
        /// 4, 6 or 8.
        bits: u32,
        /// Codes that share a scale; rows whose length is no multiple of it end in a short group.
        group_size: u32,
        /// u8: codes of a row in one little-endian stream, padded to whole words of 4 bytes (of 3 for 6 bits).
        codes: &'a MlxBuffer,
        /// bf16, one for each group.
        scales: &'a MlxBuffer,
        /// bf16, one for each group.
        biases: &'a MlxBuffer,
        /// Whether the decoded weight is rounded to bf16.
        rounds_weight: bool,
    },
    /// Blocks of GGML: Q4_0, Q8_0, Q4_K or Q6_K.
    Blocks {
        /// The type of block.
        ggml_type: GgmlType,
        /// u8: the blocks.
        blocks: &'a MlxBuffer,
        /// Bytes from one matrix of the stack to the next; at least those of a matrix. None = one behind the other.
        stride: Option<u64>,
    },
}

/// Extents of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodedMatmulParams {
    /// Rows of the output.
    pub m: u32,
    /// Columns of the output: rows of a matrix.
    pub n: u32,
    /// Columns of `x`: what is summed over.
    pub k: u32,
    /// Rows of the output for each row of `x`.
    pub rows_per_x: u32,
    /// Matrices of the stack; 1 without ids.
    pub n_matrices: u32,
}

/// The kernels' parameter struct.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct KernelParams {
    matrix_bytes: u64,
    m: u32,
    n: u32,
    k: u32,
    rows_per_x: u32,
    n_matrices: u32,
    row_bytes: u32,
    bits: u32,
    group_size: u32,
    n_groups: u32,
    unused: u32,
}

/// Columns that one threadgroup computes.
const COLUMNS_PER_GROUP: u32 = 8;

/// Bytes of a row of `k` affine codes: whole words of 4 bytes, for 6 bits whole packs of 3. `None` where 0.1 has no such format,
/// or the size overflows.
#[must_use]
pub fn affine_row_bytes(bits: u32, k: u32) -> Option<u32> {
    match bits {
        4 => k.div_ceil(8).checked_mul(4),
        6 => k.div_ceil(4).checked_mul(3),
        8 => k.div_ceil(4).checked_mul(4),
        _ => None,
    }
}

/// Records `output[r, c] = Σₖ x[r / rows_per_x, k] · w[c, k]`, of the matrix `ids[r]` of the stack if there are ids.
///
/// `x` is `[ceil(m / rows_per_x), k]`, `output` `[m, n]`: both f32, or both bf16 for affine codes. `x` is rounded to bf16 for
/// affine codes, and used as it is with blocks. Sums are in f32, in an order that depends on `k` alone: a row has the same bits
/// with and without ids. A row whose id is no matrix of the stack is zeros.
///
/// # Errors
/// [`MlxError::InvalidArgument`], naming the parameter, for a zero size, another width or block type, a `k` that is no whole
/// number of blocks, a buffer that is too small or of another dtype, or an `output` that overlaps another operand.
pub fn decoded_matmul(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    x: &MlxBuffer,
    weight: Coded<'_>,
    ids: Option<&MlxBuffer>,
    output: &MlxBuffer,
    params: &DecodedMatmulParams,
) -> Result<()> {
    const OP: &str = "decoded_matmul";
    let DecodedMatmulParams { m, n, k, rows_per_x, n_matrices } = *params;
    check::nonzero(
        OP,
        &[("m", m), ("n", n), ("k", k), ("rows_per_x", rows_per_x), ("n_matrices", n_matrices)],
    )?;
    check::row_length(OP, "k", k)?;
    check::row_length(OP, "n", n)?;
    let (kernel, kernel_params) = describe(x.dtype(), weight, params)?;
    let rows = [n_matrices, n];
    let (codes, mut inputs) = match weight {
        Coded::Blocks { blocks, .. } => (blocks, Vec::new()),
        Coded::Affine { codes, scales, biases, .. } => {
            let len = check::product(OP, "scales", &[rows[0], rows[1], kernel_params.n_groups])?;
            (codes, vec![("scales", scales, DType::BF16, len), ("biases", biases, DType::BF16, len)])
        }
    };
    let before_last = kernel_params.matrix_bytes.checked_mul(u64::from(n_matrices - 1));
    let reach = before_last.and_then(|b| b.checked_add(u64::from(kernel_params.row_bytes) * u64::from(n)));
    let Some(codes_len) = reach.and_then(|reach| usize::try_from(reach).ok()) else {
        return invalid!("{OP}: the size of the codes overflows");
    };
    inputs.push(("the codes", codes, DType::U8, codes_len));
    inputs.push(("x", x, x.dtype(), check::product(OP, "x", &[m.div_ceil(rows_per_x), k])?));
    inputs.extend(ids.map(|ids| ("ids", ids, DType::U32, m as usize)));
    for (name, buffer, dtype, len) in inputs {
        check::dtype(OP, name, buffer, &[dtype])?;
        check::holds(OP, name, buffer, len)?;
        check::disjoint(OP, ("output", output), &[(name, buffer)])?;
    }
    check::dtype(OP, "output", output, &[x.dtype()])?;
    check::holds(OP, "output", output, check::product(OP, "output", &[m, n])?)?;
    let rounds_weight = matches!(weight, Coded::Affine { rounds_weight: true, .. });
    let constants = [
        (HAS_IDS, ids.is_some().into()),
        (IS_AFFINE, matches!(weight, Coded::Affine { .. }).into()),
        (ROUNDS_WEIGHT, rounds_weight.into()),
    ];
    let pipeline = registry.get_pipeline_with_constants(kernel, device, &constants)?;
    let mut bindings = vec![
        (0, KernelArg::Buffer(x)),
        (1, KernelArg::Buffer(codes)),
        (5, KernelArg::Buffer(output)),
        (6, KernelArg::Bytes(as_bytes(&kernel_params))),
    ];
    if let Coded::Affine { scales, biases, .. } = weight {
        bindings.extend([(2, KernelArg::Buffer(scales)), (3, KernelArg::Buffer(biases))]);
    }
    bindings.extend(ids.map(|ids| (4, KernelArg::Buffer(ids))));
    encoder.try_encode_threadgroups_with_args(
        pipeline,
        &bindings,
        MTLSize::new(u64::from(n.div_ceil(COLUMNS_PER_GROUP)), u64::from(m), 1),
        MTLSize::new(u64::from(COLUMNS_PER_GROUP) * 32, 1, 1),
    )
}

/// The kernel for a weight, and its parameters.
fn describe(x: DType, weight: Coded<'_>, params: &DecodedMatmulParams) -> Result<(&'static str, KernelParams)> {
    const OP: &str = "decoded_matmul";
    let DecodedMatmulParams { m, n, k, rows_per_x, n_matrices } = *params;
    let base = KernelParams {
        matrix_bytes: 0,
        m,
        n,
        k,
        rows_per_x,
        n_matrices,
        row_bytes: 0,
        bits: 0,
        group_size: 1,
        n_groups: 0,
        unused: 0,
    };
    let overflow = || MlxError::InvalidArgument(format!("{OP}: the size of a row of {k} elements overflows"));
    match weight {
        Coded::Affine { bits, group_size, .. } => {
            if !matches!(bits, 4 | 6 | 8) {
                return invalid!("{OP}: bits is {bits}, possible: 4, 6, 8");
            }
            check::nonzero(OP, &[("group_size", group_size)])?;
            let kernel = match x {
                DType::F32 => "decoded_matmul_affine_f32",
                DType::BF16 => "decoded_matmul_affine_bf16",
                _ => return invalid!("{OP}: dtype of x is {x}, possible: f32, bf16"),
            };
            let row_bytes = affine_row_bytes(bits, k).ok_or_else(overflow)?;
            let matrix_bytes = u64::from(row_bytes) * u64::from(n);
            let n_groups = k.div_ceil(group_size);
            Ok((kernel, KernelParams { matrix_bytes, row_bytes, bits, group_size, n_groups, ..base }))
        }
        Coded::Blocks { ggml_type, stride, .. } => {
            let kernel = match ggml_type {
                GgmlType::Q4_0 => "decoded_matmul_q4_0",
                GgmlType::Q8_0 => "decoded_matmul_q8_0",
                GgmlType::Q4_K => "decoded_matmul_q4_k",
                GgmlType::Q6_K => "decoded_matmul_q6_k",
                other => return invalid!("{OP}: blocks of {other}, possible: Q4_0, Q8_0, Q4_K, Q6_K"),
            };
            if x != DType::F32 {
                return invalid!("{OP}: dtype of x is {x}, blocks take f32");
            }
            let (values, bytes) = (ggml_type.block_values(), ggml_type.block_bytes());
            if k % values != 0 {
                return invalid!("{OP}: k {k} is no multiple of a block of {values} values");
            }
            let row_bytes = (k / values).checked_mul(bytes).ok_or_else(overflow)?;
            let own = u64::from(row_bytes) * u64::from(n);
            let matrix_bytes = stride.unwrap_or(own);
            if matrix_bytes < own {
                return invalid!("{OP}: the stride of matrices, {matrix_bytes}, is below the {own} bytes of one");
            }
            Ok((kernel, KernelParams { matrix_bytes, row_bytes, ..base }))
        }
    }
}

/// Records `output[t] = w[ids[t]]` for `n_tokens` ids: rows of an affine matrix of `n_rows` rows of `k` elements, in f32, not
/// rounded. An id that is no row gives zeros.
///
/// `ids` is u32 `[n_tokens]`, `output` f32 `[n_tokens, k]`. `rounds_weight` does not matter.
///
/// # Errors
/// [`MlxError::InvalidArgument`], naming the parameter, for a zero size, blocks of GGML, another width, a buffer that is too small
/// or of another dtype, or an `output` that overlaps another operand.
pub fn decoded_rows(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    ids: &MlxBuffer,
    weight: Coded<'_>,
    output: &MlxBuffer,
    n_tokens: u32,
    n_rows: u32,
    k: u32,
) -> Result<()> {
    const OP: &str = "decoded_rows";
    check::nonzero(OP, &[("n_tokens", n_tokens), ("n_rows", n_rows), ("k", k)])?;
    check::row_length(OP, "k", k)?;
    let Coded::Affine { codes, scales, biases, .. } = weight else {
        return invalid!("{OP}: blocks of GGML, possible are affine codes");
    };
    let params = DecodedMatmulParams { m: n_tokens, n: n_rows, k, rows_per_x: 1, n_matrices: 1 };
    let (_, kernel_params) = describe(DType::F32, weight, &params)?;
    let groups = check::product(OP, "scales", &[n_rows, kernel_params.n_groups])?;
    let inputs = [
        ("ids", ids, DType::U32, n_tokens as usize),
        ("the codes", codes, DType::U8, check::product(OP, "the codes", &[n_rows, kernel_params.row_bytes])?),
        ("scales", scales, DType::BF16, groups),
        ("biases", biases, DType::BF16, groups),
    ];
    for (name, buffer, dtype, len) in inputs {
        check::dtype(OP, name, buffer, &[dtype])?;
        check::holds(OP, name, buffer, len)?;
        check::disjoint(OP, ("output", output), &[(name, buffer)])?;
    }
    check::dtype(OP, "output", output, &[DType::F32])?;
    check::holds(OP, "output", output, check::product(OP, "output", &[n_tokens, k])?)?;
    let pipeline = registry.get_pipeline("decoded_rows", device)?;
    encoder.try_encode_with_args(
        pipeline,
        &[
            (0, KernelArg::Buffer(ids)),
            (1, KernelArg::Buffer(codes)),
            (2, KernelArg::Buffer(scales)),
            (3, KernelArg::Buffer(biases)),
            (4, KernelArg::Buffer(output)),
            (5, KernelArg::Bytes(as_bytes(&kernel_params))),
        ],
        MTLSize::new(u64::from(k), u64::from(n_tokens), 1),
        MTLSize::new(64, 4, 1),
    )
}
