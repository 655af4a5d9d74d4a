//! Settings of a device. The library reads no environment variable: whoever opens a device says what differs.

use std::path::PathBuf;

use crate::isa::Isa;
use crate::profile::CommandBounds;

/// Settings for [`MlxDevice::with_config`](crate::MlxDevice::with_config). The default suits almost everybody.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Config {
    /// `cpu`: number of worker threads; `None` = the number of processors this process may use.
    pub threads: Option<usize>,
    /// `cpu`: highest instruction set to use; `None` = the best this machine has.
    pub isa: Option<Isa>,
    /// Folder for compiled kernels (`emulator` objects, `metal` binary archives, `cuda` machine code); `None` = `mlx-native` in the user's
    /// cache folder, or a folder of this user's own in the temporary folder where there is no home. What lies in it is
    /// run: the emulator refuses a folder that others can write.
    pub cache_dir: Option<PathBuf>,
    /// `emulator`: how kernels are compiled and scheduled.
    pub emulator: EmulatorConfig,
    /// `metal`: memory, command buffers, traces.
    pub metal: MetalConfig,
    /// `cuda`: which GPU, its memory, its compiler.
    pub cuda: CudaConfig,
}

/// Settings of the `cuda` device.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CudaConfig {
    /// Which GPU, in the order in which the driver counts them, from 0.
    pub device: usize,
    /// The library NVRTC, which compiles kernels; `None` = looked for by name, in the toolkit's folders and where pip puts
    /// it. It is loaded when a kernel is first compiled.
    pub nvrtc: Option<PathBuf>,
    /// Keep compiled kernels in the folder for compiled kernels.
    pub cache: bool,
    /// The most bytes to use on the GPU, weights included; `None` = what it has.
    pub memory_limit: Option<usize>,
    /// Run lists of so many kernels and more as graphs, which costs the processor a fraction of the time; `None` = no list.
    pub graphs_from: Option<usize>,
    /// Wait after every kernel, so that a failure while work runs names the kernel. Much slower.
    pub synchronous: bool,
}

impl Default for CudaConfig {
    fn default() -> Self {
        CudaConfig {
            device: 0,
            nvrtc: None,
            cache: true,
            memory_limit: None,
            graphs_from: Some(8),
            synchronous: false,
        }
    }
}

/// Settings of the `metal` device.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct MetalConfig {
    /// Compile kernels with fast math: NaN and infinity lose their meaning. The kernels are proven without.
    pub fast_math: bool,
    /// Keep compiled kernels in the folder for compiled kernels.
    pub archives: bool,
    /// The most bytes to allocate; `None` = the working set that the system recommends. Mapped files do not count.
    pub memory_limit: Option<usize>,
    /// Share of the recommended working set, in percent (0 to 75), up to which mapped weights are in a residency set, which
    /// makes a commit cheaper (macOS 15). 0 = no residency set.
    pub resident_percent: u8,
    /// Ask the system to keep the residency set in memory also when nothing runs: wired memory. Off, because wired memory
    /// has brought whole machines down.
    pub wired: bool,
    /// Bounds of command buffers; `None` = those of the GPU's class.
    pub bounds: Option<CommandBounds>,
    /// Take the GPU for one of this architecture (`applegpu_g13g`) in tables of thresholds, for tests.
    pub architecture: Option<String>,
    /// Write a trace of the GPU's work.
    pub trace: Option<MetalTrace>,
}

/// A trace to be opened in Xcode. The process needs `METAL_CAPTURE_ENABLED=1` in its environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetalTrace {
    /// Where to write it; ends in `.gputrace`, and nothing may be there.
    pub path: PathBuf,
    /// The first commit to trace, counted from 0 since the device was opened; empty commits do not count.
    pub first: u64,
    /// How many commits to trace, at least one.
    pub count: u64,
}

impl Default for MetalConfig {
    fn default() -> Self {
        MetalConfig {
            fast_math: false,
            archives: true,
            memory_limit: None,
            resident_percent: 50,
            wired: false,
            bounds: None,
            architecture: None,
            trace: None,
        }
    }
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
    /// Device memory is apart from the host's, as that of most GPUs is: no address is shared, every byte goes through
    /// transfers. Proves that what runs here lives without a shared address.
    pub separate_memory: bool,
}

impl Default for EmulatorConfig {
    fn default() -> Self {
        EmulatorConfig {
            clang: None,
            checked: false,
            schedule: Schedule::Forward,
            poison: 0xFF,
            separate_memory: false,
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
    /// The folder for compiled kernels: `cache_dir`, or the user's cache folder, or one in the temporary folder that bears
    /// the user's number, where there is no home.
    #[must_use]
    pub fn cache_dir(&self) -> PathBuf {
        self.cache_dir.clone().unwrap_or_else(|| {
            let home = std::env::home_dir().filter(|home| home.is_absolute());
            match home {
                Some(home) if cfg!(target_vendor = "apple") => home.join("Library/Caches/mlx-native"),
                Some(home) => home.join(".cache/mlx-native"),
                None => std::env::temp_dir().join(format!("mlx-native-{}", user())),
            }
        })
    }
}

/// The user's number, where the system has such.
fn user() -> u32 {
    #[cfg(unix)]
    // SAFETY: geteuid has no preconditions.
    return unsafe { libc::geteuid() };
    #[cfg(not(unix))]
    0
}
