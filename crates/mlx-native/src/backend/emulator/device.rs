//! The emulator as a device: the contract of [`crate::backend`] on top of [`Emulator`].

use super::compile::LoadedKernel;
use super::dispatch::{Launch, LaunchArgument, LaunchGrid};
use super::memory::{SeparateMemory, device_address, is_separate};
use super::{CompileOptions, Emulator, EmulatorError, EmulatorSettings, Severity, abi};
use crate::backend::host::{HostMemory, physical_memory};
use crate::backend::submission::{panic_text, release};
use crate::backend::{
    Allocation, Arg, Backend, Command, Completion, CopyBytes, DeviceId, Dispatch, FillBytes, Grid,
    HostRegion, Limits, Memory, PipelineBody, Place, QueueId, Timing, Work,
};
use crate::config::{Config, EmulatorConfig};
use crate::device_kind::DeviceKind;
use crate::error::{MlxError, Result};
use crate::kernel::msl::Access;
use crate::kernel::{ConstantValue, Kernel};
use crate::profile::DeviceProfile;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Instant;

/// The device. Work runs in order of submission on a thread of its own.
pub(crate) struct EmulatorBackend {
    id: DeviceId,
    queue_id: QueueId,
    emulator: Arc<Emulator>,
    config: EmulatorConfig,
    limits: Limits,
    queue: Sender<(Arc<Work>, Completion)>,
}

/// A compiled kernel as a pipeline.
struct EmulatorPipeline(Arc<LoadedKernel>);

impl PipelineBody for EmulatorPipeline {
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn max_threads(&self) -> Option<u32> {
        self.0
            .signature()
            .max_threads
            .map(|n| n.min(abi::MAX_THREADS as u32))
    }
}

impl EmulatorBackend {
    /// Finds the compiler and starts the device.
    ///
    /// # Errors
    /// [`MlxError::DeviceUnavailable`] without a usable compiler, saying what to install, or without a cache folder.
    pub(crate) fn new(config: &Config) -> Result<Self> {
        let no_device = |e: String| MlxError::DeviceUnavailable(format!("emulator: {e}"));
        let settings = EmulatorSettings {
            clang: config.emulator.clang.clone(),
            cache_dir: config.cache_dir(),
        };
        let emulator = Arc::new(Emulator::new(&settings).map_err(|e| no_device(e.to_string()))?);
        let workers = config
            .threads
            .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
        let (queue, orders) = channel::<(Arc<Work>, Completion)>();
        let runner = Runner {
            emulator: Arc::clone(&emulator),
            config: config.emulator.clone(),
            workers,
        };
        std::thread::Builder::new()
            .name("mlx emulator".to_owned())
            .spawn(move || {
                // Ends when the device, and with it the queue, is dropped.
                for (work, done) in orders {
                    runner.run(work, done);
                }
            })
            .map_err(|e| no_device(e.to_string()))?;
        let limits = Limits {
            max_threads_per_threadgroup: abi::MAX_THREADS as u32,
            max_threadgroup_memory: abi::MAX_THREADGROUP_MEMORY as u32,
            max_buffer_len: physical_memory().unwrap_or(usize::MAX),
            max_working_set: physical_memory(),
            simd_width: abi::SIMD_WIDTH as u32,
            gpu: None,
            profile: DeviceProfile::gpu(),
        };
        Ok(Self {
            id: DeviceId::unique(),
            queue_id: QueueId::unique(),
            emulator,
            config: config.emulator.clone(),
            limits,
            queue,
        })
    }
}

impl std::fmt::Debug for EmulatorBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmulatorBackend")
            .field("config", &self.config)
            .finish()
    }
}

impl Backend for EmulatorBackend {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Emulator
    }

    fn name(&self) -> String {
        format!("emulator ({})", self.emulator.compiler())
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn id(&self) -> DeviceId {
        self.id
    }

    fn queue(&self) -> QueueId {
        self.queue_id
    }

    fn pipeline_domain(&self) -> u64 {
        DeviceKind::Emulator as u64 | u64::from(self.config.checked) << 32
    }

    fn accepts(&self, memory: &dyn Memory) -> bool {
        if self.config.separate_memory {
            is_separate(memory)
        } else {
            memory.host_view().is_some()
        }
    }

    fn allocate(&self, byte_len: usize) -> Result<Arc<dyn Memory>> {
        if !self.config.separate_memory {
            return HostMemory::allocate(byte_len, self.limits.max_buffer_len);
        }
        if byte_len == 0 || byte_len > self.limits.max_buffer_len {
            return Err(MlxError::BufferAllocationError { bytes: byte_len });
        }
        SeparateMemory::allocate(byte_len)
    }

    fn wrap(&self, region: HostRegion) -> Result<Arc<dyn Memory>> {
        if self.config.separate_memory {
            return SeparateMemory::copy_of(&region);
        }
        Ok(HostMemory::wrap(region))
    }

    fn supports(&self, _kernel: &Kernel) -> std::result::Result<(), String> {
        Ok(())
    }

    fn compile(&self, kernel: &Kernel, constants: &[(u32, ConstantValue)]) -> Result<Arc<dyn PipelineBody>> {
        let failed = |message: String| MlxError::ShaderCompilationError {
            name: kernel.name.to_string(),
            message,
        };
        let text = kernel.source.flat().map_err(failed)?;
        let options = CompileOptions {
            checked: self.config.checked,
            file: None,
        };
        match self.emulator.compile(text, &kernel.name, constants, &options) {
            Ok(loaded) => Ok(Arc::new(EmulatorPipeline(loaded))),
            Err(EmulatorError::Compile { message, .. }) => Err(failed(message)),
            Err(other) => Err(failed(other.to_string())),
        }
    }

    fn submit(&self, work: Arc<Work>, done: Completion) {
        if let Err(unsent) = self.queue.send((work, done)) {
            let (_, done) = unsent.0;
            done.finish(
                Err(MlxError::CommandBufferError(
                    "the emulator's thread is gone".to_owned(),
                )),
                Timing::default(),
            );
        }
    }
}

