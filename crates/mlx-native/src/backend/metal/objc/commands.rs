//! A command buffer with its encoder.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::Mutex;

use objc2::rc::Retained;
use objc2::runtime::ProtocolObject;
use objc2_foundation::{NSError, NSRange, NSString};
use objc2_metal::*;

use super::super::gpu::{Commands, Completion, Ended, Gpu, GpuError};
use super::ObjcGpu;

/// Lives on the thread that encodes.
pub(in super::super) struct ObjcCommands {
    buffer: Retained<ProtocolObject<dyn MTLCommandBuffer>>,
    encoder: Encoder,
    fence: Retained<ProtocolObject<dyn MTLFence>>,
}

/// The encoder that is open.
enum Encoder {
    Compute(Retained<ProtocolObject<dyn MTLComputeCommandEncoder>>),
    Blit(Retained<ProtocolObject<dyn MTLBlitCommandEncoder>>),
    /// None: the last one was ended.
    Ended,
}

impl ObjcCommands {
    pub fn begin(
        queue: &ProtocolObject<dyn MTLCommandQueue>,
        fence: &Retained<ProtocolObject<dyn MTLFence>>,
        label: &str,
    ) -> Option<Self> {
        let buffer = queue.commandBufferWithUnretainedReferences()?;
        let encoder = buffer.computeCommandEncoderWithDispatchType(MTLDispatchType::Concurrent)?;
        let label = NSString::from_str(label);
        buffer.setLabel(Some(&label));
        encoder.setLabel(Some(&label));
        Some(ObjcCommands {
            buffer,
            encoder: Encoder::Compute(encoder),
            fence: fence.clone(),
        })
    }

    /// An encoder must be ended before it is released, also one whose work is given up.
    fn end(&mut self) {
        match std::mem::replace(&mut self.encoder, Encoder::Ended) {
            Encoder::Compute(encoder) => encoder.endEncoding(),
            Encoder::Blit(encoder) => encoder.endEncoding(),
            Encoder::Ended => {}
        }
    }

    /// Calls on an encoder of the other kind are left out: the host code makes none.
    fn compute(&self, call: impl FnOnce(&ProtocolObject<dyn MTLComputeCommandEncoder>)) {
        if let Encoder::Compute(encoder) = &self.encoder {
            call(encoder);
        }
    }

    fn blit(&self, call: impl FnOnce(&ProtocolObject<dyn MTLBlitCommandEncoder>)) {
        if let Encoder::Blit(encoder) = &self.encoder {
            call(encoder);
        }
    }
}

impl Drop for ObjcCommands {
    fn drop(&mut self) {
        self.end();
    }
}

fn size(extents: [usize; 3]) -> MTLSize {
    let [width, height, depth] = extents;
    MTLSize { width, height, depth }
}

impl Commands<ObjcGpu> for ObjcCommands {
    fn wait_for_fence(&mut self) {
        self.compute(|encoder| encoder.waitForFence(&self.fence));
        self.blit(|encoder| encoder.waitForFence(&self.fence));
    }

    fn update_fence(&mut self) {
        self.compute(|encoder| encoder.updateFence(&self.fence));
        self.blit(|encoder| encoder.updateFence(&self.fence));
    }

    fn set_pipeline(&mut self, pipeline: &<ObjcGpu as Gpu>::Pipeline) {
        self.compute(|encoder| encoder.setComputePipelineState(&pipeline.0));
    }

    fn set_buffer(&mut self, buffer: &<ObjcGpu as Gpu>::Buffer, offset: usize, index: usize) {
        // SAFETY: the index is below 31 and the offset inside the buffer, as the caller has checked; the buffer outlives the
        // command buffer, by the contract of `Gpu::begin`.
        self.compute(|encoder| unsafe { encoder.setBuffer_offset_atIndex(Some(&buffer.0), offset, index) });
    }

    fn set_bytes(&mut self, bytes: &[u8], index: usize) {
        // SAFETY: the pointer is good for the length, and Metal copies the bytes.
        self.compute(|encoder| unsafe {
            encoder.setBytes_length_atIndex(NonNull::from(bytes).cast(), bytes.len(), index);
        });
    }

