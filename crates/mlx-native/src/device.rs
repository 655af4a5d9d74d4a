//! Opening devices, and what hangs off one: buffers and encoders.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use memmap2::Mmap;
use smallvec::SmallVec;

use crate::backend::{Allocation, Backend, HostRegion, Limits, Memory, null::NullBackend};
use crate::buffer::MlxBuffer;
use crate::config::Config;
use crate::device_kind::DeviceKind;
use crate::dtype::DType;
use crate::encoder::CommandEncoder;
use crate::error::{MlxError, Result, invalid};
use crate::kernel::{ComputePipelineState, ConstantValue, Kernel};
use crate::metal::CommandQueue;

/// A device without its handle: what the registry and the published interface's `metal_device()` speak of.
pub struct DeviceRef {
    backend: Arc<dyn Backend>,
    pipelines: Mutex<PipelineCache>,
}

/// Pipelines by the number of their kernel.
type PipelineCache = HashMap<u64, SmallVec<[ComputePipelineState; 2]>>;

impl DeviceRef {
    /// The pipeline of kernel `number` with `constants`; `make` makes it on first use.
    ///
    /// # Errors
    /// What `make` gives.
    pub(crate) fn cached_pipeline(
        &self,
        number: u64,
        constants: &[(u32, ConstantValue)],
        make: impl FnOnce() -> Result<ComputePipelineState>,
    ) -> Result<ComputePipelineState> {
        let lock = || self.pipelines.lock().unwrap_or_else(PoisonError::into_inner);
        let known = lock()
            .get(&number)
            .and_then(|all| all.iter().find(|p| p.constants() == constants).cloned());
        if let Some(known) = known {
            return Ok(known);
        }
        // Compiled without the lock: it may take seconds, and two threads that both do it harm nobody.
        let made = make()?;
        let mut all = lock();
        // What nobody can ask for any more goes: a text that was replaced, or whose registry is gone.
        all.retain(|_, pipelines| pipelines.iter().all(|p| !p.is_forgotten(pipelines.len())));
        all.entry(number).or_default().push(made.clone());
        Ok(made)
    }

    pub(crate) fn backend(&self) -> &Arc<dyn Backend> {
        &self.backend
    }

    /// The kind of device.
    #[must_use]
    pub fn kind(&self) -> DeviceKind {
        self.backend.kind()
    }

    /// The name of the processor or GPU.
    #[must_use]
    pub fn name(&self) -> String {
        self.backend.name()
    }
}

impl fmt::Debug for DeviceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceRef")
            .field("backend", &self.backend)
            .finish()
    }
}

impl AsRef<DeviceRef> for DeviceRef {
    fn as_ref(&self) -> &DeviceRef {
        self
    }
}

impl AsRef<DeviceRef> for MlxDevice {
    fn as_ref(&self) -> &DeviceRef {
        &self.shared
    }
}

/// A device, ready to allocate buffers and run kernels. A handle: clones are the same device.
///
/// Several devices may be open at once, also of one kind. Buffers of one may be used with encoders of another where both
/// see the memory of the host; work of the two on one allocation is ordered by waiting, when it is committed.
#[derive(Clone)]
pub struct MlxDevice {
    shared: Arc<DeviceRef>,
}

impl MlxDevice {
    /// Opens the best device of this machine: the GPU on a Mac, an NVIDIA GPU where there is one and the library was built
    /// with the cargo feature `cuda`, the processor elsewhere.
    ///
    /// # Errors
    /// [`MlxError::DeviceNotFound`] when none can be opened; [`best`](Self::best) tells why.
    pub fn new() -> Result<Self> {
        Self::best(&Config::default()).map_err(|error| match error {
            MlxError::DeviceUnavailable(why) => {
                tracing::error!(%why, "there is no device");
                MlxError::DeviceNotFound
            }
            other => other,
        })
    }

