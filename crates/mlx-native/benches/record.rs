//! Host cost of recording one dispatch, and of replaying a captured step, on the device that runs nothing. `cargo bench -p mlx-native --bench record`

#![allow(missing_docs, reason = "made by a macro")]

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use mlx_native::ops::add::{AddParams, add};
use mlx_native::ops::kv_append::{KvAppendParams, kv_append};
use mlx_native::ops::matmul::{MatmulParams, matmul};
use mlx_native::ops::rms_norm::{RmsNormParams, rms_norm};
use mlx_native::ops::rope::{RopeParams, rope_at};
use mlx_native::ops::sdpa::{SdpaParams, sdpa};
use mlx_native::ops::silu_mul::{SiluMulParams, silu_mul};
use mlx_native::{CommandEncoder, DType, DeviceKind, KernelRegistry, MlxBuffer, MlxDevice, Recorder, Result};

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

const LAYERS: usize = 28;

/// One decode step of a model of 28 layers, small in numbers and of the usual shape: 16 dispatches for each layer.
fn decode_step(
    device: &MlxDevice,
    ids: &MlxBuffer,
) -> impl FnOnce(&mut CommandEncoder, &mut KernelRegistry, &MlxDevice) -> Result<()> {
    let tensor = |shape: &[usize]| device.alloc_tensor(DType::F32, shape).expect("a small buffer");
    let caches: Vec<_> = (0..2 * LAYERS).map(|_| tensor(&[2, 256, 64])).collect();
    let weight = tensor(&[256, 256]);
    let norm = tensor(&[256]);
    let [x, y, q, k, v, gate, up] = [(); 7].map(|()| tensor(&[256]));
    let position = ids.view(4, DType::U32, vec![1]).expect("the second word");
    move |e, r, d| {
        let norms = RmsNormParams {
            rows: 1,
            dim: 256,
            eps: 1e-5,
        };
        let product = |n| MatmulParams {
            m: 1,
            n,
            k: 256,
            transpose: true,
        };
        let turn = |n_heads| RopeParams {
            n_heads,
            seq_len: 1,
            head_dim: 64,
            dims: 64,
            traditional: 0,
            base: 1e4,
            scale: 1.0,
            offset: 0,
            x_head_stride: 0,
            x_seq_stride: 0,
            out_head_stride: 0,
            out_seq_stride: 0,
        };
        let append = KvAppendParams {
            n_kv_heads: 2,
            head_dim: 64,
            n_tokens: 1,
            capacity: 256,
            position: 0,
        };
        let attention = SdpaParams {
            n_heads: 4,
            n_kv_heads: 2,
            head_dim: 64,
            seq_len: 1,
            kv_seq_len: 200,
            scale: 0.125,
            kv_capacity: 256,
        };
        let sum = AddParams {
            n_elements: 256,
            b_elements: 256,
        };
        for cache in caches.chunks_exact(2) {
            rms_norm(e, r, d, &x, Some(&norm), &y, &norms)?;
            matmul(e, r, d, &y, &weight, &q, &product(256))?;
            matmul(e, r, d, &y, &weight, &k, &product(128))?;
            matmul(e, r, d, &y, &weight, &v, &product(128))?;
            rope_at(e, r, d, &q, None, &position, &q, &turn(4))?;
            rope_at(e, r, d, &k, None, &position, &k, &turn(2))?;
            kv_append(e, r, d, &k, &cache[0], &append)?;
            kv_append(e, r, d, &v, &cache[1], &append)?;
            sdpa(e, r, d, &q, &cache[0], &cache[1], &y, &attention, 1)?;
            matmul(e, r, d, &y, &weight, &q, &product(256))?;
            add(e, r, d, &x, &q, &x, &sum)?;
            rms_norm(e, r, d, &x, Some(&norm), &y, &norms)?;
            matmul(e, r, d, &y, &weight, &gate, &product(256))?;
            matmul(e, r, d, &y, &weight, &up, &product(256))?;
            silu_mul(e, r, d, &gate, &up, &gate, &SiluMulParams { n_elements: 256 })?;
            add(e, r, d, &x, &gate, &x, &sum)?;
        }
        Ok(())
    }
}

/// What a token costs the host when its step was captured once: ids and position are written, the list is handed over.
fn replay(c: &mut Criterion) {
    let device = MlxDevice::open(DeviceKind::Null).expect("the null device always opens");
    let mut ids = device.alloc_tensor(DType::U32, &[2]).expect("a small buffer");
    let mut recorder = Recorder::new(&device).expect("the null device gives encoders");
    let step = recorder.capture(decode_step(&device, &ids)).expect("valid");
    assert_eq!(step.dispatch_count(), 16 * LAYERS);
    let mut token = 0u32;
    c.bench_function("replay a step of 28 layers", |b| {
        b.iter(|| {
            token += 1;
            ids.write(0, &[token, token]).expect("nobody holds it");
            black_box(step.replay().expect("nobody holds anything"))
        });
    });
}

criterion_group!(benches, record, replay);
criterion_main!(benches);
