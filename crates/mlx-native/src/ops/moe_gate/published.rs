//! The published 0.1 function of the module `moe_gate`: adapts [`moe_gate_route`].

use super::{GateInputs, RouteParams, moe_gate_route};
use crate::buffer::MlxBuffer;
use crate::device::DeviceRef;
use crate::dtype::DType;
use crate::encoder::CommandEncoder;
use crate::error::{Result, invalid};
use crate::registry::KernelRegistry;
use crate::ops::published::{handle, nonzero, operand, product, u32_of};

/// Sizes of [`moe_gate`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MoeGateParams {
    /// Features of a token.
    pub hidden_dim: usize,
    /// Number of experts. 0.1 took up to 128; here it is any.
    pub n_experts: usize,
    /// Experts that a token gets. 0.1 took up to 8; here it is any up to `n_experts`.
    pub top_k: usize,
    /// Number of tokens.
    pub seq_len: usize,
    /// Added to the mean of the squares.
    pub rms_eps: f32,
}

/// Records the routing of `seq_len` tokens: logits `router · (rms(x)·norm_weight)`, the `top_k` largest, the lowest index of
/// equals first; weights the softmax over these, times `per_expert_scale`, divided by their sum.
///
/// `hidden_state` is bf16 `[seq_len, hidden_dim]`, `router_weights` f32 `[n_experts, hidden_dim]`, `norm_weight` f32
/// `[hidden_dim]`, `per_expert_scale` f32 `[n_experts]`; `out_expert_ids` u32 and `out_weights` f32 `[seq_len, top_k]`, by
/// descending logit.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a zero size, a `top_k` beyond
/// `n_experts`, an `rms_eps` that is negative or not finite, buffers of too few bytes, or an output that overlaps another
/// operand.
pub fn moe_gate(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &DeviceRef,
    hidden_state: &MlxBuffer,
    router_weights: &MlxBuffer,
    norm_weight: &MlxBuffer,
    per_expert_scale: &MlxBuffer,
    out_expert_ids: &MlxBuffer,
    out_weights: &MlxBuffer,
    params: &MoeGateParams,
) -> Result<()> {
    const OP: &str = "moe_gate";
    let MoeGateParams { hidden_dim, n_experts, top_k, seq_len, rms_eps } = *params;
    nonzero(
        OP,
        &[("hidden_dim", hidden_dim), ("n_experts", n_experts), ("top_k", top_k), ("seq_len", seq_len)],
    )?;
    if top_k > n_experts {
        return invalid!("{OP}: top_k {top_k} is beyond n_experts {n_experts}");
    }
    let route = RouteParams {
        n_tokens: u32_of(OP, "seq_len", seq_len)?,
        n_experts: u32_of(OP, "n_experts", n_experts)?,
        top_k: u32_of(OP, "top_k", top_k)?,
        normalize: true,
    };
    let hidden = u32_of(OP, "hidden_dim", hidden_dim)?;
    let chosen = product(OP, "out_weights", &[seq_len, top_k])?;
    let x_len = product(OP, "hidden_state", &[seq_len, hidden_dim])?;
    let router_len = product(OP, "router_weights", &[n_experts, hidden_dim])?;
    let x = operand(OP, "hidden_state", hidden_state, DType::BF16, x_len)?;
    let router = operand(OP, "router_weights", router_weights, DType::F32, router_len)?;
    let norm_weight = operand(OP, "norm_weight", norm_weight, DType::F32, hidden_dim)?;
    let scale = operand(OP, "per_expert_scale", per_expert_scale, DType::F32, n_experts)?;
    let ids = operand(OP, "out_expert_ids", out_expert_ids, DType::U32, chosen)?;
    let weights = operand(OP, "out_weights", out_weights, DType::F32, chosen)?;
    let inputs = GateInputs { x: &x, router: &router, norm_weight: &norm_weight, scale: Some(&scale) };
    moe_gate_route(encoder, registry, &handle(device), &inputs, &ids, &weights, hidden, rms_eps, &route)
}
