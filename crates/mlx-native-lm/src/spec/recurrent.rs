//! Layers with a state of fixed size, as data.

use super::{Matrix, Norm};

/// A causal convolution of each channel by itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Convolution {
    /// Name of the weights, `[channels, kernel, 1]`.
    pub weight: String,
    /// Name of the bias.
    pub bias: Option<String>,
    /// Channels.
    pub channels: usize,
    /// Tokens that a channel sees, itself included.
    pub kernel: usize,
    /// Whether SiLU follows.
    pub silu: bool,
}

/// `out(c · conv(b · x))` with `[b | c | x]` from one matrix.
#[derive(Debug, Clone, PartialEq)]
pub struct ShortConv {
    /// To `[b | c | x]`, `[3·channels, hidden]`.
    pub input: Matrix,
    /// The convolution.
    pub conv: Convolution,
    /// Back.
    pub output: Matrix,
}

/// Linear attention by the delta rule: `S ← gS; S ← S + β(v - Sk)kᵀ; y = Sq`.
#[derive(Debug, Clone, PartialEq)]
pub struct Delta {
    /// Heads of queries and keys.
    pub k_heads: usize,
    /// Heads of values; a multiple of `k_heads`.
    pub v_heads: usize,
    /// Elements of a head of queries and keys.
    pub k_dim: usize,
    /// Elements of a head of values.
    pub v_dim: usize,
    /// Projections to queries, keys and values, and their convolutions.
    pub inputs: DeltaInputs,
    /// To β before the logistic function, one a value head.
    pub beta: Matrix,
    /// What β is multiplied with.
    pub beta_factor: f32,
    /// The decay.
    pub decay: DeltaDecay,
    /// To the output's gate: matrices in a row.
    pub gate: Vec<Matrix>,
    /// Norm of each head's output.
    pub norm: Norm,
    /// The logistic function of the gate instead of SiLU.
    pub sigmoid_gate: bool,
    /// Added to the sum of squares of queries and keys before the root.
    pub qk_eps: f32,
    /// Back to the stream.
    pub o: Matrix,
}

/// From the stream to queries, keys and values.
#[derive(Debug, Clone, PartialEq)]
pub enum DeltaInputs {
    /// One matrix to `[q | k | v]`, one convolution over all of it.
    Joint(Matrix, Convolution),
    /// Three of each.
    Apart(Box<[(Matrix, Convolution); 3]>),
}

/// The decay of a delta rule.
#[derive(Debug, Clone, PartialEq)]
pub enum DeltaDecay {
    /// One a head.
    Head {
        /// To one element a value head.
        matrix: Matrix,
        /// Name of the logarithm of the rate.
        a_log: String,
        /// Name of the bias.
        dt_bias: String,
    },
    /// One for each element of a key.
    Channel(ChannelDecay),
}

/// A decay for each element of a key.
#[derive(Debug, Clone, PartialEq)]
pub struct ChannelDecay {
    /// Matrices in a row, to `v_heads · k_dim`.
    pub matrices: Vec<Matrix>,
    /// Name of the logarithm of the rate, one a head.
    pub a_log: String,
    /// Name of the bias, one an element.
    pub dt_bias: String,
    /// Decays stay above `e^bound`.
    pub bound: Option<f32>,
}

/// Mamba 2: `S ← e^{Aδ}S + δu Bᵀ; y = SC + Du`.
#[derive(Debug, Clone, PartialEq)]
pub struct Mamba2 {
    /// Heads.
    pub n_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Groups that share B and C.
    pub n_groups: usize,
    /// Elements of the state for each element of a head.
    pub state: usize,
    /// To the gate, `[inner, hidden]`.
    pub gate: Matrix,
    /// To `[u | B | C]`, or to `u` alone.
    pub input: Matrix,
    /// B, C and δ from `u` behind its convolution, each with a norm; `None`: B and C are convolved with `u`.
    pub projected: Option<Box<[(Matrix, Norm); 3]>>,
    /// To δ: from the stream, or from what `projected` gives.
    pub dt: Matrix,
    /// Over what `input` gives.
    pub conv: Convolution,
    /// Names of δ's bias, the logarithm of the rate, and D, one a head each.
    pub dt_bias: String,
    /// See `dt_bias`.
    pub a_log: String,
    /// See `dt_bias`.
    pub d: String,
    /// δ is clipped to these.
    pub dt_limits: (f32, f32),
    /// Norm of the output.
    pub norm: Option<GroupedNorm>,
    /// Back to the stream.
    pub o: Matrix,
}

/// A norm of a recurrent layer's output and where its gate stands.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupedNorm {
    /// The norm.
    pub norm: Norm,
    /// Whether the gate comes first.
    pub gate_first: bool,
}

/// Mamba 1: `S ← e^{δA}S + δu Bᵀ; y = (SC + Du)·silu(z)`.
#[derive(Debug, Clone, PartialEq)]
pub struct Mamba1 {
    /// Channels.
    pub inner: usize,
    /// Elements of the state for each channel.
    pub state: usize,
    /// Width of δ before its projection.
    pub dt_rank: usize,
    /// To `u`.
    pub input: Matrix,
    /// To `z`.
    pub gate: Matrix,
    /// Over `u`.
    pub conv: Convolution,
    /// To `[δ | B | C]`: three parts of one matrix.
    pub x: [Matrix; 3],
    /// From δ's rank to channels, with a bias.
    pub dt: Matrix,
    /// Norms of δ, B and C.
    pub norms: Option<[Norm; 3]>,
    /// Name of the logarithm of the rates, `[inner, state]`.
    pub a_log: String,
    /// Name of D.
    pub d: String,
    /// Back to the stream.
    pub o: Matrix,
}
