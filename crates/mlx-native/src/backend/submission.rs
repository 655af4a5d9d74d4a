//! The end of submitted work: waiting for it, and how it ended.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::memory::QueueId;
use crate::error::{MlxError, Result};

const RUNNING: u8 = 0;
const SUCCEEDED: u8 = 1;
const FAILED: u8 = 2;

/// Work on its way through a device, for whoever waits for it. Its end is reported through a [`Completion`].
#[derive(Debug)]
pub struct Submission {
    queue: QueueId,
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
    /// Work for `queue`, and the promise to report its end.
    #[must_use]
    pub fn new(queue: QueueId) -> (Arc<Submission>, Completion) {
        let submission = Arc::new(Submission {
            queue,
            state: AtomicU8::new(RUNNING),
            told: AtomicBool::new(false),
            end: Mutex::new(None),
            ended: Condvar::new(),
        });
        (submission.clone(), Completion(submission))
    }

    /// The queue it was submitted to.
    #[must_use]
    pub fn queue(&self) -> QueueId {
        self.queue
    }

    fn finish(&self, result: Result<()>, timing: Timing) {
        let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        if end.is_none() {
            let state = if result.is_ok() { SUCCEEDED } else { FAILED };
            *end = Some(End { result, timing });
            self.state.store(state, Ordering::Release);
            self.ended.notify_all();
        }
    }

    /// Whether the work has ended, well or not. In a child of `fork` the work of its parent has.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state.load(Ordering::Acquire) != RUNNING || !self.queue.is_of_this_process()
    }

    /// Blocks until the work has ended.
    ///
    /// # Errors
    /// [`MlxError::CommandBufferError`], when it failed; [`MlxError::Unsupported`] in a child of `fork`, where it never ends.
    pub fn wait(&self) -> Result<()> {
        let result = self.wait_quietly();
        if result.is_err() {
            self.told.store(true, Ordering::Relaxed);
        }
        result
    }

    /// [`wait`](Self::wait) by somebody who only needs the work to be over: a failure is kept for who asks for the result.
    pub(crate) fn wait_quietly(&self) -> Result<()> {
        // Short work ends sooner than a thread can be put to sleep and woken.
        for _ in 0..200 {
            if self.state.load(Ordering::Acquire) == SUCCEEDED {
                return Ok(());
            }
            std::hint::spin_loop();
        }
        // Before the lock: a thread that stayed with the parent may have held it.
        self.queue.check_process()?;
        let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(end) = &*end {
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

/// The promise to report the end of a submission once. Dropped without a report, for instance because the thread that had
/// it panicked, it reports a failure: who waits always wakes.
#[derive(Debug)]
pub struct Completion(Arc<Submission>);

impl Completion {
    /// Reports the end of the work.
    pub fn finish(self, result: Result<()>, timing: Timing) {
        self.0.finish(result, timing);
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        // After a report this changes nothing: the first one counts.
        if !self.0.is_done() {
            self.0.finish(
                Err(MlxError::CommandBufferError(
                    "the device gave the work up without a result".to_owned(),
                )),
                Timing::default(),
            );
        }
    }
}

/// Drops `kept`, a list of work or what else keeps memory of a caller alive, and gives the words of a panic in a caller's
/// destructor: it must not unwind through a thread of the device.
///
/// # Errors
/// What the destructor panicked with.
pub(crate) fn release<T>(kept: T) -> std::result::Result<(), String> {
    catch_unwind(AssertUnwindSafe(|| drop(kept))).map_err(|panic| {
        format!(
            "the owner of wrapped memory panicked when it was dropped: {}",
            panic_text(&*panic)
        )
    })
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("with no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_across_threads_and_is_told_once() {
        let (work, completion) = Submission::new(QueueId::unique());
        assert!(!work.is_done() && work.timing().is_none());
        let thread = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            completion.finish(
                Err(MlxError::CommandBufferError("first".into())),
                Timing::default(),
            );
        });
        assert_eq!(
            work.wait_quietly(),
            Err(MlxError::CommandBufferError("first".into()))
        );
        assert!(work.is_done() && work.has_untold_error());
        assert_eq!(work.wait(), Err(MlxError::CommandBufferError("first".into())));
        assert!(!work.has_untold_error());
        thread.join().unwrap();
        assert!(work.wait().is_err());
    }

    #[test]
    fn a_promise_that_is_dropped_reports_a_failure() {
        let (work, completion) = Submission::new(QueueId::unique());
        let thread = std::thread::spawn(move || {
            let _completion = completion;
            panic!("the runner breaks");
        });
        assert!(
            matches!(work.wait(), Err(MlxError::CommandBufferError(text)) if text.contains("gave the work up"))
        );
        assert!(thread.join().is_err());
    }

    #[test]
    fn a_panic_while_memory_is_let_go_is_words() {
        struct Bad;
        impl Drop for Bad {
            fn drop(&mut self) {
                panic!("no thanks");
            }
        }
        assert!(release(Arc::new(Bad)).unwrap_err().contains("no thanks"));
        assert_eq!(release(5), Ok(()));
    }
}
