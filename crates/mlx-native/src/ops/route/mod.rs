//! The router of a mixture of experts: from logits to the experts of each token and their weights.
//!
//! Logits become scores; a correction may be added to scores for the choice alone; all but the best groups of experts may be
//! left out; the best `top_k` experts are chosen, the first of equal ones; their weights are their scores without the
//! correction, perhaps divided by their sum, times a factor. Everything in f32. NaN counts as the least score.

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
use crate::registry::KernelRegistry;
use crate::metal::MTLSize;

/// The Metal text of the kernels `route_f32`, `route_f16`, `route_bf16`.
pub static ROUTE_SHADER_SOURCE: &str = include_str!("route.metal");

pub(crate) static OP: Op = Op {
    name: "route",
    source: ROUTE_SHADER_SOURCE,
    kernels: &[
        ("route_f32", cpu::route::<f32>),
        ("route_f16", cpu::route::<f16>),
        ("route_bf16", cpu::route::<bf16>),
    ],
};

/// Adds the kernels of this operator to a registry. A new registry has them already.
pub fn register(registry: &mut KernelRegistry) {
    registry.register_op(&OP);
}

/// From logits to scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Score {
    /// Softmax over all experts.
    Softmax = 0,
    /// Logits as they are; the weights are the softmax of the chosen.
    SoftmaxOfChosen = 1,
    /// `1 / (1 + e⁻ˣ)`
    Sigmoid = 2,
    /// `√ln(1 + eˣ)`
    SqrtSoftplus = 3,
    /// Logits as they are. Each choice in turn: its weight is its share in the softmax of those that are left and that lie
    /// within [`jitter`](RouteParams::jitter) of it.
    SparseMixer = 4,
}

/// Sizes and choices. Also the parameter struct of the kernels: `repr(C)`, 48 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct RouteParams {
    /// Tokens.
    pub rows: u32,
    /// Experts, 1 to [`MAX_EXPERTS`].
    pub n_experts: u32,
    /// Experts of a token, 1 to [`MAX_TOP_K`] and at most `n_experts`.
    pub top_k: u32,
    /// A [`Score`].
    pub score: u32,
    /// Equal groups of neighbouring experts, 1 to [`MAX_GROUPS`]; 1 for none.
    pub n_groups: u32,
    /// Groups that count; at most `n_groups`.
    pub top_groups: u32,
    /// A group's score is the sum of this many of its best: 1 or 2.
    pub best_of: u32,
    /// What scores of other groups become: 0 for 0, 1 for -infinity.
    pub others: u32,
    /// 1: weights are divided by their sum and `sum_eps`.
    pub normalise: u32,
    /// See `normalise`.
    pub sum_eps: f32,
    /// What weights are multiplied by.
    pub factor: f32,
    /// For [`Score::SparseMixer`]: a logit `l` is left out of the softmax of a choice `t` when `(t - l) / max(|l|, t)` is
    /// above twice this. 0 otherwise.
    pub jitter: f32,
}

/// The most experts: their scores are kept in threadgroup memory.
pub const MAX_EXPERTS: u32 = 2048;
/// The most experts of a token.
pub const MAX_TOP_K: u32 = 64;
/// The most groups.
pub const MAX_GROUPS: u32 = 256;
const HAS_CORRECTION: u32 = 0;
const OP_NAME: &str = "route";

