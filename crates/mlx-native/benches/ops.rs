//! Every operator at the sizes of its cases that have a cost, on the CPU: the portable bodies and the best ones.
//!
//! `cargo bench -p mlx-native --features testing --bench ops [-- FILTER]`; a filter is part of `operator/device/case`.

#![allow(missing_docs, reason = "made by a macro")]

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mlx_native::ops::suites;
use mlx_native::testing::{Case, Context, Rng};
use mlx_native::{Config, DType, DeviceKind, Isa, KernelRegistry, MlxBuffer, MlxDevice};

fn ops(c: &mut Criterion) {
    for isa in [Isa::Portable, Isa::best()] {
        let mut config = Config::default();
        config.isa = Some(isa);
        let device = MlxDevice::with_config(DeviceKind::Cpu, &config).expect("the cpu opens");
        for suite in suites() {
            let mut group = c.benchmark_group(format!("{}/cpu-{isa}", suite.op_name()));
            group
                .sample_size(10)
                .warm_up_time(Duration::from_millis(300))
                .measurement_time(Duration::from_secs(1));
            for case in &suite.cases {
                let Some((_, flops)) = case.cost() else { continue };
                // Criterion has no unit for operations: "elements" are floating-point operations.
                group.throughput(Throughput::Elements(flops as u64));
                let run = Run::new(&**case, &device);
                let mut registry = KernelRegistry::new();
                group.bench_function(format!("{case:?}"), |b| b.iter(|| run.once(&mut registry)));
            }
            group.finish();
        }
    }
}

/// A case with its buffers.
struct Run<'a> {
    case: &'a dyn Case,
    device: &'a MlxDevice,
    inputs: Vec<MlxBuffer>,
    outputs: Vec<MlxBuffer>,
}

impl<'a> Run<'a> {
    fn new(case: &'a dyn Case, device: &'a MlxDevice) -> Self {
        let mut rng = Rng::new(1);
        let buffer = |dtype: DType, shape: &[usize], bytes: Option<&[u8]>| {
            let mut buffer = device.alloc_tensor(dtype, shape).expect("memory for a case");
            if let Some(bytes) = bytes {
                buffer.write(0, bytes).expect("as large");
            }
            buffer
        };
        let inputs = case.inputs(&mut rng);
        let before = case.before(&mut rng);
        let outputs = case.outputs().into_iter().enumerate();
        Run {
            case,
            device,
            inputs: inputs
                .iter()
                .map(|t| buffer(t.dtype(), t.shape(), Some(t.bytes())))
                .collect(),
            outputs: outputs
                .map(|(i, (dtype, shape))| buffer(dtype, &shape, before.as_ref().map(|b| b[i].bytes())))
                .collect(),
        }
    }

    fn once(&self, registry: &mut KernelRegistry) {
        let mut encoder = self.device.command_encoder().expect("the cpu gives encoders");
        let mut context = Context {
            device: self.device,
            registry,
            encoder: &mut encoder,
            inputs: &self.inputs,
            outputs: &self.outputs,
        };
        self.case.encode(&mut context).expect("cases are valid");
        encoder.commit_and_wait().expect("cases run");
    }
}

criterion_group!(benches, ops);
criterion_main!(benches);
