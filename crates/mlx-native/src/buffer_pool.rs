//! Reuse of buffers, with a bound on what lies idle.

use std::collections::BTreeMap;

use crate::buffer::MlxBuffer;
use crate::device::MlxDevice;
use crate::dtype::DType;
use crate::error::Result;

/// Idle bytes that a pool keeps at most, unless told otherwise: 256 MiB.
pub const DEFAULT_POOL_CAP: usize = 256 << 20;

/// Hands out buffers in sizes of powers of two and takes them back. What lies idle stays below a cap.
///
/// ```
/// use mlx_native::{DType, MlxBufferPool, MlxDevice};
/// let device = MlxDevice::new()?;
/// let mut pool = MlxBufferPool::new(&device);
/// let x = pool.alloc(100, DType::U8, vec![100])?;
/// assert_eq!(x.byte_len(), 128);
/// pool.release(x);
/// assert_eq!((pool.free_count(), pool.free_bytes()), (1, 128));
/// # Ok::<(), mlx_native::MlxError>(())
/// ```
#[derive(Debug)]
pub struct MlxBufferPool<'d> {
    device: &'d MlxDevice,
    /// Bucket size (a power of two) to idle buffers of at least that size.
    free: BTreeMap<usize, Vec<MlxBuffer>>,
    free_bytes: usize,
    cap: usize,
}

impl<'d> MlxBufferPool<'d> {
    /// An empty pool on `device` that keeps at most [`DEFAULT_POOL_CAP`] bytes idle.
    #[must_use]
    pub fn new(device: &'d MlxDevice) -> Self {
        Self::with_cap(device, DEFAULT_POOL_CAP)
    }

    /// An empty pool that keeps at most `cap` bytes idle.
    #[must_use]
    pub fn with_cap(device: &'d MlxDevice, cap: usize) -> Self {
        MlxBufferPool {
            device,
            free: BTreeMap::new(),
            free_bytes: 0,
            cap,
        }
    }

    /// A buffer of at least `byte_len` bytes: the next power of two. Reused memory is not cleared.
    ///
    /// # Errors
    /// [`MlxError::BufferAllocationError`](crate::MlxError::BufferAllocationError) when the device has no memory.
    pub fn alloc(&mut self, byte_len: usize, dtype: DType, shape: Vec<usize>) -> Result<MlxBuffer> {
        let bucket = byte_len
            .max(1)
            .checked_next_power_of_two()
            .ok_or(crate::MlxError::BufferAllocationError { bytes: byte_len })?;
        if let Some(buffer) = self.free.get_mut(&bucket).and_then(Vec::pop) {
            self.free_bytes -= buffer.byte_len();
            return buffer.relabel(dtype, &shape);
        }
        self.device.alloc_buffer(bucket, dtype, shape)
    }

    /// Takes a buffer back. It is freed instead if it is a view, or if more than the cap would lie idle.
    pub fn release(&mut self, buffer: MlxBuffer) {
        let len = buffer.byte_len();
        if len == 0 || !buffer.is_whole() || self.free_bytes.saturating_add(len) > self.cap {
            return;
        }
        // The largest power of two that fits: a foreign buffer of another size is never handed out as more than it is.
        let bucket = 1usize << len.ilog2();
        self.free_bytes += len;
        self.free.entry(bucket).or_default().push(buffer);
    }

    /// Number of idle buffers.
    #[must_use]
    pub fn free_count(&self) -> usize {
        self.free.values().map(Vec::len).sum()
    }

    /// Bytes of the idle buffers.
    #[must_use]
    pub fn free_bytes(&self) -> usize {
        self.free_bytes
    }

    /// Frees the idle buffers.
    pub fn clear(&mut self) {
        self.free.clear();
        self.free_bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_memory_comes_back() {
        let device = MlxDevice::new().unwrap();
        let mut pool = MlxBufferPool::new(&device);
        let a = pool.alloc(1024, DType::F32, vec![256]).unwrap();
        let ptr = a.contents_ptr();
        pool.release(a);
        let b = pool.alloc(1000, DType::U8, vec![1000]).unwrap();
        assert_eq!(
            (b.contents_ptr(), b.byte_len(), b.dtype()),
            (ptr, 1024, DType::U8)
        );
        assert_eq!(pool.free_bytes(), 0);
    }

    #[test]
    fn a_foreign_size_is_filed_below_and_never_handed_out_as_more() {
        let device = MlxDevice::new().unwrap();
        let mut pool = MlxBufferPool::new(&device);
        pool.release(device.alloc_buffer(100, DType::U8, vec![100]).unwrap());
        assert!(pool.alloc(128, DType::U8, vec![128]).unwrap().byte_len() >= 128);
        assert_eq!(pool.alloc(64, DType::U8, vec![64]).unwrap().byte_len(), 100);
    }

    #[test]
    fn idle_bytes_stay_below_the_cap_and_views_are_not_kept() {
        let device = MlxDevice::new().unwrap();
        let mut pool = MlxBufferPool::with_cap(&device, 300);
        let whole = pool.alloc(256, DType::U8, vec![256]).unwrap();
        pool.release(whole.view(0, DType::U8, vec![128]).unwrap());
        assert_eq!(pool.free_count(), 0);
        pool.release(whole);
        pool.release(device.alloc_buffer(64, DType::U8, vec![64]).unwrap());
        assert_eq!((pool.free_count(), pool.free_bytes()), (1, 256));
        pool.clear();
        assert_eq!(pool.free_bytes(), 0);
        assert!(pool.alloc(usize::MAX, DType::U8, vec![]).is_err());
    }
}
