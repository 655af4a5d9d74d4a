//! Memory of the host: what `cpu`, `emulator` and `null` hand out, and mirrors of what lies elsewhere.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::any::Any;
use std::ptr::NonNull;
use std::sync::Arc;

use memmap2::MmapMut;

use super::memory::{HostRegion, Memory};
use crate::error::{MlxError, Result};

/// From this size on memory is asked of the operating system: it comes zeroed, in whole pages, and goes back at once.
const MAPPED_FROM: usize = 64 * 1024;
const ALIGN: usize = 128;

/// Bytes of physical memory, where the operating system tells.
pub(crate) fn physical_memory() -> Option<usize> {
    // SAFETY: sysconf has no preconditions.
    let (pages, page) = unsafe {
        (
            libc::sysconf(libc::_SC_PHYS_PAGES),
            libc::sysconf(libc::_SC_PAGESIZE),
        )
    };
    usize::try_from(pages)
        .ok()?
        .checked_mul(usize::try_from(page).ok()?)
}

/// Zeroed bytes of one owner, aligned to 128.
pub(crate) struct HostBytes {
    ptr: NonNull<u8>,
    byte_len: usize,
    owner: Owner,
}

enum Owner {
    None,
    Heap(Layout),
    #[allow(dead_code)] // held for its Drop
    Map(MmapMut),
}

// SAFETY: the memory belongs to no thread; shared access through `&HostBytes` only reads.
unsafe impl Send for HostBytes {}
// SAFETY: as above.
unsafe impl Sync for HostBytes {}

impl HostBytes {
    /// `byte_len` zeroed bytes.
    ///
    /// # Errors
    /// [`MlxError::BufferAllocationError`] when there are not so many.
    pub(crate) fn zeroed(byte_len: usize) -> Result<Self> {
        let failed = || MlxError::BufferAllocationError { bytes: byte_len };
        let (ptr, owner) = if byte_len >= MAPPED_FROM {
            let mut map = MmapMut::map_anon(byte_len).map_err(|_| failed())?;
            (
                NonNull::new(map.as_mut_ptr()).ok_or_else(failed)?,
                Owner::Map(map),
            )
        } else {
            let layout = Layout::from_size_align(byte_len, ALIGN).map_err(|_| failed())?;
            if byte_len == 0 {
                (
                    NonNull::new(std::ptr::without_provenance_mut(ALIGN)).ok_or_else(failed)?,
                    Owner::None,
                )
            } else {
                // SAFETY: the size is not zero.
                let ptr = unsafe { alloc_zeroed(layout) };
                (NonNull::new(ptr).ok_or_else(failed)?, Owner::Heap(layout))
            }
        };
        Ok(HostBytes { ptr, byte_len, owner })
    }

    /// First byte.
    pub(crate) fn ptr(&self) -> NonNull<u8> {
        self.ptr
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        // SAFETY: the bytes are this object's, and initialised.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.byte_len) }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: the bytes are this object's alone, and initialised.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.byte_len) }
    }
}

impl Drop for HostBytes {
    fn drop(&mut self) {
        if let Owner::Heap(layout) = self.owner {
            // SAFETY: allocated in `zeroed` with this layout, and this is the only owner.
            unsafe { dealloc(self.ptr.as_ptr(), layout) };
        }
    }
}

/// Memory that a device shares with the host: bytes of its own, or a region that was wrapped.
pub(crate) struct HostMemory {
    ptr: NonNull<u8>,
    byte_len: usize,
    writable: bool,
    _owner: Arc<dyn Any + Send + Sync>,
}

// SAFETY: the memory belongs to no thread. Who may touch it when is decided above, see `allocation.rs`.
unsafe impl Send for HostMemory {}
// SAFETY: as above.
unsafe impl Sync for HostMemory {}

impl HostMemory {
    /// `byte_len` zeroed bytes, at most `limit`.
    pub(crate) fn allocate(byte_len: usize, limit: usize) -> Result<Arc<dyn Memory>> {
        if byte_len == 0 || byte_len > limit {
            return Err(MlxError::BufferAllocationError { bytes: byte_len });
        }
        let bytes = HostBytes::zeroed(byte_len)?;
        Ok(Arc::new(HostMemory {
            ptr: bytes.ptr,
            byte_len,
            writable: true,
            _owner: Arc::new(bytes),
        }))
    }

    /// A region of the host, used in place.
    pub(crate) fn wrap(region: HostRegion) -> Arc<dyn Memory> {
        Arc::new(HostMemory {
            ptr: region.ptr,
            byte_len: region.byte_len,
            writable: region.writable,
            _owner: region.owner,
        })
    }
}

impl Memory for HostMemory {
    fn byte_len(&self) -> usize {
        self.byte_len
    }
    fn writable(&self) -> bool {
        self.writable
    }
    fn host_view(&self) -> Option<NonNull<u8>> {
        Some(self.ptr)
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}
