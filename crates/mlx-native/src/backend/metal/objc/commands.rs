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
    encoder: Retained<ProtocolObject<dyn MTLComputeCommandEncoder>>,
    fence: Retained<ProtocolObject<dyn MTLFence>>,
    /// Whether `encoder` was ended: nothing more may be encoded in it.
    ended: bool,
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
        encoder.waitForFence(fence);
        Some(ObjcCommands {
            buffer,
            encoder,
            fence: fence.clone(),
            ended: false,
        })
    }

    /// An encoder must be ended before it is released, also one whose work is given up.
    fn end(&mut self) {
        if !std::mem::replace(&mut self.ended, true) {
            self.encoder.updateFence(&self.fence);
            self.encoder.endEncoding();
        }
    }

    /// Runs `encode` on an encoder for copies, between what came before and what comes after.
    fn blit(&mut self, encode: impl FnOnce(&ProtocolObject<dyn MTLBlitCommandEncoder>)) -> bool {
        self.end();
        let Some(blit) = self.buffer.blitCommandEncoder() else {
            return false;
        };
        blit.waitForFence(&self.fence);
        encode(&blit);
        blit.updateFence(&self.fence);
        blit.endEncoding();
        let compute = self
            .buffer
            .computeCommandEncoderWithDispatchType(MTLDispatchType::Concurrent);
        let Some(compute) = compute else {
            return false;
        };
        compute.waitForFence(&self.fence);
        self.encoder = compute;
        self.ended = false;
        true
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
    fn set_pipeline(&mut self, pipeline: &<ObjcGpu as Gpu>::Pipeline) {
        self.encoder.setComputePipelineState(&pipeline.0);
    }

    fn set_buffer(&mut self, buffer: &<ObjcGpu as Gpu>::Buffer, offset: usize, index: usize) {
        // SAFETY: the index is below 31 and the offset inside the buffer, as the caller has checked; the buffer outlives the
        // command buffer, by the contract of `Gpu::begin`.
        unsafe {
            self.encoder
                .setBuffer_offset_atIndex(Some(&buffer.0), offset, index)
        };
    }

    fn set_bytes(&mut self, bytes: &[u8], index: usize) {
        // SAFETY: the pointer is good for the length, and Metal copies the bytes.
        unsafe {
            self.encoder
                .setBytes_length_atIndex(NonNull::from(bytes).cast(), bytes.len(), index);
        }
    }

    fn set_threadgroup_memory(&mut self, byte_len: usize, index: usize) {
        // SAFETY: a multiple of 16 within the device's limit, for an index that the kernel declares.
        unsafe { self.encoder.setThreadgroupMemoryLength_atIndex(byte_len, index) };
    }

    fn dispatch_threads(&mut self, threads: [usize; 3], group: [usize; 3]) {
        self.encoder
            .dispatchThreads_threadsPerThreadgroup(size(threads), size(group));
    }

    fn dispatch_threadgroups(&mut self, groups: [usize; 3], group: [usize; 3]) {
        self.encoder
            .dispatchThreadgroups_threadsPerThreadgroup(size(groups), size(group));
    }

    fn copy_buffer(
        &mut self,
        from: &<ObjcGpu as Gpu>::Buffer,
        from_offset: usize,
        to: &<ObjcGpu as Gpu>::Buffer,
        to_offset: usize,
        byte_len: usize,
    ) -> bool {
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
        })
    }

    fn fill_buffer(&mut self, buffer: &<ObjcGpu as Gpu>::Buffer, range: Range<usize>, value: u8) -> bool {
        self.blit(|blit| {
            blit.fillBuffer_range_value(&buffer.0, NSRange::new(range.start, range.len()), value);
        })
    }

    fn barrier(&mut self) {
        self.encoder.memoryBarrierWithScope(MTLBarrierScope::Buffers);
    }

    fn signpost(&mut self, label: &str) {
        self.encoder.insertDebugSignpost(&NSString::from_str(label));
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
