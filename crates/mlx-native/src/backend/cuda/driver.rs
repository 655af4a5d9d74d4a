//! The CUDA driver, by the functions that are needed, as the [`Gpu`] of this backend.

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::path::PathBuf;
use std::ptr::null_mut;
use std::sync::{Arc, Mutex, PoisonError};

use super::gpu::{Address, Facts, Failure, FunctionFacts, Gpu, Launch};
use super::library::{functions, load_first};

type Status = c_int;
type Device = c_int;
type Context = *mut c_void;
type Stream = *mut c_void;
type EventHandle = *mut c_void;
type Module = *mut c_void;
type FunctionHandle = *mut c_void;
type Pool = *mut c_void;
type GraphHandle = *mut c_void;
type ExecutableGraph = *mut c_void;

functions! {
    /// The functions of the driver. Where a name ends in a version, it is the one that `cuda.h` gives to the plain name
    /// since CUDA 11.3 or before.
    Functions {
        fn cuInit(flags: c_uint) -> Status;
        fn cuDriverGetVersion(version: *mut c_int) -> Status;
        fn cuGetErrorString(status: Status, text: *mut *const c_char) -> Status;
        fn cuDeviceGetCount(count: *mut c_int) -> Status;
        fn cuDeviceGet(device: *mut Device, ordinal: c_int) -> Status;
        fn cuDeviceGetName(name: *mut c_char, len: c_int, device: Device) -> Status;
        fn cuDeviceGetAttribute(value: *mut c_int, attribute: c_int, device: Device) -> Status;
        fn cuDeviceTotalMem_v2(bytes: *mut usize, device: Device) -> Status;
        fn cuDevicePrimaryCtxRetain(context: *mut Context, device: Device) -> Status;
        fn cuDevicePrimaryCtxRelease_v2(device: Device) -> Status;
        fn cuCtxSetCurrent(context: Context) -> Status;
        fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> Status;
        fn cuDeviceGetDefaultMemPool(pool: *mut Pool, device: Device) -> Status;
        fn cuMemPoolSetAttribute(pool: Pool, attribute: c_int, value: *mut c_void) -> Status;
        fn cuMemPoolGetAttribute(pool: Pool, attribute: c_int, value: *mut c_void) -> Status;
        fn cuMemAllocAsync(address: *mut Address, byte_len: usize, stream: Stream) -> Status;
        fn cuMemFreeAsync(address: Address, stream: Stream) -> Status;
        fn cuMemHostAlloc(address: *mut *mut c_void, byte_len: usize, flags: c_uint) -> Status;
        fn cuMemFreeHost(address: *mut c_void) -> Status;
        fn cuMemHostRegister_v2(address: *mut c_void, byte_len: usize, flags: c_uint) -> Status;
        fn cuMemHostUnregister(address: *mut c_void) -> Status;
        fn cuMemcpyHtoDAsync_v2(to: Address, from: *const c_void, byte_len: usize, stream: Stream) -> Status;
        fn cuMemcpyDtoHAsync_v2(to: *mut c_void, from: Address, byte_len: usize, stream: Stream) -> Status;
        fn cuMemcpyDtoDAsync_v2(to: Address, from: Address, byte_len: usize, stream: Stream) -> Status;
        fn cuMemsetD8Async(to: Address, value: u8, count: usize, stream: Stream) -> Status;
        fn cuStreamCreate(stream: *mut Stream, flags: c_uint) -> Status;
        fn cuStreamDestroy_v2(stream: Stream) -> Status;
        fn cuStreamSynchronize(stream: Stream) -> Status;
        fn cuStreamBeginCapture_v2(stream: Stream, mode: c_int) -> Status;
        fn cuStreamEndCapture(stream: Stream, graph: *mut GraphHandle) -> Status;
        fn cuGraphDestroy(graph: GraphHandle) -> Status;
        fn cuGraphInstantiateWithFlags(executable: *mut ExecutableGraph, graph: GraphHandle, flags: u64) -> Status;
        fn cuGraphExecUpdate_v2(executable: ExecutableGraph, graph: GraphHandle, info: *mut UpdateInfo) -> Status;
        fn cuGraphExecDestroy(executable: ExecutableGraph) -> Status;
        fn cuGraphLaunch(executable: ExecutableGraph, stream: Stream) -> Status;
        fn cuEventCreate(event: *mut EventHandle, flags: c_uint) -> Status;
        fn cuEventDestroy_v2(event: EventHandle) -> Status;
        fn cuEventRecord(event: EventHandle, stream: Stream) -> Status;
        fn cuEventSynchronize(event: EventHandle) -> Status;
        fn cuEventElapsedTime(milliseconds: *mut f32, start: EventHandle, end: EventHandle) -> Status;
        fn cuModuleLoadData(module: *mut Module, image: *const c_void) -> Status;
        fn cuModuleUnload(module: Module) -> Status;
        fn cuModuleGetFunction(function: *mut FunctionHandle, module: Module, name: *const c_char) -> Status;
        fn cuModuleGetGlobal_v2(address: *mut Address, byte_len: *mut usize, module: Module, name: *const c_char) -> Status;
        fn cuFuncGetAttribute(value: *mut c_int, attribute: c_int, function: FunctionHandle) -> Status;
        fn cuFuncSetAttribute(function: FunctionHandle, attribute: c_int, value: c_int) -> Status;
        fn cuLaunchKernel(
            function: FunctionHandle,
            grid_x: c_uint,
            grid_y: c_uint,
            grid_z: c_uint,
            block_x: c_uint,
            block_y: c_uint,
            block_z: c_uint,
            shared_memory: c_uint,
            stream: Stream,
            parameters: *mut *mut c_void,
            extra: *mut *mut c_void,
        ) -> Status;
        fn cuLaunchKernelEx(
            config: *const LaunchConfig,
            function: FunctionHandle,
            parameters: *mut *mut c_void,
            extra: *mut *mut c_void,
        ) -> Status;
    }
}

