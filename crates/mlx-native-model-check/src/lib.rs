//! Every order of events of the waiting between the threads of the CPU backend, tried by the model checker loom.
//!
//! The file under test is the library's own. It takes its primitives from the module above it: the standard library's there,
//! loom's here.
#![cfg(test)]

// Only the library reads the count without waiting for it. With no rounds of spinning, the loop over them is empty.
#[allow(dead_code, clippy::reversed_empty_ranges, clippy::absurd_extreme_comparisons)]
#[path = "../../mlx-native/src/backend/cpu/event.rs"]
mod event;

mod primitives {
    pub(super) use loom::hint::spin_loop;
    pub(super) use loom::sync::atomic::{AtomicUsize, Ordering, fence};
    pub(super) use loom::sync::{Condvar, Mutex};
    pub(super) use loom::thread::yield_now;

    /// Every order of events is tried, so that rounds of spinning would only repeat them.
    pub(super) const SPINS: usize = 0;
    pub(super) const YIELDS: usize = 0;
}

use loom::sync::Arc;
use loom::sync::atomic::AtomicBool;
use loom::thread;

use event::Event;
use primitives::{AtomicUsize, Ordering};

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
