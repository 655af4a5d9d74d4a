//! A model as data: what a family makes of a configuration, and what the decoder executes.
//!
//! A [`DecoderSpec`] is an embedding, a list of layers and a head. A layer is a list of [`Branch`]es, each of which reads
//! the residual stream, runs one [`Block`] or several side by side, and adds to the stream. Matrices and vectors are named
//! by the tensors of the checkpoint, so that a specification says all that is read of it; what it does not name is
//! refused when the model is loaded, or listed in [`DecoderSpec::dropped`].

mod alternating;
mod attention;
mod feed_forward;
mod mixers;
mod recurrent;

pub use alternating::{AltLayer, AltStreams};
pub use attention::{
    Attention, BlockSparse, GateShape, HeadNorm, Index, Latent, LatentProjection, Mixed, OutputGate,
    Temperature, Values,
};
pub use feed_forward::{Experts, GroupLimit, Mlp, MlpActivation, Moe, Router, Score, SharedExpert, Stack};
pub use mixers::{ChannelMix, ConvMixer, Fading, GatedUnit, LayerInput, LayerInputs, TimeMix};
pub use recurrent::{
    ChannelDecay, Convolution, Delta, DeltaDecay, DeltaInputs, GroupedNorm, Mamba1, Mamba2, ShortConv,
};

use crate::rope::RopeConfig;

/// A decoder: everything that is needed to build it from the tensors of a checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderSpec {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Rows of the embedding, and number of logits.
    pub vocab_size: usize,
    /// Longest context that the model was made for, in tokens, where its configuration says so.
    pub max_context: Option<usize>,
    /// From token ids to the residual stream.
    pub embedding: Embedding,
    /// Streams that layers alternate between.
    pub alternating: Option<AltStreams>,
    /// Modules whose inputs are turned by a Hadamard matrix: paths and the length of its blocks. The signs that multiply the
    /// inputs first are in `path.signs`.
    pub turned: Vec<(String, usize)>,
    /// Vectors that layers ask for with [`Block::LayerInput`].
    pub layer_inputs: Option<LayerInputs>,
    /// The layers, in order.
    pub layers: Vec<Layer>,
    /// The norm behind the last layer.
    pub norm: Option<Norm>,
    /// From the residual stream to logits.
    pub head: Head,
    /// Tensors that are left unread, as mlx-lm leaves them: a name matches when it begins with one of these, or holds one
    /// that begins with `*`.
    pub dropped: Vec<String>,
}

impl DecoderSpec {
    /// Calls `f` with every norm of the stream and of attention's heads.
    pub(crate) fn for_each_norm(&mut self, mut f: impl FnMut(&mut Norm)) {
        let branches = self.layers.iter_mut().flat_map(|l| &mut l.branches);
        for branch in branches {
            branch.norm.iter_mut().chain(&mut branch.post).for_each(&mut f);
            for part in &mut branch.parts {
                part.norm.iter_mut().chain(&mut part.post).for_each(&mut f);
                if let Block::Attention(a) = &mut part.block {
                    a.q_norm
                        .iter_mut()
                        .chain(&mut a.k_norm)
                        .for_each(|n| f(&mut n.norm));
                }
            }
        }
        self.norm.iter_mut().for_each(f);
    }
}

/// From token ids to the residual stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedding {
    /// Path of the table, `[vocab_size, hidden_size]`.
    pub table: String,
    /// What rows are multiplied with.
    pub scale: f32,
    /// Path of a table of learned positions, with its rows: position `p` adds row `p`.
    pub positions: Option<(String, usize)>,
    /// A norm of each row.
    pub norm: Option<Norm>,
    /// Rows of further tables, by a token and those before it.
    pub ngrams: Option<Ngrams>,
}

/// Tables that are looked up by several tokens: the embedding is the mean of a token's row and of projections of theirs.
#[derive(Debug, Clone, PartialEq)]
pub struct Ngrams {
    /// The tables.
    pub tables: Vec<NgramTable>,
    /// Tokens that are remembered from pass to pass.
    pub history: usize,
}

/// A table whose row is `(Σ_c token[t - c] · multipliers[c]) mod rows`.
#[derive(Debug, Clone, PartialEq)]
pub struct NgramTable {
    /// Its path, `[rows, dim]`.
    pub table: String,
    /// Its rows.
    pub rows: usize,
    /// A factor for each token, the token's own first.
    pub multipliers: Vec<u32>,
    /// From a row to the stream.
    pub projection: Matrix,
}

