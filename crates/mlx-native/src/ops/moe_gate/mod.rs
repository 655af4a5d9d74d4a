//! The routing of tokens to experts: [`moe_route`] from logits, [`moe_gate_route`] from hidden states, [`weigh_sorted`] from
//! probabilities whose order is known.

mod cpu;
mod published;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod tests;

use bytemuck::{Pod, Zeroable};
use half::{bf16, f16};

pub use published::*;

use super::{Op, check};
use crate::buffer::MlxBuffer;
use crate::device::MlxDevice;
use crate::dtype::DType;
use crate::encoder::{CommandEncoder, KernelArg, as_bytes};
use crate::error::{Result, invalid};
use crate::registry::KernelRegistry;
use crate::metal::MTLSize;

/// The Metal text of the kernels `moe_route`, `moe_gate_*` (in f32, f16 and bf16) and `weigh_sorted`.
pub static MOE_GATE_SHADER_SOURCE: &str = include_str!("moe_gate.metal");

pub(crate) static OP: Op = Op {
    name: "moe_gate",
    source: MOE_GATE_SHADER_SOURCE,
    kernels: &[
        ("moe_route", cpu::route),
        ("moe_gate_f32", cpu::gate::<f32>),
        ("moe_gate_f16", cpu::gate::<f16>),
        ("moe_gate_bf16", cpu::gate::<bf16>),
        ("weigh_sorted", cpu::weigh_sorted),
    ],
};

/// Adds the kernels of this operator to a registry. A new registry has them already.
pub fn register(registry: &mut KernelRegistry) {
    registry.register_op(&OP);
}

/// Index of the function constant that says whether experts have a scale.
const HAS_SCALE: u32 = 0;

/// How tokens are routed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteParams {
    /// Number of tokens.
    pub n_tokens: u32,
    /// Number of experts.
    pub n_experts: u32,
    /// Experts that a token gets; any number up to `n_experts`.
    pub top_k: u32,
    /// Whether the weights of a token are divided by their sum once they are scaled, if that is more than 0.
    pub normalize: bool,
}

/// The parameter struct of `moe_route` and `weigh_sorted`.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct KernelParams {
    n_tokens: u32,
    n_experts: u32,
    top_k: u32,
    normalize: u32,
}

/// The parameter struct of `moe_gate_*`.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct GateKernelParams {
    route: KernelParams,
    hidden: u32,
    eps: f32,
}

impl From<&RouteParams> for KernelParams {
    fn from(p: &RouteParams) -> Self {
        KernelParams {
            n_tokens: p.n_tokens,
            n_experts: p.n_experts,
            top_k: p.top_k,
            normalize: p.normalize.into(),
        }
    }
}

/// Records, for each token, `ids` = the `top_k` experts of the largest logits, the lowest index of equals first, and
/// `weights` = the softmax over their logits, times `scale` of the expert, divided by their sum if `normalize`.
///
/// `logits` is f32 `[n_tokens, n_experts]`, `scale` f32 `[n_experts]` (none = ones); `ids` is u32 and `weights` f32
/// `[n_tokens, top_k]`. The ids of a token are distinct. NaN counts as larger than everything, and makes the token's weights
/// NaN; logits of nothing but -infinity give weights of 0.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a zero size, a `top_k` beyond
/// `n_experts`, a buffer that is too small or of another dtype, or an output that overlaps another operand.
pub fn moe_route(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    logits: &MlxBuffer,
    scale: Option<&MlxBuffer>,
    ids: &MlxBuffer,
    weights: &MlxBuffer,
    params: &RouteParams,
) -> Result<()> {
    const OP: &str = "moe_route";
    let len = check_route(OP, params)?;
    let inputs = [("logits", Some(logits), DType::F32, len)];
    check_operands(OP, &inputs, scale, ids, weights, params)?;
    let pipeline =
        registry.get_pipeline_with_constants("moe_route", device, &[(HAS_SCALE, scale.is_some().into())])?;
    let kernel_params = KernelParams::from(params);
    let mut bindings = vec![
        (0, KernelArg::Buffer(logits)),
        (2, KernelArg::Buffer(ids)),
        (3, KernelArg::Buffer(weights)),
        (4, KernelArg::Bytes(as_bytes(&kernel_params))),
    ];
    bindings.extend(scale.map(|s| (1, KernelArg::Buffer(s))));
    encoder.try_encode_threadgroups_with_args(
        pipeline,
        &bindings,
        MTLSize::new(u64::from(params.n_tokens), 1, 1),
        MTLSize::new(u64::from(params.n_experts).next_multiple_of(32).min(256), 1, 1),
    )
}

/// What [`moe_gate_route`] reads.
#[derive(Debug, Clone, Copy)]
pub struct GateInputs<'a> {
    /// Hidden states: f32, f16 or bf16 `[n_tokens, hidden]`.
    pub x: &'a MlxBuffer,
    /// f32 `[n_experts, hidden]`.
    pub router: &'a MlxBuffer,
    /// f32 `[hidden]`.
    pub norm_weight: &'a MlxBuffer,
    /// f32 `[n_experts]`; none = ones.
    pub scale: Option<&'a MlxBuffer>,
}

