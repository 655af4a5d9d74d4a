//! Recorded work as data: capture it, move independent parts together, replay it.
//!
//! A [`ComputeGraph`] is a list of captured dispatches and barriers. Replaying records the dispatches anew, so their
//! hazards are found anew: an order that the graph got wrong would cost time, never correctness. [`ComputeGraph::reorder`]
//! brings dispatches that do not depend on each other together, so that fewer barriers are needed between them.

mod prepared;
mod session;
mod tracker;

use std::borrow::Cow;

pub use prepared::{PreparedGraph, Replay};
pub use session::{GraphExecutor, GraphSession};
pub use tracker::ConflictTracker;

pub use crate::buffer::MlxBuffer;
pub use crate::dtype::DType;

use crate::backend::Place;
use crate::buffer::MemRange;
use crate::encoder::{CapturedNode, CapturedOpKind, CommandEncoder, HazardTracker};
use crate::error::Result;

/// How far the reorder pass looks ahead.
const WINDOW: usize = 64;

/// Dispatches of the first of two encoders, at least.
const MIN_FIRST: usize = 64;

/// What kind of work an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpKind {
    /// A product of matrices.
    MatMul,
    /// A product with a matrix chosen for each row.
    MatMulId,
    /// A norm.
    Norm,
    /// A rotary embedding.
    Rope,
    /// An elementwise operation.
    Elementwise,
    /// A copy.
    Copy,
    /// A look-up of rows.
    Gather,
    /// Attention.
    Sdpa,
    /// Softmax.
    Softmax,
    /// The routing of tokens to experts.
    MoeGate,
    /// Anything else.
    Other,
}

impl OpKind {
    /// Whether operations of the kind may be moved past others.
    #[must_use]
    pub fn is_reorderable(&self) -> bool {
        !matches!(
            self,
            OpKind::Sdpa | OpKind::Softmax | OpKind::MoeGate | OpKind::Other
        )
    }
}

/// A list of captured dispatches and barriers.
///
/// ```
/// use mlx_native::{ComputeGraph, DType, KernelRegistry, MlxDevice, ops::add::{AddParams, add}};
/// let device = MlxDevice::new()?;
/// let mut registry = KernelRegistry::new();
/// let mut x = device.alloc_tensor(DType::F32, &[2])?;
/// x.write(0, &[1.0f32, 2.0])?;
/// let mut encoder = device.command_encoder()?;
/// encoder.start_capture();
/// let params = AddParams { n_elements: 2, b_elements: 2 };
/// add(&mut encoder, &mut registry, &device, &x, &x, &x, &params)?;
/// let graph = ComputeGraph::from_nodes(encoder.take_capture().unwrap_or_default());
/// for _ in 0..3 {
///     let mut encoder = device.command_encoder()?;
///     graph.encode(&mut encoder)?;
///     encoder.commit_and_wait()?;
/// }
/// assert_eq!(x.read::<f32>()?, [8.0, 16.0]);
/// # Ok::<(), mlx_native::MlxError>(())
/// ```
#[derive(Debug, Default, Clone)]
pub struct ComputeGraph {
    nodes: Vec<CapturedNode>,
}

impl ComputeGraph {
    /// An empty graph.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A graph of captured nodes.
    #[must_use]
    pub fn from_nodes(nodes: Vec<CapturedNode>) -> Self {
        ComputeGraph { nodes }
    }

    /// Adds a node at the end.
    pub fn record(&mut self, node: CapturedNode) {
        self.nodes.push(node);
    }

    /// Number of nodes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there are no nodes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Number of dispatches.
    #[must_use]
    pub fn dispatch_count(&self) -> usize {
        self.nodes
            .iter()
            .filter(|n| matches!(n, CapturedNode::Dispatch { .. }))
            .count()
    }

    /// Number of explicit barriers.
    #[must_use]
    pub fn barrier_count(&self) -> usize {
        self.nodes
            .iter()
            .filter(|n| matches!(n, CapturedNode::Barrier))
            .count()
    }

    /// The nodes.
    #[must_use]
    pub fn nodes(&self) -> &[CapturedNode] {
        &self.nodes
    }

    /// The nodes, taken out.
    #[must_use]
    pub fn into_nodes(self) -> Vec<CapturedNode> {
        self.nodes
    }

    /// Number of dispatches of which nothing is known that they read, or nothing that they write. Captured dispatches carry the
    /// ranges that their kernels' signatures tell; there are none unless nodes were made by hand.
    #[must_use]
    pub fn unannotated_dispatch_count(&self) -> usize {
        let is_unannotated = |node: &&CapturedNode| match node {
            CapturedNode::Dispatch { reads, writes, .. } => reads.is_empty() || writes.is_empty(),
            _ => false,
        };
        self.nodes.iter().filter(is_unannotated).count()
    }

    /// Records every node, explicit barriers included. Returns the number of explicit barriers. What a dispatch is refused for is
    /// held by the encoder until the commit.
    pub fn encode_sequential(&self, encoder: &mut CommandEncoder) -> u32 {
        for node in &self.nodes {
            let result = replay(node, encoder);
            encoder.hold(result);
        }
        saturated(self.barrier_count())
    }

    /// Records the dispatches; the encoder puts barriers where they are needed, explicit ones are left out.
    ///
    /// # Errors
    /// As [`CommandEncoder::try_encode_with_args`].
    pub fn encode(&self, encoder: &mut CommandEncoder) -> Result<()> {
        self.nodes
            .iter()
            .filter(|n| !matches!(n, CapturedNode::Barrier))
            .try_for_each(|n| replay(n, encoder))
    }

