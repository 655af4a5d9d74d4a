//! A decoder's work as a list of steps over values, each value a row a token: what a specification is lowered to.
//!
//! A step says what it reads and writes; lifetimes, and with them the plan of scratch memory, follow from that.

use std::sync::Arc;

use mlx_native::ops::linear_scan::{Decay, Rule};
use mlx_native::ops::ngram_ids::NgramParams;
use mlx_native::ops::route::RouteParams;
use mlx_native::ops::rowwise::Function;
use mlx_native::{DType, MlxBuffer, MlxDevice};

use super::linear::{Embedding, Linear};
use super::plan::{Lifetime, plan};
use super::rotation::Rotation;
use crate::error::{LmError, Result};
use crate::spec::{BlockSparse, NormKind};

/// Index of a value of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Value(pub usize);

/// What a value is: elements a token, and their dtype.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ValueInfo {
    pub width: usize,
    pub dtype: DType,
}

/// A row of a value or of a vector, as an operand of a rowwise step.
#[derive(Debug, Clone)]
pub(super) struct Operand {
    pub source: Source,
    /// First element.
    pub offset: usize,
    /// Elements from one row to the next; 0 repeats one row.
    pub stride: usize,
    /// How many columns share one element.
    pub div: usize,
}

/// Where an operand's elements are.
#[derive(Debug, Clone)]
pub(super) enum Source {
    Value(Value),
    Vector(Arc<MlxBuffer>),
}

/// One operation.
#[derive(Debug)]
pub(super) enum Step {
    /// Rows of a table by token id.
    Embed {
        table: Arc<Embedding>,
        output: Value,
    },
    /// Rows of a table by position.
    Positions {
        table: Arc<Embedding>,
        output: Value,
    },
    Linear {
        matrix: Arc<Linear>,
        x: Value,
        y: Value,
    },
    /// The embedding's table as the output matrix.
    TiedHead {
        table: Arc<Embedding>,
        x: Value,
        y: Value,
    },
    /// A norm of `groups` parts of each row.
    Norm(NormStep),
    Rowwise(RowwiseStep),
    /// Turns `n_heads` heads of `head_dim` in place.
    Rope(RopeStep),
    /// Multiplies queries by a factor of their position, in place.
    Temperature {
        x: Value,
        index: usize,
    },
    /// Writes a step's keys and values into a state.
    Append {
        k: Value,
        v: Value,
        state: usize,
    },
    Attend(AttendStep),
    Route(Box<RouteStep>),
    /// A product with the matrix that each slot's id names: `slots` a token; `x` has one row a token, or one a slot.
    Experts {
        stack: Arc<Linear>,
        x: Value,
        ids: Ids,
        y: Value,
        slots: usize,
        x_per_slot: bool,
    },
    /// `y = Σ weight · x` over the slots of a token.
    WeightedSum {
        x: Value,
        weights: Value,
        y: Value,
        /// Sums a token.
        groups: usize,
        slots: usize,
        dim: usize,
    },
    /// Rows of a table by ids.
    LookUp {
        table: Arc<Embedding>,
        ids: Ids,
        output: Value,
        /// Ids a token.
        slots: usize,
    },
    Conv(ConvStep),
    Scan(Box<ScanStep>),
    /// Row numbers of a table by a token and those before it, the last of which are in a plane of a state.
    NgramIds {
        params: NgramParams,
        output: Value,
        state: usize,
        plane: usize,
    },
    /// Puts the last tokens of a pass into that plane.
    NgramKeep {
        params: NgramParams,
        state: usize,
        plane: usize,
    },
    /// Softmax of each row.
    Softmax {
        x: Value,
        y: Value,
    },
    /// The orthogonal Walsh-Hadamard transform of blocks of a row, in place.
    Hadamard {
        x: Value,
        block: usize,
    },
    /// A value in another dtype.
    Cast {
        x: Value,
        y: Value,
    },
}

#[derive(Debug)]
pub(super) struct NormStep {
    pub kind: NormKind,
    pub weight: Option<Arc<MlxBuffer>>,
    pub bias: Option<Arc<MlxBuffer>>,
    pub x: Value,
    pub y: Value,
    pub groups: usize,
    pub dim: usize,
    pub eps: f32,
}

