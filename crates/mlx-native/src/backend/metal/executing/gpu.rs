//! The device of the stand-in.

use std::any::Any;
use std::cell::Cell;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use super::super::gpu::{Facts, Gpu, PipelineFacts};
use super::buffer::{Buffer, BufferInner, Ledger};
use super::commands::ExecutingCommands;
use super::queue::Queue;
use super::{MetalHost, MetalHostDefect};
use crate::backend::emulator::{CompileOptions, Emulator, EmulatorSettings, LoadedKernel};
use crate::backend::host::physical_memory;
use crate::config::Config;
use crate::error::{MlxError, Result};
use crate::kernel::{ConstantValue, msl};

/// As on every Apple GPU.
pub(super) const MAX_THREADGROUP_MEMORY: usize = 32 << 10;
const MAX_THREADS: usize = 1024;
/// First line of an archive: another version's is not read.
const ARCHIVE: &str = "mlx-native stand-in archive 1";

/// A device whose command buffers run on the emulator.
pub(in super::super) struct ExecutingGpu {
    facts: Facts,
    emulator: Arc<Emulator>,
    checked: bool,
    defect: Option<MetalHostDefect>,
    buffers: AtomicU64,
    ledger: Arc<Ledger>,
    queue: Arc<Queue>,
}

thread_local! {
    static POOLS: Cell<usize> = const { Cell::new(0) };
}

/// Asserts that Metal's calls are made where what they leave behind is released.
pub(super) fn in_pool() {
    assert!(POOLS.get() > 0, "a call of Metal's outside an autorelease pool");
}

impl ExecutingGpu {
    pub fn new(config: &Config, host: &MetalHost) -> Result<Self> {
        let no_device = |e: String| MlxError::DeviceUnavailable(format!("metal host code: {e}"));
        let settings = EmulatorSettings {
            clang: config.emulator.clang.clone(),
            cache_dir: config.cache_dir(),
        };
        let emulator = Arc::new(Emulator::new(&settings).map_err(|e| no_device(e.to_string()))?);
        let ledger = Arc::new(Ledger::default());
        let queue = Queue::start(emulator.clone(), config, host, ledger.clone())
            .map_err(|e| no_device(e.to_string()))?;
        Ok(ExecutingGpu {
            facts: facts(host)?,
            emulator,
            checked: config.emulator.checked,
            defect: host.defect,
            buffers: AtomicU64::new(0),
            ledger,
            queue,
        })
    }

    fn next_number(&self) -> u64 {
        self.buffers.fetch_add(1, Relaxed)
    }
}

/// An M1 Max on macOS 15, with this machine's memory and pages.
fn facts(host: &MetalHost) -> Result<Facts> {
    // SAFETY: sysconf has no preconditions.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    let page = usize::try_from(page).ok().filter(|p| p.is_power_of_two());
    let page = page.ok_or_else(|| {
        MlxError::DeviceUnavailable("the system does not tell the size of its pages".into())
    })?;
    let memory = physical_memory().unwrap_or(8 << 30);
    Ok(Facts {
        name: "Metal host code over the emulator".to_owned(),
        architecture: "applegpu_g13s".to_owned(),
        os: "stand-in".to_owned(),
        page,
        unified_memory: true,
        max_buffer_len: host.max_buffer_len.unwrap_or(memory),
        recommended_working_set: memory,
        max_threadgroup_memory: MAX_THREADGROUP_MEMORY,
        max_threads: MAX_THREADS,
        apple7: true,
        metal3: true,
        residency_sets: true,
        traces: false,
    })
}

impl Drop for ExecutingGpu {
    fn drop(&mut self) {
        self.queue.close();
        self.ledger.inspect();
        let findings = self.ledger.take_findings();
        // Nobody is left who could be told by an error.
        assert!(
            findings.is_empty() || std::thread::panicking(),
            "metal host code: {}",
            findings.join("; ")
        );
    }
}

/// One kernel of a text, with values for its function constants.
#[derive(Clone, PartialEq)]
pub(in super::super) struct Function {
    text: Arc<str>,
    name: String,
    constants: Vec<(u32, ConstantValue)>,
}

impl Function {
    /// What an archive keeps of it, as a line.
    fn line(&self) -> String {
        let mut hash = super::super::archive::Hash::default();
        hash.piece(self.text.as_bytes());
        format!("{:032x} {} {:?}", hash.value(), self.name, self.constants)
    }
}

/// A compiled kernel, as the host code holds it: command buffers hold it weakly.
pub(in super::super) struct Pipeline(pub(super) Arc<PipelineInner>);

/// What a pipeline is.
pub(super) struct PipelineInner {
    pub name: String,
    pub kernel: Arc<LoadedKernel>,
    pub facts: PipelineFacts,
}

impl Gpu for ExecutingGpu {
    type Buffer = Buffer;
    type Library = Arc<str>;
    type Function = Function;
    type Archive = Mutex<Vec<String>>;
    type Pipeline = Pipeline;
    type Commands = ExecutingCommands;

    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn pool<R>(f: impl FnOnce() -> R) -> R {
        /// Leaves the pool also when `f` panics.
        struct Inside;
        impl Drop for Inside {
            fn drop(&mut self) {
                POOLS.set(POOLS.get() - 1);
            }
        }
        POOLS.set(POOLS.get() + 1);
        let _inside = Inside;
        f()
    }

