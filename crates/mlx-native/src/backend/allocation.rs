//! An allocation: memory of a device, the submitted work that is at it, and what of it the host holds.
//!
//! The rules of order between the host, and work of any queue, live here and nowhere else:
//!
//! - Work is [marked](begin) on everything it touches before it is submitted. Work of the same queue needs no more: a
//!   queue runs in order. Work of *another* queue that is at the same allocation, one of the two writing it, is waited for
//!   first, on the host. Marks of one submission are set together, under one lock, so that two submissions never wait for
//!   each other.
//! - Host access waits for the work in flight that conflicts with it. While bytes are [lent](Allocation::lend) to the host,
//!   work that conflicts is refused, by an error that names them; so is a conflicting access through another handle.
//! - Memory that nobody may write takes no part in any of this.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use smallvec::SmallVec;

use super::memory::{DeviceId, Memory, QueueId};
use super::submission::{Completion, Submission, Timing};
use crate::device_kind::DeviceKind;
use crate::error::{MlxError, Result, invalid};

/// Neighbouring allocations are this far apart in the space of [`Allocation::base`], so that their ranges never touch.
const GAP: usize = 256;

/// Memory of a device, with its users.
pub struct Allocation {
    memory: Arc<dyn Memory>,
    device: DeviceId,
    kind: DeviceKind,
    base: usize,
    byte_len: usize,
    writable: bool,
    users: Mutex<Users>,
}

#[derive(Default)]
struct Users {
    in_flight: SmallVec<[InFlight; 2]>,
    lent: SmallVec<[Lent; 1]>,
}

struct InFlight {
    work: Arc<Submission>,
    writes: bool,
}

/// Bytes that the host holds.
struct Lent {
    number: u64,
    range: Range<usize>,
    writes: bool,
    /// In words: the access, and the buffer.
    what: String,
}

/// One use of an allocation by work.
pub(crate) struct Use<'a> {
    pub allocation: &'a Arc<Allocation>,
    pub range: Range<usize>,
    pub writes: bool,
}

impl Allocation {
    /// `memory`, made by the device `device` of the kind `kind`.
    ///
    /// # Errors
    /// [`MlxError::BufferAllocationError`] when the process has made allocations of 2^63 bytes in all.
    pub(crate) fn new(memory: Arc<dyn Memory>, device: DeviceId, kind: DeviceKind) -> Result<Arc<Self>> {
        static NEXT: AtomicUsize = AtomicUsize::new(GAP);
        let byte_len = memory.byte_len();
        let end_of = |base: usize| {
            base.checked_add(byte_len)?
                .checked_next_multiple_of(GAP)?
                .checked_add(GAP)
                .filter(|end| isize::try_from(*end).is_ok())
        };
        let base = NEXT
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, end_of)
            .map_err(|_| MlxError::BufferAllocationError { bytes: byte_len })?;
        Ok(Arc::new(Allocation {
            device,
            kind,
            base,
            byte_len,
            writable: memory.writable(),
            memory,
            users: Mutex::default(),
        }))
    }

    /// The memory itself.
    #[must_use]
    pub fn memory(&self) -> &Arc<dyn Memory> {
        &self.memory
    }

    /// The device that made it.
    #[must_use]
    pub fn device(&self) -> DeviceId {
        self.device
    }

    /// The kind of the device that made it.
    #[must_use]
    pub fn kind(&self) -> DeviceKind {
        self.kind
    }

    /// Where it lies in a space of numbers that all allocations of the process share and none reuses. Not an address: it
    /// makes one number pair of (allocation, byte range).
    #[must_use]
    pub fn base(&self) -> usize {
        self.base
    }

    /// Bytes.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        self.byte_len
    }

    /// Whether anybody may write it.
    #[must_use]
    pub fn writable(&self) -> bool {
        self.writable
    }

    /// Runs `access` on the memory when no work in flight conflicts with it and nobody holds these bytes, and lets nobody
    /// else in meanwhile. The first error of a writer that was waited for is reported, unless whoever waited for that work
    /// was told already.
    ///
    /// # Errors
    /// As just said; [`MlxError::InvalidArgument`] when the host holds some of the bytes in a conflicting way; what
    /// `access` gives.
    pub(crate) fn with_idle<R>(
        &self,
        operation: &str,
        range: &Range<usize>,
        writes: bool,
        access: impl FnOnce(&dyn Memory) -> Result<R>,
    ) -> Result<R> {
        if !self.writable {
            return access(&*self.memory);
        }
        let users = self.idle(writes)?;
        users.refuse_lent(operation, range, writes)?;
        // `users` stays locked: work cannot be marked, and nothing be lent, before the access is over.
        let result = access(&*self.memory);
        drop(users);
        result
    }

    /// Lends bytes to the host until [`give_back`](Self::give_back). Waits like [`with_idle`](Self::with_idle), and runs
    /// `access` before anybody else can come.
    ///
    /// # Errors
    /// As `with_idle`.
    pub(crate) fn lend<R>(
        &self,
        operation: &str,
        range: Range<usize>,
        writes: bool,
        what: String,
        access: impl FnOnce(&dyn Memory) -> Result<R>,
    ) -> Result<(u64, R)> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let mut users = self.idle(writes)?;
        users.refuse_lent(operation, &range, writes)?;
        let result = access(&*self.memory)?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        users.lent.push(Lent {
            number,
            range,
            writes,
            what,
        });
        Ok((number, result))
    }

    /// Takes lent bytes back. `access` runs before anybody else can come: it writes a mirror back. What goes wrong is also
    /// kept for who next waits for a writer of the allocation.
    ///
    /// # Errors
    /// What `access` gives.
    pub(crate) fn give_back(
        &self,
        number: u64,
        access: impl FnOnce(&dyn Memory) -> Result<()>,
    ) -> Result<()> {
        let mut users = self.lock();
        let result = access(&*self.memory);
        users.lent.retain(|l| l.number != number);
        if let Err(error) = &result {
            let (work, completion) = Submission::new(QueueId::unique());
            completion.finish(Err(error.clone()), Timing::default());
            users.in_flight.push(InFlight { work, writes: true });
        }
        result
    }

    fn lock(&self) -> MutexGuard<'_, Users> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The users, once no work in flight conflicts with a host access.
    fn idle(&self, writes: bool) -> Result<MutexGuard<'_, Users>> {
        loop {
            let mut users = self.lock();
            if users.in_flight.is_empty() {
                return Ok(users);
            }
            let waiting: SmallVec<[(Arc<Submission>, bool); 2]> = users
                .in_flight
                .iter()
                .filter(|f| f.writes || writes)
                .map(|f| (f.work.clone(), f.writes))
                .collect();
            users.in_flight.retain(|f| !f.work.is_done());
            if waiting.is_empty() {
                return Ok(users);
            }
            drop(users);
            let mut first = Ok(());
            for (work, writes) in &waiting {
                let result = if *writes { work.wait() } else { work.wait_quietly() };
                if *writes && first.is_ok() {
                    first = result;
                }
            }
            self.lock()
                .in_flight
                .retain(|f| !waiting.iter().any(|(work, _)| Arc::ptr_eq(work, &f.work)));
            first?;
        }
    }

    /// Notes that `work` uses bytes, and adds to `waits` what of other queues it has to wait for.
    fn mark(
        &self,
        work: &Arc<Submission>,
        used: &Use<'_>,
        waits: &mut Waits,
    ) -> std::result::Result<(), String> {
        let mut users = self.lock();
        if let Some(lent) = users.lent(&used.range, used.writes) {
            return Err(lent.what.clone());
        }
        if let Some(last) = users
            .in_flight
            .last_mut()
            .filter(|last| Arc::ptr_eq(&last.work, work))
        {
            if last.writes || !used.writes {
                return Ok(());
            }
            last.writes = true;
        } else {
            // A failed writer stays until somebody has been told.
            users
                .in_flight
                .retain(|f| !f.work.is_done() || (f.writes && f.work.has_untold_error()));
            users.in_flight.push(InFlight {
                work: work.clone(),
                writes: used.writes,
            });
        }
        for other in &users.in_flight {
            let conflicts = (other.writes || used.writes) && other.work.queue() != work.queue();
            if conflicts && !waits.iter().any(|w| Arc::ptr_eq(w, &other.work)) {
                waits.push(other.work.clone());
            }
        }
        Ok(())
    }
}

