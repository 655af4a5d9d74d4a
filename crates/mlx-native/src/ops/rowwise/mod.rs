//! Functions of elements over rows that may lie apart: activations, gates, scales, caps, decays, and strided copies.
//!
//! `output[r, c] = f(a[r, c], b[r, c / b_div], c[r, c / c_div])`, row `r` of each operand beginning `r · stride` elements
//! behind its start. A stride of 0 repeats one row; a divisor above 1 repeats each of its elements, as a factor per head
//! does. Every function computes in f32 and rounds once.

mod cpu;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod tests;

use bytemuck::{Pod, Zeroable};
use half::{bf16, f16};

use super::{Op, check};
use crate::buffer::MlxBuffer;
use crate::device::MlxDevice;
use crate::encoder::{CommandEncoder, KernelArg, as_bytes};
use crate::error::{MlxError, Result, invalid};
use crate::kernel::ConstantValue;
use crate::registry::KernelRegistry;
use crate::metal::MTLSize;

/// The Metal text of the kernels `rowwise_f32`, `rowwise_f16`, `rowwise_bf16`.
pub static ROWWISE_SHADER_SOURCE: &str = include_str!("rowwise.metal");

pub(crate) static OP: Op = Op {
    name: "rowwise",
    source: ROWWISE_SHADER_SOURCE,
    kernels: &[
        ("rowwise_f32", cpu::rowwise::<f32>),
        ("rowwise_f16", cpu::rowwise::<f16>),
        ("rowwise_bf16", cpu::rowwise::<bf16>),
    ],
};

/// Adds the kernels of this operator to a registry. A new registry has them already.
pub fn register(registry: &mut KernelRegistry) {
    registry.register_op(&OP);
}

/// A function of one to three elements `x`, `y`, `z` and of the parameters `p`. σ is the logistic function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Function {
    /// `p0·x + p1`; with 1 and 0 a copy.
    Scale = 0,
    /// `p0·x + p1·y`
    Add = 1,
    /// `x·y·p0`
    Mul = 2,
    /// `p0·tanh(x / p0)`
    Cap = 3,
    /// `x·σ(x)`
    Silu = 4,
    /// `x·Φ(x)`, Φ being the normal distribution's: GELU in its exact form.
    GeluErf = 5,
    /// `x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³)))`
    GeluTanh = 6,
    /// `max(x, 0)²`
    Relu2 = 7,
    /// `σ(x)`
    Sigmoid = 8,
    /// `ln(1 + eˣ)`
    Softplus = 9,
    /// `tanh x`
    Tanh = 10,
    /// `x·σ(x)·y`
    SiluMul = 11,
    /// `GeluErf(x)·y`
    GeluErfMul = 12,
    /// `GeluTanh(x)·y`
    GeluTanhMul = 13,
    /// `max(x, 0)²·y`
    Relu2Mul = 14,
    /// `σ(x)·y`
    SigmoidMul = 15,
    /// `ln(1 + eˣ)·y`
    SoftplusMul = 16,
    /// `g·σ(p1·g)·(u + 1)` with `g = min(x, p0)` and `u = y` clipped to ±p0.
    ClippedSwiglu = 17,
    /// `min(x·σ(x), p0)·u` with `u = y` clipped to ±p0.
    SiluClippedMul = 18,
    /// `g·σ(g)·u` with `g = min(x, p0)` and `u = y` clipped to ±p0.
    ClippedSiluMul = 19,
    /// `p0·x² + p2·x` for `x > 0`, else `p1·(expm1(min(x, p3)) - x) + p2·x`: the integral of an ELU (xIELU).
    Xielu = 20,
    /// `exp(-exp(z)·ln(1 + e^(x + y)))`: the decay of a gated recurrence, from its input, its bias and the logarithm of its rate.
    Decay = 21,
    /// `exp(p0·σ(exp(z)·(x + y)))`: a decay that is bounded below by `e^p0`.
    BoundedDecay = 22,
    /// `ln(1 + e^(x + y))`, clipped to `[p0, p1]`: a step width.
    StepWidth = 23,
    /// `x + (y - x)·z`
    Lerp = 24,
    /// `exp(-exp(z)·x)`
    DecayOfStep = 25,
    /// `√(1 - x²)·y`: what complements a decay.
    Complement = 26,
    /// `exp(p0·σ(x))`
    ExpSigmoid = 27,
    /// `exp(p0·σ(x)·ln(1 + e^y))`
    GatedDecay = 28,
    /// `max(0, x - (y + p0·z))`: what exceeds a mean by so many deviations.
    Excess = 29,
    /// `p0·tanh(x / p0)·σ(x)·p1·tanh(y / p1)`: a SiLU product with both factors capped.
    CappedSiluMul = 30,
    /// `x` clipped to `[p0, p1]`
    Clip = 31,
}