/// `CUlaunchConfig`.
#[repr(C)]
pub(super) struct LaunchConfig {
    grid: [c_uint; 3],
    block: [c_uint; 3],
    shared_memory: c_uint,
    stream: Stream,
    attributes: *mut LaunchAttribute,
    n_attributes: c_uint,
}

/// `CUlaunchAttribute` with a value of one number.
#[repr(C, align(8))]
pub(super) struct LaunchAttribute {
    id: c_int,
    padding: c_int,
    value: [c_int; 16],
}

/// `CUgraphExecUpdateResultInfo`.
#[repr(C)]
pub(super) struct UpdateInfo {
    result: c_int,
    node: *mut c_void,
    from: *mut c_void,
}

// Numbers of `cuda.h`.
const CAPTURE_OF_THIS_THREAD: c_int = 1;
const STREAM_NON_BLOCKING: c_uint = 1;
const EVENT_DEFAULT: c_uint = 0;
const HOST_REGISTER_READ_ONLY: c_uint = 8;
const POOL_RELEASE_THRESHOLD: c_int = 4;
const POOL_RESERVED: c_int = 5;
const POOL_USED: c_int = 7;
const MAX_THREADS_PER_BLOCK: c_int = 1;
const MAX_SHARED_MEMORY_PER_BLOCK: c_int = 8;
const MULTIPROCESSORS: c_int = 16;
const CAPABILITY_MAJOR: c_int = 75;
const CAPABILITY_MINOR: c_int = 76;
const HOST_REGISTER_SUPPORTED: c_int = 99;
const READ_ONLY_HOST_REGISTER_SUPPORTED: c_int = 113;
const MEMORY_POOLS_SUPPORTED: c_int = 115;
const FUNCTION_MAX_THREADS: c_int = 0;
const FUNCTION_SHARED_MEMORY: c_int = 1;
const FUNCTION_MAX_DYNAMIC_SHARED_MEMORY: c_int = 8;
const LAUNCH_PROGRAMMATIC_STREAM_SERIALIZATION: c_int = 6;
/// The first drivers that keep early starts in graphs, and the first GPUs that have them.
const EARLY_STARTS_FROM: ((u32, u32), u32) = ((12, 3), 90);
/// Bytes of shared memory that a launch may ask for without leave.
const USUAL_SHARED_MEMORY: u32 = 48 << 10;

/// Memory that was freed is kept for the next allocation up to this many bytes.
const KEPT_MEMORY: u64 = 1 << 30;
/// Transfers up to this many bytes go through memory of the host that the device reaches by itself.
const STAGED: usize = 1 << 20;
/// The oldest GPUs whose instructions the prelude uses (bfloat conversions and products).
pub(super) const OLDEST_CAPABILITY: u32 = 80;