/// From the residual stream to logits.
#[derive(Debug, Clone, PartialEq)]
pub struct Head {
    /// The matrix; `None` takes the embedding's table.
    pub matrix: Option<Matrix>,
    /// What logits are multiplied with.
    pub scale: f32,
    /// Logits become `cap·tanh(logits / cap)`.
    pub cap: Option<f32>,
    /// Name of a tensor of one element that multiplies logits too.
    pub gain: Option<String>,
    /// Ids that are never chosen: their logits become -∞.
    pub never: Vec<u32>,
}

/// One layer: branches, in order.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Layer {
    /// The branches.
    pub branches: Vec<Branch>,
    /// The layer works on alternating streams instead.
    pub alternating: Option<Box<AltLayer>>,
}

/// `stream = keep·stream + factor·post(Σ part(norm(stream)))`.
#[derive(Debug, Clone, PartialEq)]
pub struct Branch {
    /// The norm before, shared by all parts.
    pub norm: Option<Norm>,
    /// Blocks side by side; mostly one.
    pub parts: Vec<Part>,
    /// The norm behind the sum.
    pub post: Option<Norm>,
    /// What the sum is multiplied with before it is added to the stream.
    pub factor: f32,
    /// What the stream is multiplied with.
    pub keep: f32,
    /// Name of a tensor of one element that multiplies the sum too.
    pub gain: Option<String>,
    /// Name of a tensor of one element that multiplies the stream behind this branch.
    pub scale_after: Option<String>,
    /// Names of vectors that multiply the stream and the sum, element by element.
    pub mix: Option<(String, String)>,
    /// The branch reads a mixture of the sums that were stored and of the stream, instead of the stream.
    pub gather: Option<Gather>,
    /// The stream is stored behind the reading, and begins anew with this branch.
    pub store: bool,
    /// A block that reads what the parts read; what it gives is added to the stream behind the layer's last branch.
    pub late: Option<Block>,
}

/// `Σ p_i·s_i` over stored sums and the stream, `p` being the softmax of `projection(norm(s_i))`.
#[derive(Debug, Clone, PartialEq)]
pub struct Gather {
    /// The norm.
    pub norm: Norm,
    /// To one logit.
    pub projection: Matrix,
}

/// A block of a branch, with norms of its own.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// The norm before, of what the branch's norm gives.
    pub norm: Option<Norm>,
    /// The block.
    pub block: Block,
    /// The norm behind.
    pub post: Option<Norm>,
}

/// What mixes tokens or features.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Block {
    /// Attention over keys and values.
    Attention(Box<Attention>),
    /// Attention over a latent that keys and values are projected from.
    Latent(Box<Latent>),
    /// A short causal convolution between two gates.
    ShortConv(Box<ShortConv>),
    /// Linear attention by the delta rule.
    Delta(Box<Delta>),
    /// A state-space layer with a decay for each element (Mamba 1).
    Mamba1(Box<Mamba1>),
    /// A state-space layer with a decay for each head (Mamba 2).
    Mamba2(Box<Mamba2>),
    /// Linear attention whose memory fades at a fixed rate.
    Fading(Box<Fading>),
    /// Two short convolutions instead of attention.
    ConvMixer(Box<ConvMixer>),
    /// A gated linear recurrent unit.
    GatedUnit(Box<GatedUnit>),
    /// Time mixing of RWKV-7.
    TimeMix(Box<TimeMix>),
    /// Channel mixing of RWKV.
    ChannelMix(Box<ChannelMix>),
    /// The token's vector for a layer.
    LayerInput(Box<LayerInput>),
    /// A dense feed-forward layer.
    Mlp(Box<Mlp>),
    /// A mixture of experts.
    Moe(Box<Moe>),
    /// One matrix.
    Linear(Matrix),
    /// What comes in.
    Identity,
    /// What the embedding gave.
    Embedded,
}

