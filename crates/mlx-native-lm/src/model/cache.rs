//! Keys and values of the positions seen so far.

use mlx_native::{DType, MlxBuffer, MlxDevice};

use crate::config::DecoderConfig;
use crate::error::{LmError, Result};

/// Capacity grows in steps of this many positions.
const STEP: usize = 256;

/// Keys and values of one sequence, for every layer: `[n_kv_heads, capacity, head_dim]` each.
#[derive(Debug)]
pub struct KvCache {
    layers: Vec<(MlxBuffer, MlxBuffer)>,
    dtype: DType,
    n_kv_heads: usize,
    head_dim: usize,
    capacity: usize,
    len: usize,
}

impl KvCache {
    /// An empty cache with room for at least `positions` positions.
    ///
    /// # Errors
    /// When the device has no memory for it.
    pub fn new(device: &MlxDevice, config: &DecoderConfig, dtype: DType, positions: usize) -> Result<Self> {
        let mut cache = KvCache {
            layers: Vec::new(),
            dtype,
            n_kv_heads: config.n_kv_heads,
            head_dim: config.head_dim,
            capacity: rounded(positions)?,
            len: 0,
        };
        for _ in 0..config.n_layers {
            let layer = cache.alloc_layer(device, cache.capacity)?;
            cache.layers.push(layer);
        }
        Ok(cache)
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

    /// Positions that fit.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes of memory.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        self.layers.iter().map(|(k, v)| k.byte_len() + v.byte_len()).sum()
    }

    /// Forgets everything from position `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Makes room for `positions` positions in all; what is held is kept.
    ///
    /// # Errors
    /// When the device has no memory for it.
    pub fn reserve(&mut self, device: &MlxDevice, positions: usize) -> Result<()> {
        if positions <= self.capacity {
            return Ok(());
        }
        // By half at least, so that a long text is not moved again and again.
        let capacity = rounded(positions.max(self.capacity + self.capacity / 2))?;
        let row = self.head_dim * self.dtype.size_of();
        for i in 0..self.layers.len() {
            let mut grown = self.alloc_layer(device, capacity)?;
            let old = &self.layers[i];
            for (from, to) in [(&old.0, &mut grown.0), (&old.1, &mut grown.1)] {
                let mut held = vec![0u8; self.len * row];
                for head in 0..self.n_kv_heads {
                    from.read_into(head * self.capacity * row, &mut held)?;
                    to.write(head * capacity * row, &held)?;
                }
            }
            self.layers[i] = grown;
        }
        self.capacity = capacity;
        Ok(())
    }

    pub(super) fn layer(&self, index: usize) -> (&MlxBuffer, &MlxBuffer) {
        let (k, v) = &self.layers[index];
        (k, v)
    }

    /// The keys of a layer from position `len` on: where the next ones go, heads `capacity * head_dim` apart.
    pub(super) fn keys_end(&self, index: usize) -> Result<MlxBuffer> {
        let elements = self.n_kv_heads * self.capacity * self.head_dim - self.len * self.head_dim;
        let offset = self.len * self.head_dim * self.dtype.size_of();
        Ok(self.layers[index].0.view(offset, self.dtype, vec![elements])?)
    }

    pub(super) fn advance(&mut self, positions: usize) {
        self.len += positions;
    }

    fn alloc_layer(&self, device: &MlxDevice, capacity: usize) -> Result<(MlxBuffer, MlxBuffer)> {
        let shape = [self.n_kv_heads, capacity, self.head_dim];
        Ok((
            device.alloc_tensor(self.dtype, &shape)?,
            device.alloc_tensor(self.dtype, &shape)?,
        ))
    }
}

fn rounded(positions: usize) -> Result<usize> {
    positions
        .max(1)
        .checked_next_multiple_of(STEP)
        .filter(|n| u32::try_from(*n).is_ok())
        .ok_or_else(|| LmError::InvalidArgument(format!("a context of {positions} positions is too long")))
}
