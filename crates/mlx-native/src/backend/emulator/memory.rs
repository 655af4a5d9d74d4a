//! Memory of the emulated device.

use std::any::Any;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::backend::host::HostBytes;
use crate::backend::{HostRegion, Memory};
use crate::error::Result;

/// Memory that the host cannot address: what a device with memory of its own has. It lies in this process all the same, but
/// in a mapping of which nobody outside this folder learns the address, so whatever reaches for one does without.
pub(super) struct SeparateMemory {
    bytes: HostBytes,
    writable: bool,
}

impl SeparateMemory {
    /// `byte_len` zeroed bytes.
    pub(super) fn allocate(byte_len: usize) -> Result<Arc<dyn Memory>> {
        Ok(Arc::new(SeparateMemory {
            bytes: HostBytes::zeroed(byte_len)?,
            writable: true,
        }))
    }

    /// A copy of a region of the host; its owner is let go of.
    pub(super) fn copy_of(region: &HostRegion) -> Result<Arc<dyn Memory>> {
        let bytes = HostBytes::zeroed(region.byte_len)?;
        // SAFETY: the region is readable as long as its owner lives, which it does here; the copy is new and as long.
        unsafe { std::ptr::copy_nonoverlapping(region.ptr.as_ptr(), bytes.ptr().as_ptr(), region.byte_len) };
        Ok(Arc::new(SeparateMemory {
            bytes,
            writable: region.writable,
        }))
    }
}

/// Where the emulated device sees `memory`; `None` for memory of another kind of device.
pub(super) fn device_address(memory: &dyn Memory) -> Option<NonNull<u8>> {
    match memory.as_any().downcast_ref::<SeparateMemory>() {
        Some(separate) => Some(separate.bytes.ptr()),
        None => memory.host_view(),
    }
}

/// Whether this is memory of an emulated device with memory of its own.
pub(super) fn is_separate(memory: &dyn Memory) -> bool {
    memory.as_any().is::<SeparateMemory>()
}

impl Memory for SeparateMemory {
    fn byte_len(&self) -> usize {
        self.bytes.as_slice().len()
    }
    fn writable(&self) -> bool {
        self.writable
    }
    fn host_view(&self) -> Option<NonNull<u8>> {
        None
    }
    fn download(&self, offset: usize, out: &mut [u8]) -> Result<()> {
        // SAFETY: the caller vouches for the range, and that nobody writes it meanwhile.
        unsafe {
            std::ptr::copy_nonoverlapping(self.bytes.ptr().as_ptr().add(offset), out.as_mut_ptr(), out.len());
        }
        Ok(())
    }
    fn upload(&self, offset: usize, bytes: &[u8]) -> Result<()> {
        // SAFETY: the caller vouches for the range, and that nobody reads or writes it meanwhile.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.bytes.ptr().as_ptr().add(offset), bytes.len());
        }
        Ok(())
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}
