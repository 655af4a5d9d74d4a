//! What waiting between threads is built on.

pub(super) use std::hint::spin_loop;
pub(super) use std::sync::atomic::{AtomicUsize, Ordering, fence};
pub(super) use std::sync::{Condvar, Mutex};
pub(super) use std::thread::yield_now;

/// Rounds of spinning before a thread gives its processor away, and then before it sleeps. Together some tens of
/// microseconds: longer than the gap between two dispatches, shorter than anybody would notice.
pub(super) const SPINS: usize = 1000;
pub(super) const YIELDS: usize = 50;
