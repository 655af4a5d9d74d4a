//! Mixers of tokens that one or two families have, as data.

use super::{Convolution, Matrix, Norm};
use crate::rope::RopeConfig;

/// Linear attention whose memory fades at a fixed rate: `S ← e^g·S + v kᵀ; y = scale·S q` (lightning attention).
#[derive(Debug, Clone, PartialEq)]
pub struct Fading {
    /// Heads of queries, keys and values.
    pub n_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// To queries.
    pub q: Matrix,
    /// To keys.
    pub k: Matrix,
    /// To values.
    pub v: Matrix,
    /// Norms of queries and keys, before the rotation.
    pub qk_norms: Option<[Norm; 2]>,
    /// Turns queries and keys.
    pub rope: RopeConfig,
    /// What outputs are multiplied with.
    pub scale: f32,
    /// `g` of a head is minus this times the head's slope in ALiBi (<https://arxiv.org/abs/2108.12409>).
    pub rate: f64,
    /// Norm of the output.
    pub norm: Norm,
    /// To the output's gate, before the logistic function.
    pub gate: Matrix,
    /// Back to the stream.
    pub o: Matrix,
}

/// Two short convolutions instead of attention: `o(σ(q·conv(k))·conv(v))`.
#[derive(Debug, Clone, PartialEq)]
pub struct ConvMixer {
    /// Heads of queries.
    pub n_heads: usize,
    /// Heads of keys and values; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// To queries.
    pub q: Matrix,
    /// To keys.
    pub k: Matrix,
    /// To values.
    pub v: Matrix,
    /// Norms of each head of queries and keys.
    pub qk_norms: [Norm; 2],
    /// Over keys.
    pub k_conv: Convolution,
    /// Over values.
    pub v_conv: Convolution,
    /// Back to the stream.
    pub o: Matrix,
}

/// A real-gated linear recurrent unit (RG-LRU, <https://arxiv.org/abs/2402.19427>) behind a convolution, times a GELU gate.
///
/// `i = σ(block(u)), r = σ(block(u)), a = e^(-8·r·softplus(λ)); h ← a·h + √(1 - a²)·i·u`, the root being 1 at position 0.
#[derive(Debug, Clone, PartialEq)]
pub struct GatedUnit {
    /// Heads: blocks of the gates' matrices.
    pub n_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// To the gate of the output.
    pub y: Matrix,
    /// To `u`.
    pub x: Matrix,
    /// Over `u`.
    pub conv: Convolution,
    /// Names of the input gate's blocks, `[n_heads, in, out]`, and bias, `[n_heads, out]`.
    pub input_gate: (String, String),
    /// The same of the recurrence's gate.
    pub recurrent_gate: (String, String),
    /// Name of λ, one a channel.
    pub rate: String,
    /// Back to the stream.
    pub o: Matrix,
}

/// Time mixing of RWKV-7 (<https://arxiv.org/abs/2503.14456>): linear attention whose memory changes by a matrix of low rank.
#[derive(Debug, Clone, PartialEq)]
pub struct TimeMix {
    /// Heads.
    pub n_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Names of the shares of the token before in the inputs of receptance, decay, keys, values, learning rate and gate.
    pub shares: [String; 6],
    /// To receptance.
    pub r: Matrix,
    /// To keys.
    pub k: Matrix,
    /// To values.
    pub v: Matrix,
    /// To the decay: two matrices with tanh between.
    pub decay: [Matrix; 2],
    /// To the learning rate.
    pub rate: [Matrix; 2],
    /// To the share of the first layer's values; `None` in the first layer.
    pub value_share: Option<[Matrix; 2]>,
    /// To the gate: two matrices with the logistic function between.
    pub gate: [Matrix; 2],
    /// Names of factors of keys: for what is removed, for what is added, and for the bonus.
    pub factors: [String; 3],
    /// Norm of the output, by head.
    pub norm: Norm,
    /// Back to the stream.
    pub o: Matrix,
}

/// Channel mixing of RWKV: `value(relu²(key(x mixed with the token before)))`.
#[derive(Debug, Clone, PartialEq)]
pub struct ChannelMix {
    /// Name of the share of the token before.
    pub share: String,
    /// To the inner width.
    pub key: Matrix,
    /// Back.
    pub value: Matrix,
}

/// A vector for each token and layer, looked up and projected once, that layers add to the stream.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerInputs {
    /// Path of the table, `[rows, layers·dim]`.
    pub table: String,
    /// Its rows. Ids from here on take row 0.
    pub rows: usize,
    /// Elements for one layer.
    pub dim: usize,
    /// Layers.
    pub layers: usize,
    /// From the embedded token to all of them.
    pub projection: Matrix,
    /// Norm of what is projected, for each layer.
    pub norm: Norm,
}

/// `projection(gelu(gate x)·e)`, `e` being the token's vector for the layer `index`.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerInput {
    /// Which layer's.
    pub index: usize,
    /// To `dim`.
    pub gate: Matrix,
    /// Back.
    pub projection: Matrix,
}
