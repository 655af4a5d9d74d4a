//! Linear layers: products with a [`Weight`] of any format, read in place.
//!
//! [`linear`] is `x · Wᵀ`, [`linear_transposed`] `x · W`, [`gather_linear`] `x · Wᵀ` with a matrix of a stack chosen for each
//! row: experts. Weights are computed in f32, sums are in f32, results are rounded once, a bias being added before.

mod cpu;
mod route;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod tests;

use bytemuck::{Pod, Zeroable};
use smallvec::SmallVec;

pub use route::{LinearKernel, ROUTES, RouteRow, route};

use super::coding::{self, with_codings};
use super::matmul::{MatmulParams, matmul};
use super::{Op, check};
use crate::backend::cpu::CpuBody;
use crate::buffer::MlxBuffer;
use crate::device::MlxDevice;
use crate::dtype::DType;
use crate::encoder::{CommandEncoder, KernelArg, as_bytes};
use crate::error::{MlxError, Result, invalid};
use crate::kernel::ConstantValue;
use crate::registry::KernelRegistry;
use crate::quant::{Weight, WeightFormat};

/// The Metal text of the kernels `linear_mv_<format>` and `linear_mm_<format>`: few rows of `x`, and many.
pub static LINEAR_SHADER_SOURCE: &str = include_str!("linear.metal");

macro_rules! kernels {
    ([] $($part:literal $coding:ty),* $(,)?) => {
        &[
            $((concat!("linear_mv_", $part), cpu::linear::<$coding> as CpuBody),)*
            $((concat!("linear_mm_", $part), cpu::linear::<$coding> as CpuBody),)*
        ]
    };
}

pub(crate) static OP: Op =
    Op { name: "linear", source: LINEAR_SHADER_SOURCE, kernels: with_codings!(kernels!()) };

/// Adds the kernels of this operator to a registry. A new registry has them already.
pub fn register(registry: &mut KernelRegistry) {
    registry.register_op(&OP);
}

/// Elements of a run, as `weight.h` has it.
const RUN: u32 = 16;

/// Function constants beyond those of every kernel that reads weights, as `linear.metal` numbers them.
const ROWS: u32 = 4;
const GATHERED: u32 = 5;
const CHOSEN: u32 = 6;
const BIASED: u32 = 7;
const PLAIN: u32 = 8;
const WIDE_X: u32 = 10;
const K_PARTS: u32 = 11;

/// Parameter struct of the kernels.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Shape {
    m: u32,
    n: u32,
    k: u32,
    experts: u32,
    x_rows: u32,
    rows_per_x: u32,
    /// Bytes of a row.
    codes_stride: u32,
    scales_stride: u32,
}

/// How many rows a product has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinearParams {
    /// Rows of `x` and of the output.
    pub m: u32,
}

/// How many rows a gathered product has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GatherParams {
    /// Rows of the output, and ids.
    pub m: u32,
    /// Rows of `x`.
    pub x_rows: u32,
    /// Rows of the output for each row of `x`, one after the other, where `x_ids` does not list them: 1, or the experts of
    /// a token.
    pub rows_per_x: u32,
    /// Whether ids ascend: rows of one expert are then multiplied together. Results do not depend on it.
    pub sorted: bool,
}