/// The driver library with its functions.
pub(super) struct Driver {
    functions: Functions,
    version: (u32, u32),
}

impl Driver {
    /// Loads the driver and starts it.
    ///
    /// # Errors
    /// In words: there is none, or it does not start.
    pub fn load() -> Result<Arc<Self>, String> {
        let names: &[&str] = if cfg!(windows) {
            &["nvcuda.dll"]
        } else {
            // The second is where WSL and some containers keep it off the loader's path.
            &[
                "libcuda.so.1",
                "/usr/lib/wsl/lib/libcuda.so.1",
                "/usr/local/nvidia/lib64/libcuda.so.1",
            ]
        };
        let candidates: Vec<PathBuf> = names.iter().map(PathBuf::from).collect();
        let (library, path) = load_first(&candidates).map_err(|e| format!("no NVIDIA driver: {e}"))?;
        // SAFETY: the types are those of `cuda.h`, whose functions never change under one name.
        let functions = unsafe { Functions::of(library) }
            .map_err(|e| format!("the driver {} is too old: {e}", path.display()))?;
        let mut driver = Driver {
            functions,
            version: (0, 0),
        };
        // SAFETY: no preconditions.
        let status = unsafe { driver.functions.cuInit(0) };
        driver
            .check(status)
            .map_err(|e| format!("the NVIDIA driver does not start: {e}"))?;
        let mut version = 0;
        // SAFETY: a place to write to.
        let status = unsafe { driver.functions.cuDriverGetVersion(&mut version) };
        driver.check(status).map_err(|e| e.to_string())?;
        driver.version = (version.unsigned_abs() / 1000, version.unsigned_abs() % 1000 / 10);
        Ok(Arc::new(driver))
    }

    /// How many devices there are.
    pub fn count(&self) -> Result<usize, Failure> {
        let mut count = 0;
        // SAFETY: a place to write to.
        self.check(unsafe { self.functions.cuDeviceGetCount(&mut count) })?;
        Ok(count.unsigned_abs() as usize)
    }

    fn check(&self, status: Status) -> Result<(), Failure> {
        if status == 0 {
            return Ok(());
        }
        let mut text = std::ptr::null();
        // SAFETY: a place to write to; the string is static.
        let known = unsafe { self.functions.cuGetErrorString(status, &mut text) } == 0 && !text.is_null();
        let text = if known {
            // SAFETY: not null, and ends with a zero.
            unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
        } else {
            "unknown error".to_owned()
        };
        Err(Failure::new(status, text))
    }

    fn attribute(&self, device: Device, attribute: c_int) -> Result<u32, Failure> {
        let mut value = 0;
        // SAFETY: a place to write to.
        self.check(unsafe { self.functions.cuDeviceGetAttribute(&mut value, attribute, device) })?;
        Ok(value.unsigned_abs())
    }

    fn facts(&self, device: Device, ordinal: usize) -> Result<Facts, Failure> {
        let mut name = [0 as c_char; 256];
        // SAFETY: as many bytes as said.
        self.check(unsafe {
            self.functions
                .cuDeviceGetName(name.as_mut_ptr(), name.len() as c_int, device)
        })?;
        name[name.len() - 1] = 0;
        let mut memory = 0;
        // SAFETY: a place to write to.
        self.check(unsafe { self.functions.cuDeviceTotalMem_v2(&mut memory, device) })?;
        Ok(Facts {
            // SAFETY: ends with a zero, see above.
            name: unsafe { CStr::from_ptr(name.as_ptr()) }
                .to_string_lossy()
                .into_owned(),
            ordinal,
            capability: self.attribute(device, CAPABILITY_MAJOR)? * 10
                + self.attribute(device, CAPABILITY_MINOR)?,
            driver: self.version,
            memory,
            max_threads: self.attribute(device, MAX_THREADS_PER_BLOCK)?,
            multiprocessors: self.attribute(device, MULTIPROCESSORS)?,
            max_shared_memory: self.attribute(device, MAX_SHARED_MEMORY_PER_BLOCK)?,
        })
    }
}

/// One device: its primary context, a stream of work and a stream of transfers.
pub(super) struct CudaGpu {
    context: Arc<Primary>,
    facts: Facts,
    work: StreamHandle,
    transfers: StreamHandle,
    can_register: bool,
    staging: Mutex<Staging>,
    events: Arc<Mutex<Vec<EventPointer>>>,
}