    /// Like [`new`](Self::new), with settings for whatever is best here.
    ///
    /// # Errors
    /// [`MlxError::DeviceUnavailable`] with the reason when none can be opened; [`MlxError::InvalidArgument`] for a setting that this machine cannot honour.
    pub fn best(config: &Config) -> Result<Self> {
        if cfg!(feature = "default-emulator") {
            return Self::with_config(DeviceKind::Emulator, config);
        }
        let best = if cfg!(target_vendor = "apple") {
            DeviceKind::Metal
        } else if cfg!(feature = "cuda") {
            DeviceKind::Cuda
        } else {
            DeviceKind::Cpu
        };
        Self::with_config(best, config).or_else(|why| {
            tracing::debug!(%why, "the processor is taken");
            Self::with_config(DeviceKind::Cpu, config)
        })
    }

    /// Opens a device of the kind `kind` with default settings.
    ///
    /// # Errors
    /// [`MlxError::DeviceUnavailable`] with the reason, when there is none.
    pub fn open(kind: DeviceKind) -> Result<Self> {
        Self::with_config(kind, &Config::default())
    }

    /// Opens a device of the kind `kind`.
    ///
    /// # Errors
    /// [`MlxError::DeviceUnavailable`] with the reason, when there is none; [`MlxError::InvalidArgument`] for a setting that
    /// this machine cannot honour.
    pub fn with_config(kind: DeviceKind, config: &Config) -> Result<Self> {
        let backend: Arc<dyn Backend> = match kind {
            DeviceKind::Cpu => Arc::new(crate::backend::cpu::CpuBackend::new(config)?),
            DeviceKind::Null => Arc::new(NullBackend::new()),
            DeviceKind::Emulator => emulator(config)?,
            DeviceKind::Metal => metal(config)?,
            DeviceKind::Cuda => cuda(config)?,
        };
        tracing::debug!(kind = %kind, name = backend.name(), "device opened");
        Ok(Self::of(backend))
    }

    pub(crate) fn of(backend: Arc<dyn Backend>) -> Self {
        MlxDevice {
            shared: Arc::new(DeviceRef {
                backend,
                pipelines: Mutex::default(),
            }),
        }
    }

    /// A new encoder: one list of work.
    ///
    /// # Errors
    /// None today; kept for devices that can run out of command buffers.
    pub fn command_encoder(&self) -> Result<CommandEncoder> {
        Ok(CommandEncoder::new(self.shared.backend.clone()))
    }

    /// A zeroed buffer of `byte_len` bytes. `dtype` and `shape` say what is in it; they are not held against `byte_len`.
    ///
    /// # Errors
    /// [`MlxError::InvalidArgument`] for zero bytes or a shape whose number of elements overflows, [`MlxError::BufferAllocationError`] when the device has no memory.
    pub fn alloc_buffer(&self, byte_len: usize, dtype: DType, shape: Vec<usize>) -> Result<MlxBuffer> {
        if byte_len == 0 {
            return invalid!("alloc_buffer: byte_len is 0");
        }
        let allocation = self.allocation_of(self.shared.backend.allocate(byte_len)?)?;
        MlxBuffer::new(allocation, dtype, &shape)
    }

    fn allocation_of(&self, memory: Arc<dyn Memory>) -> Result<Arc<Allocation>> {
        Allocation::new(memory, self.shared.backend.id(), self.kind())
    }

    /// A zeroed buffer for a dense tensor of `shape` elements of `dtype`.
    ///
    /// # Errors
    /// As [`alloc_buffer`](Self::alloc_buffer); also when the size overflows.
    pub fn alloc_tensor(&self, dtype: DType, shape: &[usize]) -> Result<MlxBuffer> {
        self.alloc_buffer(crate::buffer::byte_len_of(dtype, shape)?, dtype, shape.to_vec())
    }

    /// A read-only buffer of bytes over a mapped file: used in place, or copied where the device has memory of its own
    /// and cannot map the pages. The file must not shrink while it is mapped.
    ///
    /// # Errors
    /// [`MlxError::InvalidArgument`] for an empty map, or one that the device cannot take.
    pub fn wrap_map(&self, map: &Arc<Mmap>) -> Result<MlxBuffer> {
        // SAFETY: the map keeps its bytes valid and in place, and is read-only.
        unsafe { self.wrap_host(map.as_ptr(), map.len(), map.clone()) }
    }