#[derive(Debug)]
pub(super) struct RowwiseStep {
    pub function: Function,
    pub operands: Vec<Operand>,
    pub output: Operand,
    /// Rows a token.
    pub rows: usize,
    pub cols: usize,
    pub p: [f32; 4],
}

#[derive(Debug)]
pub(super) struct RopeStep {
    pub x: Value,
    pub rotation: Arc<Rotation>,
    pub n_heads: usize,
    /// Elements from one head to the next.
    pub head_stride: usize,
    /// First element of a head that is looked at, and how many from there on.
    pub first: usize,
    pub dim: usize,
}

#[derive(Debug)]
pub(super) struct AttendStep {
    pub q: Value,
    pub output: Value,
    pub state: usize,
    pub n_heads: usize,
    pub n_kv_heads: usize,
    pub k_dim: usize,
    pub v_dim: usize,
    pub scale: f32,
    pub cap: Option<f32>,
    pub window: Option<usize>,
    pub chunk: Option<usize>,
    pub short_ring: bool,
    pub blocks: Option<BlockSparse>,
    pub sinks: Option<Arc<MlxBuffer>>,
    pub index: Option<Box<IndexStep>>,
}

/// What chooses the keys of an attention.
#[derive(Debug)]
pub(super) struct IndexStep {
    pub q: Value,
    pub weights: Option<Value>,
    /// The state that has its keys.
    pub state: usize,
    pub n_heads: usize,
    pub head_dim: usize,
    pub group: usize,
    pub top: usize,
    pub local: usize,
}

/// Which matrix of a stack a slot takes.
#[derive(Debug, Clone)]
pub(super) enum Ids {
    /// As the router chose.
    Chosen(Value),
    /// Slot `i` takes matrix `i`.
    Own,
}

/// From logits to experts and weights.
#[derive(Debug)]
pub(super) struct RouteStep {
    pub logits: Value,
    pub correction: Option<Arc<MlxBuffer>>,
    pub ids: Value,
    pub weights: Value,
    /// Its rows are those of a pass.
    pub params: RouteParams,
}

/// A convolution over tokens, its last inputs in a plane of a state.
#[derive(Debug)]
pub(super) struct ConvStep {
    pub x: Value,
    pub y: Value,
    pub weight: Arc<MlxBuffer>,
    pub bias: Option<Arc<MlxBuffer>>,
    pub channels: usize,
    pub kernel: usize,
    pub silu: bool,
    pub state: usize,
    pub plane: usize,
}

/// A recurrence over tokens, its matrices in a plane of a state.
#[derive(Debug)]
pub(super) struct ScanStep {
    pub q: Operand,
    pub k: Operand,
    pub v: Operand,
    pub decay: Value,
    pub decay_kind: Decay,
    pub rates: Option<Arc<MlxBuffer>>,
    pub beta: Option<Value>,
    pub low_rank: Option<(Value, Value)>,
    pub rule: Rule,
    pub output: Value,
    pub n_heads: usize,
    pub n_k_heads: usize,
    pub k_dim: usize,
    pub v_dim: usize,
    pub state: usize,
    pub plane: usize,
}

impl AttendStep {
    /// Whether causality and a window alone say which keys are seen, whatever the pass.
    pub fn is_maskless(&self) -> bool {
        self.chunk.is_none() && !self.short_ring && self.blocks.is_none() && self.index.is_none()
    }
}

impl Operand {
    pub fn value(&self) -> Option<Value> {
        match self.source {
            Source::Value(v) => Some(v),
            Source::Vector(_) => None,
        }
    }
}