/// The primary context of a device, given back when nobody uses it.
struct Primary {
    driver: Arc<Driver>,
    device: Device,
    context: Context,
}

// SAFETY: handles of the driver may be used by any thread; each makes the context current before a call.
unsafe impl Send for Primary {}
// SAFETY: as above.
unsafe impl Sync for Primary {}

impl Primary {
    /// The functions, with the context current on this thread.
    fn enter(&self) -> Result<&Functions, Failure> {
        // SAFETY: a context that was retained and not yet released.
        let status = unsafe { self.driver.functions.cuCtxSetCurrent(self.context) };
        self.driver.check(status)?;
        Ok(&self.driver.functions)
    }

    fn check(&self, status: Status) -> Result<(), Failure> {
        self.driver.check(status)
    }
}

impl Drop for Primary {
    fn drop(&mut self) {
        // SAFETY: retained once by us.
        let _ = unsafe { self.driver.functions.cuDevicePrimaryCtxRelease_v2(self.device) };
    }
}

struct StreamHandle {
    context: Arc<Primary>,
    stream: Stream,
}

// SAFETY: as for `Primary`.
unsafe impl Send for StreamHandle {}
// SAFETY: as for `Primary`.
unsafe impl Sync for StreamHandle {}

impl StreamHandle {
    fn new(context: &Arc<Primary>) -> Result<Self, Failure> {
        let mut stream = null_mut();
        // SAFETY: a place to write to.
        context.check(unsafe { context.enter()?.cuStreamCreate(&mut stream, STREAM_NON_BLOCKING) })?;
        Ok(StreamHandle {
            context: context.clone(),
            stream,
        })
    }

    fn wait(&self) -> Result<(), Failure> {
        // SAFETY: a stream of ours.
        self.context
            .check(unsafe { self.context.enter()?.cuStreamSynchronize(self.stream) })
    }
}

impl Drop for StreamHandle {
    fn drop(&mut self) {
        if let Ok(functions) = self.context.enter() {
            // SAFETY: made by us, and nobody has it any more.
            let _ = unsafe { functions.cuStreamDestroy_v2(self.stream) };
        }
    }
}

/// Memory of the host that the device reaches by itself; none until it is needed, or where there is none to be had.
struct Staging {
    context: Arc<Primary>,
    memory: *mut c_void,
}

// SAFETY: memory of ours alone.
unsafe impl Send for Staging {}

impl Staging {
    /// `STAGED` bytes, if they can be had.
    fn memory(&mut self) -> Option<*mut c_void> {
        if self.memory.is_null() {
            let functions = self.context.enter().ok()?;
            // SAFETY: a place to write to.
            let status = unsafe { functions.cuMemHostAlloc(&mut self.memory, STAGED, 0) };
            self.context.check(status).ok()?;
        }
        Some(self.memory)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.memory.is_null()
            && let Ok(functions) = self.context.enter()
        {
            // SAFETY: made by us, and no transfer uses it: each is waited for.
            let _ = unsafe { functions.cuMemFreeHost(self.memory) };
        }
    }
}

struct EventPointer(EventHandle);

// SAFETY: handles may be used by any thread.
unsafe impl Send for EventPointer {}

/// An event, which goes back to be used again when it is dropped.
pub(super) struct Event {
    handle: EventHandle,
    idle: Arc<Mutex<Vec<EventPointer>>>,
}

// SAFETY: as above.
unsafe impl Send for Event {}

impl Drop for Event {
    fn drop(&mut self) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.push(EventPointer(self.handle));
    }
}

/// A list that the driver has made ready.
pub(super) struct Graph {
    context: Arc<Primary>,
    executable: ExecutableGraph,
}

// SAFETY: handles may be used by any thread, one at a time.
unsafe impl Send for Graph {}

impl Drop for Graph {
    fn drop(&mut self) {
        if let Ok(functions) = self.context.enter() {
            // SAFETY: made by us, and its last run has ended: the trait's rule.
            let _ = unsafe { functions.cuGraphExecDestroy(self.executable) };
        }
    }
}

/// What a stream was told while it kept.
struct Captured<'f> {
    functions: &'f Functions,
    graph: GraphHandle,
}

