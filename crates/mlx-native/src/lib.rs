//! MLX-compatible compute in pure Rust: the same kernels on Apple GPUs through Metal, on any CPU, and on an emulator that
//! proves the Metal text on machines without a GPU.
//!
//! What to read first:
//! - [`MlxDevice`] opens a device, [`MlxBuffer`] is its memory, [`CommandEncoder`] records work for it, [`Recorder`] holds
//!   what recording needs in one hand;
//! - [`ops`] has the operators, [`ops::sdpa`] being the one to start with;
//! - [`KernelRegistry`] maps kernel names to Metal text, also to text of your own;
//! - [`weights`] reads safetensors files, mapped;
//! - [`graph`] keeps recorded work to replay and reorder it;
//! - [`backend`] is the contract between all that and a device.
//!
//! # A kernel of your own, on the best device here
//! ```
//! use mlx_native::backend::cpu::Launch;
//! use mlx_native::{DType, KernelArg, MlxDevice, Recorder};
//! const TEXT: &str = "kernel void square(device const float *x [[buffer(0)]], device float *y [[buffer(1)]],
//!     uint i [[thread_position_in_grid]]) { y[i] = x[i] * x[i]; }";
//! // What the text does in threads, the processor does in parts.
//! fn square(launch: &Launch<'_>, _part: usize, _parts: usize) {
//!     let (first, y) = launch.own_part::<f32>(1);
//!     y.iter_mut().zip(&launch.input::<f32>(0)[first..]).for_each(|(y, x)| *y = x * x);
//! }
//! let device = MlxDevice::new()?;
//! let (mut x, y) = (device.alloc_tensor(DType::F32, &[3])?, device.alloc_tensor(DType::F32, &[3])?);
//! x.write(0, &[1.0f32, 2.0, 3.0])?;
//! let mut recorder = Recorder::new(&device)?;
//! recorder.registry_mut().register_source("square", TEXT);
//! recorder.registry_mut().register_body("square", square)?;
//! recorder.dispatch("square", [3, 1, 1], &[KernelArg::Buffer(&x), KernelArg::Buffer(&y)])?;
//! recorder.commit_and_wait()?;
//! assert_eq!(y.read::<f32>()?, [1.0, 4.0, 9.0]);
//! # Ok::<(), mlx_native::MlxError>(())
//! ```
//!
//! # Two operators, captured once and replayed
//! ```
//! use mlx_native::{DType, MlxDevice, Recorder, ops::add::{AddParams, add}};
//! let device = MlxDevice::new()?;
//! let (mut x, y) = (device.alloc_tensor(DType::F32, &[2])?, device.alloc_tensor(DType::F32, &[2])?);
//! x.write(0, &[1.0f32, 2.0])?;
//! let params = AddParams { n_elements: 2, b_elements: 2 };
//! let step = Recorder::new(&device)?.capture(|encoder, registry, device| {
//!     add(encoder, registry, device, &x, &x, &y, &params)?;
//!     add(encoder, registry, device, &y, &x, &x, &params)
//! })?;
//! for _ in 0..2 {
//!     step.replay()?.wait()?;
//! }
//! assert_eq!(x.read::<f32>()?, [9.0, 18.0]);
//! # Ok::<(), mlx_native::MlxError>(())
//! ```
//!
//! # Attention, as the published 0.1.0 calls it
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
mod element;
mod encoder;
mod error;
pub mod gguf;
pub mod graph;
mod isa;
pub mod kernel;
mod label;
mod library;
pub mod metal;
pub mod ops;
mod profile;
pub mod quant;
mod recorder;
mod registry;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod turboquant;
mod vector;
pub mod weight;
pub mod weights;

pub use backend::Allocation;
pub use buffer::{HostRead, HostWrite, MemRange, MlxBuffer};
pub use buffer_pool::{DEFAULT_POOL_CAP, MlxBufferPool};
pub use config::{Config, CudaConfig, EmulatorConfig, MetalConfig, MetalTrace, Schedule};
pub use device::{DeviceRef, MlxDevice};
pub use device_kind::DeviceKind;
pub use dtype::DType;
pub use encoder::{
    CapturedNode, CapturedOpKind, CommandEncoder, DispatchKind, KernelArg, RecordedBinding, Transfer,
    as_bytes, dispatch_count, reset_counters, sync_count,
};
pub use error::{MlxError, Result};
pub use gguf::{GgufFile, GgufModel, MetadataValue, TensorInfo};
pub use graph::{ComputeGraph, GraphExecutor, GraphSession, OpKind, PreparedGraph, Replay};
pub use isa::{Isa, IsaToken};
pub use kernel::ConstantValue;
pub use metal::MTLSize;
pub use ops::quantized_matmul::{QuantizedMatmulParams, quantized_matmul, quantized_matmul_simd};
pub use ops::quantized_matmul_ggml::{GgmlQuantizedMatmulParams, GgmlType, quantized_matmul_ggml};
pub use ops::quantized_matmul_id::{QuantizedMatmulIdParams, quantized_matmul_id};
pub use ops::quantized_matmul_id_ggml::{GgmlQuantizedMatmulIdParams, quantized_matmul_id_ggml};
pub use profile::{Bandwidth, DeviceProfile, Execution, MatrixUnits};
pub use recorder::Recorder;
pub use registry::KernelRegistry;
pub use weight::{
    QuantizationConfig, QuantizedWeight, SafetensorsFile, TensorQuantConfig, load_quantized_weights,
    safetensors_to_metal_buffer,
};

/// Fails to compile unless the type is `Send` and `Sync`.
#[doc(hidden)]
#[macro_export]
macro_rules! static_assertions_send_sync {
    ($type:ty) => {
        const _: () = {
            const fn is_send_and_sync<T: Send + Sync>() {}
            is_send_and_sync::<$type>()
        };
    };
}
