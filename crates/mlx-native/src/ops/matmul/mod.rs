//! Dense matrix product: `output = x · weightᵀ`, the linear layer, or `output = x · weight`.
//!
//! Two kinds of kernel: mat-vec for few rows of `x`, which reads each weight once and is bound by memory, and tiles for
//! many, bound by arithmetic. [`ROUTES`] says which when.

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
use crate::registry::KernelRegistry;
use crate::metal::MTLSize;

/// The Metal text of the kernels `matmul_{gemv,gevm,gemm32,gemm64}_<x>_<weight>`, for each pair of dtypes.
pub static MATMUL_SHADER_SOURCE: &str = include_str!("matmul.metal");

/// The kernels of one family, in the order that [`kernel_name`] counts in.
macro_rules! kernels {
    ($(($family:literal, $body:ident)),*) => {
        &[$(
            (concat!("matmul_", $family, "_f32_f32"), cpu::$body::<f32, f32>),
            (concat!("matmul_", $family, "_f32_f16"), cpu::$body::<f32, f16>),
            (concat!("matmul_", $family, "_f32_bf16"), cpu::$body::<f32, bf16>),
            (concat!("matmul_", $family, "_f16_f32"), cpu::$body::<f16, f32>),
            (concat!("matmul_", $family, "_f16_f16"), cpu::$body::<f16, f16>),
            (concat!("matmul_", $family, "_f16_bf16"), cpu::$body::<f16, bf16>),
            (concat!("matmul_", $family, "_bf16_f32"), cpu::$body::<bf16, f32>),
            (concat!("matmul_", $family, "_bf16_f16"), cpu::$body::<bf16, f16>),
            (concat!("matmul_", $family, "_bf16_bf16"), cpu::$body::<bf16, bf16>),
        )*]
    };
}

pub(crate) static OP: Op = Op {
    name: "matmul",
    source: MATMUL_SHADER_SOURCE,
    kernels: kernels![("gemv", gemv), ("gevm", gevm), ("gemm32", gemm), ("gemm64", gemm)],
};

/// Adds the kernels of this operator to a registry. A new registry has them already.
pub fn register(registry: &mut KernelRegistry) {
    registry.register_op(&OP);
}

/// Extents of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MatmulParams {
    /// Rows of `x` and of `output`.
    pub m: u32,
    /// Columns of `output`.
    pub n: u32,
    /// Columns of `x`: what is summed over.
    pub k: u32,
    /// Whether `weight` is `[n, k]`, as a linear layer has it, or `[k, n]`.
    pub transpose: bool,
}

/// The kernels' parameter struct.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct KernelParams {
    m: u32,
    n: u32,
    k: u32,
}

/// A family of kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Few rows, weight `[n, k]`: simdgroups along K.
    Gemv,
    /// Few rows, weight `[k, n]`: lanes along N.
    Gevm,
    /// Tiles of 32 × 32.
    Gemm32,
    /// Tiles of 64 × 64.
    Gemm64,
}

/// A line of [`ROUTES`]: the products that a family is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// The family.
    pub family: Family,
    /// What `transpose` must be, if it matters.
    pub transpose: Option<bool>,
    /// The least rows.
    pub min_m: u32,
    /// The most rows.
    pub max_m: u32,
    /// The least columns.
    pub min_n: u32,
}

/// Which family computes what. The first line that fits counts; the last one fits everything.
pub const ROUTES: &[Route] = &[
    Route { family: Family::Gemv, transpose: Some(true), min_m: 1, max_m: 8, min_n: 1 },
    Route { family: Family::Gevm, transpose: Some(false), min_m: 1, max_m: 8, min_n: 1 },
    Route { family: Family::Gemm64, transpose: None, min_m: 64, max_m: u32::MAX, min_n: 64 },
    Route { family: Family::Gemm32, transpose: None, min_m: 1, max_m: u32::MAX, min_n: 1 },
];

/// The family that computes a product.
#[must_use]
pub fn route(params: &MatmulParams) -> Family {
    let fits = |r: &&Route| {
        (r.min_m..=r.max_m).contains(&params.m)
            && params.n >= r.min_n
            && r.transpose.is_none_or(|t| t == params.transpose)
    };
    ROUTES.iter().find(fits).map_or(Family::Gemm32, |r| r.family)
}

