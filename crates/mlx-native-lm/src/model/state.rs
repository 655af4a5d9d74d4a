//! What a decoder keeps of a sequence: keys and values, or states of fixed size.

use std::fmt::Debug;

use mlx_native::ops::copy::{CopyParams, copy};
use mlx_native::ops::step::KvPool;
use mlx_native::{CommandEncoder, DType, KernelRegistry, MlxBuffer, MlxDevice};

use super::number::u32_of;
use crate::error::{LmError, Result};

/// Capacity is a multiple of this many positions.
const STEP: usize = 256;

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

/// What one layer keeps of a sequence. What differs between the kinds is what they can forget: keys and values any number of last positions, a ring as many
/// as it still has the predecessors of, a recurrent state none.
pub trait LayerState: Debug + Send {
    /// Bytes of memory.
    fn byte_len(&self) -> usize;

    /// Makes room for `positions` positions in all, fed `chunk` at a time at most; what is held is kept.
    ///
    /// # Errors
    /// When the device has no memory for it.
    fn reserve(&mut self, device: &MlxDevice, positions: usize, chunk: usize) -> Result<()>;

    /// Whether the state of `len` positions can become that of the first `kept` of them.
    ///
    /// # Errors
    /// [`LmError::InvalidArgument`], saying why not.
    fn can_truncate(&self, len: usize, kept: usize) -> Result<()>;

    /// Forgets everything from position `kept` on; [`can_truncate`](Self::can_truncate) has agreed.
    ///
    /// # Errors
    /// What the device reports.
    fn truncate(&mut self, kept: usize) -> Result<()>;

    /// A copy that goes its own way.
    ///
    /// # Errors
    /// When the device has no memory for it.
    fn fork(&self, device: &MlxDevice) -> Result<Box<dyn LayerState>>;

    /// A step has been computed that ends at position `len`.
    fn advance(&mut self, len: usize);

    /// Keys and values, where it has them.
    fn kv(&self) -> Option<&KvCache> {
        None
    }

    /// Planes of a recurrence, where it has them.
    fn planes(&self) -> Option<&[MlxBuffer]> {
        None
    }
}

/// Positions of a block.
pub(super) const BLOCK: usize = 64;

/// Keys and values of one layer: pools of blocks, `[n_blocks, n_heads, 64, dim]` each. Position `p` is in block `p / 64 mod n_blocks`:
/// with a window the pool becomes a ring once it holds the window and a chunk.
#[derive(Debug)]
pub struct KvCache {
    keys: MlxBuffer,
    values: MlxBuffer,
    n_heads: usize,
    k_dim: usize,
    v_dim: usize,
    n_blocks: usize,
    window: Option<usize>,
    /// Positions ever held, up to the last truncation: what is behind the ring's tail is gone.
    written: usize,
}

impl KvCache {
    fn new(
        device: &MlxDevice,
        dtype: DType,
        [n_heads, k_dim, v_dim]: [usize; 3],
        window: Option<usize>,
    ) -> Result<Self> {
        let n_blocks = STEP / BLOCK;
        Ok(KvCache {
            keys: device.alloc_tensor(dtype, &[n_blocks, n_heads, BLOCK, k_dim])?,
            values: device.alloc_tensor(dtype, &[n_blocks, n_heads, BLOCK, v_dim])?,
            n_heads,
            k_dim,
            v_dim,
            n_blocks,
            window,
            written: 0,
        })
    }

    /// Keys, `[n_blocks, n_heads, 64, k_dim]`.
    #[must_use]
    pub fn keys(&self) -> &MlxBuffer {
        &self.keys
    }

    /// Values, `[n_blocks, n_heads, 64, v_dim]`.
    #[must_use]
    pub fn values(&self) -> &MlxBuffer {
        &self.values
    }

    /// Sizes of a pool for one sequence.
    pub(super) fn pool(&self) -> Result<KvPool> {
        let n_blocks = u32_of(self.n_blocks)?;
        Ok(KvPool {
            n_blocks,
            block_size: BLOCK as u32,
            n_seqs: 1,
            blocks_per_seq: n_blocks,
        })
    }

