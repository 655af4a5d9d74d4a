//! The one error type of the library.

use thiserror::Error;

/// What can go wrong. Each message names the operation, the operand, what was found and what was wanted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum MlxError {
    /// There is no device at all.
    #[error("no device: neither a Metal GPU device nor another that this build drives can be opened")]
    DeviceNotFound,
    /// No device of the kind asked for exists here, and why.
    #[error("no such device: {0}")]
    DeviceUnavailable(String),
    /// The device failed while work ran. The only transient error: the same work may succeed later.
    #[error("Command buffer error: {0}")]
    CommandBufferError(String),
    /// Work that was committed is at fault itself: a kernel's body panicked or refused its arguments, the checker found an
    /// error, the owner of wrapped memory panicked. The same work fails again.
    #[error("Work failed: {0}")]
    WorkFailed(String),
    /// A kernel's text could not be parsed, compiled or made into a pipeline.
    #[error("kernel {name:?} does not compile: {message}")]
    ShaderCompilationError {
        /// Name of the kernel.
        name: String,
        /// What the parser or compiler said, with the line.
        message: String,
    },
    /// The device gave no memory.
    #[error("cannot allocate {bytes} bytes")]
    BufferAllocationError {
        /// The size asked for.
        bytes: usize,
    },
    /// An argument is out of its domain; the text names the parameter.
    #[error("Invalid argument: {0}")]
    InvalidArgument(String),
    /// No kernel of this name is registered.
    #[error("Kernel not found: {0}")]
    KernelNotFound(String),
    /// The thing is meaningful, but this device, build or version does not do it; the text names it.
    #[error("not supported: {0}")]
    Unsupported(String),
    /// The file system said no.
    #[error("I/O error: {0}")]
    IoError(String),
    /// A safetensors file is damaged, or lacks a tensor.
    #[error("Safetensors error: {0}")]
    SafetensorsError(String),
    /// The `quantization` section of a configuration is wrong.
    #[error("Quantization config error: {0}")]
    QuantConfigError(String),
    /// A file holds a tensor of a type that buffers do not have.
    #[error("Unsupported dtype: {0}")]
    UnsupportedDtype(String),
    /// A GGUF file is damaged.
    #[error("GGUF parse error: {0}")]
    GgufParseError(String),
}

impl MlxError {
    /// Whether trying the same thing again may succeed.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, MlxError::CommandBufferError(_))
    }
}

/// `Result` with [`MlxError`].
pub type Result<T> = std::result::Result<T, MlxError>;

/// `Err(InvalidArgument(..))` from a format string.
macro_rules! invalid {
    ($($arg:tt)*) => { Err($crate::error::MlxError::InvalidArgument(format!($($arg)*))) };
}
pub(crate) use invalid;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_go_better_next_time_is_transient() {
        assert!(MlxError::CommandBufferError(String::new()).is_transient());
        assert!(!MlxError::WorkFailed(String::new()).is_transient());
    }
}
