//! MLX-compatible compute in pure Rust: the same kernels on Apple GPUs through Metal, on any CPU, and on an emulator that
//! proves the Metal text on machines without a GPU.
//!
//! What to read first:
//! - [`MlxDevice`] opens a device, [`MlxBuffer`] is its memory, [`CommandEncoder`] records work for it;
//! - [`ops`] has the operators, [`ops::sdpa`] being the one to start with;
//! - [`KernelRegistry`] maps kernel names to Metal text, also to text of your own;
//! - [`weights`] reads safetensors files, [`gguf`] GGUF files, both mapped;
//! - [`graph`] keeps recorded work to replay and reorder it;
//! - [`backend`] is the contract between all that and a device.
//!
//! ```
//! use mlx_native::{DType, KernelRegistry, MlxDevice};
//! use mlx_native::ops::sdpa::{SdpaParams, sdpa};
//!
//! let device = MlxDevice::new()?;
//! let mut registry = KernelRegistry::new();
//! // One query against two keys, head dimension 4: K and V are [batch, n_kv_heads, kv_seq_len, head_dim].
//! let mut q = device.alloc_tensor(DType::F32, &[1, 1, 1, 4])?;
//! let mut k = device.alloc_tensor(DType::F32, &[1, 1, 2, 4])?;
//! let mut v = device.alloc_tensor(DType::F32, &[1, 1, 2, 4])?;
//! q.write(0, &[1.0f32, 0.0, 0.0, 0.0])?;
//! k.write(0, &[9.0f32, 0.0, 0.0, 0.0, 9.0, 0.0, 0.0, 0.0])?;
//! v.write(0, &[1.0f32, 2.0, 3.0, 4.0, 3.0, 4.0, 5.0, 6.0])?;
//! let output = device.alloc_tensor(DType::F32, &[1, 1, 1, 4])?;
//! let params = SdpaParams {
//!     n_heads: 1, n_kv_heads: 1, head_dim: 4, seq_len: 1, kv_seq_len: 2, scale: 0.5, kv_capacity: 0,
//! };
//! let mut encoder = device.command_encoder()?;
//! sdpa(&mut encoder, &mut registry, &device, &q, &k, &v, &output, &params, 1)?;
//! encoder.commit_and_wait()?;
//! assert_eq!(output.read::<f32>()?, [2.0, 3.0, 4.0, 5.0]);
//! # Ok::<(), mlx_native::MlxError>(())
//! ```

pub mod backend;
mod buffer;
mod buffer_pool;
mod config;
mod device;
mod device_kind;
mod dtype;
mod encoder;
mod error;
pub mod gguf;
pub mod graph;
pub mod kernel;
pub mod metal;
pub mod ops;
pub mod quant;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod weights;

pub use backend::Allocation;
pub use backend::cpu::Isa;
pub use buffer::{HostRead, HostWrite, MemRange, MlxBuffer};
pub use buffer_pool::{DEFAULT_POOL_CAP, MlxBufferPool};
pub use config::{Config, EmulatorConfig, MetalConfig, MetalTrace, Schedule};
pub use device::{DeviceRef, MlxDevice};
pub use device_kind::DeviceKind;
pub use dtype::DType;
pub use encoder::{
    CapturedNode, CapturedOpKind, CommandEncoder, DispatchKind, KernelArg, RecordedBinding, Transfer,
    as_bytes, dispatch_count, reset_counters, sync_count,
};
pub use error::{MlxError, Result};
pub use gguf::{GgufFile, GgufModel, MetadataValue, TensorInfo};
pub use graph::{ComputeGraph, GraphExecutor, GraphSession};
pub use kernel::{ConstantValue, KernelRegistry};
pub use metal::MTLSize;
