//! Recorded work as data: capture it, move independent parts together, replay it.
//!
//! A [`ComputeGraph`] is a list of captured dispatches and barriers. Replaying records the dispatches anew, so their
//! hazards are found anew: an order that the graph got wrong would cost time, never correctness. [`ComputeGraph::reorder`]
//! brings dispatches that do not depend on each other together, so that fewer barriers are needed between them.

mod prepared;
mod session;

use std::borrow::Cow;

pub use prepared::{PreparedGraph, Replay};
pub use session::{GraphExecutor, GraphSession};

use crate::backend::Place;
use crate::buffer::MemRange;
use crate::encoder::{CapturedNode, CapturedOpKind, CommandEncoder, HazardTracker};
use crate::error::Result;

/// How far the reorder pass looks ahead.
const WINDOW: usize = 64;

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

    /// Records every node, explicit barriers included. Returns the number of explicit barriers.
    ///
    /// # Errors
    /// As [`CommandEncoder::encode_with_args`].
    pub fn encode_sequential(&self, encoder: &mut CommandEncoder) -> Result<u32> {
        for node in &self.nodes {
            replay(node, encoder)?;
        }
        Ok(u32::try_from(self.barrier_count()).unwrap_or(u32::MAX))
    }

    /// Records the dispatches; the encoder puts barriers where they are needed, explicit ones are left out.
    ///
    /// # Errors
    /// As [`CommandEncoder::encode_with_args`].
    pub fn encode(&self, encoder: &mut CommandEncoder) -> Result<()> {
        self.nodes
            .iter()
            .filter(|n| !matches!(n, CapturedNode::Barrier))
            .try_for_each(|n| replay(n, encoder))
    }

    /// [`encode`](Self::encode); returns the number of barriers that the encoder had to put.
    ///
    /// # Errors
    /// As [`CommandEncoder::encode_with_args`].
    pub fn encode_with_barriers(&self, encoder: &mut CommandEncoder) -> Result<u32> {
        let before = encoder.recorded_barriers();
        self.encode(encoder)?;
        Ok(u32::try_from(encoder.recorded_barriers() - before).unwrap_or(u32::MAX))
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
        } => encoder.replay_dispatch(
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
