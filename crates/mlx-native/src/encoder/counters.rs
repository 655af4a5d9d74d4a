//! Process-wide counters of recorded dispatches and of waits, for tests and tuning.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

static DISPATCHES: AtomicU64 = AtomicU64::new(0);
static SYNCS: AtomicU64 = AtomicU64::new(0);

/// Dispatches recorded or captured in this process since the last [`reset_counters`].
#[must_use]
pub fn dispatch_count() -> u64 {
    DISPATCHES.load(Relaxed)
}

/// Calls of `commit_and_wait` in this process since the last [`reset_counters`].
#[must_use]
pub fn sync_count() -> u64 {
    SYNCS.load(Relaxed)
}

/// Sets both counters to zero.
pub fn reset_counters() {
    DISPATCHES.store(0, Relaxed);
    SYNCS.store(0, Relaxed);
}

pub(super) fn count_dispatch() {
    DISPATCHES.fetch_add(1, Relaxed);
}

pub(super) fn count_sync() {
    SYNCS.fetch_add(1, Relaxed);
}
