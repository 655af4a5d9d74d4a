//! Matrix product with affine-quantised weights, read in place in MLX's packed layout.

mod cpu;
mod route;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod tests;

use bytemuck::{Pod, Zeroable};

pub use route::{QuantizedMatmulKernel, RouteRow, TRANSPOSED_ROUTES, route};

use super::{Op, check};
use crate::buffer::MlxBuffer;
use crate::device::MlxDevice;
use crate::dtype::DType;
use crate::encoder::{CapturedOpKind, CommandEncoder, KernelArg, as_bytes};
use crate::error::{Result, invalid};
use crate::kernel::KernelRegistry;

/// The Metal text of the kernels `<kernel>_<T>_<S>_b<bits>`: kernel `qmv`, `qmv_wide`, `qmm_t`, `qvm` or `qmm_n`, `T` the
/// dtype of the activations, `S` that of the scales.
pub static QUANTIZED_MATMUL_SHADER_SOURCE: &str = include_str!("quantized_matmul.metal");

pub(crate) static OP: Op = Op {
    name: "quantized_matmul",
    source: QUANTIZED_MATMUL_SHADER_SOURCE,
    kernels: route::KERNELS,
};

/// Function constant of every kernel: elements of a group.
const GROUP_SIZE_CONSTANT: u32 = 0;

const NAME: &str = "quantized_matmul";

/// Adds the kernels of this operator to a registry. A new registry has them already.
pub fn register(registry: &mut KernelRegistry) {
    registry.register_op(&OP);
}

/// Sizes and format of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuantizedMatmulParams {
    /// Rows of `x` and of the output.
    pub m: u32,
    /// Columns of the output. A multiple of `group_size` if not `transpose`.
    pub n: u32,
    /// Columns of `x`. A multiple of `group_size` if `transpose`.
    pub k: u32,
    /// Consecutive elements of a row of the weight that share a scale and a bias: 32, 64 or 128.
    pub group_size: u32,
    /// Bits of a weight: 4 or 8.
    pub bits: u32,
    /// Whether the weight is `[n, k]`, packed along `k`, as the weights of linear layers are; else it is `[k, n]`, packed
    /// along `n`.
    pub transpose: bool,
}

/// Parameter struct of the kernels.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Shape {
    m: u32,
    n: u32,
    k: u32,
}

/// Records `output = x · Wᵀ` (`transpose`) or `x · W`, where `W = code * scale + bias` for each group of a row of `W`.
///
/// - `x` `[m, k]` and `output` `[m, n]`: f32, f16 or bf16, the same;
/// - `weight`: u32, `[n, k * bits / 32]` if `transpose`, else `[k, n * bits / 32]`, codes packed lowest bits first;
/// - `scales`, `biases`: `[n, k / group_size]` or `[k, n / group_size]`; f32, f16 or bf16, the same, but not necessarily
///   that of `x`. The output has the dtype of `x` whatever that of the scales.
///
/// Weights are computed in f32, sums are in f32 and rounded once.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a zero size, a `group_size`
/// or `bits` that is not supported, a row of the weight that is no multiple of `group_size`, sizes that overflow, dtypes
/// other than the above, a buffer that is too small, or an output that shares memory with an input.
pub fn quantized_matmul(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    x: &MlxBuffer,
    weight: &MlxBuffer,
    scales: &MlxBuffer,
    biases: &MlxBuffer,
    output: &MlxBuffer,
    params: &QuantizedMatmulParams,
) -> Result<()> {
    let QuantizedMatmulParams { m, n, k, group_size, bits, transpose } = *params;
    check::nonzero(NAME, &[("m", m), ("n", n), ("k", k)])?;
    let (w_rows, w_columns, columns_name) = if transpose { (n, k, "k") } else { (k, n, "n") };
    let row = check_format(NAME, (columns_name, w_columns), group_size, bits)?;
    let sizes = [
        check::product(NAME, "x", &[m, k])?,
        check::product(NAME, "weight", &[w_rows, row.words])?,
        check::product(NAME, "scales", &[w_rows, row.groups])?,
        check::product(NAME, "output", &[m, n])?,
    ];
    check::same_float(NAME, &[("x", x), ("output", output)])?;
    check::dtype(NAME, "weight", weight, &[DType::U32])?;
    check::same_float(NAME, &[("scales", scales), ("biases", biases)])?;
    check::holds(NAME, "x", x, sizes[0])?;
    check::holds(NAME, "weight", weight, sizes[1])?;
    check::holds(NAME, "scales", scales, sizes[2])?;
    check::holds(NAME, "biases", biases, sizes[2])?;
    check::holds(NAME, "output", output, sizes[3])?;
    check::disjoint(
        NAME,
        ("output", output),
        &[("x", x), ("weight", weight), ("scales", scales), ("biases", biases)],
    )?;
    let kernel = route(params);
    let name = kernel.name(x.dtype(), scales.dtype(), bits);
    let pipeline = registry.get_pipeline_with_constants(name, device, &[(GROUP_SIZE_CONSTANT, group_size.into())])?;
    encoder.set_op_kind(CapturedOpKind::Other);
    let (grid, group) = kernel.launch(params);
    encoder.try_encode_threadgroups_with_args(
        pipeline,
        &[
            (0, KernelArg::Buffer(x)),
            (1, KernelArg::Buffer(weight)),
            (2, KernelArg::Buffer(scales)),
            (3, KernelArg::Buffer(biases)),
            (4, KernelArg::Buffer(output)),
            (5, KernelArg::Bytes(as_bytes(&Shape { m, n, k }))),
        ],
        grid,
        group,
    )
}

/// A row of a quantised matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PackedRow {
    /// u32 words.
    pub words: u32,
    /// Scales, and as many biases.
    pub groups: u32,
}

/// The format of rows of `columns` elements, `(name, value)`, if kernels of this library read it.
pub(crate) fn check_format(op: &str, columns: (&str, u32), group_size: u32, bits: u32) -> Result<PackedRow> {
    if ![32, 64, 128].contains(&group_size) {
        return invalid!("{op}: group_size is {group_size}, possible: 32, 64, 128");
    }
    if ![4, 8].contains(&bits) {
        return invalid!("{op}: bits is {bits}, possible: 4, 8");
    }
    let (name, columns) = columns;
    if columns % group_size != 0 {
        return invalid!("{op}: {name} {columns} is no multiple of group_size {group_size}");
    }
    Ok(PackedRow { words: columns / (32 / bits), groups: columns / group_size })
}