/// Records the choice for `rows` tokens.
///
/// `logits` is `[rows, n_experts]` and `weights` `[rows, top_k]`, f32, f16 or bf16, the same; `correction` is f32
/// `[n_experts]`; `ids` is u32 `[rows, top_k]`, best first.
///
/// # Errors
/// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument), naming the parameter, for a size that is zero or beyond
/// its bound, `n_experts` not divisible by `n_groups`, a `factor` or `sum_eps` that is not finite, a `jitter` beyond 0 to 1, a buffer that is too
/// small or of another dtype, or outputs that share memory with another buffer.
#[allow(clippy::too_many_arguments)]
pub fn route(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    logits: &MlxBuffer,
    correction: Option<&MlxBuffer>,
    ids: &MlxBuffer,
    weights: &MlxBuffer,
    params: &RouteParams,
) -> Result<()> {
    check_params(params)?;
    let RouteParams { rows, n_experts, top_k, .. } = *params;
    let dtype = check::same_float(OP_NAME, &[("logits", logits), ("weights", weights)])?;
    check::holds(OP_NAME, "logits", logits, check::product(OP_NAME, "logits", &[rows, n_experts])?)?;
    let chosen = check::product(OP_NAME, "ids", &[rows, top_k])?;
    check::dtype(OP_NAME, "ids", ids, &[DType::U32])?;
    check::holds(OP_NAME, "ids", ids, chosen)?;
    check::holds(OP_NAME, "weights", weights, chosen)?;
    let mut read = vec![("logits", logits)];
    if let Some(correction) = correction {
        check::dtype(OP_NAME, "correction", correction, &[DType::F32])?;
        check::holds(OP_NAME, "correction", correction, n_experts as usize)?;
        read.push(("correction", correction));
    }
    check::disjoint(OP_NAME, ("ids", ids), &read)?;
    check::disjoint(OP_NAME, ("weights", weights), &read)?;
    check::disjoint(OP_NAME, ("ids", ids), &[("weights", weights)])?;
    let kernel = check::by_float(dtype, ["route_f32", "route_f16", "route_bf16"]);
    let constants = [(HAS_CORRECTION, correction.is_some().into())];
    let pipeline = registry.get_pipeline_with_constants(kernel, device, &constants)?;
    encoder.try_encode_threadgroups_with_args(
        pipeline,
        &[
            (0, KernelArg::Buffer(logits)),
            // Without one, something that is not read.
            (1, correction.map_or(KernelArg::Bytes(&[0; 16]), KernelArg::Buffer)),
            (2, KernelArg::Buffer(ids)),
            (3, KernelArg::Buffer(weights)),
            (4, KernelArg::Bytes(as_bytes(params))),
        ],
        MTLSize::new(u64::from(rows), 1, 1),
        MTLSize::new(32, 1, 1),
    )
}

fn check_params(p: &RouteParams) -> Result<()> {
    check::nonzero(
        OP_NAME,
        &[
            ("rows", p.rows),
            ("n_experts", p.n_experts),
            ("top_k", p.top_k),
            ("n_groups", p.n_groups),
            ("top_groups", p.top_groups),
        ],
    )?;
    for (name, value, most) in [
        ("n_experts", p.n_experts, MAX_EXPERTS),
        ("top_k", p.top_k, MAX_TOP_K.min(p.n_experts)),
        ("score", p.score, Score::SparseMixer as u32),
        ("n_groups", p.n_groups, MAX_GROUPS.min(p.n_experts)),
        ("top_groups", p.top_groups, p.n_groups),
        ("best_of", p.best_of, 2),
        ("others", p.others, 1),
        ("normalise", p.normalise, 1),
    ] {
        if value > most {
            return invalid!("{OP_NAME}: {name} is {value}, it must be at most {most}");
        }
    }
    if p.best_of == 0 || !p.n_experts.is_multiple_of(p.n_groups) {
        return invalid!("{OP_NAME}: best_of is {}, n_experts {}, n_groups {}", p.best_of, p.n_experts, p.n_groups);
    }
    if !(0.0..=1.0).contains(&p.jitter) {
        return invalid!("{OP_NAME}: jitter is {}, it must be from 0 to 1", p.jitter);
    }
    if !p.factor.is_finite() || !p.sum_eps.is_finite() {
        return invalid!("{OP_NAME}: factor is {}, sum_eps {}, they must be finite", p.factor, p.sum_eps);
    }
    Ok(())
}
