//! Memory of the GPU: allocated, or the host's own pages.

use std::any::Any;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::gpu::Gpu;
use super::{owner, pages};
use crate::backend::{HostRegion, Memory};
use crate::error::{MlxError, Result, invalid};

/// The most read-only bytes that are copied where they cannot be used in place.
const MAX_COPY: usize = 64 << 20;
/// What the contract of backends wants of an allocation.
const ALIGN: usize = 64;

/// How many bytes may be in use, and how many are.
#[derive(Debug)]
pub(super) struct Budget {
    limit: usize,
    used: AtomicUsize,
}

impl Budget {
    pub fn new(limit: usize) -> Self {
        Budget {
            limit,
            used: AtomicUsize::new(0),
        }
    }

    pub fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    fn take(&self, byte_len: usize) -> bool {
        let more = |used: usize| used.checked_add(byte_len).filter(|sum| *sum <= self.limit);
        self.used.fetch_update(Relaxed, Relaxed, more).is_ok()
    }

    fn give_back(&self, byte_len: usize) {
        self.used.fetch_sub(byte_len, Relaxed);
    }
}

/// Where memory comes from.
pub(super) struct Allocator<G: Gpu> {
    gpu: Arc<G>,
    /// Allocated bytes. Wrapped pages belong to a file and do not count.
    budget: Arc<Budget>,
    /// Bytes in the residency set; `None` where there is no set.
    resident: Option<Arc<Budget>>,
    wired: bool,
}

impl<G: Gpu> Allocator<G> {
    /// At most `limit` bytes are allocated, at most `resident` are put into the residency set.
    pub fn new(gpu: Arc<G>, limit: usize, resident: usize, wired: bool) -> Self {
        let resident = (gpu.facts().residency_sets && resident > 0).then(|| Arc::new(Budget::new(resident)));
        Allocator {
            gpu,
            budget: Arc::new(Budget::new(limit)),
            resident,
            wired,
        }
    }

    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Zeroed memory.
    pub fn allocate(&self, byte_len: usize) -> Result<Arc<dyn Memory>> {
        Ok(Arc::new(self.allocate_inner(byte_len)?))
    }

    fn allocate_inner(&self, byte_len: usize) -> Result<MetalMemory<G>> {
        let failed = || MlxError::BufferAllocationError { bytes: byte_len };
        if byte_len == 0 || byte_len > self.gpu.facts().max_buffer_len {
            return Err(failed());
        }
        let Some(taken) = Taken::new(&self.budget, byte_len) else {
            tracing::warn!(
                bytes = byte_len,
                in_use = self.budget.used(),
                limit = self.budget.limit,
                "metal: the allocation would pass the memory limit"
            );
            return Err(failed());
        };
        let buffer = G::pool(|| self.gpu.new_buffer(byte_len)).ok_or_else(failed)?;
        let ptr = G::contents(&buffer);
        if !(ptr.as_ptr() as usize).is_multiple_of(ALIGN) {
            return Err(failed());
        }
        Ok(MetalMemory {
            ptr,
            byte_len,
            writable: true,
            segments: std::iter::once(0..byte_len).collect(),
            buffers: vec![buffer],
            residency: None,
            _taken: Some(taken),
        })
    }

    /// Memory of the host. What starts at a page's start is used in place: every mapped file does. Other read-only bytes
    /// (constants of the program) are copied, up to [`MAX_COPY`].
    pub fn wrap(&self, region: HostRegion) -> Result<Arc<dyn Memory>> {
        let page = self.gpu.facts().page;
        let address = region.ptr.as_ptr() as usize;
        if address.is_multiple_of(page) {
            return self.wrap_in_place(region, page);
        }
        if region.writable || region.byte_len > MAX_COPY {
            return invalid!(
                "wrap: {} {}bytes at address {address:#x}: metal uses memory in place only from the start of a page of {page} bytes, \
                 and copies read-only bytes up to {MAX_COPY}",
                region.byte_len,
                if region.writable { "writable " } else { "" }
            );
        }
        let mut copy = self.allocate_inner(region.byte_len)?;
        // SAFETY: the region is readable for `byte_len` bytes, the copy is new and as long.
        unsafe {
            std::ptr::copy_nonoverlapping(region.ptr.as_ptr(), copy.ptr.as_ptr(), region.byte_len);
        }
        copy.writable = false;
        tracing::debug!(bytes = region.byte_len, "metal: bytes off a page's start were copied");
        Ok(Arc::new(copy))
    }

