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
const SPINS: usize = if cfg!(loom) { 0 } else { 4000 };
const YIELDS: usize = if cfg!(loom) { 0 } else { 30 };

/// A counter that threads wait for.
#[derive(Debug, Default)]
pub(super) struct Event {
    count: AtomicUsize,
    sleepers: AtomicUsize,
    lock: Mutex<()>,
    changed: Condvar,
}

impl Event {
    /// Raises the count by one and wakes who waits for it.
    pub(super) fn advance(&self) {
        self.count.fetch_add(1, Ordering::AcqRel);
        // Either a sleeper-to-be sees the new count, or it is counted here: the fences are in one order.
        fence(Ordering::SeqCst);
        if self.sleepers.load(Ordering::Relaxed) > 0 {
            drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
            self.changed.notify_all();
        }
    }

    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Waits until the count differs from `seen`, and gives it.
    pub(super) fn wait_beyond(&self, seen: usize) -> usize {
        for round in 0..SPINS + YIELDS {
            let count = self.count.load(Ordering::Acquire);
            if count != seen {
                return count;
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
        let count = loop {
            let count = self.count.load(Ordering::Acquire);
            if count != seen {
                break count;
            }
            guard = self.changed.wait(guard).unwrap_or_else(PoisonError::into_inner);
        };
        self.sleepers.fetch_sub(1, Ordering::Relaxed);
        count
    }
}

/// A barrier for a fixed number of threads, to be used again and again.
#[derive(Debug)]
pub(super) struct Barrier {
    parts: usize,
    arrived: AtomicUsize,
    passed: Event,
}

impl Barrier {
    pub(super) fn new(parts: usize) -> Self {
        Barrier {
            parts,
            arrived: AtomicUsize::new(0),
            passed: Event::default(),
        }
    }

    /// Waits until all threads have come. What they wrote before is visible afterwards.
    pub(super) fn wait(&self) {
        if self.parts == 1 {
            return;
        }
        let seen = self.passed.count();
        if self.arrived.fetch_add(1, Ordering::AcqRel) + 1 == self.parts {
            self.arrived.store(0, Ordering::Relaxed);
            self.passed.advance();
        } else {
            self.passed.wait_beyond(seen);
        }
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
                assert_eq!(e.wait_beyond(0), 1);
                assert!(
                    w.load(Ordering::Relaxed),
                    "what was written before the advance is seen"
                );
            });
            wrote.store(true, Ordering::Relaxed);
            event.advance();
            waiter.join().unwrap();
        });
    }

    /// Nobody passes a barrier before all have come, twice in a row, and nobody is left behind. Orders with more than
    /// three preemptions are left out: there are too many.
    #[test]
    fn a_barrier_holds_everybody_and_releases_everybody() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let (barrier, sum) = (Arc::new(Barrier::new(2)), Arc::new(AtomicUsize::new(0)));
            let (b, s) = (barrier.clone(), sum.clone());
            let rounds = |barrier: &Barrier, sum: &AtomicUsize| {
                sum.fetch_add(1, Ordering::Relaxed);
                barrier.wait();
                assert_eq!(sum.load(Ordering::Relaxed), 2);
                barrier.wait();
            };
            let other = thread::spawn(move || rounds(&b, &s));
            rounds(&barrier, &sum);
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
    fn a_barrier_separates_rounds() {
        const THREADS: usize = 4;
        const ROUNDS: usize = 2000;
        let barrier = Arc::new(Barrier::new(THREADS));
        let sum = Arc::new(AtomicUsize::new(0));
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                let (barrier, sum) = (barrier.clone(), sum.clone());
                std::thread::spawn(move || {
                    for round in 0..ROUNDS {
                        sum.fetch_add(1, Ordering::Relaxed);
                        barrier.wait();
                        assert_eq!(sum.load(Ordering::Relaxed), (round + 1) * THREADS);
                        barrier.wait();
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
    }

    #[test]
    fn a_sleeper_is_woken() {
        let event = Arc::new(Event::default());
        let other = event.clone();
        let thread = std::thread::spawn(move || other.wait_beyond(0));
        std::thread::sleep(Duration::from_millis(50));
        event.advance();
        assert_eq!(thread.join().unwrap(), 1);
    }
}
