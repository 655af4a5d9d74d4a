//! The whole device over the recording stand-in: everything that a machine with a GPU would do but run.

mod compiling;
mod memory;
mod stages;
mod text;
mod work;

use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use super::device::CudaBackend;
use super::gpu::Facts;
use super::nvrtc::Output;
use super::recording::{Call, Echo, Log, Recording, facts};
use crate::config::Config;
use crate::device::MlxDevice;
use crate::dtype::DType;
use crate::encoder::{CommandEncoder, KernelArg};
use crate::error::Result;
use crate::metal::MTLSize;
use crate::registry::KernelRegistry;

const TEXT: &str = "
struct Params { uint n; float scale; };
kernel void copy(device const float *x [[buffer(0)]], device float *y [[buffer(1)]],
                 constant Params &p [[buffer(2)]], uint i [[thread_position_in_grid]]) { y[i] = x[i] * p.scale; }
kernel void rows(device float *y [[buffer(1)]], constant Params &p [[buffer(0)]],
                 uint3 group [[threadgroup_position_in_grid]]) { y[group.x] = simd_sum(p.scale); }
kernel void shared(device float *y [[buffer(1)]], threadgroup float *t [[threadgroup(0)]],
                   threadgroup float *u [[threadgroup(3)]], uint i [[thread_index_in_threadgroup]]) { y[i] = t[0] + u[0]; }
kernel void table(constant float *x [[buffer(0)]], device float *y [[buffer(1)]]) { y[0] = x[1]; }
constant uint N [[function_constant(0)]];
constant bool B [[function_constant(1)]];
kernel void special(device uint *y [[buffer(0)]]) { y[0] = B ? N : 0; }
";

/// A device over the stand-in, and its log.
struct Bench {
    device: MlxDevice,
    log: Arc<Mutex<Log>>,
    moved: Arc<Condvar>,
    compiled: Arc<Mutex<Vec<Output>>>,
    registry: KernelRegistry,
}

impl Bench {
    fn new() -> Self {
        Self::with(facts(), |_| ())
    }

    fn with(facts: Facts, set: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        config.cuda.cache = false;
        set(&mut config);
        let (gpu, log, moved) = Recording::new(facts);
        let (finder, compiled) = Echo::finder();
        let backend = CudaBackend::new(gpu, &config, finder).expect("the stand-in opens");
        let device = MlxDevice::of(Arc::new(backend));
        let mut registry = KernelRegistry::new();
        for name in ["copy", "rows", "shared", "table", "special"] {
            registry.register_source(name, TEXT);
        }
        Bench {
            device,
            log,
            moved,
            compiled,
            registry,
        }
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap()
    }

    /// Lets the stream run, or stops it.
    fn hold(&self, held: bool) {
        self.log().held = held;
        self.moved.notify_all();
    }

    fn launches(&self) -> Vec<Call> {
        let log = self.log();
        log.calls
            .iter()
            .filter(|c| matches!(c, Call::Launch { .. }))
            .cloned()
            .collect()
    }

    fn floats(&self, n: usize) -> crate::MlxBuffer {
        self.device.alloc_tensor(DType::F32, &[n]).unwrap()
    }

    fn encoder(&self) -> CommandEncoder {
        self.device.command_encoder().unwrap()
    }

    /// Records a dispatch by threads.
    fn threads(
        &mut self,
        encoder: &mut CommandEncoder,
        name: &str,
        args: &[(u64, KernelArg<'_>)],
        grid: [u64; 3],
        group: [u64; 3],
    ) -> Result<()> {
        let pipeline = self.registry.get_pipeline(name, &self.device)?;
        encoder.try_encode_with_args(pipeline, args, size(grid), size(group))
    }

    /// Records a dispatch by threadgroups.
    fn groups(
        &mut self,
        encoder: &mut CommandEncoder,
        name: &str,
        args: &[(u64, KernelArg<'_>)],
        grid: [u64; 3],
        group: [u64; 3],
    ) -> Result<()> {
        let pipeline = self.registry.get_pipeline(name, &self.device)?;
        encoder.try_encode_threadgroups_with_args(pipeline, args, size(grid), size(group))
    }
}

fn size([x, y, z]: [u64; 3]) -> MTLSize {
    MTLSize::new(x, y, z)
}

/// The bytes of `Params`.
fn params(n: u32, scale: f32) -> Vec<u8> {
    [n.to_ne_bytes(), scale.to_ne_bytes()].concat()
}

/// Numbers as they stand in a parameter.
fn words(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|n| n.to_ne_bytes()).collect()
}