impl Drop for Captured<'_> {
    fn drop(&mut self) {
        if !self.graph.is_null() {
            // SAFETY: made by the end of a capture.
            let _ = unsafe { self.functions.cuGraphDestroy(self.graph) };
        }
    }
}

/// A function with its module.
pub(super) struct Function {
    function: FunctionHandle,
    module: Arc<LoadedModule>,
}

// SAFETY: handles may be used by any thread.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}

struct LoadedModule {
    context: Arc<Primary>,
    module: Module,
}

// SAFETY: handles may be used by any thread.
unsafe impl Send for LoadedModule {}
// SAFETY: as above.
unsafe impl Sync for LoadedModule {}

impl Drop for LoadedModule {
    fn drop(&mut self) {
        if let Ok(functions) = self.context.enter() {
            // SAFETY: loaded by us; whoever launched its functions kept it until they had ended.
            let _ = unsafe { functions.cuModuleUnload(self.module) };
        }
    }
}

impl CudaGpu {
    /// Opens device number `ordinal` of the driver's.
    ///
    /// # Errors
    /// In words: there is no such device, it is too old, or it does not open.
    pub fn open(driver: &Arc<Driver>, ordinal: usize) -> Result<Self, String> {
        let text = |e: Failure| e.to_string();
        let count = driver.count().map_err(text)?;
        if ordinal >= count {
            return Err(format!("there is no device {ordinal}: the driver has {count}"));
        }
        let mut device = 0;
        // SAFETY: a place to write to, and a number below the count.
        let status = unsafe { driver.functions.cuDeviceGet(&mut device, ordinal as c_int) };
        driver.check(status).map_err(text)?;
        let facts = driver.facts(device, ordinal).map_err(text)?;
        if facts.capability < OLDEST_CAPABILITY {
            return Err(format!(
                "{} has compute capability {}.{}, {}.{} is needed",
                facts.name,
                facts.capability / 10,
                facts.capability % 10,
                OLDEST_CAPABILITY / 10,
                OLDEST_CAPABILITY % 10
            ));
        }
        let has = |attribute| driver.attribute(device, attribute).map_err(text).map(|v| v != 0);
        if !has(MEMORY_POOLS_SUPPORTED)? {
            return Err(format!("{} has no memory pools under this driver", facts.name));
        }
        let can_register = has(HOST_REGISTER_SUPPORTED)? && has(READ_ONLY_HOST_REGISTER_SUPPORTED)?;
        let mut context = null_mut();
        // SAFETY: a place to write to, and a device.
        let status = unsafe { driver.functions.cuDevicePrimaryCtxRetain(&mut context, device) };
        driver
            .check(status)
            .map_err(|e| format!("{} cannot be opened: {e}", facts.name))?;
        let context = Arc::new(Primary {
            driver: driver.clone(),
            device,
            context,
        });
        context.keep_freed_memory().map_err(text)?;
        Ok(CudaGpu {
            work: StreamHandle::new(&context).map_err(text)?,
            transfers: StreamHandle::new(&context).map_err(text)?,
            staging: Mutex::new(Staging {
                context: context.clone(),
                memory: null_mut(),
            }),
            events: Arc::default(),
            can_register,
            facts,
            context,
        })
    }

    fn check(&self, status: Status) -> Result<(), Failure> {
        self.context.check(status)
    }

    fn to_device(&self, to: Address, from: *const c_void, byte_len: usize) -> Result<(), Failure> {
        let functions = self.context.enter()?;
        // SAFETY: the callers have `byte_len` readable bytes at `from` until the stream is waited for, below, and a range of
        // the device's memory at `to`.
        self.check(unsafe { functions.cuMemcpyHtoDAsync_v2(to, from, byte_len, self.transfers.stream) })?;
        self.transfers.wait()
    }
}

impl Primary {
    fn pool(&self) -> Result<Pool, Failure> {
        let mut pool = null_mut();
        // SAFETY: a place to write to.
        self.check(unsafe { self.enter()?.cuDeviceGetDefaultMemPool(&mut pool, self.device) })?;
        Ok(pool)
    }

    /// Without this the pool gives freed memory back to the system at every wait.
    fn keep_freed_memory(&self) -> Result<(), Failure> {
        let mut bytes = KEPT_MEMORY;
        let (pool, value) = (self.pool()?, (&raw mut bytes).cast());
        // SAFETY: the value of this attribute is 64 bits.
        self.check(unsafe {
            self.enter()?
                .cuMemPoolSetAttribute(pool, POOL_RELEASE_THRESHOLD, value)
        })
    }

