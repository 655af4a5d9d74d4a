//! The first failure of a job.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::error::{MlxError, Result};

/// The first failure of a job.
#[derive(Debug, Default)]
pub(super) struct Failure {
    failed: AtomicBool,
    message: Mutex<Option<String>>,
}

impl Failure {
    pub(super) fn set(&self, message: String) {
        self.message
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(message);
        self.failed.store(true, Ordering::Release);
    }

    pub(super) fn happened(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    pub(super) fn take_result(&self) -> Result<()> {
        match self.message.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(message) => Err(MlxError::WorkFailed(message)),
            None => Ok(()),
        }
    }
}
