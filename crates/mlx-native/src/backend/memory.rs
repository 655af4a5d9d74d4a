//! Memory of a device, and who made it.

use std::any::Any;
use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{MlxError, Result};

/// One opened device. Two devices of one kind have different ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DeviceId(u64);

/// One queue: work that is submitted to it runs in order of submission. Two devices may share a queue. It remembers the
/// process that made it: a child of `fork` has the memory of its parent, but none of the threads that run its queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct QueueId {
    number: u64,
    process: u32,
}

fn next_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl DeviceId {
    /// An id that no other device has.
    #[must_use]
    pub fn unique() -> Self {
        DeviceId(next_number())
    }
}

impl QueueId {
    /// An id that no other queue has.
    #[must_use]
    pub fn unique() -> Self {
        QueueId {
            number: next_number(),
            process: std::process::id(),
        }
    }

    /// Whether this process made the queue, and did not inherit it from one that it was forked off.
    pub(crate) fn is_of_this_process(self) -> bool {
        self.process == std::process::id()
    }

    /// Refuses the queue of another process.
    ///
    /// # Errors
    /// [`MlxError::Unsupported`] in a child of `fork`.
    pub(crate) fn check_process(self) -> Result<()> {
        if self.is_of_this_process() {
            return Ok(());
        }
        Err(MlxError::Unsupported(format!(
            "a device that was opened before fork() in its child: process {} opened it, this is process {}; open a device of its own here",
            self.process,
            std::process::id()
        )))
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// Memory of a device: what a backend allocated, or took in from the host.
///
/// Everything above a backend speaks of a memory and a byte range in it, never of an address. An address that the host can
/// use is something a backend may offer, through [`host_view`](Self::host_view).
pub trait Memory: Send + Sync + 'static {
    /// Bytes.
    fn byte_len(&self) -> usize;

    /// Whether anybody may write it.
    fn writable(&self) -> bool;

    /// Where the host sees the same bytes as the device does, for as long as the object lives; `None` where it does not
    /// see them.
    fn host_view(&self) -> Option<NonNull<u8>>;

    /// Copies bytes from `offset` on into `out`. Returns when they are there.
    ///
    /// The layer above has checked that the range lies inside, and that no unfinished work writes it.
    ///
    /// # Errors
    /// [`MlxError::CommandBufferError`] when the device does not give them.
    fn download(&self, offset: usize, out: &mut [u8]) -> Result<()> {
        let view = self.host_view().ok_or_else(|| no_transfer("download"))?;
        // SAFETY: the caller vouches for the range, and that nobody writes it meanwhile; `out` is the caller's own.
        unsafe { std::ptr::copy(view.as_ptr().add(offset), out.as_mut_ptr(), out.len()) };
        Ok(())
    }

    /// Copies `bytes` over those from `offset` on. Work that is submitted after the return sees them.
    ///
    /// The layer above has checked that the memory is writable, that the range lies inside, and that no unfinished work
    /// reads or writes it.
    ///
    /// # Errors
    /// [`MlxError::CommandBufferError`] when the device does not take them.
    fn upload(&self, offset: usize, bytes: &[u8]) -> Result<()> {
        let view = self.host_view().ok_or_else(|| no_transfer("upload"))?;
        // SAFETY: the caller vouches for the range, and that nobody reads or writes it meanwhile.
        unsafe { std::ptr::copy(bytes.as_ptr(), view.as_ptr().add(offset), bytes.len()) };
        Ok(())
    }

    /// For the backend to find its own type again.
    fn as_any(&self) -> &dyn Any;
}

fn no_transfer(what: &str) -> MlxError {
    MlxError::Unsupported(format!(
        "{what}: memory without a host view, whose backend has no {what}"
    ))
}

/// Memory of the host to be taken in.
pub struct HostRegion {
    /// First byte.
    pub ptr: NonNull<u8>,
    /// Bytes from there; more than zero.
    pub byte_len: usize,
    /// Whether the device may write it.
    pub writable: bool,
    /// Keeps the memory valid; dropped when the device is done with it. Its `Drop` is the caller's code: it may panic, and
    /// it may hold the last handle of the device.
    pub owner: Arc<dyn Any + Send + Sync>,
}
