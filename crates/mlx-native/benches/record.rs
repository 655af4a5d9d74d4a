//! Host cost of recording one dispatch, on the device that runs nothing. `cargo bench -p mlx-native --bench record`

#![allow(missing_docs, reason = "made by a macro")]

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use mlx_native::ops::add::{AddParams, add};
use mlx_native::{DType, DeviceKind, KernelRegistry, MlxDevice};

const DISPATCHES: u64 = 256;

fn record(c: &mut Criterion) {
    let device = MlxDevice::open(DeviceKind::Null).expect("the null device always opens");
    let mut registry = KernelRegistry::new();
    let params = AddParams {
        n_elements: 4096,
        b_elements: 4096,
    };
    let buffers: Vec<_> = (0..3 * DISPATCHES)
        .map(|_| device.alloc_tensor(DType::F32, &[4096]).expect("a small buffer"))
        .collect();
    let mut group = c.benchmark_group("record");
    group.throughput(Throughput::Elements(DISPATCHES));
    // Each dispatch reads what the one before wrote: a barrier before every one.
    group.bench_function("chain of 256", |b| {
        b.iter_batched(
            || device.command_encoder().expect("the null device gives encoders"),
            |mut encoder| {
                for _ in 0..DISPATCHES {
                    let (x, y) = (&buffers[0], &buffers[1]);
                    add(&mut encoder, &mut registry, &device, x, y, x, &params).expect("valid");
                }
                black_box(encoder)
            },
            BatchSize::SmallInput,
        );
    });
    // No two dispatches share a buffer: no barrier, and a growing set of ranges to compare with.
    group.bench_function("independent, 256", |b| {
        b.iter_batched(
            || device.command_encoder().expect("the null device gives encoders"),
            |mut encoder| {
                for b in buffers.chunks_exact(3) {
                    add(&mut encoder, &mut registry, &device, &b[0], &b[1], &b[2], &params).expect("valid");
                }
                black_box(encoder)
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(benches, record);
criterion_main!(benches);