    /// Records the dispatches with a barrier before each that conflicts with what came since the last one, by the ranges of the
    /// nodes, and for each explicit barrier. Returns their number. What a dispatch is refused for is held by the encoder until the
    /// commit.
    pub fn encode_with_barriers(&self, encoder: &mut CommandEncoder) -> u32 {
        encode_range(&self.nodes, encoder)
    }

    /// [`encode_with_barriers`](Self::encode_with_barriers) of the first tenth of the dispatches, but 64 at least, into `encoder0`,
    /// which is committed, and of the others into `encoder1`, which the caller commits. Returns the barriers of both.
    pub fn encode_dual_buffer(
        &self,
        encoder0: &mut CommandEncoder,
        encoder1: &mut CommandEncoder,
    ) -> (u32, u32) {
        let first = (self.dispatch_count() / 10).max(MIN_FIRST);
        let is_dispatch = |node: &CapturedNode| matches!(node, CapturedNode::Dispatch { .. });
        let places = self
            .nodes
            .iter()
            .enumerate()
            .filter(|(_, node)| is_dispatch(node));
        let split = places
            .map(|(i, _)| i + 1)
            .nth(first - 1)
            .unwrap_or(self.nodes.len());
        let (head, tail) = self.nodes.split_at(split);
        let barriers0 = encode_range(head, encoder0);
        encoder0.commit();
        (barriers0, encode_range(tail, encoder1))
    }

    /// Moves dispatches forward, past others that they do not depend on, to where the unfenced group before them still
    /// runs. Explicit barriers are dropped. Attention and softmax are not moved. Returns how many positions now hold
    /// another dispatch.
    pub fn reorder(&mut self) -> u32 {
        let nodes: Vec<CapturedNode> = std::mem::take(&mut self.nodes)
            .into_iter()
            .filter(|n| !matches!(n, CapturedNode::Barrier))
            .collect();
        let order = schedule(&nodes);
        let moved = order
            .iter()
            .enumerate()
            .filter(|(position, original)| position != *original)
            .count();
        let mut slots: Vec<Option<CapturedNode>> = nodes.into_iter().map(Some).collect();
        self.nodes = order.into_iter().filter_map(|i| slots[i].take()).collect();
        u32::try_from(moved).unwrap_or(u32::MAX)
    }
}

fn saturated(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Records `nodes` with the barriers that their ranges ask for.
fn encode_range(nodes: &[CapturedNode], encoder: &mut CommandEncoder) -> u32 {
    let mut tracker = HazardTracker::default();
    let mut barriers = 0;
    for node in nodes {
        let (reads, writes) = ranges(node);
        let conflicts = tracker.conflicts(&reads, &writes);
        if conflicts || matches!(node, CapturedNode::Barrier) {
            encoder.memory_barrier();
            tracker.clear();
            barriers += 1;
        }
        if matches!(node, CapturedNode::Barrier) {
            continue;
        }
        tracker.add(&reads, &writes);
        let result = replay(node, encoder);
        encoder.hold(result);
    }
    barriers
}

/// The order in which the reorder pass puts the nodes, as indices.
fn schedule(nodes: &[CapturedNode]) -> Vec<usize> {
    let mut order = Vec::with_capacity(nodes.len());
    let mut used = vec![false; nodes.len()];
    let mut group = HazardTracker::default();
    for first in 0..nodes.len() {
        if used[first] {
            continue;
        }
        let (reads, writes) = ranges(&nodes[first]);
        if group.conflicts(&reads, &writes) {
            // `first` needs a barrier. Before it comes, fill the running group with what is independent of it, and of
            // everything that is skipped on the way.
            let mut skipped = HazardTracker::default();
            skipped.add(&reads, &writes);
            for next in first + 1..nodes.len().min(first + WINDOW) {
                if used[next] {
                    continue;
                }
                if !kind(&nodes[next]).is_reorderable() {
                    break;
                }
                let (reads, writes) = ranges(&nodes[next]);
                if !group.conflicts(&reads, &writes) && !skipped.conflicts(&reads, &writes) {
                    group.add(&reads, &writes);
                    order.push(next);
                    used[next] = true;
                } else {
                    skipped.add(&reads, &writes);
                }
            }
            group.clear();
        }
        group.add(&reads, &writes);
        order.push(first);
        used[first] = true;
    }
    order
}

/// What a node reads and what it writes.
type Ranges<'a> = (Cow<'a, [MemRange]>, Cow<'a, [MemRange]>);

fn ranges(node: &CapturedNode) -> Ranges<'_> {
    match node {
        CapturedNode::Dispatch { reads, writes, .. } => (reads.into(), writes.into()),
        CapturedNode::Transfer(transfer) => {
            let (reads, writes) = transfer.places();
            let of = |places: &[Place]| places.iter().map(Place::mem_range).collect();
            (of(reads), of(writes))
        }
        CapturedNode::Barrier => (Cow::default(), Cow::default()),
    }
}

fn kind(node: &CapturedNode) -> CapturedOpKind {
    match node {
        CapturedNode::Dispatch { op_kind, .. } => *op_kind,
        CapturedNode::Barrier | CapturedNode::Transfer(_) => CapturedOpKind::Other,
    }
}

fn replay(node: &CapturedNode, encoder: &mut CommandEncoder) -> Result<()> {
    match node {
        CapturedNode::Barrier => {
            encoder.memory_barrier();
            Ok(())
        }
        CapturedNode::Transfer(transfer) => encoder.replay_transfer(transfer),
        CapturedNode::Dispatch {
            pipeline,
            bindings,
            threads_per_grid,
            threads_per_threadgroup,
            threadgroup_memory,
            dispatch_kind,
            ..
        } => encoder.try_replay_dispatch(
            pipeline,
            bindings,
            threadgroup_memory,
            *threads_per_grid,
            *threads_per_threadgroup,
            *dispatch_kind,
        ),
    }
}

#[cfg(test)]
mod tests;
