//! MLX-compatible compute in pure Rust: the same kernels on Apple GPUs through Metal, on any CPU, and on an emulator that
//! proves the Metal text on machines without a GPU.
//!
//! What to read first:
//! - [`MlxDevice`] opens a device, [`MlxBuffer`] is its memory, [`CommandEncoder`] records work for it;
//! - [`ops`] has the operators;
//! - [`KernelRegistry`] maps kernel names to Metal text, also to text of your own;
//! - [`graph`] keeps recorded work to replay and reorder it;
//! - [`backend`] is the contract between all that and a device.

pub mod backend;
mod buffer;
mod buffer_pool;
mod config;
mod device;
mod dtype;
mod encoder;
mod error;
pub mod graph;
pub mod kernel;
pub mod metal;
pub mod ops;
pub mod quant;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use backend::cpu::Isa;
pub use buffer::{Allocation, MemRange, MlxBuffer};
pub use buffer_pool::{DEFAULT_POOL_CAP, MlxBufferPool};
pub use config::{Config, EmulatorConfig, Schedule};
pub use device::{DeviceKind, DeviceRef, MlxDevice};
pub use dtype::DType;
pub use encoder::{
    CapturedNode, CapturedOpKind, CommandEncoder, DispatchKind, KernelArg, RecordedBinding, as_bytes,
    dispatch_count, reset_counters, sync_count,
};
pub use error::{MlxError, Result};
pub use graph::{ComputeGraph, GraphExecutor, GraphSession};
pub use kernel::{ConstantValue, KernelRegistry};
pub use metal::MTLSize;
