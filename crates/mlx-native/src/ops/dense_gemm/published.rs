//! The published 0.1 module `dense_gemm`: adapts [`matmul`](crate::ops::matmul::matmul).

use crate::buffer::MlxBuffer;
use crate::device::DeviceRef;
use crate::dtype::DType;
use crate::encoder::CommandEncoder;
use crate::error::{Result, invalid};
use crate::registry::KernelRegistry;
use crate::ops::matmul::{self, MATMUL_SHADER_SOURCE, MatmulParams};
use crate::ops::published::{handle, nonzero, operand, product};

/// The Metal text of the kernels behind these functions.
pub static DENSE_GEMM_SHADER_SOURCE: &str = MATMUL_SHADER_SOURCE;

/// Adds the kernels of these functions to a registry. A new registry has them already.
pub fn register(registry: &mut KernelRegistry) {
    matmul::register(registry);
}

/// Extents of a product of dense matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DenseGemmF16Params {
    /// Rows of A and of the output.
    pub m: u32,
    /// Rows of B, columns of the output.
    pub n: u32,
    /// Columns of A and B.
    pub k: u32,
}

/// Records `output[m, n] = A[m, k] · B[n, k]ᵀ`, all f16; sums in f32, rounded once. Any `k`: 0.1 asked for a multiple of 4.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a zero size, buffers of too few
/// bytes, or an `output` that overlaps another operand.
pub fn dispatch_dense_gemm_f16(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &DeviceRef,
    a: &MlxBuffer,
    b: &MlxBuffer,
    output: &MlxBuffer,
    params: &DenseGemmF16Params,
) -> Result<()> {
    gemm("dense_gemm_f16", encoder, registry, device, [a, b, output], DType::F16, params)
}

/// Records `output[n] = A[k] · B[n, k]ᵀ` with A and the output of f32, B of f16.
///
/// # Errors
/// As [`dispatch_dense_gemm_f16`]; also for an `m` other than 1.
pub fn dispatch_dense_matvec_f16w_f32io(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &DeviceRef,
    a: &MlxBuffer,
    b: &MlxBuffer,
    output: &MlxBuffer,
    params: &DenseGemmF16Params,
) -> Result<()> {
    const OP: &str = "dense_matvec_f16w_f32io";
    if params.m != 1 {
        return invalid!("{OP}: m is {}, it must be 1", params.m);
    }
    gemm(OP, encoder, registry, device, [a, b, output], DType::F32, params)
}

fn gemm(
    op: &str,
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &DeviceRef,
    [a, b, output]: [&MlxBuffer; 3],
    dtype: DType,
    params: &DenseGemmF16Params,
) -> Result<()> {
    let DenseGemmF16Params { m, n, k } = *params;
    let (rows, columns, depth) = (m as usize, n as usize, k as usize);
    nonzero(op, &[("m", rows), ("n", columns), ("k", depth)])?;
    let a = operand(op, "a", a, dtype, product(op, "a", &[rows, depth])?)?;
    let b = operand(op, "b", b, DType::F16, product(op, "b", &[columns, depth])?)?;
    let output = operand(op, "output", output, dtype, product(op, "output", &[rows, columns])?)?;
    let params = MatmulParams { m, n, k, transpose: true };
    matmul::matmul(encoder, registry, &handle(device), &a, &b, &output, &params)
}
