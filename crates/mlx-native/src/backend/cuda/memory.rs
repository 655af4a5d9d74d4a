//! Memory of the GPU: allocated, or filled from a range of the host.

use std::any::Any;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::gpu::{Address, Gpu};
use super::health::Health;
use crate::backend::submission::release;
use crate::backend::{HostRegion, Memory};
use crate::error::{MlxError, Result, invalid};

/// Where memory comes from.
pub(super) struct Allocator<G: Gpu> {
    gpu: Arc<G>,
    health: Arc<Health>,
    used: Arc<AtomicUsize>,
    limit: usize,
}

impl<G: Gpu> Allocator<G> {
    /// At most `limit` bytes are allocated.
    pub fn new(gpu: Arc<G>, health: Arc<Health>, limit: usize) -> Self {
        Allocator {
            gpu,
            health,
            used: Arc::default(),
            limit,
        }
    }

    /// Bytes in use.
    pub fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// Zeroed memory.
    pub fn allocate(&self, byte_len: usize) -> Result<Arc<dyn Memory>> {
        Ok(Arc::new(self.reserve(byte_len, true)?))
    }

    fn reserve(&self, byte_len: usize, zeroed: bool) -> Result<CudaMemory<G>> {
        let failed = || MlxError::BufferAllocationError { bytes: byte_len };
        self.health.check()?;
        let more = |used: usize| used.checked_add(byte_len).filter(|sum| *sum <= self.limit);
        if byte_len == 0 || self.used.fetch_update(Relaxed, Relaxed, more).is_err() {
            tracing::warn!(
                bytes = byte_len,
                in_use = self.used(),
                limit = self.limit,
                "cuda: the allocation would pass the memory limit"
            );
            return Err(failed());
        }
        match self.gpu.allocate(byte_len, zeroed) {
            Ok(address) => Ok(CudaMemory {
                gpu: self.gpu.clone(),
                health: self.health.clone(),
                used: self.used.clone(),
                address,
                byte_len,
                writable: true,
            }),
            Err(failure) => {
                self.used.fetch_sub(byte_len, Relaxed);
                if failure.is_out_of_memory() {
                    tracing::warn!(
                        bytes = byte_len,
                        in_use = self.used(),
                        "cuda: the device has no memory left"
                    );
                    return Err(failed());
                }
                Err(self.health.error("memory", &failure))
            }
        }
    }

    /// A copy of a range of the host. The owner of the range is let go as soon as the copy is there.
    pub fn wrap(&self, region: HostRegion) -> Result<Arc<dyn Memory>> {
        let byte_len = region.byte_len;
        let copied = self.copy_of(&region);
        let released = release(region.owner);
        let mut memory = copied?;
        if let Err(why) = released {
            return Err(MlxError::CommandBufferError(format!("wrap: {why}")));
        }
        memory.writable = region.writable;
        tracing::debug!(
            bytes = byte_len,
            "cuda: bytes of the host were copied to the device"
        );
        Ok(Arc::new(memory))
    }

    fn copy_of(&self, region: &HostRegion) -> Result<CudaMemory<G>> {
        let byte_len = region.byte_len;
        if let Ok(free) = self.gpu.free_memory()
            && (byte_len > free || byte_len > self.limit.saturating_sub(self.used()))
        {
            return invalid!(
                "wrap: {byte_len} bytes do not fit on {}: {free} bytes of {} are free, {} are in use of the {} that may be",
                self.gpu.facts().name,
                self.gpu.facts().memory,
                self.used(),
                self.limit
            );
        }
        let memory = self.reserve(byte_len, false)?;
        // SAFETY: the region is readable for `byte_len` bytes as long as its owner lives, which is in `region`.
        let bytes = unsafe { std::slice::from_raw_parts(region.ptr.as_ptr(), byte_len) };
        self.gpu
            .upload_large(memory.address, bytes)
            .map_err(|e| self.health.error("wrap", &e))?;
        Ok(memory)
    }
}

/// A range of the device's memory.
pub(super) struct CudaMemory<G: Gpu> {
    gpu: Arc<G>,
    health: Arc<Health>,
    used: Arc<AtomicUsize>,
    address: Address,
    byte_len: usize,
    writable: bool,
}

impl<G: Gpu> CudaMemory<G> {
    /// Its first byte on the device.
    pub fn address(&self) -> Address {
        self.address
    }

    /// Which of the machine's devices it is on.
    pub fn ordinal(&self) -> usize {
        self.gpu.facts().ordinal
    }
}

impl<G: Gpu> Memory for CudaMemory<G> {
    fn byte_len(&self) -> usize {
        self.byte_len
    }

    fn writable(&self) -> bool {
        self.writable
    }

    fn host_view(&self) -> Option<NonNull<u8>> {
        None
    }

    fn download(&self, offset: usize, out: &mut [u8]) -> Result<()> {
        if out.is_empty() {
            return Ok(());
        }
        self.health.check()?;
        self.gpu
            .download(self.address + offset as u64, out)
            .map_err(|e| self.health.error("download", &e))
    }

    fn upload(&self, offset: usize, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.health.check()?;
        self.gpu
            .upload(self.address + offset as u64, bytes)
            .map_err(|e| self.health.error("upload", &e))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl<G: Gpu> Drop for CudaMemory<G> {
    fn drop(&mut self) {
        self.gpu.free(self.address);
        self.used.fetch_sub(self.byte_len, Relaxed);
    }
}