/// The thread that runs submitted work.
struct Runner {
    emulator: Arc<Emulator>,
    config: EmulatorConfig,
    workers: usize,
}

impl Runner {
    fn run(&self, work: Arc<Work>, done: Completion) {
        let start = Instant::now();
        // A panic is a bug of the emulator; it must not take the thread, and with it all later work.
        let result = catch_unwind(AssertUnwindSafe(|| self.commands(&work))).unwrap_or_else(|panic| {
            Err(MlxError::WorkFailed(format!(
                "the emulator panicked: {}",
                panic_text(&*panic)
            )))
        });
        let timing = Timing {
            device: Some(start.elapsed()),
        };
        let released = release(work).map_err(MlxError::WorkFailed);
        done.finish(result.and(released), timing);
    }

    fn commands(&self, work: &Work) -> Result<()> {
        for command in &work.commands {
            match command {
                Command::Dispatch(dispatch) => self.dispatch(work, dispatch)?,
                Command::Copy(copy) => copy_bytes(copy)?,
                Command::Fill(fill) => fill_bytes(fill)?,
                // One command runs after the other.
                Command::Barrier => {}
            }
        }
        Ok(())
    }

    fn dispatch(&self, work: &Work, dispatch: &Dispatch) -> Result<()> {
        let failed = |message: String| Err(MlxError::WorkFailed(message));
        let body: Option<&EmulatorPipeline> = dispatch.pipeline.body().as_any().downcast_ref();
        let Some(EmulatorPipeline(kernel)) = body else {
            return failed(format!(
                "{} was compiled for another device",
                dispatch.pipeline.label()
            ));
        };
        let mut arguments = Vec::with_capacity(dispatch.bindings.len());
        for binding in work.bindings(dispatch) {
            arguments.push((
                binding.index,
                argument(work, kernel, binding.index, &binding.arg)?,
            ));
        }
        let grid = match dispatch.grid {
            Grid::Threads(n) => LaunchGrid::Threads(n),
            Grid::Threadgroups(n) => LaunchGrid::Threadgroups(n),
        };
        let launch = Launch {
            threadgroup_memory: &dispatch.threadgroup_memory,
            schedule: self.config.schedule,
            poison: self.config.poison,
            workers: self.workers,
            ..Launch::new(grid, dispatch.group, &arguments)
        };
        // SAFETY: the list keeps its allocations alive, the encoder has checked the ranges, and hazards are ordered by
        // running one dispatch after the other.
        let report = match unsafe { self.emulator.dispatch(kernel, &launch) } {
            Ok(report) => report,
            Err(e) => return failed(e.to_string()),
        };
        for warning in report.findings.iter().filter(|f| f.severity == Severity::Warning) {
            tracing::warn!("{warning}");
        }
        match report.first_error() {
            None => Ok(()),
            Some(first) if report.errors > 1 => failed(format!("{first}; {} errors in all", report.errors)),
            Some(first) => failed(first.to_string()),
        }
    }
}

fn copy_bytes(copy: &CopyBytes) -> Result<()> {
    let (from, to) = (address(&copy.from)?, address(&copy.to)?);
    // SAFETY: the encoder has checked that the ranges lie inside their allocations and do not overlap; commands run one
    // after the other.
    unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to.as_ptr(), copy.to.byte_len) };
    Ok(())
}

fn fill_bytes(fill: &FillBytes) -> Result<()> {
    let to = address(&fill.to)?;
    // SAFETY: the encoder has checked that the range lies inside its allocation; commands run one after the other.
    unsafe { std::ptr::write_bytes(to.as_ptr(), fill.value, fill.to.byte_len) };
    Ok(())
}

fn address(place: &Place) -> Result<NonNull<u8>> {
    address_of(&place.allocation, place.offset)
}

/// Where the kernels see byte `offset` of an allocation.
fn address_of(allocation: &Allocation, offset: usize) -> Result<NonNull<u8>> {
    match device_address(&**allocation.memory()) {
        // SAFETY: the encoder has checked that the range lies inside the allocation.
        Some(start) => Ok(unsafe { start.add(offset) }),
        None => Err(MlxError::WorkFailed(format!(
            "memory of device {}, which the emulator cannot address",
            allocation.kind()
        ))),
    }
}

fn argument<'a>(
    work: &'a Work,
    kernel: &LoadedKernel,
    index: u32,
    arg: &'a Arg,
) -> Result<LaunchArgument<'a>> {
    Ok(match arg {
        Arg::Bytes { start, byte_len } => {
            let start = *start as usize;
            LaunchArgument::Bytes(&work.bytes[start..start + *byte_len as usize])
        }
        Arg::Buffer {
            allocation,
            offset,
            byte_len,
        } => {
            let declared = kernel.signature().bindings.iter().find(|b| b.index == index);
            LaunchArgument::Buffer {
                ptr: address_of(allocation, *offset)?.as_ptr(),
                len: *byte_len,
                writable: declared.is_some_and(|b| b.access == Access::ReadWrite) && allocation.writable(),
            }
        }
    })
}
