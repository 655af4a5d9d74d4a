//! The emulator: the `.metal` text itself, run thread by thread on the host, with checks.
//!
//! A kernel's text is rewritten to C++ ([`crate::kernel::msl`]), compiled by clang behind a prelude that defines what MSL
//! has and C++ lacks, and loaded. Every thread of a threadgroup is a fiber; barriers and simdgroup operations are where
//! fibers meet. What a GPU leaves to chance, the emulator chooses: the order of threads and groups ([`Schedule`](crate::Schedule)), what
//! uninitialised threadgroup memory holds, the order in which reductions add.
//!
//! # Using it
//! ```no_run
//! use mlx_native::backend::emulator::{CompileOptions, Emulator, EmulatorSettings, Launch, LaunchArgument, LaunchGrid};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let emulator = Emulator::new(&EmulatorSettings { clang: None, cache_dir: "cache".into() })?;
//! let source = "kernel void twice(device float* x [[buffer(0)]], uint i [[thread_position_in_grid]]) { x[i] *= 2; }";
//! let kernel = emulator.compile(source, "twice", &[], &CompileOptions { checked: true, ..Default::default() })?;
//! let mut x = [1.0f32, 2.0, 3.0];
//! let buffer = LaunchArgument::Buffer { ptr: x.as_mut_ptr().cast(), len: 12, writable: true };
//! let arguments = [(0, buffer)];
//! let launch = Launch::new(LaunchGrid::Threads([3, 1, 1]), [32, 1, 1], &arguments);
//! // SAFETY: the buffer outlives the call.
//! let report = unsafe { emulator.dispatch(&kernel, &launch) }?;
//! assert!(report.findings.is_empty());
//! assert_eq!(x, [2.0, 4.0, 6.0]);
//! # Ok(())
//! # }
//! ```
//!
//! As a device it is `MlxDevice::open(DeviceKind::Emulator)`, with [`EmulatorConfig`](crate::EmulatorConfig) in the
//! configuration for schedule and checker: an error finding then fails the work, and its text, with file and line, is
//! the error of `wait_until_completed`. Warnings go to the log.
//!
//! # What it finds
//!
//! | defect | with the checker | without |
//! |---|---|---|
//! | access out of bounds, write to a read-only buffer | with line, before it happens | – |
//! | threadgroup memory read before it is written | with line | the poison byte: NaN in the result |
//! | race within a group, between groups; barrier with the wrong `mem_flags` | with both lines | different results under different schedules |
//! | array index out of range | with line | – |
//! | integer division by zero, access to unmapped memory, stack overflow | with line | with line, on Linux |
//! | barrier not reached by all, different barriers, mismatched simdgroup operations | always, with lines | |
//! | simdgroup operation in divergent flow | always, as a warning | |
//! | pointer that leaves its address space | [`Emulator::lint`] | |
//!
//! A proof of a kernel is therefore: lint; plain runs forward, reverse and in three random orders with equal bits; one
//! run with the checker on a small shape.
//!
//! # What it does not tell
//! How fast a kernel is on a GPU; fast math, reduction order and bfloat rounding of the real thing. Tolerances are for
//! that.

mod abi;
mod arena;
mod checker;
mod compile;
mod device;
mod dispatch;
mod engine;
mod fault;
mod fiber;
mod findings;
mod lint;
mod memory;
mod prelude;
mod private;
mod region;
mod runtime;
mod swizzle;
mod symbols;
mod threadgroup;
mod toolchain;

pub use compile::LoadedKernel;
pub(crate) use device::EmulatorBackend;
pub use dispatch::{Launch, LaunchArgument, LaunchGrid, Report};
pub use findings::{Finding, FindingKind, Severity};
pub use lint::LintFinding;

use crate::backend::fingerprint::Fingerprint;
use crate::kernel::msl::MslError;
use engine::Engine;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use toolchain::Toolchain;

/// Where the emulator finds its compiler and keeps its objects.
#[derive(Clone, Debug)]
pub struct EmulatorSettings {
    /// The C++ compiler; `None` = the newest clang on the search path.
    pub clang: Option<PathBuf>,
    /// Folder for compiled kernels; made if need be, may be shared between processes.
    pub cache_dir: PathBuf,
}

/// How to compile a kernel.
#[derive(Clone, Copy, Debug, Default)]
pub struct CompileOptions<'a> {
    /// For the access checker: every access is judged before it happens. Two to five times slower.
    pub checked: bool,
    /// What diagnostics call the text where it has no `#line` directive; `None` = `kernel.metal`.
    pub file: Option<&'a str>,
}

/// A compiler, a cache, and engines to run kernels with. Cheap to share, expensive to make (it asks the compiler for its
/// version).
#[derive(Debug)]
pub struct Emulator {
    toolchain: Toolchain,
    cache: PathBuf,
    prelude_key: String,
    kernels: Mutex<HashMap<u128, Arc<LoadedKernel>>>,
    /// Boxed: an engine's region points back at it.
    #[allow(clippy::vec_box)]
    idle: Mutex<Vec<Box<Engine>>>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Engine")
    }
}

/// Why the emulator could not do as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmulatorError {
    /// No usable compiler.
    #[error(
        "the emulator needs clang 16 or newer: {0}. Install it (Debian, Ubuntu: `apt-get install clang-19`; macOS: \
         `brew install llvm`) or give its path in the configuration"
    )]
    Compiler(String),
    /// A file or folder.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Text that is not MSL as we read it.
    #[error("{0}")]
    Msl(MslError),
    /// A kernel that the text does not have.
    #[error("the text has no kernel `{name}`; it has: {}", known.join(", "))]
    UnknownKernel {
        /// Asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// The compiler refused the text.
    #[error("kernel `{kernel}` does not compile:\n{message}")]
    Compile {
        /// Host name.
        kernel: String,
        /// The compiler's words.
        message: String,
    },
    /// A function constant without a value.
    #[error("kernel `{kernel}` uses function constant `{name}`, which is not set")]
    UnsetConstant {
        /// Host name.
        kernel: String,
        /// The constant.
        name: String,
    },
    /// A compiled object that does not load.
    #[error("{}: {message}", path.display())]
    Load {
        /// The object.
        path: PathBuf,
        /// The loader's words.
        message: String,
    },
    /// A launch that cannot be.
    #[error("{0}")]
    Launch(String),
}

impl Emulator {
    /// Finds the compiler and the cache folder.
    ///
    /// # Errors
    /// [`EmulatorError::Compiler`] where there is no clang, or too old a one; a cache folder that cannot be made, or that
    /// others than this user can write.
    pub fn new(settings: &EmulatorSettings) -> Result<Self, EmulatorError> {
        let toolchain = Toolchain::find(settings.clang.as_deref())?;
        let cache = settings.cache_dir.join("emulator");
        private::folder(&cache).map_err(|source| EmulatorError::Io {
            path: cache.clone(),
            source,
        })?;
        let mut key = Fingerprint::new();
        for (name, text) in prelude::files() {
            key.add(&name);
            key.add(&text);
        }
        let prelude_key = format!("{:016x}", key.0 as u64);
        Ok(Self {
            toolchain,
            cache,
            prelude_key,
            kernels: Mutex::default(),
            idle: Mutex::default(),
        })
    }

    /// First line of what the compiler says about itself.
    pub fn compiler(&self) -> &str {
        &self.toolchain.version
    }

    fn take_engine(&self) -> Result<Box<Engine>, EmulatorError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        idle.map_or_else(Engine::new, Ok)
    }

    fn return_engine(&self, engine: Box<Engine>) {
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(engine);
    }
}