    fn new_buffer(&self, byte_len: usize) -> Option<Buffer> {
        in_pool();
        let inner = BufferInner::allocate(self.next_number(), byte_len, &self.ledger)?;
        Some(Buffer(Arc::new(inner)))
    }

    unsafe fn wrap_pages(
        &self,
        start: NonNull<u8>,
        byte_len: usize,
        owner: Arc<dyn Any + Send + Sync>,
    ) -> Option<Buffer> {
        in_pool();
        let page = self.facts.page;
        // Metal asserts the same.
        assert!((start.as_ptr() as usize).is_multiple_of(page) && byte_len.is_multiple_of(page));
        if byte_len == 0 || byte_len > self.facts.max_buffer_len {
            return None;
        }
        let inner = BufferInner::wrap(self.next_number(), start, byte_len, owner, &self.ledger);
        Some(Buffer(Arc::new(inner)))
    }

    fn contents(buffer: &Buffer) -> NonNull<u8> {
        buffer.0.ptr
    }

    fn add_resident(&self, buffer: &Buffer, _wired: bool) {
        in_pool();
        self.ledger.add_resident(buffer.0.number);
    }

    fn remove_resident(&self, buffer: &Buffer) {
        in_pool();
        self.ledger.remove_resident(buffer.0.number);
        if self.defect == Some(MetalHostDefect::RemovedTwice) {
            self.ledger.remove_resident(buffer.0.number);
        }
    }

    fn new_library(&self, text: &str, fast_math: bool) -> std::result::Result<Arc<str>, String> {
        in_pool();
        if fast_math {
            return Err("the emulator computes with safe math only".to_owned());
        }
        msl::parse(text).map_err(|e| e.to_string())?;
        Ok(text.into())
    }

    fn new_function(
        &self,
        library: &Arc<str>,
        name: &str,
        constants: &[(u32, ConstantValue)],
    ) -> std::result::Result<Function, String> {
        in_pool();
        let constants = match self.defect {
            Some(MetalHostDefect::NoConstants) => &[],
            _ => constants,
        };
        Ok(Function {
            text: library.clone(),
            name: name.to_owned(),
            constants: constants.to_vec(),
        })
    }

    fn open_archive(&self, path: Option<&Path>) -> std::result::Result<Self::Archive, String> {
        in_pool();
        let Some(path) = path else {
            return Ok(Mutex::default());
        };
        let text = std::fs::read_to_string(path).map_err(|e| e.to_string())?;
        let mut lines = text.lines();
        if lines.next() != Some(ARCHIVE) {
            return Err("not an archive".to_owned());
        }
        Ok(Mutex::new(lines.map(str::to_owned).collect()))
    }

    fn add_to_archive(
        &self,
        archive: &Self::Archive,
        function: &Function,
        _label: &str,
    ) -> std::result::Result<(), String> {
        in_pool();
        lock(archive).push(function.line());
        Ok(())
    }

    fn save_archive(&self, archive: &Self::Archive, path: &Path) -> std::result::Result<(), String> {
        in_pool();
        let text = format!("{ARCHIVE}\n{}\n", lock(archive).join("\n"));
        std::fs::write(path, text).map_err(|e| e.to_string())
    }

    fn new_pipeline(
        &self,
        function: &Function,
        label: &str,
        archive: Option<&Self::Archive>,
    ) -> std::result::Result<Pipeline, String> {
        in_pool();
        if let Some(archive) = archive {
            // Metal would compile it anew; nobody would notice that a key does not tell kernels apart.
            let held = lock(archive);
            if !held.is_empty() && !held.contains(&function.line()) {
                self.ledger.find(format!(
                    "{label}: its archive holds another kernel: {}",
                    held.join(", ")
                ));
            }
        }
        let options = CompileOptions {
            checked: self.checked,
            file: None,
        };
        let kernel = self
            .emulator
            .compile(&function.text, &function.name, &function.constants, &options)
            .map_err(|e| e.to_string())?;
        let declared = kernel.signature().max_threads.map_or(MAX_THREADS, |n| n as usize);
        let memory = msl::threadgroup_bytes(&function.text, &function.name).map_err(|e| e.to_string())?;
        let facts = PipelineFacts {
            max_threads: declared.min(MAX_THREADS),
            simd_width: 32,
            // Where it cannot be worked out, the emulator notices when the kernel runs.
            static_threadgroup_memory: memory.and_then(|n| usize::try_from(n).ok()).unwrap_or(0),
        };
        Ok(Pipeline(Arc::new(PipelineInner {
            name: label.to_owned(),
            kernel,
            facts,
        })))
    }

    fn pipeline_facts(pipeline: &Pipeline) -> PipelineFacts {
        pipeline.0.facts
    }

    fn begin(&self, label: &str) -> Option<ExecutingCommands> {
        in_pool();
        Some(ExecutingCommands::new(label, self.defect, self.queue.clone()))
    }

    fn start_trace(&self, _path: &Path) -> std::result::Result<(), String> {
        Err("the stand-in writes no traces".to_owned())
    }

    fn stop_trace(&self) {}
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
