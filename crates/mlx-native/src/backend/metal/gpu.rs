//! The thin layer: what this backend asks of Metal, call by call.
//!
//! `objc/` answers with the real thing. On any machine two stand-ins answer in the tests: `recording` notes the calls,
//! `executing` runs the kernels on the emulator. Whatever can be decided is decided above this line; below it stand calls,
//! and nothing that needs a test.

use std::any::Any;
use std::ops::Range;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::kernel::ConstantValue;

/// What the device says of itself, once.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    pub name: String,
    /// Name of the architecture, like `applegpu_g15s`.
    pub architecture: String,
    /// Version and build of the operating system: compiled kernels are good for one build.
    pub os: String,
    /// Bytes of a page of memory.
    pub page: usize,
    pub unified_memory: bool,
    pub max_buffer_len: usize,
    pub recommended_working_set: usize,
    pub max_threadgroup_memory: usize,
    pub max_threads: usize,
    /// Whether it is of family Apple 7 (M1) or later.
    pub apple7: bool,
    /// Whether it is of family Metal 3 or later.
    pub metal3: bool,
    /// Whether the operating system has residency sets (macOS 15).
    pub residency_sets: bool,
    /// Whether this process may write traces of the GPU.
    pub traces: bool,
}

/// What a pipeline says of itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct PipelineFacts {
    pub max_threads: usize,
    pub simd_width: usize,
    pub static_threadgroup_memory: usize,
}

/// How a command buffer ended. Times are in seconds, of one clock.
#[derive(Debug, Clone)]
pub(super) struct Ended {
    pub error: Option<GpuError>,
    pub start: f64,
    pub end: f64,
}

/// An error of a command buffer, as Metal tells it.
#[derive(Debug, Clone)]
pub(super) struct GpuError {
    /// Whether `code` is of Metal's command buffers.
    pub of_command_buffers: bool,
    pub code: isize,
    pub description: String,
}

/// Called once when a command buffer has ended, on a thread of Metal's.
pub(super) type Completion = Box<dyn FnOnce(Ended) + Send>;

/// A device with its queue. Errors are Metal's words.
pub(super) trait Gpu: Send + Sync + Sized + 'static {
    type Buffer: Send + Sync + 'static;
    type Library: Send + Sync + 'static;
    type Function;
    type Archive;
    type Pipeline: Send + Sync + 'static;
    type Commands: Commands<Self>;

    fn facts(&self) -> &Facts;

    /// Runs `f` with a pool for what Metal's calls leave to be released.
    fn pool<R>(f: impl FnOnce() -> R) -> R;

    /// Zeroed memory, shared with the host, hazards untracked.
    fn new_buffer(&self, byte_len: usize) -> Option<Self::Buffer>;

    /// Pages of the host, used in place; `owner` is dropped when Metal is done with them.
    ///
    /// # Safety
    /// `start` and `byte_len` are multiples of the page, and the pages stay readable as long as `owner` lives.
    unsafe fn wrap_pages(
        &self,
        start: NonNull<u8>,
        byte_len: usize,
        owner: Arc<dyn Any + Send + Sync>,
    ) -> Option<Self::Buffer>;

    /// First byte of a buffer.
    fn contents(buffer: &Self::Buffer) -> NonNull<u8>;

    /// Puts a buffer into the residency set of the queue, and asks for the set to be made resident if `wired`.
    fn add_resident(&self, buffer: &Self::Buffer, wired: bool);

    /// Takes a buffer out of it.
    fn remove_resident(&self, buffer: &Self::Buffer);

    fn new_library(&self, text: &str, fast_math: bool) -> Result<Self::Library, String>;

    fn new_function(
        &self,
        library: &Self::Library,
        name: &str,
        constants: &[(u32, ConstantValue)],
    ) -> Result<Self::Function, String>;

    /// An archive of compiled kernels: that of the file at `path`, or an empty one.
    fn open_archive(&self, path: Option<&Path>) -> Result<Self::Archive, String>;

    /// Compiles a function into an archive.
    fn add_to_archive(
        &self,
        archive: &Self::Archive,
        function: &Self::Function,
        label: &str,
    ) -> Result<(), String>;

    fn save_archive(&self, archive: &Self::Archive, path: &Path) -> Result<(), String>;

    /// A pipeline, out of the archive where it holds it.
    fn new_pipeline(
        &self,
        function: &Self::Function,
        label: &str,
        archive: Option<&Self::Archive>,
    ) -> Result<Self::Pipeline, String>;

    fn pipeline_facts(pipeline: &Self::Pipeline) -> PipelineFacts;

    /// A command buffer with a concurrent compute encoder. Nothing orders encoders against each other but the queue's
    /// fence. It keeps nothing alive: what it refers to must live until it has ended.
    fn begin(&self, label: &str) -> Option<Self::Commands>;

    fn start_trace(&self, path: &Path) -> Result<(), String>;

    fn stop_trace(&self);
}

/// A command buffer being encoded: encoders one after the other, the first one for dispatches. Dropped without a commit, it
/// does nothing.
pub(super) trait Commands<G: Gpu> {
    /// What comes later in the encoder waits for the last encoder before it that updates the fence, of this command buffer
    /// or of one committed before.
    fn wait_for_fence(&mut self);
    /// Whoever waits for the fence waits for all that the encoder holds so far.
    fn update_fence(&mut self);
    fn set_pipeline(&mut self, pipeline: &G::Pipeline);
    fn set_buffer(&mut self, buffer: &G::Buffer, offset: usize, index: usize);
    /// `bytes` are copied; 1 to 4096.
    fn set_bytes(&mut self, bytes: &[u8], index: usize);
    /// `byte_len` is a multiple of 16.
    fn set_threadgroup_memory(&mut self, byte_len: usize, index: usize);
    fn dispatch_threads(&mut self, threads: [usize; 3], group: [usize; 3]);
    fn dispatch_threadgroups(&mut self, groups: [usize; 3], group: [usize; 3]);
    /// Ends the encoder and begins one for copies. False where Metal gives none.
    fn begin_copies(&mut self) -> bool;
    /// Ends the encoder and begins another for dispatches, in which nothing is bound. False where Metal gives none.
    fn begin_dispatches(&mut self) -> bool;
    /// Copies bytes, which do not overlap; offsets and length are multiples of 4. Only in an encoder for copies, as the
    /// next; copies of one encoder may overlap in time.
    fn copy_buffer(&mut self, from: &G::Buffer, from_offset: usize, to: &G::Buffer, to_offset: usize, byte_len: usize);
    /// Sets bytes.
    fn fill_buffer(&mut self, buffer: &G::Buffer, range: Range<usize>, value: u8);
    /// What comes later in the encoder, which is one for dispatches, sees what came before, in all buffers.
    fn barrier(&mut self);
    /// A name in a trace for what comes next.
    fn signpost(&mut self, label: &str);
    /// Ends the encoder and hands the command buffer to the queue.
    fn commit(self, done: Completion);
}