    fn wrap_in_place(&self, region: HostRegion, page: usize) -> Result<Arc<dyn Memory>> {
        let facts = self.gpu.facts();
        let Some(byte_len) = pages::round_up(region.byte_len, page) else {
            return invalid!("wrap: {} bytes leave the address space", region.byte_len);
        };
        let segments = pages::segments(byte_len, facts.max_buffer_len, page);
        let owner = owner::quiet(region.owner);
        let mut buffers = Vec::with_capacity(segments.len());
        for segment in &segments {
            // SAFETY: a segment starts inside the region, at most `byte_len` from its start.
            let start = unsafe { region.ptr.add(segment.start) };
            let owner = owner.clone();
            // SAFETY: start and length are multiples of the page. The region is readable as long as its owner lives, and
            // with any byte of a page the whole page is.
            let buffer = G::pool(|| unsafe { self.gpu.wrap_pages(start, segment.len(), owner) });
            let Some(buffer) = buffer else {
                return invalid!(
                    "wrap: metal does not take {} bytes at {:#x} in place (buffers of up to {} bytes are possible)",
                    segment.len(),
                    start.as_ptr() as usize,
                    facts.max_buffer_len
                );
            };
            buffers.push(buffer);
        }
        if buffers.is_empty() {
            return invalid!("wrap: buffers of up to {} bytes are no pages", facts.max_buffer_len);
        }
        let residency = self.add_resident(&buffers, byte_len);
        Ok(Arc::new(MetalMemory {
            ptr: region.ptr,
            byte_len: region.byte_len,
            writable: region.writable,
            segments,
            buffers,
            residency,
            _taken: None,
        }))
    }

    /// Only wrapped memory, which is weights, gets into the residency set: a set whose members come and go was at the
    /// root of other libraries' kernel panics.
    fn add_resident(&self, buffers: &[G::Buffer], byte_len: usize) -> Option<Residency<G>> {
        let taken = Taken::new(self.resident.as_ref()?, byte_len)?;
        G::pool(|| {
            for buffer in buffers {
                self.gpu.add_resident(buffer, self.wired);
            }
        });
        Some(Residency {
            gpu: self.gpu.clone(),
            _taken: taken,
        })
    }
}

/// Bytes taken out of a budget; they go back when this is dropped.
struct Taken {
    budget: Arc<Budget>,
    byte_len: usize,
}

impl Taken {
    fn new(budget: &Arc<Budget>, byte_len: usize) -> Option<Self> {
        let budget = budget.clone();
        // Only when taken: what is dropped gives back.
        budget.take(byte_len).then(|| Taken { budget, byte_len })
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.budget.give_back(self.byte_len);
    }
}

struct Residency<G: Gpu> {
    gpu: Arc<G>,
    _taken: Taken,
}

/// One allocation, or one wrapped range of the host's memory.
pub(super) struct MetalMemory<G: Gpu> {
    ptr: NonNull<u8>,
    byte_len: usize,
    writable: bool,
    /// Which bytes each of `buffers` holds.
    segments: Vec<Range<usize>>,
    buffers: Vec<G::Buffer>,
    residency: Option<Residency<G>>,
    _taken: Option<Taken>,
}

// SAFETY: buffers are of any thread, by the trait; the pointer is into one of them. Who may touch the bytes when is decided
// above, see `buffer.rs`.
unsafe impl<G: Gpu> Send for MetalMemory<G> {}
// SAFETY: as above.
unsafe impl<G: Gpu> Sync for MetalMemory<G> {}

impl<G: Gpu> MetalMemory<G> {
    /// The buffer that holds `byte_len` bytes from `offset`, and their offset in it; `None` where no single one does.
    pub fn locate(&self, offset: usize, byte_len: usize) -> Option<(&G::Buffer, usize)> {
        if self.buffers.len() == 1 {
            // An empty view may lie at the very end, where an offset is not allowed; nobody reads through it.
            let offset = if byte_len == 0 { 0 } else { offset };
            return Some((&self.buffers[0], offset));
        }
        let index = pages::find(&self.segments, &(offset..offset.checked_add(byte_len)?))?;
        Some((&self.buffers[index], offset - self.segments[index].start))
    }

    /// The longest range that a single buffer is sure to hold.
    pub fn max_range(&self) -> usize {
        match &self.segments[..] {
            [all] => all.len(),
            [first, second, ..] => first.end - second.start,
            [] => 0,
        }
    }
}

impl<G: Gpu> Drop for MetalMemory<G> {
    fn drop(&mut self) {
        G::pool(|| {
            if let Some(residency) = &self.residency {
                for buffer in &self.buffers {
                    residency.gpu.remove_resident(buffer);
                }
            }
            self.buffers.clear();
        });
    }
}

impl<G: Gpu> Memory for MetalMemory<G> {
    fn host_view(&self) -> Option<NonNull<u8>> {
        Some(self.ptr)
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
