//! The published 0.1 functions of the module `moe_dispatch`: they adapt [`zero`], [`accumulate`],
//! [`weighted_sum`](crate::ops::weighted_sum::weighted_sum), [`rowwise`](crate::ops::rowwise::rowwise),
//! [`matmul`](crate::ops::matmul::matmul) and [`weigh_sorted`](crate::ops::moe_gate::weigh_sorted).

use super::{AccumulateParams, accumulate, zero};
use crate::buffer::MlxBuffer;
use crate::device::{DeviceRef, MlxDevice};
use crate::dtype::DType;
use crate::encoder::CommandEncoder;
use crate::error::{Result, invalid};
use crate::registry::KernelRegistry;
use crate::ops::matmul::{MatmulParams, matmul};
use crate::ops::moe_gate::{RouteParams, weigh_sorted};
use crate::ops::published::{handle, nonzero, operand, operand_at, product, u32_of};
use crate::ops::rowwise::{Function, RowwiseParams, rowwise};
use crate::ops::weighted_sum::{WeightedSumParams, weighted_sum};

/// Sizes of [`moe_dispatch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MoeDispatchParams {
    /// Features of the token.
    pub input_dim: usize,
    /// Features between the projections of an expert.
    pub intermediate_dim: usize,
    /// Number of experts.
    pub n_selected: usize,
}

/// The weights of one expert, f32 and row-major.
#[derive(Debug, Clone, Copy)]
pub struct ExpertWeights<'a> {
    /// `[intermediate_dim, input_dim]`.
    pub gate_proj: &'a MlxBuffer,
    /// `[intermediate_dim, input_dim]`.
    pub up_proj: &'a MlxBuffer,
    /// `[input_dim, intermediate_dim]`.
    pub down_proj: &'a MlxBuffer,
}

/// Weights below this are skipped, as in 0.1.
const NEGLIGIBLE: f32 = 1e-10;