impl Function {
    /// Operands it takes, 1 to 3.
    #[must_use]
    pub const fn operands(self) -> usize {
        use Function::{
            Add, BoundedDecay, CappedSiluMul, ClippedSiluMul, ClippedSwiglu, Complement, Decay, DecayOfStep, Excess,
            GatedDecay, GeluErfMul, GeluTanhMul, Lerp, Mul, Relu2Mul, SigmoidMul, SiluClippedMul, SiluMul,
            SoftplusMul, StepWidth,
        };
        match self {
            Decay | BoundedDecay | Lerp | DecayOfStep | Excess => 3,
            Add | Mul | SiluMul | GeluErfMul | GeluTanhMul | Relu2Mul | SigmoidMul | SoftplusMul | ClippedSwiglu
            | SiluClippedMul | ClippedSiluMul | StepWidth | Complement | GatedDecay | CappedSiluMul => 2,
            _ => 1,
        }
    }
}

/// Sizes, strides and parameters. Also the parameter struct of the kernels: `repr(C)`, 48 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct RowwiseParams {
    /// Rows.
    pub rows: u32,
    /// Elements of a row.
    pub cols: u32,
    /// Elements from one row of `a` to the next; 0 repeats one row, as for the others.
    pub a_stride: u32,
    /// The same of `b`.
    pub b_stride: u32,
    /// The same of `c`.
    pub c_stride: u32,
    /// The same of `output`; at least `cols`.
    pub output_stride: u32,
    /// How many elements in a row share one of `b`.
    pub b_div: u32,
    /// The same of `c`.
    pub c_div: u32,
    /// The function's parameters.
    pub p: [f32; 4],
}

impl RowwiseParams {
    /// Dense rows, `b` and `c` as `a`.
    #[must_use]
    pub const fn dense(rows: u32, cols: u32) -> Self {
        RowwiseParams {
            rows,
            cols,
            a_stride: cols,
            b_stride: cols,
            c_stride: cols,
            output_stride: cols,
            b_div: 1,
            c_div: 1,
            p: [1.0, 0.0, 0.0, 0.0],
        }
    }
}

/// Index of the function constant that holds the [`Function`].
const FUNCTION: u32 = 0;
const OP_NAME: &str = "rowwise";