    /// Positions that fit.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.n_blocks * BLOCK
    }

    /// Pools of `n_blocks` that begin as these.
    fn copied(&self, device: &MlxDevice, n_blocks: usize) -> Result<(MlxBuffer, MlxBuffer)> {
        let dtype = self.keys.dtype();
        let held = self.written.min(self.capacity()).div_ceil(BLOCK);
        let mut encoder = device.command_encoder()?;
        let mut registry = KernelRegistry::new();
        let mut grown = |from: &MlxBuffer, dim: usize| {
            let to = device.alloc_tensor(dtype, &[n_blocks, self.n_heads, BLOCK, dim])?;
            let n = held * self.n_heads * BLOCK * dim;
            copy_elements(&mut encoder, &mut registry, device, from, &to, n)?;
            Ok::<_, LmError>(to)
        };
        let (keys, values) = (grown(&self.keys, self.k_dim)?, grown(&self.values, self.v_dim)?);
        encoder.commit_and_wait()?;
        Ok((keys, values))
    }
}

fn copy_elements(
    encoder: &mut CommandEncoder,
    registry: &mut KernelRegistry,
    device: &MlxDevice,
    from: &MlxBuffer,
    to: &MlxBuffer,
    n: usize,
) -> Result<()> {
    if n == 0 {
        return Ok(());
    }
    let params = CopyParams {
        n_elements: u32_of(n)?,
    };
    Ok(copy(encoder, registry, device, from, to, &params)?)
}

impl LayerState for KvCache {
    fn byte_len(&self) -> usize {
        self.keys.byte_len() + self.values.byte_len()
    }

    fn reserve(&mut self, device: &MlxDevice, positions: usize, chunk: usize) -> Result<()> {
        let ring = match self.window {
            Some(window) => rounded(window.saturating_add(chunk))?,
            None => usize::MAX,
        };
        if positions <= self.capacity() || self.capacity() >= ring {
            return Ok(());
        }
        // By half at least, so that a long text is not moved again and again.
        let capacity = rounded(positions.max(self.capacity() + self.capacity() / 2))?.min(ring);
        let n_blocks = capacity / BLOCK;
        (self.keys, self.values) = self.copied(device, n_blocks)?;
        self.n_blocks = n_blocks;
        Ok(())
    }

    fn can_truncate(&self, len: usize, kept: usize) -> Result<()> {
        let Some(window) = self.window else { return Ok(()) };
        // The window before `kept` must not have been overwritten.
        let oldest = self.written.max(len).saturating_sub(self.capacity());
        if kept.saturating_sub(window.saturating_sub(1)) >= oldest {
            return Ok(());
        }
        Err(LmError::InvalidArgument(format!(
            "a cache of {len} positions cannot go back to {kept}: a layer keeps a window of {window}, and has them from {oldest} on"
        )))
    }

    fn truncate(&mut self, _kept: usize) -> Result<()> {
        Ok(())
    }

    fn fork(&self, device: &MlxDevice) -> Result<Box<dyn LayerState>> {
        let (keys, values) = self.copied(device, self.n_blocks)?;
        Ok(Box::new(KvCache {
            keys,
            values,
            ..*self
        }))
    }

    fn advance(&mut self, len: usize) {
        self.written = self.written.max(len);
    }

    fn kv(&self) -> Option<&KvCache> {
        Some(self)
    }
}

/// The state of a recurrence: it knows one position, the last.
#[derive(Debug)]
pub struct RecurrentState {
    planes: Vec<MlxBuffer>,
}

impl RecurrentState {
    fn new(device: &MlxDevice, planes: &[(usize, DType)]) -> Result<Self> {
        let planes = planes
            .iter()
            .map(|(n, dtype)| Ok(device.alloc_tensor(*dtype, &[*n])?));
        Ok(RecurrentState {
            planes: planes.collect::<Result<_>>()?,
        })
    }
}

impl LayerState for RecurrentState {
    fn byte_len(&self) -> usize {
        self.planes.iter().map(MlxBuffer::byte_len).sum()
    }

    fn reserve(&mut self, _device: &MlxDevice, _positions: usize, _chunk: usize) -> Result<()> {
        Ok(())
    }

    fn can_truncate(&self, len: usize, kept: usize) -> Result<()> {
        if kept == 0 {
            return Ok(());
        }
        Err(LmError::InvalidArgument(format!(
            "a state of {len} positions cannot go back to {kept}: a layer is recurrent and knows the last position only"
        )))
    }