impl Block {
    /// Its name, for errors.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Block::Attention(_) => "attention",
            Block::Latent(_) => "latent attention",
            Block::ShortConv(_) => "short convolution",
            Block::Delta(_) => "delta rule",
            Block::Mamba1(_) => "mamba 1",
            Block::Mamba2(_) => "mamba 2",
            Block::Fading(_) => "fading linear attention",
            Block::ConvMixer(_) => "convolution mixer",
            Block::GatedUnit(_) => "gated linear recurrent unit",
            Block::TimeMix(_) => "time mixing",
            Block::ChannelMix(_) => "channel mixing",
            Block::LayerInput(_) => "layer input",
            Block::Mlp(_) => "feed-forward",
            Block::Moe(_) => "mixture of experts",
            Block::Linear(_) => "linear",
            Block::Identity => "identity",
            Block::Embedded => "embedded row",
        }
    }
}

/// A matrix `[outputs, inputs]` of a checkpoint, dense or packed: `y = x Wᵀ + b`.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    /// Its path: the tensor is `path.weight`, its packing `path.scales` and `path.biases`, its bias `path.bias`.
    pub path: String,
    /// Rows that are used.
    pub outputs: usize,
    /// Columns.
    pub inputs: usize,
    /// Whether it adds a bias.
    pub bias: bool,
    /// Which rows of the tensor.
    pub rows: Rows,
    /// The tensor's name is the path itself; it is never packed.
    pub bare: bool,
    /// What is divided by its length when the matrix is loaded, unless it is packed.
    pub unit: Option<Unit>,
}

/// Parts of a matrix that are given the length 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Each row.
    Rows,
    /// Each column.
    Columns,
}

/// Rows of a tensor.
#[derive(Debug, Clone, PartialEq)]
pub enum Rows {
    /// All, in order.
    All,
    /// Those from `first` on, of `of`: a view.
    From {
        /// The first.
        first: usize,
        /// Rows of the tensor.
        of: usize,
    },
    /// These, of `of`: copied when the model is loaded.
    Picked {
        /// The rows, in the order wanted.
        runs: Vec<Run>,
        /// Rows of the tensor.
        of: usize,
    },
}

/// Rows `first + i / block · stride + i % block` for `i` from 0 to `count`: blocks of neighbours, `stride` apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The first.
    pub first: usize,
    /// Neighbours, at least 1.
    pub block: usize,
    /// From one block to the next; 0 repeats it.
    pub stride: usize,
    /// How many.
    pub count: usize,
}

impl Run {
    /// The rows.
    pub fn rows(self) -> impl Iterator<Item = usize> {
        let Run {
            first,
            block,
            stride,
            count,
        } = self;
        (0..count).map(move |i| first + i / block * stride + i % block)
    }
}

impl Matrix {
    /// All rows, no bias.
    #[must_use]
    pub fn new(path: impl Into<String>, outputs: usize, inputs: usize) -> Self {
        Matrix {
            path: path.into(),
            outputs,
            inputs,
            bias: false,
            rows: Rows::All,
            bare: false,
            unit: None,
        }
    }

    /// A tensor whose name is the path itself.
    #[must_use]
    pub fn bare(mut self) -> Self {
        self.bare = true;
        self
    }

    /// With a bias or without.
    #[must_use]
    pub fn with_bias(mut self, bias: bool) -> Self {
        self.bias = bias;
        self
    }

    /// `outputs` rows from `first` on, of a tensor of `of` rows.
    #[must_use]
    pub fn part(mut self, first: usize, outputs: usize, of: usize) -> Self {
        self.outputs = outputs;
        self.rows = Rows::From { first, of };
        self
    }

    /// These rows of a tensor of `of` rows.
    #[must_use]
    pub fn picked(mut self, runs: Vec<Run>, of: usize) -> Self {
        self.outputs = runs.iter().map(|run| run.count).sum();
        self.rows = Rows::Picked { runs, of };
        self
    }
}

/// What a norm divides by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// The root of the mean square.
    Rms,
    /// The standard deviation, the mean being taken off first.
    Layer,
}

/// A norm of rows, or of equal groups of each row.
#[derive(Debug, Clone, PartialEq)]
pub struct Norm {
    /// Its kind.
    pub kind: NormKind,
    /// Name of the weight; none = ones.
    pub weight: Option<String>,
    /// What is added to each element of the weight, as it is stored.
    pub offset: f32,
    /// Name of the bias.
    pub bias: Option<String>,
    /// Elements that are normalised together.
    pub dim: usize,
    /// Groups of a row that have weights of their own; 1: all groups share one weight of `dim`.
    pub weight_rows: usize,
    /// What is added to the mean square or to the variance.
    pub eps: f32,
    /// The weight multiplies what comes in, not what goes out.
    pub weight_first: bool,
}

