//! The kinds of device, by name.

use std::fmt;
use std::str::FromStr;

use crate::error::MlxError;

/// The kinds of device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum DeviceKind {
    /// An Apple GPU.
    Metal,
    /// The processor: every machine has it.
    Cpu,
    /// The Metal kernels, compiled for the processor and run thread by thread, with checks. Feature `emulator`.
    Emulator,
    /// An NVIDIA GPU.
    Cuda,
    /// Records and runs nothing: for measuring what recording costs.
    Null,
}

impl DeviceKind {
    /// The lower-case name, as `FromStr` takes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            DeviceKind::Metal => "metal",
            DeviceKind::Cpu => "cpu",
            DeviceKind::Emulator => "emulator",
            DeviceKind::Cuda => "cuda",
            DeviceKind::Null => "null",
        }
    }
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for DeviceKind {
    type Err = MlxError;
    fn from_str(s: &str) -> Result<Self, MlxError> {
        use DeviceKind::*;
        [Metal, Cpu, Emulator, Cuda, Null]
            .into_iter()
            .find(|k| k.name() == s)
            .ok_or_else(|| {
                MlxError::InvalidArgument(format!(
                    "device {s:?}: known are metal, cpu, emulator, cuda, null"
                ))
            })
    }
}