    /// A read-only buffer of bytes over memory that is part of the program, used in place.
    ///
    /// # Errors
    /// [`MlxError::InvalidArgument`] for no bytes, or memory that the device cannot take.
    pub fn wrap_static(&self, bytes: &'static [u8]) -> Result<MlxBuffer> {
        // SAFETY: static bytes stay valid, and nobody writes them.
        unsafe { self.wrap_host(bytes.as_ptr(), bytes.len(), Arc::new(())) }
    }

    /// A read-only buffer over memory of the host, used in place.
    ///
    /// # Errors
    /// [`MlxError::InvalidArgument`] for no bytes, or memory that the device cannot take.
    ///
    /// # Safety
    /// `ptr` must be valid for reads of `byte_len` bytes, which nobody changes, as long as `owner` lives.
    pub unsafe fn wrap_host(
        &self,
        ptr: *const u8,
        byte_len: usize,
        owner: Arc<dyn Any + Send + Sync>,
    ) -> Result<MlxBuffer> {
        let Some(ptr) = NonNull::new(ptr.cast_mut()).filter(|_| byte_len > 0) else {
            return invalid!("wrap: no bytes");
        };
        let memory = self.shared.backend.wrap(HostRegion {
            ptr,
            byte_len,
            writable: false,
            owner,
        })?;
        MlxBuffer::new(self.allocation_of(memory)?, DType::U8, &[byte_len])
    }

    /// What the published interface calls the Metal device; accepted wherever a device is asked for.
    #[must_use]
    pub fn metal_device(&self) -> &DeviceRef {
        &self.shared
    }

    /// What the published interface calls the queue.
    #[must_use]
    pub fn metal_queue(&self) -> &CommandQueue {
        static QUEUE: CommandQueue = CommandQueue::new();
        &QUEUE
    }

    /// The name of the processor or GPU.
    #[must_use]
    pub fn name(&self) -> String {
        self.shared.backend.name()
    }

    /// The kind of device.
    #[must_use]
    pub fn kind(&self) -> DeviceKind {
        self.shared.backend.kind()
    }

    /// What the device can take.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        self.shared.backend.limits()
    }

    /// Whether the device has a body for `kernel`; the reason if not.
    ///
    /// # Errors
    /// [`MlxError::Unsupported`] with the reason.
    pub fn supports(&self, kernel: &Kernel) -> Result<()> {
        self.shared.backend.supports(kernel).map_err(|why| {
            MlxError::Unsupported(format!(
                "kernel {:?} on device {}: {why}",
                kernel.name,
                self.kind()
            ))
        })
    }
}

impl fmt::Debug for MlxDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MlxDevice").field("name", &self.name()).finish()
    }
}

#[cfg(feature = "emulator")]
fn emulator(config: &Config) -> Result<Arc<dyn Backend>> {
    Ok(Arc::new(crate::backend::emulator::EmulatorBackend::new(config)?))
}

#[cfg(not(feature = "emulator"))]
fn emulator(_config: &Config) -> Result<Arc<dyn Backend>> {
    Err(MlxError::DeviceUnavailable(
        "emulator: built without the cargo feature `emulator`".to_owned(),
    ))
}

#[cfg(feature = "cuda")]
fn cuda(config: &Config) -> Result<Arc<dyn Backend>> {
    crate::backend::cuda::open(config)
}

#[cfg(not(feature = "cuda"))]
fn cuda(_config: &Config) -> Result<Arc<dyn Backend>> {
    Err(MlxError::DeviceUnavailable(
        "cuda: built without the cargo feature `cuda`".to_owned(),
    ))
}

#[cfg(target_vendor = "apple")]
fn metal(config: &Config) -> Result<Arc<dyn Backend>> {
    crate::backend::metal::open(config)
}

#[cfg(not(target_vendor = "apple"))]
fn metal(_config: &Config) -> Result<Arc<dyn Backend>> {
    Err(MlxError::DeviceUnavailable(
        "metal: no Metal GPU device, Metal exists on Apple systems only".to_owned(),
    ))
}
