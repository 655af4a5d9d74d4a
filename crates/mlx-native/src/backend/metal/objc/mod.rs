//! The calls, in Objective-C. Everything here is thin on purpose: nothing of it can run where this library is developed.

mod commands;
mod compile;

use std::any::Any;
use std::ffi::c_void;
use std::fmt;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;

use objc2::rc::{Retained, autoreleasepool};
use objc2::runtime::{NSObjectProtocol, ProtocolObject};
use objc2::sel;
use objc2_foundation::{NSError, NSProcessInfo, NSString, NSURL};
use objc2_metal::*;

use super::device::MetalBackend;
use super::gpu::{Facts, Gpu, PipelineFacts};
use crate::backend::Backend;
use crate::config::Config;
use crate::error::{MlxError, Result};
use crate::kernel::ConstantValue;
use commands::ObjcCommands;

// MTLCreateSystemDefaultDevice finds no GPU in a process that is not linked to CoreGraphics.
#[link(name = "CoreGraphics", kind = "framework")]
unsafe extern "C" {}

/// Metal Shading Language 3.1, which has `bfloat`, came with this version of macOS.
const OLDEST_MACOS: isize = 14;

/// The system's default GPU.
pub(crate) fn open(config: &Config) -> Result<Arc<dyn Backend>> {
    autoreleasepool(|_| {
        let gpu = ObjcGpu::new().map_err(|why| MlxError::DeviceUnavailable(format!("metal: {why}")))?;
        let backend: Arc<dyn Backend> = Arc::new(MetalBackend::new(gpu, config)?);
        Ok(backend)
    })
}

/// An object that Metal documents as usable from any thread, though its Rust type does not say so.
pub(super) struct AnyThread<T: ?Sized>(pub Retained<T>);

// SAFETY: made only of buffers, pipelines and a residency set. Apple documents them as usable from several threads; what is
// not (encoders, command buffers, archives) is never put in here.
unsafe impl<T: ?Sized> Send for AnyThread<T> {}
// SAFETY: as above.
unsafe impl<T: ?Sized> Sync for AnyThread<T> {}

pub(super) struct ObjcGpu {
    device: Retained<ProtocolObject<dyn MTLDevice>>,
    queue: Retained<ProtocolObject<dyn MTLCommandQueue>>,
    /// Orders the command buffers of the queue, whose resources are untracked.
    fence: Retained<ProtocolObject<dyn MTLFence>>,
    residency: Option<AnyThread<ProtocolObject<dyn MTLResidencySet>>>,
    facts: Facts,
}

impl fmt::Debug for ObjcGpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjcGpu").field("facts", &self.facts).finish()
    }
}

impl ObjcGpu {
    fn new() -> std::result::Result<Self, String> {
        let info = NSProcessInfo::processInfo();
        let version = info.operatingSystemVersion();
        let os = info.operatingSystemVersionString().to_string();
        if cfg!(target_os = "macos") && version.majorVersion < OLDEST_MACOS {
            return Err(format!("macOS {OLDEST_MACOS} or later is needed, this is {os}"));
        }
        let device = MTLCreateSystemDefaultDevice().ok_or("the system has no Metal GPU")?;
        let queue = device.newCommandQueue().ok_or("the GPU gives no command queue")?;
        queue.setLabel(Some(&NSString::from_str("mlx-native")));
        let fence = device.newFence().ok_or("the GPU gives no fence")?;
        let residency = residency_set(&device, &queue);
        let facts = facts(&device, os, residency.is_some())?;
        Ok(ObjcGpu {
            device,
            queue,
            fence,
            residency,
            facts,
        })
    }
}

