//! Feed-forward layers as data.

use super::{Matrix, Norm};

/// A dense feed-forward layer: `down(f(gate x) · up x)`, or `down(f(up x))` without a gate.
#[derive(Debug, Clone, PartialEq)]
pub struct Mlp {
    /// The gate's matrix; `None`: no gate.
    pub gate: Option<Matrix>,
    /// To the inner width.
    pub up: Matrix,
    /// Back.
    pub down: Matrix,
    /// What is applied between.
    pub activation: MlpActivation,
    /// A norm before `down`.
    pub norm: Option<Norm>,
}

/// The activation of a feed-forward layer. With a gate each multiplies the function of the gate by `up`.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum MlpActivation {
    /// `x·σ(x)`
    Silu,
    /// GELU by the normal distribution.
    GeluErf,
    /// GELU by tanh.
    GeluTanh,
    /// `max(x, 0)²`
    Relu2,
    /// `g·σ(alpha·g)·(u + 1)`, both clipped.
    ClippedSwiglu {
        /// To what is clipped.
        limit: f32,
        /// Steepness.
        alpha: f32,
    },
    /// `min(silu(g), limit)·u`, u clipped.
    SiluClipped {
        /// To what is clipped.
        limit: f32,
    },
    /// `silu(min(g, limit))·u`, u clipped.
    ClippedSilu {
        /// To what is clipped.
        limit: f32,
    },
    /// The integral of an ELU, its four parameters in tensors of one element named `path.alpha_p`, `.alpha_n`, `.beta`, `.eps`.
    Xielu {
        /// Where the parameters are.
        path: String,
    },
    /// GELU by tanh of what exceeds the mean of the gate by `deviations` standard deviations.
    SparseGeluTanh {
        /// The threshold.
        deviations: f32,
    },
    /// `beta·tanh(g / beta)·σ(g) · limit·tanh(u / limit)`
    CappedSilu {
        /// Cap of the gate.
        beta: f32,
        /// Cap of `up`.
        limit: f32,
    },
}

/// A mixture of experts.
#[derive(Debug, Clone, PartialEq)]
pub struct Moe {
    /// Chooses experts.
    pub router: Router,
    /// The experts.
    pub experts: Experts,
    /// An expert that every token takes.
    pub shared: Option<SharedExpert>,
    /// Weights multiply the experts' input instead of their output.
    pub weights_before: bool,
    /// The chosen experts work in a narrower space: matrices down and up, with a norm before the latter.
    pub latent: Option<(Matrix, Option<Norm>, Matrix)>,
    /// A norm of what the experts of a narrower space read.
    pub latent_pre: Option<Norm>,
    /// A norm of what each expert gives.
    pub expert_norm: Option<Norm>,
}

/// Chooses experts and their weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Router {
    /// To one logit an expert.
    pub matrix: Matrix,
    /// A norm of the router's input.
    pub norm: Option<Norm>,
    /// The router reads what the block's own norm reads.
    pub reads_unnormed: bool,
    /// What logits are multiplied with.
    pub logit_factor: f32,
    /// Choices behind the experts there are: a token's weight for one of these multiplies the token itself.
    pub n_identity: usize,
    /// Name of a vector added to scores for the choice alone.
    pub correction: Option<String>,
    /// From logits to scores.
    pub score: Score,
    /// Experts of a token.
    pub top_k: usize,
    /// Limits the choice to some groups of experts.
    pub groups: Option<GroupLimit>,
    /// Weights are divided by their sum, to which this is added.
    pub normalise: Option<f32>,
    /// What weights are multiplied with.
    pub factor: f32,
    /// Logits become `cap·tanh(logits / cap)`.
    pub cap: Option<f32>,
    /// Name of a vector of one factor an expert for the weights.
    pub expert_scale: Option<String>,
}

/// From logits to scores.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Score {
    /// Softmax of all, then the choice.
    Softmax,
    /// The choice, then softmax of the chosen.
    SoftmaxOfChosen,
    /// The logistic function.
    Sigmoid,
    /// The root of softplus.
    SqrtSoftplus,
    /// Each choice in turn among those not far below the top, weighted by the softmax of these.
    SparseMixer {
        /// How far below counts as far.
        jitter: f32,
    },
}

/// Only the best groups of experts count.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GroupLimit {
    /// Groups.
    pub n_groups: usize,
    /// Groups that count.
    pub top_groups: usize,
    /// A group's score is the sum of this many of its best.
    pub best_of: usize,
    /// What scores of other groups become: 0 or -∞.
    pub others: f32,
}

/// Matrices of experts, stacked.
#[derive(Debug, Clone, PartialEq)]
pub struct Experts {
    /// Number of experts.
    pub n_experts: usize,
    /// `[n_experts, inner, hidden]`; `None`: no gate.
    pub gate: Option<Stack>,
    /// `[n_experts, inner, hidden]`
    pub up: Stack,
    /// `[n_experts, hidden, inner]`
    pub down: Stack,
    /// What is applied between.
    pub activation: MlpActivation,
}

/// Matrices `[outputs, inputs]`, one an expert.
#[derive(Debug, Clone, PartialEq)]
pub struct Stack {
    /// Path of the stacked tensor, or with `{}` in it of one matrix an expert.
    pub path: String,
    /// Rows of each that are used.
    pub outputs: usize,
    /// Columns.
    pub inputs: usize,
    /// Whether each adds a bias, `[n_experts, outputs]`.
    pub bias: bool,
    /// Rows of each in the tensor, and the first that is used.
    pub rows: Option<(usize, usize)>,
}

/// An expert that every token takes.
#[derive(Debug, Clone, PartialEq)]
pub struct SharedExpert {
    /// The expert.
    pub mlp: Mlp,
    /// To one logit whose logistic function multiplies it.
    pub gate: Option<Matrix>,
    /// To two logits whose softmax weighs the chosen experts and this one.
    pub mix: Option<Matrix>,
}