/// Records `output = Σₑ wₑ · downₑ·(gelu(gateₑ·x) · (upₑ·x))` for one token `input` of `input_dim` f32. Experts whose weight is
/// below 1e-10 in absolute value are skipped. (The documentation of 0.1 states the weights transposed; its code and tests are
/// as here.)
///
/// The scratch buffers hold `intermediate_dim` f32 each, `scratch_expert` `input_dim`.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a zero size, lists that have not
/// `n_selected` entries, buffers of too few bytes, or buffers that overlap. Nothing is recorded then.
pub fn moe_dispatch(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &DeviceRef,
    input: &MlxBuffer,
    expert_weights: &[ExpertWeights<'_>],
    routing_weights: &[f32],
    output: &MlxBuffer,
    scratch_gate: &MlxBuffer,
    scratch_up: &MlxBuffer,
    scratch_hidden: &MlxBuffer,
    scratch_expert: &MlxBuffer,
    params: &MoeDispatchParams,
) -> Result<()> {
    const OP: &str = "moe_dispatch";
    let MoeDispatchParams { input_dim, intermediate_dim, n_selected } = *params;
    nonzero(
        OP,
        &[("input_dim", input_dim), ("intermediate_dim", intermediate_dim), ("n_selected", n_selected)],
    )?;
    for (name, len) in [("expert_weights", expert_weights.len()), ("routing_weights", routing_weights.len())] {
        if len != n_selected {
            return invalid!("{OP}: {name} has {len} entries, n_selected is {n_selected}");
        }
    }
    let (k, n) = (u32_of(OP, "input_dim", input_dim)?, u32_of(OP, "intermediate_dim", intermediate_dim)?);
    let f32s = |name: &str, buffer: &MlxBuffer, len: usize| operand(OP, name, buffer, DType::F32, len);
    let x = f32s("input", input, input_dim)?;
    let output = f32s("output", output, input_dim)?;
    let gate = f32s("scratch_gate", scratch_gate, intermediate_dim)?;
    let up = f32s("scratch_up", scratch_up, intermediate_dim)?;
    let hidden = f32s("scratch_hidden", scratch_hidden, intermediate_dim)?;
    let expert = f32s("scratch_expert", scratch_expert, input_dim)?;
    let size = product(OP, "an expert's weight", &[input_dim, intermediate_dim])?;
    let weights = expert_weights
        .iter()
        .map(|e| {
            let [gate, up, down] =
                [("gate_proj", e.gate_proj), ("up_proj", e.up_proj), ("down_proj", e.down_proj)]
                    .map(|(name, buffer)| f32s(name, buffer, size));
            Ok([gate?, up?, down?])
        })
        .collect::<Result<Vec<_>>>()?;
    let device = &handle(device);
    zero(encoder, registry, device, &output, k)?;
    for ([gate_proj, up_proj, down_proj], &weight) in weights.iter().zip(routing_weights) {
        if weight.abs() < NEGLIGIBLE {
            continue;
        }
        let widen = MatmulParams { m: 1, n, k, transpose: true };
        let narrow = MatmulParams { m: 1, n: k, k: n, transpose: true };
        matmul(encoder, registry, device, &x, gate_proj, &gate, &widen)?;
        matmul(encoder, registry, device, &x, up_proj, &up, &widen)?;
        gelu_mul(encoder, registry, device, &gate, &up, &hidden, &RowwiseParams::dense(1, n))?;
        matmul(encoder, registry, device, &hidden, down_proj, &expert, &narrow)?;
        let params = AccumulateParams { n_elements: k, weight };
        accumulate(encoder, registry, device, &output, &expert, &params)?;
    }
    Ok(())
}

/// Records `output[i] = gelu(gate_up[i]) · gate_up[n_elements + i]` in f32. (It is GELU in 0.1 too, despite the name.)
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for no elements or too many, buffers
/// of too few bytes, or buffers that overlap.
pub fn moe_swiglu_fused_encode(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &DeviceRef,
    gate_up: &MlxBuffer,
    output: &MlxBuffer,
    n_elements: usize,
) -> Result<()> {
    moe_swiglu_fused_encode_offset(encoder, registry, device, gate_up, 0, output, 0, n_elements)
}

/// [`moe_swiglu_fused_encode`] from byte offsets on.
///
/// # Errors
/// As [`moe_swiglu_fused_encode`]; also for an offset that is no multiple of 4.
pub fn moe_swiglu_fused_encode_offset(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &DeviceRef,
    gate_up: &MlxBuffer,
    gu_byte_offset: usize,
    output: &MlxBuffer,
    out_byte_offset: usize,
    n_elements: usize,
) -> Result<()> {
    const OP: &str = "moe_swiglu_fused";
    nonzero(OP, &[("n_elements", n_elements)])?;
    let n = u32_of(OP, "n_elements", n_elements)?;
    let both = operand_at(OP, "gate_up", gate_up, gu_byte_offset, DType::F32, 2 * n as usize)?;
    let gate = operand(OP, "gate_up", &both, DType::F32, n_elements)?;
    let up = operand_at(OP, "gate_up", &both, 4 * n_elements, DType::F32, n_elements)?;
    let output = operand_at(OP, "output", output, out_byte_offset, DType::F32, n_elements)?;
    gelu_mul(encoder, registry, &handle(device), &gate, &up, &output, &RowwiseParams::dense(1, n))
}

/// Records, for each of `top_k` slots, `output[s, i] = gelu(gate_up[s, i]) · gate_up[s, intermediate + i]` in f32: `gate_up` is
/// `[top_k, 2 · intermediate]`, `output` `[top_k, intermediate]`.
///
/// # Errors
/// As [`moe_swiglu_fused_encode`].
pub fn moe_swiglu_batch_encode(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &DeviceRef,
    gate_up: &MlxBuffer,
    output: &MlxBuffer,
    intermediate: usize,
    top_k: usize,
) -> Result<()> {
    const OP: &str = "moe_swiglu_batch";
    nonzero(OP, &[("intermediate", intermediate), ("top_k", top_k)])?;
    let (rows, cols) = (u32_of(OP, "top_k", top_k)?, u32_of(OP, "intermediate", intermediate)?);
    let Some(stride) = cols.checked_mul(2) else {
        return invalid!("{OP}: intermediate is {intermediate}, it must be below 2147483648");
    };
    let len = product(OP, "gate_up", &[top_k, 2, intermediate])?;
    let gate = operand(OP, "gate_up", gate_up, DType::F32, len)?;
    let up = operand_at(OP, "gate_up", gate_up, 4 * intermediate, DType::F32, len - intermediate)?;
    let output = operand(OP, "output", output, DType::F32, product(OP, "output", &[top_k, intermediate])?)?;
    let params = RowwiseParams { a_stride: stride, b_stride: stride, ..RowwiseParams::dense(rows, cols) };
    gelu_mul(encoder, registry, &handle(device), &gate, &up, &output, &params)
}

/// `output[r, c] = gelu(gate[r, c]) · up[r, c]`, the tanh form.
fn gelu_mul(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    gate: &MlxBuffer,
    up: &MlxBuffer,
    output: &MlxBuffer,
    params: &RowwiseParams,
) -> Result<()> {
    rowwise(encoder, registry, device, Function::GeluTanhMul, gate, Some(up), None, output, params)
}

/// Records zeros in the first `n_elements` f32 of `output`.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for no elements or more than
/// `u32::MAX`, or a buffer of too few bytes.
pub fn moe_zero_buffer_encode(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &DeviceRef,
    output: &MlxBuffer,
    n_elements: usize,
) -> Result<()> {
    const OP: &str = "moe_zero_buffer";
    nonzero(OP, &[("n_elements", n_elements)])?;
    let n = u32_of(OP, "n_elements", n_elements)?;
    let output = operand(OP, "output", output, DType::F32, n_elements)?;
    zero(encoder, registry, &handle(device), &output, n)
}

/// Records `accumulator[i] += routing_weight · expert_output[i]` in f32.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for no elements or more than
/// `u32::MAX`, buffers of too few bytes, or buffers that overlap.
pub fn moe_accumulate_encode(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &DeviceRef,
    accumulator: &MlxBuffer,
    expert_output: &MlxBuffer,
    routing_weight: f32,
    n_elements: usize,
) -> Result<()> {
    moe_accumulate_encode_offset(
        encoder, registry, device, accumulator, expert_output, 0, routing_weight, n_elements,
    )
}

/// [`moe_accumulate_encode`] from a byte offset of `expert_output` on.
///
/// # Errors
/// As [`moe_accumulate_encode`]; also for an offset that is no multiple of 4.
pub fn moe_accumulate_encode_offset(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &DeviceRef,
    accumulator: &MlxBuffer,
    expert_output: &MlxBuffer,
    src_byte_offset: usize,
    routing_weight: f32,
    n_elements: usize,
) -> Result<()> {
    const OP: &str = "moe_accumulate";
    nonzero(OP, &[("n_elements", n_elements)])?;
    let params =
        AccumulateParams { n_elements: u32_of(OP, "n_elements", n_elements)?, weight: routing_weight };
    let sum = operand(OP, "accumulator", accumulator, DType::F32, n_elements)?;
    let x = operand_at(OP, "expert_output", expert_output, src_byte_offset, DType::F32, n_elements)?;
    accumulate(encoder, registry, &handle(device), &sum, &x, &params)
}

/// Records `output[c] = Σₖ weights[k] · expert_outputs[k, c]` in f32: `expert_outputs` is `[top_k, hidden_size]`.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a zero size, buffers of too few
/// bytes, or an `output` that overlaps another operand.
pub fn moe_weighted_sum_encode(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &DeviceRef,
    expert_outputs: &MlxBuffer,
    weights: &MlxBuffer,
    output: &MlxBuffer,
    hidden_size: usize,
    top_k: usize,
) -> Result<()> {
    const OP: &str = "moe_weighted_sum";
    nonzero(OP, &[("hidden_size", hidden_size), ("top_k", top_k)])?;
    let params = WeightedSumParams {
        rows: 1,
        terms: u32_of(OP, "top_k", top_k)?,
        dim: u32_of(OP, "hidden_size", hidden_size)?,
    };
    let len = product(OP, "expert_outputs", &[top_k, hidden_size])?;
    let x = operand(OP, "expert_outputs", expert_outputs, DType::F32, len)?;
    let weights = operand(OP, "weights", weights, DType::F32, top_k)?;
    let output = operand(OP, "output", output, DType::F32, hidden_size)?;
    weighted_sum(encoder, registry, &handle(device), &x, &weights, &output, &params)
}

/// Records the routing weights of one token from probabilities and their order: `out_expert_ids[k] = sorted_indices[k]`,
/// `out_weights[k]` its probability divided by the sum of the `top_k`, times `per_expert_scale` of the expert. Unlike the two
/// other routers it does not divide again after that.
///
/// `softmax_probs` and `per_expert_scale` are f32 `[n_experts]`, `sorted_indices` is u32 `[n_experts]`; the outputs are u32 and
/// f32 `[top_k]`. 0.1 took a `top_k` of up to 8; here it is any. An index beyond the experts gives weight 0.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a zero size, a `top_k` beyond
/// `n_experts`, buffers of too few bytes, or an output that overlaps another operand.
pub fn moe_gather_topk_weights_encode(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &DeviceRef,
    softmax_probs: &MlxBuffer,
    sorted_indices: &MlxBuffer,
    per_expert_scale: &MlxBuffer,
    out_expert_ids: &MlxBuffer,
    out_weights: &MlxBuffer,
    n_experts: usize,
    top_k: usize,
) -> Result<()> {
    const OP: &str = "moe_gather_topk_weights";
    nonzero(OP, &[("n_experts", n_experts), ("top_k", top_k)])?;
    let params = RouteParams {
        n_tokens: 1,
        n_experts: u32_of(OP, "n_experts", n_experts)?,
        top_k: u32_of(OP, "top_k", top_k)?,
        normalize: false,
    };
    let probs = operand(OP, "softmax_probs", softmax_probs, DType::F32, n_experts)?;
    let sorted = operand(OP, "sorted_indices", sorted_indices, DType::U32, n_experts)?;
    let scale = operand(OP, "per_expert_scale", per_expert_scale, DType::F32, n_experts)?;
    let ids = operand(OP, "out_expert_ids", out_expert_ids, DType::U32, top_k)?;
    let weights = operand(OP, "out_weights", out_weights, DType::F32, top_k)?;
    weigh_sorted(encoder, registry, &handle(device), &probs, &sorted, Some(&scale), &ids, &weights, &params)
}
