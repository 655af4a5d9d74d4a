//! The end of submitted work: waiting for it, and how it ended.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::error::Result;

const RUNNING: u8 = 0;
const SUCCEEDED: u8 = 1;
const FAILED: u8 = 2;

/// Work on its way through a device. The backend calls [`finish`](Self::finish); anybody may [`wait`](Self::wait).
#[derive(Debug, Default)]
pub struct Submission {
    state: AtomicU8,
    /// Whether somebody was told of the failure.
    told: AtomicBool,
    end: Mutex<Option<End>>,
    ended: Condvar,
}

#[derive(Debug, Clone)]
struct End {
    result: Result<()>,
    timing: Timing,
}

/// How long the device was busy with a submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timing {
    /// From the first dispatch's start to the last one's end, as the device measured it; `None` where it does not.
    pub device: Option<Duration>,
}

impl Submission {
    /// Reports the end of the work. Only the first call counts.
    pub fn finish(&self, result: Result<()>, timing: Timing) {
        let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        if end.is_none() {
            let state = if result.is_ok() { SUCCEEDED } else { FAILED };
            *end = Some(End { result, timing });
            self.state.store(state, Ordering::Release);
            self.ended.notify_all();
        }
    }

    /// Whether the work has ended, well or not.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state.load(Ordering::Acquire) != RUNNING
    }

    /// Blocks until the work has ended.
    ///
    /// # Errors
    /// [`MlxError::CommandBufferError`](crate::MlxError::CommandBufferError), when it failed.
    pub fn wait(&self) -> Result<()> {
        // Short work ends sooner than a thread can be put to sleep and woken.
        for _ in 0..200 {
            if self.state.load(Ordering::Acquire) == SUCCEEDED {
                return Ok(());
            }
            std::hint::spin_loop();
        }
        let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(end) = &*end {
                if end.result.is_err() {
                    self.told.store(true, Ordering::Relaxed);
                }
                return end.result.clone();
            }
            end = self.ended.wait(end).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// How long the device was busy; `None` before the end.
    #[must_use]
    pub fn timing(&self) -> Option<Timing> {
        self.end
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            .map(|end| end.timing)
    }

    /// Whether the work failed and nobody was told yet: no [`wait`](Self::wait) has returned the error.
    #[must_use]
    pub fn has_untold_error(&self) -> bool {
        self.state.load(Ordering::Acquire) == FAILED && !self.told.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::error::MlxError;

    #[test]
    fn waits_across_threads_and_keeps_the_first_end() {
        let work = Arc::new(Submission::default());
        assert!(!work.is_done() && work.timing().is_none());
        let other = work.clone();
        let thread = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            other.finish(
                Err(MlxError::CommandBufferError("first".into())),
                Timing::default(),
            );
            other.finish(Ok(()), Timing::default());
        });
        assert_eq!(work.wait(), Err(MlxError::CommandBufferError("first".into())));
        assert!(work.is_done() && !work.has_untold_error());
        thread.join().unwrap();
        assert!(work.wait().is_err());
    }
}
