//! What a decoder keeps of its sequences: keys and values, or states of fixed size, in blocks of one pool.

mod kinds;
mod pages;
mod pool;
mod prompt_cache;

use std::sync::Arc;

use mlx_native::DType;

pub use kinds::{LayerState, PagedKv, Recurrent, RotatingKv};
pub(crate) use pages::PAGE;
use pool::Group;
pub(super) use pool::{Blocks, Kind, Place, Pool};

use crate::error::{LmError, Result};

/// Positions of a block.
pub(super) const BLOCK: usize = 64;

/// What one layer keeps, as data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum StateSpec {
    /// Keys and values of `n_heads` heads, of the last `window` positions or of all.
    Kv {
        n_heads: usize,
        k_dim: usize,
        v_dim: usize,
        window: Option<usize>,
    },
    /// Planes of so many elements each, all zero at the start.
    Recurrent(Vec<(usize, DType)>),
}

/// Bytes that states of `specs` take at `positions` positions.
pub(super) fn bytes_for(specs: &[StateSpec], dtype: DType, positions: usize, chunk: usize) -> usize {
    let bytes = |spec: &StateSpec| match *spec {
        StateSpec::Kv {
            n_heads,
            k_dim,
            v_dim,
            window,
        } => {
            let kept = window.map_or(positions, |w| positions.min(w.saturating_add(chunk)));
            kept.saturating_mul(n_heads * (k_dim + v_dim) * dtype.size_of())
        }
        StateSpec::Recurrent(ref planes) => planes.iter().map(|(n, dtype)| n * dtype.size_of()).sum(),
    };
    specs.iter().map(bytes).fold(0, usize::saturating_add)
}

/// What one group of layers keeps of a sequence.
#[derive(Debug)]
pub(super) struct Held {
    pub kind: Box<dyn LayerState>,
    /// The blocks, in the order of the table.
    pub blocks: Vec<u32>,
}

/// What a decoder keeps of one sequence: for each group of layers a table of blocks. Sequences that were forked share
/// blocks, until one of them writes.
#[derive(Debug)]
pub struct SequenceState {
    pool: Arc<Pool>,
    held: Vec<Held>,
    len: usize,
}

impl SequenceState {
    pub(super) fn new(pool: &Arc<Pool>) -> Self {
        let kinds: Vec<Kind> = pool.lock().groups.iter().map(|g| g.kind).collect();
        let held = kinds.into_iter().map(|kind| Held {
            kind: kind.state(),
            blocks: Vec::new(),
        });
        SequenceState {
            pool: pool.clone(),
            held: held.collect(),
            len: 0,
        }
    }

    /// Whether the state is of the decoder with this pool.
    pub(super) fn is_of(&self, pool: &Arc<Pool>) -> bool {
        Arc::ptr_eq(&self.pool, pool)
    }

    /// An empty state in the same pool.
    #[must_use]
    pub fn empty(&self) -> Self {
        SequenceState::new(&self.pool)
    }

    /// Positions held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of the blocks held, those shared with other sequences included.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        let blocks = self.pool.lock();
        let held = self.held.iter().enumerate();
        held.map(|(group, held)| held.blocks.len() * blocks.block_bytes(group))
            .sum()
    }

    /// Positions that fit without more memory; layers that keep a fixed size do not count.
    #[must_use]
    pub fn capacity(&self) -> usize {
        let blocks = self.pool.lock();
        let paged = self
            .held
            .iter()
            .zip(&blocks.groups)
            .filter(|(_, g)| g.kind == Kind::Paged);
        paged
            .map(|(held, _)| held.blocks.len() * BLOCK)
            .min()
            .unwrap_or(u32::MAX as usize)
    }

    /// What each group of layers keeps.
    pub fn layers(&self) -> impl Iterator<Item = &dyn LayerState> {
        self.held.iter().map(|h| &*h.kind)
    }

    /// Whether [`truncate`](Self::truncate) to `kept` positions is possible.
    ///
    /// # Errors
    /// [`LmError::InvalidArgument`], saying which kind of layer cannot go back.
    pub fn can_truncate(&self, kept: usize) -> Result<()> {
        if kept >= self.len {
            return Ok(());
        }
        self.layers().try_for_each(|l| l.can_truncate(self.len, kept))
    }

    /// Forgets everything from position `kept` on. Nothing happens when that is beyond the end.
    ///
    /// # Errors
    /// [`LmError::InvalidArgument`] when a layer cannot go back; the state is as it was then.
    pub fn truncate(&mut self, kept: usize) -> Result<()> {
        if kept >= self.len {
            return Ok(());
        }
        self.can_truncate(kept)?;
        let mut blocks = self.pool.lock();
        for (group, held) in self.held.iter_mut().enumerate() {
            let needed = held.kind.truncate(kept);
            for block in held.blocks.drain(needed.min(held.blocks.len())..) {
                blocks.release(group, block);
            }
        }
        self.len = kept;
        Ok(())
    }

    /// A state of the same positions that goes its own way. It costs no memory until one of the two writes, and then a block
    /// of what they have in common.
    #[must_use]
    pub fn fork(&self) -> Self {
        let mut blocks = self.pool.lock();
        let mut held = Vec::new();
        for (group, own) in self.held.iter().enumerate() {
            // What is reserved, but not written yet, stays with the first.
            let used = own.kind.blocks_for(self.len).min(own.blocks.len());
            for block in &own.blocks[..used] {
                blocks.share(group, *block);
            }
            held.push(Held {
                kind: own.kind.fork(),
                blocks: own.blocks[..used].to_vec(),
            });
        }
        SequenceState {
            pool: self.pool.clone(),
            held,
            len: self.len,
        }
    }

    /// Makes room for `positions` positions in all; what is held is kept.
    ///
    /// # Errors
    /// When the device has no memory for it.
    pub fn reserve(&mut self, positions: usize) -> Result<()> {
        if u32::try_from(positions).is_err() {
            return Err(LmError::InvalidArgument(format!(
                "a context of {positions} positions is too long"
            )));
        }
        let mut blocks = self.pool.lock();
        for (group, held) in self.held.iter_mut().enumerate() {
            let needed = held.kind.blocks_for(positions);
            while held.blocks.len() < needed {
                let wanted = needed - held.blocks.len();
                held.blocks.push(blocks.take(self.pool.device(), group, wanted)?);
            }
        }
        Ok(())
    }

    /// Makes room for `rows` more positions, in blocks that no other sequence holds.
    pub(super) fn prepare(&mut self, rows: usize) -> Result<()> {
        let end = self.len.checked_add(rows);
        let end =
            end.ok_or_else(|| LmError::InvalidArgument("a context of this length is too long".to_owned()))?;
        self.reserve(end)?;
        let mut blocks = self.pool.lock();
        for (group, held) in self.held.iter_mut().enumerate() {
            for place in held.kind.written(self.len..end) {
                held.blocks[place] = blocks.owned(self.pool.device(), group, held.blocks[place])?;
            }
        }
        Ok(())
    }

    pub(super) fn blocks(&self, group: usize) -> &[u32] {
        &self.held[group].blocks
    }

    pub(super) fn advance(&mut self, positions: usize) {
        self.len += positions;
        for held in &mut self.held {
            held.kind.advance(self.len);
        }
    }
}

impl Drop for SequenceState {
    fn drop(&mut self) {
        let mut blocks = self.pool.lock();
        for (group, held) in self.held.iter().enumerate() {
            for block in &held.blocks {
                blocks.release(group, *block);
            }
        }
    }
}