    fn truncate(&mut self, _kept: usize) -> Result<()> {
        for plane in &mut self.planes {
            let zeros = vec![0u8; plane.byte_len()];
            plane.write(0, &zeros)?;
        }
        Ok(())
    }

    fn fork(&self, device: &MlxDevice) -> Result<Box<dyn LayerState>> {
        let mut encoder = device.command_encoder()?;
        let mut registry = KernelRegistry::new();
        let mut planes = Vec::new();
        for plane in &self.planes {
            let copy = device.alloc_tensor(plane.dtype(), plane.shape())?;
            copy_elements(
                &mut encoder,
                &mut registry,
                device,
                plane,
                &copy,
                plane.element_count(),
            )?;
            planes.push(copy);
        }
        encoder.commit_and_wait()?;
        Ok(Box::new(RecurrentState { planes }))
    }

    fn advance(&mut self, _len: usize) {}

    fn planes(&self) -> Option<&[MlxBuffer]> {
        Some(&self.planes)
    }
}

/// What a decoder keeps of one sequence: a state for each layer that has one.
#[derive(Debug)]
pub struct SequenceState {
    layers: Vec<Box<dyn LayerState>>,
    len: usize,
    room: usize,
    chunk: usize,
}

impl SequenceState {
    pub(super) fn new(
        device: &MlxDevice,
        dtype: DType,
        specs: &[StateSpec],
        positions: usize,
        chunk: usize,
    ) -> Result<Self> {
        let layers = (specs.iter())
            .map(|spec| {
                let layer: Box<dyn LayerState> = match *spec {
                    StateSpec::Recurrent(ref planes) => Box::new(RecurrentState::new(device, planes)?),
                    StateSpec::Kv {
                        n_heads,
                        k_dim,
                        v_dim,
                        window,
                    } => Box::new(KvCache::new(device, dtype, [n_heads, k_dim, v_dim], window)?),
                };
                Ok(layer)
            })
            .collect::<Result<_>>()?;
        let mut state = SequenceState {
            layers,
            len: 0,
            room: STEP,
            chunk,
        };
        state.reserve(device, positions)?;
        Ok(state)
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

    /// Positions that fit without more memory.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.room
    }

    /// Bytes of memory.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        self.layers.iter().map(|l| l.byte_len()).sum()
    }

    /// The layers' states.
    pub fn layers(&self) -> impl Iterator<Item = &dyn LayerState> {
        self.layers.iter().map(|l| &**l)
    }

    /// Forgets everything from position `kept` on. Nothing happens when that is beyond the end.
    ///
    /// # Errors
    /// [`LmError::InvalidArgument`] when a layer cannot go back; the state is as it was then.
    pub fn truncate(&mut self, kept: usize) -> Result<()> {
        if kept >= self.len {
            return Ok(());
        }
        for layer in &self.layers {
            layer.can_truncate(self.len, kept)?;
        }
        for layer in &mut self.layers {
            layer.truncate(kept)?;
        }
        self.len = kept;
        Ok(())
    }

    /// A copy that goes its own way.
    ///
    /// # Errors
    /// When the device has no memory for it.
    pub fn fork(&self, device: &MlxDevice) -> Result<Self> {
        Ok(SequenceState {
            layers: self
                .layers
                .iter()
                .map(|l| l.fork(device))
                .collect::<Result<_>>()?,
            ..*self
        })
    }

    /// Makes room for `positions` positions in all; what is held is kept.
    ///
    /// # Errors
    /// When the device has no memory for it.
    pub fn reserve(&mut self, device: &MlxDevice, positions: usize) -> Result<()> {
        if positions <= self.room {
            return Ok(());
        }
        let room = rounded(positions.max(self.room + self.room / 2))?;
        for layer in &mut self.layers {
            layer.reserve(device, room, self.chunk)?;
        }
        self.room = room;
        Ok(())
    }

    pub(super) fn layer(&self, index: usize) -> &dyn LayerState {
        &*self.layers[index]
    }

    pub(super) fn advance(&mut self, positions: usize) {
        self.len += positions;
        for layer in &mut self.layers {
            layer.advance(self.len);
        }
    }
}

fn rounded(positions: usize) -> Result<usize> {
    positions
        .max(1)
        .checked_next_multiple_of(STEP)
        .filter(|n| u32::try_from(*n).is_ok())
        .ok_or_else(|| LmError::InvalidArgument(format!("a context of {positions} positions is too long")))
}