    /// Bytes that the pool keeps and nobody uses.
    fn kept_memory(&self) -> Result<u64, Failure> {
        let get = |attribute| {
            let mut bytes = 0u64;
            let (pool, value) = (self.pool()?, (&raw mut bytes).cast());
            // SAFETY: the values of these attributes are 64 bits.
            self.check(unsafe { self.enter()?.cuMemPoolGetAttribute(pool, attribute, value) })?;
            Ok(bytes)
        };
        Ok(get(POOL_RESERVED)?.saturating_sub(get(POOL_USED)?))
    }
}

impl Gpu for CudaGpu {
    type Function = Function;
    type Event = Event;
    type Graph = Graph;

    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn free_memory(&self) -> Result<usize, Failure> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: places to write to.
        self.check(unsafe { self.context.enter()?.cuMemGetInfo_v2(&mut free, &mut total) })?;
        Ok(free.saturating_add(self.context.kept_memory()? as usize))
    }

    fn allocate(&self, byte_len: usize, zeroed: bool) -> Result<Address, Failure> {
        let functions = self.context.enter()?;
        let mut address = 0;
        // SAFETY: a place to write to.
        self.check(unsafe { functions.cuMemAllocAsync(&mut address, byte_len, self.transfers.stream) })?;
        let mut ready = Ok(());
        if zeroed {
            // SAFETY: memory of this size, allocated before in the same stream.
            ready =
                self.check(unsafe { functions.cuMemsetD8Async(address, 0, byte_len, self.transfers.stream) });
        }
        // Other streams may use it only when this one has come so far.
        if let Err(e) = ready.and_then(|()| self.transfers.wait()) {
            self.free(address);
            return Err(e);
        }
        Ok(address)
    }

    fn free(&self, address: Address) {
        if let Ok(functions) = self.context.enter() {
            // SAFETY: allocated by us, and not in use: the trait's rule.
            let _ = unsafe { functions.cuMemFreeAsync(address, self.transfers.stream) };
        }
    }

    fn upload(&self, to: Address, bytes: &[u8]) -> Result<(), Failure> {
        if bytes.len() <= STAGED {
            let mut staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(memory) = staging.memory() {
                // SAFETY: `STAGED` bytes of ours, which the lock keeps others from.
                unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), memory.cast(), bytes.len()) };
                return self.to_device(to, memory, bytes.len());
            }
        }
        self.to_device(to, bytes.as_ptr().cast(), bytes.len())
    }

    fn upload_large(&self, to: Address, bytes: &[u8]) -> Result<(), Failure> {
        let start = bytes.as_ptr().cast_mut().cast::<c_void>();
        let functions = self.context.enter()?;
        // Registered pages are copied at the speed of the bus; what cannot be registered goes the slow way.
        let registered = self.can_register
            // SAFETY: readable for as long as the slice is borrowed; unregistered before the return.
            && unsafe { functions.cuMemHostRegister_v2(start, bytes.len(), HOST_REGISTER_READ_ONLY) } == 0;
        let result = self.to_device(to, start, bytes.len());
        if registered {
            // SAFETY: registered above; the copy has ended or failed.
            let _ = unsafe { functions.cuMemHostUnregister(start) };
        }
        result
    }

    fn download(&self, from: Address, out: &mut [u8]) -> Result<(), Failure> {
        let functions = self.context.enter()?;
        let byte_len = out.len();
        let fetch = |to: *mut c_void| {
            // SAFETY: `to` has room for as many bytes, and nobody touches them before the stream was waited for.
            self.check(unsafe { functions.cuMemcpyDtoHAsync_v2(to, from, byte_len, self.transfers.stream) })?;
            self.transfers.wait()
        };
        if out.len() <= STAGED {
            let mut staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(memory) = staging.memory() {
                fetch(memory)?;
                // SAFETY: as many bytes were just written there, and the lock keeps others from them.
                unsafe { std::ptr::copy_nonoverlapping(memory.cast(), out.as_mut_ptr(), out.len()) };
                return Ok(());
            }
        }
        fetch(out.as_mut_ptr().cast())
    }

    fn load(
        &self,
        image: &[u8],
        symbol: &str,
        variables: &[&str],
        shared_memory: u32,
    ) -> Result<(Function, FunctionFacts), Failure> {
        let c_string = |s: &str| CString::new(s).map_err(|_| Failure::new(1, "a name with a zero byte"));
        let functions = self.context.enter()?;
        // Text must end with a zero; machine code does not mind one more.
        let mut ended = Vec::with_capacity(image.len() + 1);
        ended.extend_from_slice(image);
        ended.push(0);
        let mut module = null_mut();
        // SAFETY: an image as NVRTC made it, which is copied.
        self.check(unsafe { functions.cuModuleLoadData(&mut module, ended.as_ptr().cast()) })?;
        let module = Arc::new(LoadedModule {
            context: self.context.clone(),
            module,
        });
        let mut function = null_mut();
        let name = c_string(symbol)?;
        // SAFETY: a place to write to, a loaded module, and a string that ends with a zero.
        self.check(unsafe { functions.cuModuleGetFunction(&mut function, module.module, name.as_ptr()) })?;
        if shared_memory > USUAL_SHARED_MEMORY {
            let wanted = c_int::try_from(shared_memory)
                .map_err(|_| Failure::new(1, format!("{shared_memory} bytes of shared memory")))?;
            // SAFETY: a function of a loaded module.
            self.check(unsafe {
                functions.cuFuncSetAttribute(function, FUNCTION_MAX_DYNAMIC_SHARED_MEMORY, wanted)
            })?;
        }
        let attribute = |which| {
            let mut value = 0;
            // SAFETY: a place to write to.
            self.check(unsafe { functions.cuFuncGetAttribute(&mut value, which, function) })?;
            Ok(value.unsigned_abs())
        };
        let mut lengths = Vec::with_capacity(variables.len());
        for variable in variables {
            let (mut address, mut len) = (0, 0);
            let name = c_string(variable)?;
            // SAFETY: places to write to, a loaded module, and a string that ends with a zero.
            self.check(unsafe {
                functions.cuModuleGetGlobal_v2(&mut address, &mut len, module.module, name.as_ptr())
            })?;
            lengths.push(len);
        }
        let facts = FunctionFacts {
            max_threads: attribute(FUNCTION_MAX_THREADS)?,
            shared_memory: attribute(FUNCTION_SHARED_MEMORY)?,
            lengths,
        };
        Ok((Function { function, module }, facts))
    }

    fn launch(&self, launch: Launch<'_, Function>) -> Result<(), Failure> {
        let mut pointers: smallvec::SmallVec<[*mut c_void; 16]> = launch
            .parameters
            .iter()
            .map(|p| p.as_ptr().cast_mut().cast())
            .collect();
        let ([gx, gy, gz], [bx, by, bz]) = (launch.blocks, launch.threads);
        let functions = self.context.enter()?;
        debug_assert!(
            std::ptr::eq(&*launch.function.module.context, &*self.context)
                || launch.function.module.context.device == self.context.device
        );
        let can_be_early =
            self.facts.driver >= EARLY_STARTS_FROM.0 && self.facts.capability >= EARLY_STARTS_FROM.1;
        if launch.early && can_be_early {
            let mut value = [0; 16];
            value[0] = 1;
            let mut attribute = LaunchAttribute {
                id: LAUNCH_PROGRAMMATIC_STREAM_SERIALIZATION,
                padding: 0,
                value,
            };
            let config = LaunchConfig {
                grid: launch.blocks,
                block: launch.threads,
                shared_memory: launch.shared_memory,
                stream: self.work.stream,
                attributes: &mut attribute,
                n_attributes: 1,
            };
            // SAFETY: as below; the configuration and its attribute live until the return.
            return self.check(unsafe {
                functions.cuLaunchKernelEx(
                    &config,
                    launch.function.function,
                    pointers.as_mut_ptr(),
                    null_mut(),
                )
            });
        }
        // SAFETY: a function of a loaded module, and for each of its parameters a pointer to as many bytes as it has or
        // more: the caller's duty. They are copied before the return.
        self.check(unsafe {
            functions.cuLaunchKernel(
                launch.function.function,
                gx,
                gy,
                gz,
                bx,
                by,
                bz,
                launch.shared_memory,
                self.work.stream,
                pointers.as_mut_ptr(),
                null_mut(),
            )
        })
    }

    fn copy(&self, from: Address, to: Address, byte_len: usize) -> Result<(), Failure> {
        let functions = self.context.enter()?;
        // SAFETY: ranges of the device's memory that do not overlap: the caller's duty.
        self.check(unsafe { functions.cuMemcpyDtoDAsync_v2(to, from, byte_len, self.work.stream) })
    }

    fn fill(&self, to: Address, byte_len: usize, value: u8) -> Result<(), Failure> {
        let functions = self.context.enter()?;
        // SAFETY: a range of the device's memory: the caller's duty.
        self.check(unsafe { functions.cuMemsetD8Async(to, value, byte_len, self.work.stream) })
    }

    fn begin_graph(&self) -> Result<(), Failure> {
        let functions = self.context.enter()?;
        // SAFETY: a stream of ours.
        self.check(unsafe { functions.cuStreamBeginCapture_v2(self.work.stream, CAPTURE_OF_THIS_THREAD) })
    }

    fn run_graph(&self, put: Result<(), Failure>, known: Option<&Graph>) -> Result<Option<Graph>, Failure> {
        let functions = self.context.enter()?;
        let mut captured = Captured {
            functions,
            graph: null_mut(),
        };
        // SAFETY: a stream of ours that captures, and a place to write to.
        let ended =
            self.check(unsafe { functions.cuStreamEndCapture(self.work.stream, &mut captured.graph) });
        put.and(ended)?;
        let mut info = UpdateInfo {
            result: 0,
            node: null_mut(),
            from: null_mut(),
        };
        let known = known.filter(|known| {
            // SAFETY: two graphs of this context, and a place to write to. Runs on their way keep what they were told.
            let status =
                unsafe { functions.cuGraphExecUpdate_v2(known.executable, captured.graph, &mut info) };
            status == 0
        });
        let made = match known {
            Some(_) => None,
            None => {
                let mut executable = null_mut();
                // SAFETY: a graph that was captured, and a place to write to.
                self.check(unsafe {
                    functions.cuGraphInstantiateWithFlags(&mut executable, captured.graph, 0)
                })?;
                Some(Graph {
                    context: self.context.clone(),
                    executable,
                })
            }
        };
        if let Some(graph) = made.as_ref().or(known) {
            // SAFETY: a graph and a stream of this context.
            self.check(unsafe { functions.cuGraphLaunch(graph.executable, self.work.stream) })?;
        }
        Ok(made)
    }

    fn run_again(&self, graph: &Graph) -> Result<(), Failure> {
        let functions = self.context.enter()?;
        // SAFETY: a graph and a stream of this context.
        self.check(unsafe { functions.cuGraphLaunch(graph.executable, self.work.stream) })
    }

    fn record(&self) -> Result<Event, Failure> {
        let functions = self.context.enter()?;
        let idle = self.events.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let handle = match idle {
            Some(EventPointer(handle)) => handle,
            None => {
                let mut handle = null_mut();
                // SAFETY: a place to write to.
                self.check(unsafe { functions.cuEventCreate(&mut handle, EVENT_DEFAULT) })?;
                handle
            }
        };
        let event = Event {
            handle,
            idle: self.events.clone(),
        };
        // SAFETY: an event and a stream of this context.
        self.check(unsafe { functions.cuEventRecord(handle, self.work.stream) })?;
        Ok(event)
    }

    fn wait(&self, event: &Event) -> Result<(), Failure> {
        // SAFETY: an event of this context.
        self.check(unsafe { self.context.enter()?.cuEventSynchronize(event.handle) })
    }

    fn seconds(&self, from: &Event, to: &Event) -> Result<f64, Failure> {
        let mut milliseconds = 0.0;
        let functions = self.context.enter()?;
        // SAFETY: a place to write to, and two events that were recorded.
        self.check(unsafe { functions.cuEventElapsedTime(&mut milliseconds, from.handle, to.handle) })?;
        Ok(f64::from(milliseconds) / 1e3)
    }

    fn wait_for_all(&self) -> Result<(), Failure> {
        self.work.wait()
    }
}

impl Drop for CudaGpu {
    fn drop(&mut self) {
        let Ok(functions) = self.context.enter() else {
            return;
        };
        let mut idle = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        for EventPointer(handle) in idle.drain(..) {
            // SAFETY: made by us, and idle.
            let _ = unsafe { functions.cuEventDestroy_v2(handle) };
        }
    }
}
