//! Attention as data.

use super::{Matrix, Norm};
use crate::rope::RopeConfig;

/// Attention of grouped heads over keys and values.
#[derive(Debug, Clone, PartialEq)]
pub struct Attention {
    /// Heads of queries.
    pub n_heads: usize,
    /// Heads of keys and values; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Elements of a head of queries and keys.
    pub k_dim: usize,
    /// Elements of a head of values.
    pub v_dim: usize,
    /// Projections to queries, `[n_heads · k_dim, hidden]`, and keys, `[n_kv_heads · k_dim, hidden]`.
    pub q: Matrix,
    /// See `q`. `None`: keys and values are those of the layer [`shared_with`](Self::shared_with).
    pub k: Option<Matrix>,
    /// Values.
    pub v: Values,
    /// Projection of what comes out, `[hidden, n_heads · v_dim]`.
    pub o: Matrix,
    /// Norm of queries.
    pub q_norm: Option<HeadNorm>,
    /// Norm of keys.
    pub k_norm: Option<HeadNorm>,
    /// Norm of values.
    pub v_norm: Option<Norm>,
    /// Turns queries and keys; `None`: no positions.
    pub rope: Option<RopeConfig>,
    /// What scores are multiplied with.
    pub scale: f32,
    /// Scores become `cap·tanh(score / cap)`.
    pub cap: Option<f32>,
    /// Name of a vector of one logit a head that joins the softmax's sum.
    pub sinks: Option<String>,
    /// Query `i` sees keys `j` with `i - j < window`.
    pub window: Option<usize>,
    /// Query `i` sees keys `j` with `⌊j / chunk⌋ = ⌊i / chunk⌋`.
    pub chunk: Option<usize>,
    /// Queries, keys and values are clipped to ± this.
    pub clip: Option<f32>,
    /// What values are multiplied with.
    pub v_scale: f32,
    /// What queries are multiplied with behind their norm.
    pub q_factor: f32,
    /// Name of a vector of one factor a head for queries.
    pub q_gain: Option<String>,
    /// A factor of queries that grows with the position.
    pub temperature: Option<Temperature>,
    /// Multiplies what comes out, before `o`.
    pub gate: Option<OutputGate>,
    /// Norm of what comes out, before the gate.
    pub out_norm: Option<Norm>,
    /// Index of the layer's own state among all layers whose keys and values are used instead of own ones.
    pub shared_with: Option<usize>,
    /// Mixes keys and values with those of the token before: name of a tensor of two factors a kv head, for each.
    pub token_mix: Option<(String, String)>,
    /// Keys and values are projected by the attention before, which has `k` and `v` of the same sizes.
    pub reuse_projected: bool,
    /// What comes out is mixed with attention to another layer's keys and values.
    pub mixed: Option<Mixed>,
    /// The first row of a pass sees one key of the window fewer: the memory of those before it is that much shorter.
    pub short_ring: bool,
    /// Which blocks of keys are seen.
    pub blocks: Option<BlockSparse>,
    /// Keys and values are rounded to a grid of 8 bits: names of the two steps.
    pub grid: Option<(String, String)>,
    /// Chooses the keys that are seen.
    pub index: Option<Index>,
}

/// An indexer: small queries and keys that choose which keys attention sees.
#[derive(Debug, Clone, PartialEq)]
pub struct Index {
    /// Heads of the queries; the keys have one.
    pub n_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// To queries: from the block's input, or, in latent attention, from what its queries come from.
    pub q: Matrix,
    /// To keys.
    pub k: Matrix,
    /// Norm of each head of queries.
    pub q_norm: Option<Norm>,
    /// Norm of keys.
    pub k_norm: Norm,
    /// Turns queries and keys, from the first element on.
    pub rope: RopeConfig,
    /// To one weight a head: all heads choose together then, by weighted sums of what is above zero. Without, each chooses for
    /// its share of attention's heads.
    pub weights: Option<Matrix>,
    /// Keys of a block; 1 chooses keys.
    pub group: usize,
    /// Blocks that stay.
    pub top: usize,
    /// The last blocks that stay always.
    pub local: usize,
}