impl Users {
    fn lent(&self, range: &Range<usize>, writes: bool) -> Option<&Lent> {
        self.lent
            .iter()
            .find(|l| (l.writes || writes) && l.range.start < range.end && range.start < l.range.end)
    }

    fn refuse_lent(&self, operation: &str, range: &Range<usize>, writes: bool) -> Result<()> {
        match self.lent(range, writes) {
            Some(lent) => invalid!("{operation}: {} is still held", lent.what),
            None => Ok(()),
        }
    }
}

/// Work of other queues to wait for.
type Waits = SmallVec<[Arc<Submission>; 4]>;

/// Announces work to everything it uses, waits for conflicting work of other queues, and gives what to submit it with.
///
/// # Errors
/// [`MlxError::InvalidArgument`] naming a buffer that the host holds; [`MlxError::Unsupported`] in a child of `fork`, which
/// has not the threads of the queue. Nothing was announced then.
pub(crate) fn begin<'a>(
    queue: QueueId,
    uses: impl Iterator<Item = Use<'a>>,
) -> Result<(Arc<Submission>, Completion)> {
    static GATE: Mutex<()> = Mutex::new(());
    queue.check_process()?;
    let (work, completion) = Submission::new(queue);
    let mut waits = Waits::new();
    {
        // Marks of one submission are one step to all others, so that of two submissions one is first everywhere.
        let _gate = GATE.lock().unwrap_or_else(PoisonError::into_inner);
        for used in uses {
            if !used.allocation.writable {
                continue;
            }
            if let Err(what) = used.allocation.mark(&work, &used, &mut waits) {
                // What was marked before is at work that is over.
                completion.finish(Ok(()), Timing::default());
                let verb = if used.writes { "writes" } else { "reads" };
                return invalid!(
                    "commit: the work {verb} bytes of a buffer that the host holds: {what} is still held"
                );
            }
        }
    }
    for other in waits {
        // Whether it failed is for those who ask for its result.
        let _ = other.wait_quietly();
    }
    Ok((work, completion))
}

impl fmt::Debug for Allocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Allocation")
            .field("device", &self.kind)
            .field("byte_len", &self.byte_len)
            .finish()
    }
}