/// Records `output[r, c] = function(a[r, c], b[r, c / b_div], c[r, c / c_div])` for `rows` rows of `cols` elements.
///
/// All buffers are f32, f16 or bf16, the same. `output` may be `a`, or an operand of the same stride and a divisor of 1,
/// in place. An operand that the function does not take must not be given.
///
/// # Errors
/// [`MlxError::InvalidArgument`], naming the parameter, for a zero size or divisor, an operand too few or too many, an
/// `output_stride` below `cols`, a parameter that is not finite (the bounds of `StepWidth` and `Clip` may be infinite), a
/// buffer that is too small, an `output` that overlaps an operand without being it, or mixed dtypes.
#[allow(clippy::too_many_arguments)]
pub fn rowwise(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    function: Function,
    a: &MlxBuffer,
    b: Option<&MlxBuffer>,
    c: Option<&MlxBuffer>,
    output: &MlxBuffer,
    params: &RowwiseParams,
) -> Result<()> {
    let [a, b, c, output] = check_arguments(function, a, b, c, output, params)?;
    let (Some(a), Some(output)) = (a, output) else {
        return invalid!("{OP_NAME}: a and output must be given");
    };
    let kernel = check::by_float(a.dtype(), ["rowwise_f32", "rowwise_f16", "rowwise_bf16"]);
    let constants = [(FUNCTION, ConstantValue::U32(function as u32))];
    let pipeline = registry.get_pipeline_with_constants(kernel, device, &constants)?;
    encoder.try_encode_with_args(
        pipeline,
        &[
            (0, KernelArg::Buffer(&a)),
            // Operands that the function does not take are bound to something that is not read.
            (1, b.as_ref().map_or(KernelArg::Bytes(&[0; 16]), KernelArg::Buffer)),
            (2, c.as_ref().map_or(KernelArg::Bytes(&[0; 16]), KernelArg::Buffer)),
            (3, KernelArg::Buffer(&output)),
            (4, KernelArg::Bytes(as_bytes(params))),
        ],
        MTLSize::new(u64::from(params.cols), u64::from(params.rows), 1),
        MTLSize::new(u64::from(params.cols.clamp(1, 256)), 1, 1),
    )
}

/// Checks, and gives a, b, c and the output cut to the elements that are used.
fn check_arguments(
    function: Function,
    a: &MlxBuffer,
    b: Option<&MlxBuffer>,
    c: Option<&MlxBuffer>,
    output: &MlxBuffer,
    params: &RowwiseParams,
) -> Result<[Option<MlxBuffer>; 4]> {
    let RowwiseParams { rows, cols, a_stride, b_stride, c_stride, output_stride, b_div, c_div, p } = *params;
    check::nonzero(OP_NAME, &[("rows", rows), ("cols", cols), ("b_div", b_div), ("c_div", c_div)])?;
    let given = 1 + usize::from(b.is_some()) + usize::from(c.is_some());
    if given != function.operands() || (c.is_some() && b.is_none()) {
        return invalid!("{OP_NAME}: {function:?} takes {} operands, {given} are given", function.operands());
    }
    if rows > 1 && output_stride < cols {
        return invalid!("{OP_NAME}: output_stride {output_stride} is less than cols {cols}");
    }
    let may_be_infinite = matches!(function, Function::StepWidth | Function::Clip);
    if let Some(bad) = p.iter().find(|v| v.is_nan() || (v.is_infinite() && !may_be_infinite)) {
        return invalid!("{OP_NAME}: parameter {bad} of {function:?}, it must be finite");
    }
    check::same_float(OP_NAME, &[("a", a), ("b", b.unwrap_or(a)), ("c", c.unwrap_or(a)), ("output", output)])?;
    let extent = |name: &str, stride: u32, columns: u32| {
        (stride as usize)
            .checked_mul(rows as usize - 1)
            .and_then(|n| n.checked_add(columns as usize))
            .ok_or_else(|| MlxError::InvalidArgument(format!("{OP_NAME}: the size of {name} overflows")))
    };
    let out_len = extent("output", output_stride, cols)?;
    check::holds(OP_NAME, "output", output, out_len)?;
    let operands = [
        ("a", Some(a), a_stride, 1),
        ("b", b, b_stride, b_div),
        ("c", c, c_stride, c_div),
    ];
    let mut used = [None, None, None, Some(output.view(0, output.dtype(), vec![out_len])?)];
    for (slot, (name, buffer, stride, div)) in used.iter_mut().zip(operands) {
        let Some(buffer) = buffer else { continue };
        let len = extent(name, stride, cols.div_ceil(div))?;
        check::holds(OP_NAME, name, buffer, len)?;
        let is_output = output.mem_range().0 == buffer.mem_range().0;
        if is_output && (div != 1 || (rows > 1 && stride != output_stride)) {
            return invalid!("{OP_NAME}: output is {name}, but their strides or elements differ");
        }
        *slot = Some(buffer.view(0, buffer.dtype(), vec![len])?);
    }
    Ok(used)
}
