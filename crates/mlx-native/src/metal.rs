//! Stand-ins for the Apple types that the published 0.1.0 interface names, on every platform.

pub use crate::buffer::Buffer;
pub use crate::device::DeviceRef;
pub use crate::kernel::{ComputePipelineState, ComputePipelineStateRef};

/// Stands for the queue of a device: [`MlxDevice::metal_queue`](crate::MlxDevice::metal_queue).
#[derive(Debug)]
pub struct CommandQueue(());

impl CommandQueue {
    pub(crate) const fn new() -> Self {
        CommandQueue(())
    }
}

/// Stands for the list of work of an encoder: [`CommandEncoder::metal_command_buffer`](crate::CommandEncoder::metal_command_buffer).
#[derive(Debug)]
pub struct CommandBuffer(());

impl CommandBuffer {
    pub(crate) const fn new() -> Self {
        CommandBuffer(())
    }
}

/// Three extents: of a grid in threads or threadgroups, or of a threadgroup in threads.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Hash, Default)]
#[repr(C)]
pub struct MTLSize {
    /// Extent along x.
    pub width: u64,
    /// Extent along y.
    pub height: u64,
    /// Extent along z.
    pub depth: u64,
}

impl MTLSize {
    /// The extents `width` × `height` × `depth`.
    #[must_use]
    pub const fn new(width: u64, height: u64, depth: u64) -> Self {
        MTLSize { width, height, depth }
    }
}
