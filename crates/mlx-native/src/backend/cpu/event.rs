//! Waiting between threads: spin for a moment, then sleep.
//!
//! What it is built on comes from the module above: the package `mlx-native-model-check` compiles this file over the
//! stand-ins of a model checker.

use std::sync::PoisonError;

use super::primitives::{AtomicUsize, Condvar, Mutex, Ordering, SPINS, YIELDS, fence, spin_loop, yield_now};

/// A counter that threads wait for.
#[derive(Debug, Default)]
pub(super) struct Event {
    count: AtomicUsize,
    sleepers: AtomicUsize,
    lock: Mutex<()>,
    changed: Condvar,
}

impl Event {
    /// Raises the count by one, gives it, and wakes who waits for it. What was done before is visible to them.
    pub(super) fn advance(&self) -> usize {
        let count = self.count.fetch_add(1, Ordering::AcqRel) + 1;
        // Either a sleeper-to-be sees the new count, or it is counted here: the fences are in one order.
        fence(Ordering::SeqCst);
        if self.sleepers.load(Ordering::Relaxed) > 0 {
            drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
            self.changed.notify_all();
        }
        count
    }

    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Waits until the count is at least `target`.
    pub(super) fn wait_for(&self, target: usize) {
        for round in 0..SPINS + YIELDS {
            if self.count.load(Ordering::Acquire) >= target {
                return;
            }
            if round < SPINS {
                spin_loop();
            } else {
                yield_now();
            }
        }
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.sleepers.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        while self.count.load(Ordering::Acquire) < target {
            guard = self.changed.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, Ordering::Relaxed);
    }
}
