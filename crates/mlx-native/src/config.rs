//! Settings of a device. The library reads no environment variable: whoever opens a device says what differs.

use std::path::PathBuf;

use crate::backend::cpu::Isa;

/// Settings for [`MlxDevice::with_config`](crate::MlxDevice::with_config). The default suits almost everybody.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Config {
    /// `cpu`: number of worker threads; `None` = the number of processors this process may use.
    pub threads: Option<usize>,
    /// `cpu`: highest instruction set to use; `None` = the best this machine has.
    pub isa: Option<Isa>,
    /// Folder for compiled kernels (`emulator` objects, `metal` binary archives); `None` = `mlx-native` in the user's
    /// cache folder, or the temporary folder where there is none.
    pub cache_dir: Option<PathBuf>,
    /// `emulator`: how kernels are compiled and scheduled.
    pub emulator: EmulatorConfig,
}

/// Settings of the `emulator` device.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct EmulatorConfig {
    /// Path of the C++ compiler; `None` = the first clang found on the search path.
    pub clang: Option<PathBuf>,
    /// Compile with the access checker: bounds, races, uninitialised threadgroup memory. 2 to 5 times slower.
    pub checked: bool,
    /// In which order the threads of a group run between two synchronisations.
    pub schedule: Schedule,
    /// Threadgroup memory is filled with this byte before each group: `0xFF` reads as NaN.
    pub poison: u8,
}

impl Default for EmulatorConfig {
    fn default() -> Self {
        EmulatorConfig {
            clang: None,
            checked: false,
            schedule: Schedule::Forward,
            poison: 0xFF,
        }
    }
}

/// The order in which the emulator runs the threads of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Schedule {
    /// Lowest thread first.
    #[default]
    Forward,
    /// Highest thread first.
    Reverse,
    /// Pseudo-random, from a seed: the same seed gives the same order.
    Random(u64),
}

impl Config {
    /// The folder for compiled kernels: `cache_dir`, or the user's cache folder, or the temporary folder.
    pub(crate) fn cache_dir(&self) -> PathBuf {
        self.cache_dir.clone().unwrap_or_else(|| {
            std::env::home_dir()
                .map(|home| {
                    if cfg!(target_vendor = "apple") {
                        home.join("Library/Caches")
                    } else {
                        home.join(".cache")
                    }
                })
                .unwrap_or_else(std::env::temp_dir)
                .join("mlx-native")
        })
    }
}
