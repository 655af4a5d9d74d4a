//! Whether a device still works. Some failures end the driver's context: nothing on the device works any more in this
//! process, whatever is tried.

use std::sync::OnceLock;

use super::gpu::Failure;
use crate::error::{MlxError, Result};

/// The state of a device.
#[derive(Debug)]
pub(super) struct Health {
    /// What the device is called in errors.
    device: String,
    /// What ended it.
    ended: OnceLock<String>,
}

impl Health {
    pub fn new(device: String) -> Self {
        Health {
            device,
            ended: OnceLock::new(),
        }
    }

    /// The error of everything that is asked of a device that has ended.
    ///
    /// # Errors
    /// [`MlxError::DeviceUnavailable`], which no further try mends.
    pub fn check(&self) -> Result<()> {
        match self.ended.get() {
            None => Ok(()),
            Some(why) => Err(MlxError::DeviceUnavailable(format!(
                "{} ended with an earlier failure ({why}): nothing runs on it any more in this process",
                self.device
            ))),
        }
    }

    /// What a failure of the driver means for `what`. Keeps it, where it ends the device.
    pub fn error(&self, what: &str, failure: &Failure) -> MlxError {
        if !failure.is_sticky() {
            return MlxError::CommandBufferError(format!("{}: {what}: {failure}", self.device));
        }
        let first = self.ended.set(format!("{what}: {failure}")).is_ok();
        match self.check() {
            // Who caused it is told what it was; all others that it was.
            Err(_) if first => MlxError::CommandBufferError(format!(
                "{}: {what}: {failure}; the device has ended with this, nothing runs on it any more in this process",
                self.device
            )),
            Err(error) => error,
            Ok(()) => MlxError::CommandBufferError(format!("{}: {what}: {failure}", self.device)),
        }
    }
}
