//! Layers that predict and correct several streams in turn (AltUp, <https://arxiv.org/abs/2301.13310>), as data.

use super::{Attention, LayerInput, Matrix, Mlp, Norm};

/// The streams: the embedded token, and projections of it that are given its size.
#[derive(Debug, Clone, PartialEq)]
pub struct AltStreams {
    /// From the first stream to each of the others.
    pub projections: Vec<Matrix>,
    /// Back, behind the last layer; the streams' mean is what the last norm reads.
    pub unembed: Vec<Matrix>,
}

/// One layer: predicts all streams, computes on one of them, and corrects all by what that one lacked.
///
/// `m = tanh(router(norm(X_a)/h)); P_i = X_i + Σ_j C_ij X_j` with `C = predict(m)`; `y` is what attention, a layer of low rank and
/// a feed-forward layer make of `P_a`; `X_i = P_i + (y - P_a)·(1 + correct(m')_i)` with `m'` of `y`; the layer's input goes to all
/// streams but the first.
#[derive(Debug, Clone, PartialEq)]
pub struct AltLayer {
    /// Streams.
    pub n_streams: usize,
    /// The one that is computed on.
    pub active: usize,
    /// Norm of what the router reads.
    pub router_norm: Norm,
    /// To a number for each stream.
    pub router: Matrix,
    /// To the coefficients of the prediction, `[n², n]`.
    pub predict: Matrix,
    /// To those of the correction, `[n, n]`.
    pub correct: Matrix,
    /// What the weights of both are clipped to.
    pub clip: Option<f32>,
    /// Norm before attention and the layer of low rank.
    pub norm: Norm,
    /// The layer of low rank.
    pub low_rank: [Matrix; 2],
    /// The norm behind it.
    pub low_rank_norm: Norm,
    /// Attention.
    pub attention: Attention,
    /// The norm behind it.
    pub attention_post: Norm,
    /// Norm before the feed-forward layer.
    pub mlp_norm: Norm,
    /// The feed-forward layer.
    pub mlp: Mlp,
    /// The norm behind it.
    pub mlp_post: Norm,
    /// Name of what multiplies the corrected stream for the layer's input.
    pub scale: Option<String>,
    /// The layer's input.
    pub input: LayerInput,
    /// The norm behind it.
    pub input_post: Norm,
}
