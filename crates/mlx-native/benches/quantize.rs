//! How fast matrices are quantised, in bytes of their input. `cargo bench -p mlx-native --bench quantize`

#![allow(missing_docs, reason = "made by a macro")]

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use half::bf16;
use mlx_native::quant::floats::quantize_floats;
use mlx_native::quant::{AffineFormat, FloatFormat, affine};

/// 32 MiB of input: beyond the caches.
const ROWS: usize = 4096;
const COLUMNS: usize = 4096;

fn quantize(c: &mut Criterion) {
    let mut bits = 1u32;
    let values: Vec<bf16> = (0..ROWS * COLUMNS)
        .map(|_| {
            bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            bf16::from_f32((bits >> 8) as f32 / (1 << 23) as f32 - 1.0)
        })
        .collect();
    let mut group = c.benchmark_group("quantize");
    group
        .throughput(Throughput::Bytes(2 * values.len() as u64))
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2));
    for bits in AffineFormat::BITS {
        let format = AffineFormat::new(64, bits).expect("MLX has it");
        group.bench_function(format!("affine {bits} bits"), |b| {
            b.iter(|| affine::quantize(black_box(&values), COLUMNS, format).expect("whole groups"));
        });
    }
    for format in [FloatFormat::Mxfp4, FloatFormat::Mxfp8, FloatFormat::Nvfp4] {
        group.bench_function(format!("{format:?}"), |b| {
            b.iter(|| quantize_floats(black_box(&values), COLUMNS, format, None).expect("whole groups"));
        });
    }
    group.finish();
}

criterion_group!(benches, quantize);
criterion_main!(benches);
