//! Linear recurrences over the tokens of a step: state-space layers and linear attention.
//!
//! Each head has a state `S` `[v_dim, k_dim]`, in f32. For each token, in order, with its `q` and `k` `[k_dim]`, its `v`
//! `[v_dim]` and its decay `g`:
//!
//! | rule | step |
//! |---|---|
//! | [`Rule::Decayed`] | `S ← S∘g + v kᵀ` |
//! | [`Rule::Delta`] | `S ← S∘g; S ← S + β (v - S k) kᵀ` |
//! | [`Rule::LowRank`] | `S ← S∘g + (S a) bᵀ + v kᵀ`, `S a` being of the state before |
//!
//! then `output = S q`. The decay multiplies columns: it is one number a head, one for each element of a key, or
//! `exp(step · rate)` with a step a head and a rate for each element. Mamba 1 and 2, gated delta nets, KDA, RWKV-7,
//! lightning attention and RG-LRU are all of this form.

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
use crate::error::{Result, invalid};
use crate::kernel::ConstantValue;
use crate::registry::KernelRegistry;
use crate::metal::MTLSize;

/// The Metal text of the kernels `linear_scan_f32`, `linear_scan_f16`, `linear_scan_bf16`.
pub static LINEAR_SCAN_SHADER_SOURCE: &str = include_str!("linear_scan.metal");

pub(crate) static OP: Op = Op {
    name: "linear_scan",
    source: LINEAR_SCAN_SHADER_SOURCE,
    kernels: &[
        ("linear_scan_f32", cpu::linear_scan::<f32>),
        ("linear_scan_f16", cpu::linear_scan::<f16>),
        ("linear_scan_bf16", cpu::linear_scan::<bf16>),
    ],
};

/// Adds the kernels of this operator to a registry. A new registry has them already.
pub fn register(registry: &mut KernelRegistry) {
    registry.register_op(&OP);
}

/// How a state changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Rule {
    /// `S ← S∘g + v kᵀ`
    Decayed = 0,
    /// `S ← S∘g + β (v - (S∘g) k) kᵀ`
    Delta = 1,
    /// `S ← S∘g + (S a) bᵀ + v kᵀ`
    LowRank = 2,
}

/// What a decay is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Decay {
    /// `[rows, n_heads]`
    Head = 0,
    /// `[rows, n_heads, k_dim]`
    Channel = 1,
    /// `exp(decay[row, head] · rates[head, channel])`: steps `[rows, n_heads]` and `rates` `[n_heads, k_dim]`
    StepTimesRate = 2,
}

/// Sizes of a scan. Also the parameter struct of the kernels: `repr(C)`, 32 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct LinearScanParams {
    /// Tokens.
    pub rows: u32,
    /// Heads of states, values and outputs.
    pub n_heads: u32,
    /// Heads of queries and keys; divides `n_heads`. Head `h` takes key head `h / (n_heads / n_k_heads)`.
    pub n_k_heads: u32,
    /// Elements of a query and a key: 1 to [`MAX_K_DIM`].
    pub k_dim: u32,
    /// Elements of a value.
    pub v_dim: u32,
    /// Elements from one row of `q` to the next; at least `n_k_heads · k_dim`.
    pub q_stride: u32,
    /// The same of `k`.
    pub k_stride: u32,
    /// The same of `v`; at least `n_heads · v_dim`.
    pub v_stride: u32,
}

/// The inputs of a scan. `q`, `k` and `v` have the dtype of the output, all others are f32 and dense.
#[derive(Debug, Clone, Copy)]
pub struct ScanInputs<'a> {
    /// `[rows, n_k_heads, k_dim]`, rows `q_stride` apart.
    pub q: &'a MlxBuffer,
    /// `[rows, n_k_heads, k_dim]`, rows `k_stride` apart.
    pub k: &'a MlxBuffer,
    /// `[rows, n_heads, v_dim]`, rows `v_stride` apart.
    pub v: &'a MlxBuffer,
    /// As [`Decay`] says.
    pub decay: &'a MlxBuffer,
    /// `[n_heads, k_dim]`, for [`Decay::StepTimesRate`].
    pub rates: Option<&'a MlxBuffer>,
    /// β `[rows, n_heads]`, for [`Rule::Delta`].
    pub beta: Option<&'a MlxBuffer>,
    /// `a` and `b`, `[rows, n_heads, k_dim]` each, for [`Rule::LowRank`].
    pub low_rank: Option<(&'a MlxBuffer, &'a MlxBuffer)>,
}

/// The most elements of a key: a row of a state is kept in the registers of one simdgroup.
pub const MAX_K_DIM: u32 = 512;
const RULE: u32 = 0;
const DECAY: u32 = 1;
/// Rows of a state for each threadgroup, a simdgroup each.
const ROWS_PER_GROUP: u32 = 4;
const OP_NAME: &str = "linear_scan";