/// Records `output = x · Wᵀ + bias`.
///
/// - `x` `[m, k]` and `output` `[m, n]`: f32, f16 or bf16, the same;
/// - `weight`: a matrix `[n, k]` of any format;
/// - `bias`: `[n]`, of the dtype of `x`.
///
/// Each row of the result depends on its row of `x` alone, and has the same bits whatever `m` is, as long as [`route`] gives
/// kernels for few rows.
///
/// ```
/// use mlx_native::ops::linear::{LinearParams, linear};
/// use mlx_native::{DType, KernelRegistry, MlxDevice, quant::Weight};
/// let device = MlxDevice::new()?;
/// let mut registry = KernelRegistry::new();
/// let mut values = device.alloc_tensor(DType::F32, &[3, 2])?;
/// values.write(0, &[1f32, 0.0, 0.0, 1.0, 1.0, 1.0])?;
/// let weight = Weight::dense(values, &[3, 2])?;
/// let mut x = device.alloc_tensor(DType::F32, &[1, 2])?;
/// x.write(0, &[1f32, 2.0])?;
/// let y = device.alloc_tensor(DType::F32, &[1, 3])?;
/// let mut encoder = device.command_encoder()?;
/// linear(&mut encoder, &mut registry, &device, &x, &weight, None, &y, &LinearParams { m: 1 })?;
/// encoder.commit_and_wait()?;
/// assert_eq!(y.read::<f32>()?, [1.0, 2.0, 3.0]);
/// # Ok::<(), mlx_native::MlxError>(())
/// ```
///
/// # Errors
/// [`MlxError::InvalidArgument`], naming the parameter, for `m` of 0, a stack of matrices, sizes that overflow, dtypes other
/// than the above, a buffer that is too small, or an output that shares memory with an input.
pub fn linear(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    x: &MlxBuffer,
    weight: &Weight,
    bias: Option<&MlxBuffer>,
    output: &MlxBuffer,
    params: &LinearParams,
) -> Result<()> {
    single("linear", weight)?;
    let call = Call { name: "linear", x, weight, bias, output, rows: Rows::all(params.m), transpose: true };
    if let (WeightFormat::Dense(_), None) = (weight.format(), bias) {
        return call.dense(encoder, registry, device);
    }
    let kernel = route(params.m, weight.rows(), weight.columns());
    call.record(encoder, registry, device, kernel)
}

/// Records `output = x · W`: the weight used the other way round, as MLX's `quantized_matmul` does without `transpose`.
///
/// - `x` `[m, k]` and `output` `[m, n]`: f32, f16 or bf16, the same;
/// - `weight`: a matrix of `k` rows and `n` columns, packed along `n`.
///
/// # Errors
/// As [`linear`].
pub fn linear_transposed(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    x: &MlxBuffer,
    weight: &Weight,
    output: &MlxBuffer,
    params: &LinearParams,
) -> Result<()> {
    const NAME: &str = "linear_transposed";
    single(NAME, weight)?;
    let call = Call { name: NAME, x, weight, bias: None, output, rows: Rows::all(params.m), transpose: false };
    if let WeightFormat::Dense(_) = weight.format() {
        return call.dense(encoder, registry, device);
    }
    call.record(encoder, registry, device, LinearKernel::Tiles)
}

/// Records `output[i] = x[j(i)] · W[ids[i]]ᵀ + bias[ids[i]]` for `m` rows `i`, where `j(i)` is `x_ids[i]`, or
/// `i / rows_per_x` without them.
///
/// - `x` `[x_rows, k]` and `output` `[m, n]`: f32, f16 or bf16, the same;
/// - `weight`: matrices `[experts, n, k]` of any format (one matrix is a stack of one);
/// - `bias`: `[experts, n]`, of the dtype of `x`;
/// - `ids`, `x_ids`: u32, `[m]`.
///
/// A row whose id is no expert is zeros. One whose `x_ids` is no row of `x` is made of a row of zeros.
///
/// For the experts of a token in decoding: `rows_per_x` of the number of experts of a token, ids as the router gives them.
/// For a prompt: rows sorted by expert, `x_ids` saying where each comes from.
///
/// # Errors
/// As [`linear`]; also for `x_rows` or `rows_per_x` of 0, and where `rows_per_x` rows for each row of `x` are less than `m`.
pub fn gather_linear(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    x: &MlxBuffer,
    weight: &Weight,
    bias: Option<&MlxBuffer>,
    ids: &MlxBuffer,
    x_ids: Option<&MlxBuffer>,
    output: &MlxBuffer,
    params: &GatherParams,
) -> Result<()> {
    const NAME: &str = "gather_linear";
    let GatherParams { m, x_rows, rows_per_x, sorted } = *params;
    check::nonzero(NAME, &[("m", m), ("x_rows", x_rows), ("rows_per_x", rows_per_x)])?;
    if x_ids.is_none() && u64::from(x_rows) * u64::from(rows_per_x) < u64::from(m) {
        return invalid!("{NAME}: x_rows {x_rows} times rows_per_x {rows_per_x} is less than m {m}");
    }
    for (name, buffer) in [("ids", Some(ids)), ("x_ids", x_ids)] {
        if let Some(buffer) = buffer {
            check::dtype(NAME, name, buffer, &[DType::U32])?;
            check::holds(NAME, name, buffer, m as usize)?;
        }
    }
    let kernel = route::route_gathered(m, weight.experts().unwrap_or(1), sorted);
    let rows = Rows { m, x_rows, rows_per_x, ids: Some(ids), x_ids };
    let call = Call { name: NAME, x, weight, bias, output, rows, transpose: true };
    call.record(encoder, registry, device, kernel)
}