/// The name of a kernel: its place in `OP.kernels` is known.
fn kernel_name(family: Family, x: DType, weight: DType) -> &'static str {
    let place = |dtype| match dtype {
        DType::F16 => 1,
        DType::BF16 => 2,
        _ => 0,
    };
    OP.kernels[family as usize * 9 + place(x) * 3 + place(weight)].0
}

/// Records `output[m, n] = x[m, k] · weightᵀ` with a weight of `[n, k]`, or `x · weight` with one of `[k, n]`.
///
/// `x` and `output` are f32, f16 or bf16, both the same; `weight` is one of them, possibly another. Values are widened to
/// f32 exactly, sums are in f32 and rounded once.
///
/// ```
/// use mlx_native::{DType, KernelRegistry, MlxDevice, ops::matmul::{MatmulParams, matmul}};
/// let device = MlxDevice::new()?;
/// let mut registry = KernelRegistry::new();
/// let mut x = device.alloc_tensor(DType::F32, &[1, 2])?;
/// x.write(0, &[1f32, 2.0])?;
/// let mut weight = device.alloc_tensor(DType::F32, &[3, 2])?;
/// weight.write(0, &[1f32, 0.0, 0.0, 1.0, 1.0, 1.0])?;
/// let y = device.alloc_tensor(DType::F32, &[1, 3])?;
/// let mut encoder = device.command_encoder()?;
/// let params = MatmulParams { m: 1, n: 3, k: 2, transpose: true };
/// matmul(&mut encoder, &mut registry, &device, &x, &weight, &y, &params)?;
/// encoder.commit_and_wait()?;
/// assert_eq!(y.read::<f32>()?, [1.0, 2.0, 3.0]);
/// # Ok::<(), mlx_native::MlxError>(())
/// ```
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a zero or overflowing size, a
/// buffer that is too small, a dtype that is not floating-point, an `output` of another dtype than `x`, or one that shares
/// memory with `x` or `weight`.
pub fn matmul(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    x: &MlxBuffer,
    weight: &MlxBuffer,
    output: &MlxBuffer,
    params: &MatmulParams,
) -> Result<()> {
    let MatmulParams { m, n, k, transpose } = *params;
    check::nonzero("matmul", &[("m", m), ("n", n), ("k", k)])?;
    let x_len = check::product("matmul", "x", &[m, k])?;
    let weight_len = check::product("matmul", "weight", &[n, k])?;
    let output_len = check::product("matmul", "output", &[m, n])?;
    let dtype = check::same_float("matmul", &[("x", x), ("output", output)])?;
    let weight_dtype = check::same_float("matmul", &[("weight", weight)])?;
    check::holds("matmul", "x", x, x_len)?;
    check::holds("matmul", "weight", weight, weight_len)?;
    check::holds("matmul", "output", output, output_len)?;

    let family = route(params);
    let name = kernel_name(family, dtype, weight_dtype);
    let (groups, group, constant) = match family {
        Family::Gemv => ([n.div_ceil(8), 1], 64, (1, m.into())),
        Family::Gevm => ([n.div_ceil(32), 1], 256, (1, m.into())),
        Family::Gemm32 => ([n.div_ceil(32), m.div_ceil(32)], 128, (0, transpose.into())),
        Family::Gemm64 => ([n.div_ceil(64), m.div_ceil(64)], 128, (0, transpose.into())),
    };
    let pipeline = registry.get_pipeline_with_constants(name, device, &[constant])?;
    encoder.try_encode_threadgroups_with_args(
        pipeline,
        &[
            (0, KernelArg::Buffer(x)),
            (1, KernelArg::Buffer(weight)),
            (2, KernelArg::Buffer(output)),
            (3, KernelArg::Bytes(as_bytes(&KernelParams { m, n, k }))),
        ],
        MTLSize::new(u64::from(groups[0]), u64::from(groups[1]), 1),
        MTLSize::new(group, 1, 1),
    )
}