/// Records a scan over `rows` tokens.
///
/// `state` `[n_heads, v_dim, k_dim]`, f32, is read and becomes what it is behind the last token; `output` is `[rows,
/// n_heads, v_dim]`. The dtype of `q`, `k`, `v` and `output` is f32, f16 or bf16; all sums are in f32.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a zero size, a `k_dim` beyond
/// 512, `n_heads` not divisible by `n_k_heads`, a stride below its row, an input that the rule or the decay asks for and
/// that is missing or one too many, a buffer that is too small or of another dtype, or a `state` or `output` that shares memory with another buffer.
#[allow(clippy::too_many_arguments)]
pub fn linear_scan(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    rule: Rule,
    decay: Decay,
    inputs: &ScanInputs<'_>,
    state: &MlxBuffer,
    output: &MlxBuffer,
    params: &LinearScanParams,
) -> Result<()> {
    check_arguments(rule, decay, inputs, state, output, params)?;
    let kernel = check::by_float(output.dtype(), ["linear_scan_f32", "linear_scan_f16", "linear_scan_bf16"]);
    let constants = [(RULE, ConstantValue::U32(rule as u32)), (DECAY, ConstantValue::U32(decay as u32))];
    let pipeline = registry.get_pipeline_with_constants(kernel, device, &constants)?;
    let unused = inputs.decay;
    let (first, second) = match (inputs.low_rank, inputs.beta, inputs.rates) {
        (Some((a, b)), ..) => (a, b),
        (None, beta, _) => (beta.unwrap_or(unused), unused),
    };
    encoder.try_encode_threadgroups_with_args(
        pipeline,
        &[
            (0, KernelArg::Buffer(inputs.q)),
            (1, KernelArg::Buffer(inputs.k)),
            (2, KernelArg::Buffer(inputs.v)),
            (3, KernelArg::Buffer(inputs.decay)),
            (4, KernelArg::Buffer(inputs.rates.unwrap_or(unused))),
            (5, KernelArg::Buffer(first)),
            (6, KernelArg::Buffer(second)),
            (7, KernelArg::Buffer(state)),
            (8, KernelArg::Buffer(output)),
            (9, KernelArg::Bytes(as_bytes(params))),
        ],
        MTLSize::new(u64::from(params.v_dim.div_ceil(ROWS_PER_GROUP)), u64::from(params.n_heads), 1),
        MTLSize::new(u64::from(ROWS_PER_GROUP * 32), 1, 1),
    )
}

fn check_arguments(
    rule: Rule,
    decay: Decay,
    inputs: &ScanInputs<'_>,
    state: &MlxBuffer,
    output: &MlxBuffer,
    params: &LinearScanParams,
) -> Result<()> {
    let LinearScanParams { rows, n_heads, n_k_heads, k_dim, v_dim, q_stride, k_stride, v_stride } = *params;
    check::nonzero(
        OP_NAME,
        &[("rows", rows), ("n_heads", n_heads), ("n_k_heads", n_k_heads), ("k_dim", k_dim), ("v_dim", v_dim)],
    )?;
    if k_dim > MAX_K_DIM {
        return invalid!("{OP_NAME}: k_dim is {k_dim}, it must be at most {MAX_K_DIM}");
    }
    if n_heads % n_k_heads != 0 {
        return invalid!("{OP_NAME}: n_heads {n_heads} is not divisible by n_k_heads {n_k_heads}");
    }
    for (name, given, wanted) in [
        ("rates", inputs.rates.is_some(), decay == Decay::StepTimesRate),
        ("beta", inputs.beta.is_some(), rule == Rule::Delta),
        ("low_rank", inputs.low_rank.is_some(), rule == Rule::LowRank),
    ] {
        if given != wanted {
            let verb = if wanted { "missing" } else { "not taken" };
            return invalid!("{OP_NAME}: {name} is {verb} with {rule:?} and {decay:?}");
        }
    }
    let keys = check::product(OP_NAME, "a row of keys", &[n_k_heads, k_dim])?;
    let values = check::product(OP_NAME, "a row of values", &[n_heads, v_dim])?;
    let floats = [("q", inputs.q), ("k", inputs.k), ("v", inputs.v), ("output", output)];
    check::same_float(OP_NAME, &floats)?;
    for (name, buffer, stride, row) in [
        ("q", inputs.q, q_stride, keys),
        ("k", inputs.k, k_stride, keys),
        ("v", inputs.v, v_stride, values),
    ] {
        if (stride as usize) < row {
            return invalid!("{OP_NAME}: {name}_stride is {stride}, a row has {row} elements");
        }
        let before = check::product(OP_NAME, name, &[rows - 1, stride])?;
        check::holds(OP_NAME, name, buffer, before.saturating_add(row))?;
    }
    let per_head = check::product(OP_NAME, "decay", &[rows, n_heads])?;
    let per_channel = check::product(OP_NAME, "decay", &[rows, n_heads, k_dim])?;
    let decays = if decay == Decay::Channel { per_channel } else { per_head };
    let mut wide = vec![("decay", inputs.decay, decays)];
    wide.extend(inputs.rates.map(|r| ("rates", r, n_heads as usize * k_dim as usize)));
    wide.extend(inputs.beta.map(|b| ("beta", b, per_head)));
    if let Some((a, b)) = inputs.low_rank {
        wide.extend([("low_rank a", a, per_channel), ("low_rank b", b, per_channel)]);
    }
    wide.push(("state", state, check::product(OP_NAME, "state", &[n_heads, v_dim, k_dim])?));
    for (name, buffer, elements) in &wide {
        check::dtype(OP_NAME, name, buffer, &[DType::F32])?;
        check::holds(OP_NAME, name, buffer, *elements)?;
    }
    check::holds(OP_NAME, "output", output, check::product(OP_NAME, "output", &[rows, n_heads, v_dim])?)?;
    let mut read = vec![("q", inputs.q), ("k", inputs.k), ("v", inputs.v)];
    read.extend(wide[..wide.len() - 1].iter().map(|(name, buffer, _)| (*name, *buffer)));
    check::disjoint(OP_NAME, ("state", state), &read)?;
    check::disjoint(OP_NAME, ("output", output), &read)?;
    check::disjoint(OP_NAME, ("output", output), &[("state", state)])
}