/// Records [`moe_route`] of the logits `router · (x / √(mean(x²) + eps) · norm_weight)`, everything in f32.
///
/// # Errors
/// As [`moe_route`]; also for a `hidden` of 0 or beyond 2^31, an `eps` that is negative or not finite, and what allocating the
/// logits ends with.
pub fn moe_gate_route(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    inputs: &GateInputs<'_>,
    ids: &MlxBuffer,
    weights: &MlxBuffer,
    hidden: u32,
    eps: f32,
    params: &RouteParams,
) -> Result<()> {
    const OP: &str = "moe_gate";
    let GateInputs { x, router, norm_weight, scale } = *inputs;
    let len = check_route(OP, params)?;
    check::nonzero(OP, &[("hidden", hidden)])?;
    check::row_length(OP, "hidden", hidden)?;
    if !eps.is_finite() || eps < 0.0 {
        return invalid!("{OP}: eps is {eps}, it must be finite and not negative");
    }
    let dtype = check::same_float(OP, &[("x", x)])?;
    let operands = [
        ("x", Some(x), dtype, check::product(OP, "x", &[params.n_tokens, hidden])?),
        ("router", Some(router), DType::F32, check::product(OP, "router", &[params.n_experts, hidden])?),
        ("norm_weight", Some(norm_weight), DType::F32, hidden as usize),
    ];
    check_operands(OP, &operands, scale, ids, weights, params)?;
    let logits = registry.scratch(device, len * 4)?.view(0, DType::F32, vec![len])?;
    let kernel = check::by_float(dtype, ["moe_gate_f32", "moe_gate_f16", "moe_gate_bf16"]);
    let pipeline =
        registry.get_pipeline_with_constants(kernel, device, &[(HAS_SCALE, scale.is_some().into())])?;
    let kernel_params = GateKernelParams { route: params.into(), hidden, eps };
    let mut bindings = vec![
        (0, KernelArg::Buffer(x)),
        (1, KernelArg::Buffer(router)),
        (2, KernelArg::Buffer(norm_weight)),
        (4, KernelArg::Buffer(ids)),
        (5, KernelArg::Buffer(weights)),
        (6, KernelArg::Buffer(&logits)),
        (7, KernelArg::Bytes(as_bytes(&kernel_params))),
    ];
    bindings.extend(scale.map(|s| (3, KernelArg::Buffer(s))));
    encoder.try_encode_threadgroups_with_args(
        pipeline,
        &bindings,
        MTLSize::new(u64::from(params.n_tokens), 1, 1),
        MTLSize::new(256, 1, 1),
    )
}

/// Records, for each token, `ids` = the first `top_k` of `sorted` and `weights` = their probabilities divided by the sum of
/// these, times `scale` of the expert, divided by their sum if `normalize`.
///
/// `probabilities` is f32 and `sorted` u32 `[n_tokens, n_experts]`, `scale` f32 `[n_experts]` (none = ones); `ids` is u32 and
/// `weights` f32 `[n_tokens, top_k]`. An index in `sorted` that is no expert gets weight 0; a sum of 0 gives weights of 0.
///
/// # Errors
/// As [`moe_route`].
pub fn weigh_sorted(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    probabilities: &MlxBuffer,
    sorted: &MlxBuffer,
    scale: Option<&MlxBuffer>,
    ids: &MlxBuffer,
    weights: &MlxBuffer,
    params: &RouteParams,
) -> Result<()> {
    const OP: &str = "weigh_sorted";
    let len = check_route(OP, params)?;
    let inputs =
        [("probabilities", Some(probabilities), DType::F32, len), ("sorted", Some(sorted), DType::U32, len)];
    check_operands(OP, &inputs, scale, ids, weights, params)?;
    let pipeline =
        registry.get_pipeline_with_constants("weigh_sorted", device, &[(HAS_SCALE, scale.is_some().into())])?;
    let kernel_params = KernelParams::from(params);
    let mut bindings = vec![
        (0, KernelArg::Buffer(probabilities)),
        (1, KernelArg::Buffer(sorted)),
        (3, KernelArg::Buffer(ids)),
        (4, KernelArg::Buffer(weights)),
        (5, KernelArg::Bytes(as_bytes(&kernel_params))),
    ];
    bindings.extend(scale.map(|s| (2, KernelArg::Buffer(s))));
    encoder.try_encode_with_args(
        pipeline,
        &bindings,
        MTLSize::new(u64::from(params.n_tokens), 1, 1),
        MTLSize::new(32, 1, 1),
    )
}

/// Gives the number of logits.
fn check_route(op: &str, params: &RouteParams) -> Result<usize> {
    let RouteParams { n_tokens, n_experts, top_k, .. } = *params;
    check::nonzero(op, &[("n_tokens", n_tokens), ("n_experts", n_experts), ("top_k", top_k)])?;
    check::row_length(op, "n_experts", n_experts)?;
    if top_k > n_experts {
        return invalid!("{op}: top_k {top_k} is beyond n_experts {n_experts}");
    }
    let len = check::product(op, "logits", &[n_tokens, n_experts])?;
    check::product(op, "logits", &[n_tokens, n_experts, 4])?;
    Ok(len)
}

fn check_operands(
    op: &str,
    inputs: &[(&str, Option<&MlxBuffer>, DType, usize)],
    scale: Option<&MlxBuffer>,
    ids: &MlxBuffer,
    weights: &MlxBuffer,
    params: &RouteParams,
) -> Result<()> {
    let chosen = check::product(op, "weights", &[params.n_tokens, params.top_k])?;
    let scale = ("scale", scale, DType::F32, params.n_experts as usize);
    for &(name, buffer, dtype, len) in inputs.iter().chain([&scale]) {
        let Some(buffer) = buffer else { continue };
        check::dtype(op, name, buffer, &[dtype])?;
        check::holds(op, name, buffer, len)?;
        check::disjoint(op, ("ids", ids), &[(name, buffer)])?;
        check::disjoint(op, ("weights", weights), &[(name, buffer)])?;
    }
    check::dtype(op, "ids", ids, &[DType::U32])?;
    check::dtype(op, "weights", weights, &[DType::F32])?;
    check::holds(op, "ids", ids, chosen)?;
    check::holds(op, "weights", weights, chosen)?;
    check::disjoint(op, ("weights", weights), &[("ids", ids)])
}