impl Norm {
    /// RMS norm of rows of `dim` with the weight `name`.
    #[must_use]
    pub fn rms(name: impl Into<String>, dim: usize, eps: f32) -> Self {
        Norm {
            weight: Some(name.into()),
            ..Self::rms_plain(dim, eps)
        }
    }

    /// RMS norm without a weight.
    #[must_use]
    pub fn rms_plain(dim: usize, eps: f32) -> Self {
        Norm {
            kind: NormKind::Rms,
            weight: None,
            offset: 0.0,
            bias: None,
            dim,
            weight_rows: 1,
            eps,
            weight_first: false,
        }
    }

    /// Layer norm of rows of `dim` with `path.weight`, and `path.bias` if there is a bias.
    #[must_use]
    pub fn layer(path: &str, dim: usize, eps: f32, bias: bool) -> Self {
        Norm {
            kind: NormKind::Layer,
            weight: Some(format!("{path}.weight")),
            bias: bias.then(|| format!("{path}.bias")),
            ..Self::rms_plain(dim, eps)
        }
    }

    /// The stored weight and `offset` make the weight.
    #[must_use]
    pub fn plus(mut self, offset: f32) -> Self {
        self.offset = offset;
        self
    }

    /// `rows` groups with weights of their own, stored one behind the other.
    #[must_use]
    pub fn weights_for(mut self, rows: usize) -> Self {
        self.weight_rows = rows;
        self
    }
}

impl Branch {
    /// One block behind a norm, added to the stream.
    #[must_use]
    pub fn pre(norm: Norm, block: Block) -> Self {
        Self::new(Some(norm), block, None)
    }

    /// One block, with a norm before, behind, or neither.
    #[must_use]
    pub fn new(norm: Option<Norm>, block: Block, post: Option<Norm>) -> Self {
        Branch {
            norm,
            parts: vec![Part::from(block)],
            post,
            factor: 1.0,
            keep: 1.0,
            gain: None,
            scale_after: None,
            mix: None,
            gather: None,
            store: false,
            late: None,
        }
    }

    /// The stream becomes its norm.
    #[must_use]
    pub fn normalise(norm: Norm) -> Self {
        Branch {
            keep: 0.0,
            ..Self::pre(norm, Block::Identity)
        }
    }

    /// Blocks side by side behind one norm.
    #[must_use]
    pub fn parallel(norm: Option<Norm>, parts: Vec<Part>) -> Self {
        Branch {
            norm,
            parts,
            post: None,
            factor: 1.0,
            keep: 1.0,
            gain: None,
            scale_after: None,
            mix: None,
            gather: None,
            store: false,
            late: None,
        }
    }

    /// Multiplied by `factor` before it is added.
    #[must_use]
    pub fn times(mut self, factor: f32) -> Self {
        self.factor = factor;
        self
    }
}

impl From<Block> for Part {
    fn from(block: Block) -> Self {
        Part {
            norm: None,
            block,
            post: None,
        }
    }
}

impl Part {
    /// A block with a norm of its own before it.
    #[must_use]
    pub fn behind(norm: Norm, block: Block) -> Self {
        Part {
            norm: Some(norm),
            block,
            post: None,
        }
    }
}

impl Embedding {
    /// A table, its rows as they are.
    #[must_use]
    pub fn new(table: impl Into<String>) -> Self {
        Embedding {
            table: table.into(),
            scale: 1.0,
            positions: None,
            norm: None,
            ngrams: None,
        }
    }
}

impl Head {
    /// A matrix, or the embedding's table.
    #[must_use]
    pub fn new(matrix: Option<Matrix>) -> Self {
        Head {
            matrix,
            scale: 1.0,
            cap: None,
            gain: None,
            never: Vec::new(),
        }
    }
}

impl From<Vec<Branch>> for Layer {
    fn from(branches: Vec<Branch>) -> Self {
        Layer {
            branches,
            alternating: None,
        }
    }
}

/// How positions turn queries and keys of a layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Angles.
    pub config: RopeConfig,
    /// The first feature of a head that turns.
    pub first: usize,
}