impl Step {
    /// Calls `f` with every value that is read or written.
    fn for_each_value(&self, mut f: impl FnMut(Value)) {
        let mut operand = |o: &Operand| {
            if let Some(v) = o.value() {
                f(v);
            }
        };
        match self {
            Step::Rowwise(s) => {
                s.operands.iter().for_each(&mut operand);
                operand(&s.output);
            }
            Step::Scan(s) => {
                [&s.q, &s.k, &s.v].into_iter().for_each(&mut operand);
                let low_rank = s.low_rank.iter().flat_map(|(a, b)| [*a, *b]);
                [s.decay, s.output]
                    .into_iter()
                    .chain(s.beta)
                    .chain(low_rank)
                    .for_each(f);
            }
            Step::Conv(s) => [s.x, s.y].into_iter().for_each(f),
            Step::Route(s) => [s.logits, s.ids, s.weights].into_iter().for_each(f),
            Step::Experts { x, ids, y, .. } => {
                let chosen = match ids {
                    Ids::Chosen(v) => Some(*v),
                    Ids::Own => None,
                };
                [*x, *y].into_iter().chain(chosen).for_each(f);
            }
            Step::LookUp { ids, output, .. } => {
                if let Ids::Chosen(ids) = ids {
                    f(*ids);
                }
                f(*output);
            }
            Step::WeightedSum { x, weights, y, .. } => [*x, *weights, *y].into_iter().for_each(f),
            Step::Cast { x, y } | Step::Softmax { x, y } => [*x, *y].into_iter().for_each(f),
            Step::Hadamard { x, .. } => f(*x),
            Step::NgramIds { output, .. } => f(*output),
            Step::NgramKeep { .. } => {}
            Step::Embed { output, .. } | Step::Positions { output, .. } => f(*output),
            Step::Linear { x, y, .. } | Step::TiedHead { x, y, .. } => [*x, *y].into_iter().for_each(f),
            Step::Norm(s) => [s.x, s.y].into_iter().for_each(f),
            Step::Rope(s) => f(s.x),
            Step::Temperature { x, .. } => f(*x),
            Step::Append { k, v, .. } => [*k, *v].into_iter().for_each(f),
            Step::Attend(s) => {
                let index = s.index.iter().flat_map(|i| [Some(i.q), i.weights]).flatten();
                [s.q, s.output].into_iter().chain(index).for_each(f);
            }
        }
    }
}

/// Steps, and where their values lie.
#[derive(Debug)]
pub(super) struct Program {
    pub steps: Vec<Step>,
    pub values: Vec<ValueInfo>,
    /// Byte offset of each value for one token.
    offsets: Vec<usize>,
    /// Bytes of all values for one token.
    pub bytes_per_row: usize,
    /// Values as views of scratch memory of `rows` tokens.
    pub views: Vec<MlxBuffer>,
    pub rows: usize,
}

/// Every value begins at a multiple of this.
const ALIGN: usize = 64;

impl Program {
    /// Plans the memory of `steps`. `outside` are values that are written before the first step or read behind the last.
    pub fn new(steps: Vec<Step>, values: Vec<ValueInfo>, outside: &[(Value, bool)]) -> Self {
        let last_step = steps.len();
        let mut lives: Vec<Option<Lifetime>> = vec![None; values.len()];
        let mut touch = |v: Value, at: usize| {
            let bytes = values[v.0].width * values[v.0].dtype.size_of();
            let life = lives[v.0].get_or_insert(Lifetime {
                bytes,
                first: at,
                last: at,
            });
            life.first = life.first.min(at);
            life.last = life.last.max(at);
        };
        for (at, step) in steps.iter().enumerate() {
            step.for_each_value(|v| touch(v, at));
        }
        for (v, is_input) in outside {
            touch(*v, if *is_input { 0 } else { last_step });
        }
        let lives: Vec<Lifetime> = lives
            .into_iter()
            .map(|life| {
                life.unwrap_or(Lifetime {
                    bytes: 0,
                    first: 0,
                    last: 0,
                })
            })
            .collect();
        let plan = plan(&lives, ALIGN);
        Program {
            steps,
            values,
            offsets: plan.offsets,
            bytes_per_row: plan.bytes,
            views: Vec::new(),
            rows: 0,
        }
    }

    /// Allocates scratch memory for `rows` tokens.
    pub fn allocate(&mut self, device: &MlxDevice, rows: usize) -> Result<()> {
        let bytes = self.bytes_per_row.max(ALIGN).checked_mul(rows).ok_or_else(|| {
            LmError::InvalidArgument(format!(
                "{rows} tokens at once need more memory than there can be"
            ))
        })?;
        let arena = device.alloc_buffer(bytes, DType::U8, vec![bytes])?;
        self.views = (self.values.iter().zip(&self.offsets))
            .map(|(info, offset)| Ok(arena.view(offset * rows, info.dtype, vec![rows, info.width])?))
            .collect::<Result<_>>()?;
        self.rows = rows;
        Ok(())
    }
}