/// A stack of matrices has no place where one is wanted.
fn single(name: &str, weight: &Weight) -> Result<()> {
    match weight.experts() {
        None => Ok(()),
        Some(experts) => invalid!("{name}: the weight is a stack of {experts} matrices, wanted one"),
    }
}

/// Which rows there are, and what they are made of.
#[derive(Clone, Copy)]
struct Rows<'a> {
    m: u32,
    x_rows: u32,
    rows_per_x: u32,
    ids: Option<&'a MlxBuffer>,
    x_ids: Option<&'a MlxBuffer>,
}

impl Rows<'_> {
    fn all(m: u32) -> Self {
        Rows { m, x_rows: m, rows_per_x: 1, ids: None, x_ids: None }
    }
}

/// The arguments of the three operators.
struct Call<'a> {
    name: &'static str,
    x: &'a MlxBuffer,
    weight: &'a Weight,
    bias: Option<&'a MlxBuffer>,
    output: &'a MlxBuffer,
    rows: Rows<'a>,
    transpose: bool,
}

impl Call<'_> {
    fn n(&self) -> u32 {
        if self.transpose { self.weight.rows() } else { self.weight.columns() }
    }

    fn k(&self) -> u32 {
        if self.transpose { self.weight.columns() } else { self.weight.rows() }
    }

    /// As [`matmul`], whose kernels know dense weights better.
    fn dense(&self, encoder: &mut CommandEncoder, registry: &mut KernelRegistry, device: &MlxDevice) -> Result<()> {
        let params = MatmulParams { m: self.rows.m, n: self.n(), k: self.k(), transpose: self.transpose };
        matmul(encoder, registry, device, self.x, &self.weight.planes()[0], self.output, &params)
    }

    /// Whether rows of `x` are whole runs at multiples of 16 bytes.
    fn is_wide_x(&self) -> bool {
        self.k().is_multiple_of(RUN) && self.x.byte_offset().is_multiple_of(16)
    }

    fn check(&self) -> Result<()> {
        let name = self.name;
        let (n, k, Rows { m, x_rows, .. }) = (self.n(), self.k(), self.rows);
        check::nonzero(name, &[("m", m)])?;
        let x_len = check::product(name, "x", &[x_rows, k])?;
        let output_len = check::product(name, "output", &[m, n])?;
        check::same_float(name, &[("x", self.x), ("output", self.output)])?;
        check::holds(name, "x", self.x, x_len)?;
        check::holds(name, "output", self.output, output_len)?;
        let mut inputs: SmallVec<[(&str, &MlxBuffer); 8]> = SmallVec::new();
        inputs.push(("x", self.x));
        inputs.extend(self.weight.planes().iter().map(|plane| ("weight", plane)));
        if let Some(bias) = self.bias {
            check::same_float(name, &[("x", self.x), ("bias", bias)])?;
            let experts = self.weight.experts().unwrap_or(1);
            check::holds(name, "bias", bias, check::product(name, "bias", &[experts, n])?)?;
            inputs.push(("bias", bias));
        }
        inputs.extend(self.rows.ids.map(|ids| ("ids", ids)));
        inputs.extend(self.rows.x_ids.map(|ids| ("x_ids", ids)));
        check::disjoint(name, ("output", self.output), &inputs)
    }

    fn record(
        &self,
        encoder: &mut CommandEncoder,
        registry: &mut KernelRegistry,
        device: &MlxDevice,
        kernel: LinearKernel,
    ) -> Result<()> {
        self.check()?;
        let Rows { m, x_rows, rows_per_x, ids, x_ids } = self.rows;
        let [codes_stride, scales_stride] = strides(self.name, self.weight)?;
        let experts = self.weight.experts().unwrap_or(1);
        let shape = Shape { m, n: self.n(), k: self.k(), experts, x_rows, rows_per_x, codes_stride, scales_stride };
        let mut constants = weight_constants(self.weight, self.x.dtype())?;
        let k_parts = route::k_parts(device.limits().profile.bandwidth, shape.n, shape.k);
        let (grid, group) = kernel.launch(m, shape.n, k_parts);
        if let LinearKernel::Rows(rows) = kernel {
            constants.push((ROWS, rows.into()));
            constants.push((K_PARTS, k_parts.into()));
        }
        constants.push((WIDE_X, self.is_wide_x().into()));
        constants.push((GATHERED, ids.is_some().into()));
        constants.push((CHOSEN, x_ids.is_some().into()));
        constants.push((BIASED, self.bias.is_some().into()));
        if kernel == LinearKernel::Tiles {
            constants.push((PLAIN, (!self.transpose).into()));
        }
        constants.sort_unstable_by_key(|c| c.0);
        let place = self.weight.format().kernel_index();
        let name = OP.kernels[place + if kernel == LinearKernel::Tiles { OP.kernels.len() / 2 } else { 0 }].0;
        let pipeline = registry.get_pipeline_with_constants(name, device, &constants)?;
        let planes = planes(self.weight);
        let mut args: SmallVec<[(u64, KernelArg<'_>); 9]> = SmallVec::new();
        args.extend([
            (0, KernelArg::Buffer(self.x)),
            (1, KernelArg::Buffer(planes[0])),
            (2, KernelArg::Buffer(planes[1])),
            (3, KernelArg::Buffer(planes[2])),
            (4, KernelArg::Buffer(self.output)),
            (5, KernelArg::Bytes(as_bytes(&shape))),
        ]);
        args.extend(ids.map(|ids| (6, KernelArg::Buffer(ids))));
        args.extend(x_ids.map(|ids| (7, KernelArg::Buffer(ids))));
        args.extend(self.bias.map(|bias| (8, KernelArg::Buffer(bias))));
        encoder.try_encode_threadgroups_with_args(pipeline, &args, grid, group)
    }
}

/// Function constants in ascending order.
type Constants = SmallVec<[(u32, ConstantValue); 12]>;

/// The function constants of every kernel that reads weights.
///
/// # Errors
/// When a row of the weight is longer than kernels can say.
pub(crate) fn weight_constants(weight: &Weight, x: DType) -> Result<Constants> {
    let format = weight.format();
    let (group_size, scales) = match format {
        WeightFormat::Affine { format, scales } => (format.group_size(), scales),
        // Not read.
        _ => (0, DType::F32),
    };
    let global_scale = format == WeightFormat::Nvfp4 { global_scale: true };
    Ok(Constants::from_slice(&[
        (coding::X_TYPE, coding::float_code(x).into()),
        (coding::GROUP_SIZE, group_size.into()),
        (coding::SCALE_TYPE, coding::float_code(scales).into()),
        (coding::GLOBAL_SCALE, global_scale.into()),
        (coding::WIDE_CODES, has_wide_codes(weight)?.into()),
    ]))
}

/// Whether all runs of codes begin at multiples of 8 bytes: where the kernels' loads of 8 bytes may be used. Memory begins
/// at multiples of 64.
fn has_wide_codes(weight: &Weight) -> Result<bool> {
    let [stride, _] = strides("linear", weight)?;
    // Runs of other formats are whole and as long as they must be.
    let is_whole = !matches!(weight.format(), WeightFormat::Dense(_)) || weight.columns().is_multiple_of(RUN);
    Ok(is_whole && stride.is_multiple_of(8) && weight.planes()[0].byte_offset().is_multiple_of(8))
}

/// The planes in the three places that kernels have; where a format has fewer, the codes, which are not read there.
pub(crate) fn planes(weight: &Weight) -> [&MlxBuffer; 3] {
    let planes = weight.planes();
    [0, 1, 2].map(|i| planes.get(i).unwrap_or(&planes[0]))
}

/// Bytes from one row to the next of the codes, and of the scales.
pub(crate) fn strides(name: &str, weight: &Weight) -> Result<[u32; 2]> {
    let planes = weight.format().planes(weight.columns() as usize)?;
    let bytes = |i: usize| planes.get(i).map_or(0, |p| p.row * p.dtype.size_of());
    let fit = |bytes| {
        u32::try_from(bytes)
            .map_err(|_| MlxError::InvalidArgument(format!("{name}: a row of the weight is {bytes} bytes, above 4294967295")))
    };
    Ok([fit(bytes(0))?, fit(bytes(1))?])
}