/// Keys in blocks of `size`: a query sees the last `local` blocks, its own included, and of those before each `stride`-th,
/// head `h` those whose number plus `h + 1` is a multiple of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockSparse {
    /// Keys of a block.
    pub size: usize,
    /// Blocks that are always seen.
    pub local: usize,
    /// Distance of the others.
    pub stride: usize,
}

/// `y = g·other + (1 - g)·own` with `g = σ(q·w + b)`, a number for each head.
#[derive(Debug, Clone, PartialEq)]
pub struct Mixed {
    /// Index of the other layer's state.
    pub state: usize,
    /// Name of `w`, `[n_heads, k_dim]`.
    pub weight: String,
    /// Name of `b`, `[n_heads]`.
    pub bias: String,
}

/// Where values come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// A projection, `[n_kv_heads · v_dim, hidden]`.
    Own(Matrix),
    /// The keys as they are projected, before norm and rotation.
    Keys,
    /// Another layer's.
    Shared,
}

/// A norm of queries or keys, and whether it comes before the rotation.
#[derive(Debug, Clone, PartialEq)]
pub struct HeadNorm {
    /// The norm: `dim` is a head, or all heads together.
    pub norm: Norm,
    /// Whether positions turn first.
    pub after_rope: bool,
}

/// A factor of queries at position `p`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Temperature {
    /// `1 + scale·ln(1 + ⌊(p + shift) / every⌋)`
    pub scale: f32,
    /// See `scale`.
    pub shift: usize,
    /// See `scale`.
    pub every: usize,
}

/// A gate of attention's output.
#[derive(Debug, Clone, PartialEq)]
pub struct OutputGate {
    /// From the block's input to the gate.
    pub matrix: Matrix,
    /// What a gate multiplies.
    pub shape: GateShape,
    /// Softplus instead of the logistic function.
    pub softplus: bool,
}

/// What one element of a gate multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GateShape {
    /// A whole head.
    Head,
    /// One element.
    Element,
}

/// Attention whose cache is one latent row and one rotated key for all heads (MLA).
#[derive(Debug, Clone, PartialEq)]
pub struct Latent {
    /// Heads.
    pub n_heads: usize,
    /// Elements of a query that are matched with the latent.
    pub nope_dim: usize,
    /// Elements that turn with the position.
    pub rope_dim: usize,
    /// Elements of a head's values.
    pub v_dim: usize,
    /// Elements of the latent.
    pub rank: usize,
    /// To queries, per head `[nope | rope]`: one matrix, or two with a norm between.
    pub q: LatentProjection,
    /// To the latent.
    pub kv_a: Matrix,
    /// To the shared rotated key.
    pub k_rope: Matrix,
    /// Norm of the latent.
    pub kv_norm: Norm,
    /// Path of the stack `[n_heads, rank, nope_dim]` that takes queries to the latent, or of `kv_b_proj` (rows per head
    /// `[nope | v]`) that is split when loaded.
    pub embed_q: String,
    /// Path of the stack `[n_heads, v_dim, rank]` that takes the latent to values; `None` with `kv_b_proj`.
    pub unembed_out: Option<String>,
    /// To the stream.
    pub o: Matrix,
    /// Turns the rotated part; `None`: no positions.
    pub rope: Option<RopeConfig>,
    /// What scores are multiplied with.
    pub scale: f32,
    /// What queries are multiplied with.
    pub q_factor: f32,
    /// What the latent is multiplied with behind its norm.
    pub latent_factor: f32,
    /// A factor of queries that grows with the position.
    pub temperature: Option<Temperature>,
    /// Multiplies what comes out.
    pub gate: Option<OutputGate>,
    /// Chooses the keys that are seen.
    pub index: Option<Index>,
}

/// One matrix, or two with a norm between.
#[derive(Debug, Clone, PartialEq)]
pub struct LatentProjection {
    /// The first matrix and the norm behind it.
    pub first: Option<(Matrix, Norm)>,
    /// The last.
    pub last: Matrix,
}