/// A residency set that the queue makes resident with every command buffer; `None` before macOS 15.
fn residency_set(
    device: &ProtocolObject<dyn MTLDevice>,
    queue: &ProtocolObject<dyn MTLCommandQueue>,
) -> Option<AnyThread<ProtocolObject<dyn MTLResidencySet>>> {
    if !device.respondsToSelector(sel!(newResidencySetWithDescriptor:error:))
        || !queue.respondsToSelector(sel!(addResidencySet:))
    {
        return None;
    }
    let descriptor = MTLResidencySetDescriptor::new();
    descriptor.setLabel(Some(&NSString::from_str("mlx-native weights")));
    let set = device.newResidencySetWithDescriptor_error(&descriptor);
    let set = set
        .inspect_err(|e| tracing::debug!(why = words(e), "metal: no residency set"))
        .ok()?;
    queue.addResidencySet(&set);
    Some(AnyThread(set))
}

fn facts(
    device: &ProtocolObject<dyn MTLDevice>,
    os: String,
    residency_sets: bool,
) -> std::result::Result<Facts, String> {
    // SAFETY: sysconf has no preconditions.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    let page = usize::try_from(page).ok().filter(|p| p.is_power_of_two());
    // SAFETY: returns the manager of the process.
    let capture = unsafe { MTLCaptureManager::sharedCaptureManager() };
    Ok(Facts {
        name: device.name().to_string(),
        architecture: device.architecture().name().to_string(),
        os,
        page: page.ok_or("the system does not tell the size of its pages")?,
        unified_memory: device.hasUnifiedMemory(),
        max_buffer_len: device.maxBufferLength(),
        recommended_working_set: usize::try_from(device.recommendedMaxWorkingSetSize()).unwrap_or(usize::MAX),
        max_threadgroup_memory: device.maxThreadgroupMemoryLength(),
        max_threads: device.maxThreadsPerThreadgroup().width,
        apple7: device.supportsFamily(MTLGPUFamily::Apple7),
        metal3: device.supportsFamily(MTLGPUFamily::Metal3),
        residency_sets,
        traces: capture.supportsDestination(MTLCaptureDestination::GPUTraceDocument),
    })
}

/// An error in Metal's words, with its code.
fn words(error: &NSError) -> String {
    format!(
        "{} ({} {})",
        error.localizedDescription(),
        error.domain(),
        error.code()
    )
}

fn url(path: &Path) -> std::result::Result<Retained<NSURL>, String> {
    NSURL::from_file_path(path).ok_or_else(|| format!("{} is no path for a file", path.display()))
}

fn options() -> MTLResourceOptions {
    MTLResourceOptions::StorageModeShared | MTLResourceOptions::HazardTrackingModeUntracked
}

impl Gpu for ObjcGpu {
    type Buffer = AnyThread<ProtocolObject<dyn MTLBuffer>>;
    type Library = Retained<ProtocolObject<dyn MTLLibrary>>;
    type Function = Retained<ProtocolObject<dyn MTLFunction>>;
    type Archive = Retained<ProtocolObject<dyn MTLBinaryArchive>>;
    type Pipeline = AnyThread<ProtocolObject<dyn MTLComputePipelineState>>;
    type Commands = ObjcCommands;

    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn pool<R>(f: impl FnOnce() -> R) -> R {
        autoreleasepool(|_| f())
    }

    fn new_buffer(&self, byte_len: usize) -> Option<Self::Buffer> {
        // Metal documents that the contents are zero.
        let buffer = self.device.newBufferWithLength_options(byte_len, options())?;
        Some(AnyThread(buffer))
    }

    unsafe fn wrap_pages(
        &self,
        start: NonNull<u8>,
        byte_len: usize,
        owner: Arc<dyn Any + Send + Sync>,
    ) -> Option<Self::Buffer> {
        // The block owns the memory's owner: it lives as long as Metal may look at the memory.
        let keep = block2::RcBlock::new(move |_start: NonNull<c_void>, _byte_len: usize| {
            let _ = &owner;
        });
        // SAFETY: whole pages that stay readable while `owner` lives, by this function's contract; the block is sendable,
        // as its owner is.
        let buffer = unsafe {
            self.device.newBufferWithBytesNoCopy_length_options_deallocator(
                start.cast(),
                byte_len,
                options(),
                Some(&keep),
            )
        };
        buffer.map(AnyThread)
    }

