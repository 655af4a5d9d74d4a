//! The whole device over the recording stand-in: everything that a Mac would do but run.

#[cfg(feature = "emulator")]
mod executing;
mod kernels;
mod memory;
mod pipelines;
mod work;

use std::sync::{Arc, Mutex, MutexGuard};

use super::device::MetalBackend;
use super::gpu::Facts;
use super::recording::{Call, Log, Recording, facts};
use crate::config::{Config, MetalConfig};
use crate::device::MlxDevice;
use crate::dtype::DType;
use crate::encoder::{CommandEncoder, KernelArg};
use crate::error::Result;
use crate::metal::MTLSize;
use crate::registry::KernelRegistry;

/// A device over the stand-in, and its log.
struct Bench {
    device: MlxDevice,
    log: Arc<Mutex<Log>>,
    registry: KernelRegistry,
}

const TEXT: &str = "
kernel void copy(device const float *x [[buffer(0)]], device float *y [[buffer(1)]],
                 constant uint &n [[buffer(2)]], uint i [[thread_position_in_grid]]) { if (i < n) y[i] = x[i]; }
kernel void shared(device float *y [[buffer(1)]], threadgroup float *t [[threadgroup(0)]],
                   threadgroup float *u [[threadgroup(3)]], uint i [[thread_position_in_grid]]) { y[i] = t[0] + u[0]; }
kernel void matrix(device float *y [[buffer(0)]]) { simdgroup_float8x8 m; simdgroup_load(m, y); }
kernel void brain(device bfloat *y [[buffer(0)]]) { y[0] = 0; }
constant uint N [[function_constant(0)]];
constant bool B [[function_constant(1)]];
kernel void special(device uint *y [[buffer(0)]]) { y[0] = B ? N : 0; }
";

impl Bench {
    fn new() -> Self {
        Self::with(facts(), |_| ())
    }

    fn with(facts: Facts, set: impl FnOnce(&mut Config)) -> Self {
        Self::open(facts, set).expect("the stand-in opens")
    }

    fn open(facts: Facts, set: impl FnOnce(&mut Config)) -> Result<Self> {
        let mut config = Config {
            metal: MetalConfig {
                archives: false,
                ..MetalConfig::default()
            },
            ..Config::default()
        };
        set(&mut config);
        let (gpu, log) = Recording::new(facts);
        let device = MlxDevice::of(Arc::new(MetalBackend::new(gpu, &config)?));
        let mut registry = KernelRegistry::new();
        for name in ["copy", "shared", "matrix", "brain", "special"] {
            registry.register_source(name, TEXT);
        }
        Ok(Bench {
            device,
            log,
            registry,
        })
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap()
    }

    fn events(&self, start: &str) -> Vec<String> {
        let log = self.log();
        log.events
            .iter()
            .filter(|e| e.starts_with(start))
            .cloned()
            .collect()
    }

    /// The calls of all command buffers.
    fn calls(&self) -> Vec<Vec<Call>> {
        self.log().committed.iter().map(|c| c.1.clone()).collect()
    }

    fn floats(&self, n: usize) -> crate::MlxBuffer {
        self.device.alloc_tensor(DType::F32, &[n]).unwrap()
    }

    /// Records `copy` of the whole of `x` into `y`.
    fn copy(&mut self, encoder: &mut CommandEncoder, x: &crate::MlxBuffer, y: &crate::MlxBuffer) {
        let pipeline = self.registry.get_pipeline("copy", &self.device).unwrap();
        let n = x.element_count() as u32;
        let args = [
            (0, KernelArg::Buffer(x)),
            (1, KernelArg::Buffer(y)),
            (2, KernelArg::Bytes(&n.to_le_bytes())),
        ];
        let grid = MTLSize::new(u64::from(n), 1, 1);
        encoder
            .try_encode_with_args(pipeline, &args, grid, MTLSize::new(64, 1, 1))
            .unwrap();
    }

    /// An encoder with `n` copies, each of which needs the one before.
    fn chain(&mut self, n: usize) -> CommandEncoder {
        let mut encoder = self.device.command_encoder().unwrap();
        let buffers: Vec<_> = (0..=n).map(|_| self.floats(4)).collect();
        for pair in buffers.windows(2) {
            self.copy(&mut encoder, &pair[0], &pair[1]);
        }
        encoder
    }
}
