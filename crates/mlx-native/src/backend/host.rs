//! Memory of the host: what `cpu`, `emulator` and `null` hand out.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::any::Any;
use std::ptr::NonNull;
use std::sync::Arc;

use memmap2::MmapMut;

use super::{HostRegion, Memory};
use crate::device::DeviceKind;
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

pub(crate) struct HostMemory {
    ptr: NonNull<u8>,
    byte_len: usize,
    writable: bool,
    kind: DeviceKind,
    owner: Owner,
}

enum Owner {
    Heap(Layout),
    #[allow(dead_code)] // held for its Drop
    Map(MmapMut),
    #[allow(dead_code)] // held for its Drop
    Foreign(Arc<dyn Any + Send + Sync>),
}

// SAFETY: the memory belongs to no thread. Who may touch it when is decided above, see `buffer.rs`.
unsafe impl Send for HostMemory {}
// SAFETY: as above.
unsafe impl Sync for HostMemory {}

impl HostMemory {
    pub(crate) fn allocate(byte_len: usize, limit: usize, kind: DeviceKind) -> Result<Arc<dyn Memory>> {
        let failed = || MlxError::BufferAllocationError { bytes: byte_len };
        if byte_len == 0 || byte_len > limit {
            return Err(failed());
        }
        let (ptr, owner) = if byte_len >= MAPPED_FROM {
            let mut map = MmapMut::map_anon(byte_len).map_err(|_| failed())?;
            (
                NonNull::new(map.as_mut_ptr()).ok_or_else(failed)?,
                Owner::Map(map),
            )
        } else {
            let layout = Layout::from_size_align(byte_len, ALIGN).map_err(|_| failed())?;
            // SAFETY: the size is not zero.
            let ptr = unsafe { alloc_zeroed(layout) };
            (NonNull::new(ptr).ok_or_else(failed)?, Owner::Heap(layout))
        };
        Ok(Arc::new(HostMemory {
            ptr,
            byte_len,
            writable: true,
            kind,
            owner,
        }))
    }

    pub(crate) fn wrap(region: HostRegion, kind: DeviceKind) -> Arc<dyn Memory> {
        Arc::new(HostMemory {
            ptr: region.ptr,
            byte_len: region.byte_len,
            writable: region.writable,
            kind,
            owner: Owner::Foreign(region.owner),
        })
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        if let Owner::Heap(layout) = self.owner {
            // SAFETY: allocated in `allocate` with this layout, and this is the only owner.
            unsafe { dealloc(self.ptr.as_ptr(), layout) };
        }
    }
}

impl Memory for HostMemory {
    fn kind(&self) -> DeviceKind {
        self.kind
    }
    fn host_ptr(&self) -> NonNull<u8> {
        self.ptr
    }
    fn byte_len(&self) -> usize {
        self.byte_len
    }
    fn writable(&self) -> bool {
        self.writable
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}