    fn contents(buffer: &Self::Buffer) -> NonNull<u8> {
        buffer.0.contents().cast()
    }

    fn add_resident(&self, buffer: &Self::Buffer, wired: bool) {
        if let Some(AnyThread(set)) = &self.residency {
            set.addAllocation(ProtocolObject::from_ref(&*buffer.0));
            set.commit();
            if wired {
                set.requestResidency();
            }
        }
    }

    fn remove_resident(&self, buffer: &Self::Buffer) {
        if let Some(AnyThread(set)) = &self.residency {
            set.removeAllocation(ProtocolObject::from_ref(&*buffer.0));
            set.commit();
        }
    }

    fn new_library(&self, text: &str, fast_math: bool) -> std::result::Result<Self::Library, String> {
        compile::library(&self.device, text, fast_math)
    }

    fn new_function(
        &self,
        library: &Self::Library,
        name: &str,
        constants: &[(u32, ConstantValue)],
    ) -> std::result::Result<Self::Function, String> {
        compile::function(library, name, constants)
    }

    fn open_archive(&self, path: Option<&Path>) -> std::result::Result<Self::Archive, String> {
        let descriptor = MTLBinaryArchiveDescriptor::new();
        if let Some(path) = path {
            descriptor.setUrl(Some(&*url(path)?));
        }
        self.device
            .newBinaryArchiveWithDescriptor_error(&descriptor)
            .map_err(|e| words(&e))
    }

    fn add_to_archive(
        &self,
        archive: &Self::Archive,
        function: &Self::Function,
        label: &str,
    ) -> std::result::Result<(), String> {
        archive
            .addComputePipelineFunctionsWithDescriptor_error(&compile::descriptor(function, label))
            .map_err(|e| words(&e))
    }

    fn save_archive(&self, archive: &Self::Archive, path: &Path) -> std::result::Result<(), String> {
        archive.serializeToURL_error(&*url(path)?).map_err(|e| words(&e))
    }

    fn new_pipeline(
        &self,
        function: &Self::Function,
        label: &str,
        archive: Option<&Self::Archive>,
    ) -> std::result::Result<Self::Pipeline, String> {
        compile::pipeline(&self.device, function, label, archive.map(|a| &**a)).map(AnyThread)
    }

    fn pipeline_facts(pipeline: &Self::Pipeline) -> PipelineFacts {
        PipelineFacts {
            max_threads: pipeline.0.maxTotalThreadsPerThreadgroup(),
            simd_width: pipeline.0.threadExecutionWidth(),
            static_threadgroup_memory: pipeline.0.staticThreadgroupMemoryLength(),
        }
    }

    fn begin(&self, label: &str) -> Option<Self::Commands> {
        ObjcCommands::begin(&self.queue, &self.fence, label)
    }

    fn start_trace(&self, path: &Path) -> std::result::Result<(), String> {
        let descriptor = MTLCaptureDescriptor::new();
        // SAFETY: a command queue is one of the objects that can be captured.
        unsafe { descriptor.setCaptureObject(Some(self.queue.as_ref())) };
        descriptor.setDestination(MTLCaptureDestination::GPUTraceDocument);
        descriptor.setOutputURL(Some(&*url(path)?));
        // SAFETY: returns the manager of the process.
        let capture = unsafe { MTLCaptureManager::sharedCaptureManager() };
        capture
            .startCaptureWithDescriptor_error(&descriptor)
            .map_err(|e| words(&e))
    }

    fn stop_trace(&self) {
        // SAFETY: returns the manager of the process.
        unsafe { MTLCaptureManager::sharedCaptureManager() }.stopCapture();
    }
}