    fn set_threadgroup_memory(&mut self, byte_len: usize, index: usize) {
        // SAFETY: a multiple of 16 within the device's limit, for an index that the kernel declares.
        self.compute(|encoder| unsafe { encoder.setThreadgroupMemoryLength_atIndex(byte_len, index) });
    }

    fn dispatch_threads(&mut self, threads: [usize; 3], group: [usize; 3]) {
        self.compute(|encoder| encoder.dispatchThreads_threadsPerThreadgroup(size(threads), size(group)));
    }

    fn dispatch_threadgroups(&mut self, groups: [usize; 3], group: [usize; 3]) {
        self.compute(|encoder| encoder.dispatchThreadgroups_threadsPerThreadgroup(size(groups), size(group)));
    }

    fn begin_copies(&mut self) -> bool {
        self.end();
        let Some(encoder) = self.buffer.blitCommandEncoder() else {
            return false;
        };
        self.encoder = Encoder::Blit(encoder);
        true
    }

    fn begin_dispatches(&mut self) -> bool {
        self.end();
        let encoder = self
            .buffer
            .computeCommandEncoderWithDispatchType(MTLDispatchType::Concurrent);
        let Some(encoder) = encoder else {
            return false;
        };
        self.encoder = Encoder::Compute(encoder);
        true
    }

    fn copy_buffer(
        &mut self,
        from: &<ObjcGpu as Gpu>::Buffer,
        from_offset: usize,
        to: &<ObjcGpu as Gpu>::Buffer,
        to_offset: usize,
        byte_len: usize,
    ) {
        // SAFETY: both ranges are inside their buffers, as the caller has checked, and the buffers outlive the command
        // buffer.
        self.blit(|blit| unsafe {
            blit.copyFromBuffer_sourceOffset_toBuffer_destinationOffset_size(
                &from.0,
                from_offset,
                &to.0,
                to_offset,
                byte_len,
            );
        });
    }

    fn fill_buffer(&mut self, buffer: &<ObjcGpu as Gpu>::Buffer, range: Range<usize>, value: u8) {
        self.blit(|blit| {
            blit.fillBuffer_range_value(&buffer.0, NSRange::new(range.start, range.len()), value);
        });
    }

    fn barrier(&mut self) {
        self.compute(|encoder| encoder.memoryBarrierWithScope(MTLBarrierScope::Buffers));
    }

    fn signpost(&mut self, label: &str) {
        self.compute(|encoder| encoder.insertDebugSignpost(&NSString::from_str(label)));
    }

    fn commit(mut self, done: Completion) {
        self.end();
        // Metal calls the block once; the type of blocks does not say so.
        let done = Mutex::new(Some(done));
        let block = block2::RcBlock::new(move |buffer: NonNull<ProtocolObject<dyn MTLCommandBuffer>>| {
            // SAFETY: Metal passes the command buffer, which lives during the call.
            let ended = ended(unsafe { buffer.as_ref() });
            // Unwinding into Metal would end the process.
            let _ = catch_unwind(AssertUnwindSafe(|| {
                let done = done.lock().ok().and_then(|mut done| done.take());
                if let Some(done) = done {
                    done(ended);
                }
            }));
        });
        // SAFETY: Metal copies the block, and everything in it may be sent to another thread.
        unsafe { self.buffer.addCompletedHandler(block2::RcBlock::as_ptr(&block)) };
        self.buffer.commit();
    }
}

fn ended(buffer: &ProtocolObject<dyn MTLCommandBuffer>) -> Ended {
    let failed = buffer.status() == MTLCommandBufferStatus::Error;
    let error = buffer.error().map(|e| gpu_error(&e));
    Ended {
        error: error.or_else(|| {
            failed.then(|| GpuError {
                of_command_buffers: false,
                code: 0,
                description: "Metal says nothing more".to_owned(),
            })
        }),
        start: buffer.GPUStartTime(),
        end: buffer.GPUEndTime(),
    }
}

fn gpu_error(error: &NSError) -> GpuError {
    GpuError {
        of_command_buffers: error.domain().to_string() == "MTLCommandBufferErrorDomain",
        code: error.code(),
        description: error.localizedDescription().to_string(),
    }
}
