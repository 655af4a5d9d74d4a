//! Waiting between threads: spin for a moment, then sleep.

use std::sync::PoisonError;

use primitives::{AtomicUsize, Condvar, Mutex, Ordering, fence, spin_loop, yield_now};

/// What waiting is built on: the standard library, or its stand-ins in the model checker.
mod primitives {
    #[cfg(loom)]
    pub(super) use loom::{
        hint::spin_loop,
        sync::{
            Condvar, Mutex,
            atomic::{AtomicUsize, Ordering, fence},
        },
        thread::yield_now,
    };
    #[cfg(not(loom))]
    pub(super) use std::{
        hint::spin_loop,
        sync::{
            Condvar, Mutex,
            atomic::{AtomicUsize, Ordering, fence},
        },
        thread::yield_now,
    };
}

/// Rounds of spinning before a thread gives its processor away, and then before it sleeps. Together some tens of
/// microseconds: longer than the gap between two dispatches, shorter than anybody would notice. The model checker tries
/// every order of events, and has no use for rounds.
const SPINS: usize = if cfg!(loom) { 0 } else { 1000 };
const YIELDS: usize = if cfg!(loom) { 0 } else { 50 };

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

#[cfg(all(test, loom))]
mod model {
    use loom::sync::Arc;
    use loom::sync::atomic::AtomicBool;
    use loom::thread;

    use super::*;

    /// No order of events loses the wake-up of a thread that is about to sleep.
    #[test]
    fn an_advance_is_never_missed() {
        loom::model(|| {
            let (event, wrote) = (Arc::new(Event::default()), Arc::new(AtomicBool::new(false)));
            let (e, w) = (event.clone(), wrote.clone());
            let waiter = thread::spawn(move || {
                e.wait_for(1);
                assert!(
                    w.load(Ordering::Relaxed),
                    "what was written before the advance is seen"
                );
            });
            wrote.store(true, Ordering::Relaxed);
            assert_eq!(event.advance(), 1);
            waiter.join().unwrap();
        });
    }

    /// Two threads that each do a part and wait for both parts see each other's, in every order of events with at most
    /// three preemptions.
    #[test]
    fn two_parts_meet() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let (event, sum) = (Arc::new(Event::default()), Arc::new(AtomicUsize::new(0)));
            let (e, s) = (event.clone(), sum.clone());
            let part = |event: &Event, sum: &AtomicUsize| {
                sum.fetch_add(1, Ordering::Relaxed);
                event.advance();
                event.wait_for(2);
                assert_eq!(sum.load(Ordering::Relaxed), 2);
            };
            let other = thread::spawn(move || part(&e, &s));
            part(&event, &sum);
            other.join().unwrap();
        });
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn sleepers_are_woken_when_their_count_is_reached() {
        let event = Arc::new(Event::default());
        let waiters: Vec<_> = (1..=3)
            .map(|target| {
                let event = event.clone();
                std::thread::spawn(move || {
                    event.wait_for(target);
                    event.count() >= target
                })
            })
            .collect();
        for _ in 0..3 {
            std::thread::sleep(Duration::from_millis(30));
            event.advance();
        }
        assert!(waiters.into_iter().all(|w| w.join().unwrap()));
    }
}
