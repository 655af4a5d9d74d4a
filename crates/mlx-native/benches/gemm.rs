//! Dense products on the CPU against the peak of its multiply-add units, and mat-vec against its memory.
//!
//! `cargo bench -p mlx-native --bench gemm [-- FILTER]`. Each line is the best of several runs, which are interleaved with
//! runs of the probes: peak and product are measured within the same seconds. Not criterion: what counts is the ratio.

use std::hint::black_box;
use std::time::Instant;

#[cfg(target_arch = "x86_64")]
use mlx_native::Isa;
use mlx_native::ops::matmul::{MatmulParams, matmul};
use mlx_native::{Config, DType, DeviceKind, KernelRegistry, MlxDevice};

/// m, n, k, transpose, dtype of x, dtype of the weight.
const SHAPES: &[(u32, u32, u32, bool, DType, DType)] = &[
    (1024, 1024, 1024, true, DType::F32, DType::F32),
    (1024, 1024, 1024, false, DType::F32, DType::F32),
    (512, 4096, 4096, true, DType::F32, DType::F32),
    (512, 4096, 4096, true, DType::F32, DType::BF16),
    (512, 4096, 4096, true, DType::BF16, DType::BF16),
    (512, 4096, 4096, true, DType::F16, DType::F16),
    (32, 4096, 4096, true, DType::F32, DType::F32),
    (1, 4096, 4096, true, DType::F32, DType::F32),
    (1, 4096, 4096, true, DType::F32, DType::BF16),
    (1, 4096, 4096, true, DType::BF16, DType::BF16),
    (1, 4096, 4096, true, DType::F16, DType::F16),
    (8, 4096, 4096, true, DType::F32, DType::BF16),
    (1, 4096, 4096, false, DType::F32, DType::F32),
];

fn main() {
    let filters: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    println!(
        "{:44} {:>7} {:>9} {:>9} {:>7} {:>9}",
        "product", "threads", "ms", "GFLOP/s", "% peak", "GB/s"
    );
    for &shape in SHAPES {
        for threads in if cores > 1 { vec![1, cores] } else { vec![1] } {
            let (m, n, k, transpose, x, w) = shape;
            let name = format!(
                "{m}x{n}x{k} {} x {x} weight {w}",
                if transpose { "[n,k]" } else { "[k,n]" }
            );
            if filters.is_empty() || filters.iter().any(|f| name.contains(f)) {
                measure(&name, shape, threads);
            }
        }
    }
}

fn measure(name: &str, shape: (u32, u32, u32, bool, DType, DType), threads: usize) {
    let (m, n, k, transpose, x_dtype, w_dtype) = shape;
    let mut config = Config::default();
    config.threads = Some(threads);
    let device = MlxDevice::with_config(DeviceKind::Cpu, &config).expect("every machine has a cpu");
    let mut registry = KernelRegistry::new();
    let tensor = |dtype, rows: u32, columns: u32| {
        let mut t = device
            .alloc_tensor(dtype, &[rows as usize, columns as usize])
            .expect("memory for it");
        // 0x3C is the upper byte of small positive numbers in all three dtypes: nothing subnormal, nothing infinite.
        t.write(0, &vec![0x3Cu8; t.byte_len()]).expect("it is as long");
        t
    };
    // Mat-vec: as many weights as do not fit into any cache, in turn, for a model has many layers. Products that are bound
    // by arithmetic: one, short enough to find the machine idle now and then.
    let weight_bytes = n as usize * k as usize * w_dtype.size_of();
    let count = if m <= 8 {
        (256usize << 20).div_ceil(weight_bytes).clamp(1, 16)
    } else {
        1
    };
    let weights: Vec<_> = (0..count).map(|_| tensor(w_dtype, n, k)).collect();
    let (x, y) = (tensor(x_dtype, m, k), tensor(x_dtype, m, n));
    let params = MatmulParams { m, n, k, transpose };
    let flops = 2.0 * f64::from(m) * f64::from(n) * f64::from(k);
    let (mut best, mut peak) = (f64::INFINITY, 0f64);
    for _ in 0..25 {
        peak = peak.max(peak_gflops(threads));
        let mut encoder = device.command_encoder().expect("a cpu gives encoders");
        for w in &weights {
            matmul(&mut encoder, &mut registry, &device, &x, w, &y, &params).expect("a valid product");
        }
        let start = Instant::now();
        encoder.commit_and_wait().expect("it runs");
        best = best.min(start.elapsed().as_secs_f64() / weights.len() as f64);
    }
    let gflops = flops / best / 1e9;
    println!(
        "{name:44} {threads:>7} {:>9.3} {gflops:>9.1} {:>6.0}% {:>9.1}",
        best * 1e3,
        gflops / peak * 100.0,
        weight_bytes as f64 / best / 1e9
    );
}

/// What `threads` threads reach when they do nothing but multiply and add in registers.
fn peak_gflops(threads: usize) -> f64 {
    const ROUNDS: usize = 400_000;
    let start = Instant::now();
    let flops: f64 = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| scope.spawn(|| probe(black_box(ROUNDS))))
            .collect();
        workers
            .into_iter()
            .map(|w| w.join().expect("it does not panic"))
            .sum()
    });
    flops / start.elapsed().as_secs_f64() / 1e9
}

/// Sums in flight: more than latency times units of any processor.
const CHAINS: usize = 16;

#[cfg(target_arch = "x86_64")]
fn probe(rounds: usize) -> f64 {
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx512f")]
    fn avx512(rounds: usize) {
        let (mut sums, x) = ([_mm512_set1_ps(1.0); CHAINS], black_box(_mm512_set1_ps(0.5)));
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, x, x);
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx2,fma")]
    fn avx2(rounds: usize) {
        let (mut sums, x) = ([_mm256_set1_ps(1.0); CHAINS - 4], black_box(_mm256_set1_ps(0.5)));
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, x, x);
            }
        }
        black_box(sums);
    }

    let (chains, lanes) = match Isa::best() {
        Isa::Avx512 | Isa::Avx512Bf16 => {
            // SAFETY: the level includes the instructions.
            unsafe { avx512(rounds) };
            (CHAINS, 16)
        }
        Isa::Avx2 => {
            // SAFETY: the level includes the instructions.
            unsafe { avx2(rounds) };
            (CHAINS - 4, 8)
        }
        _ => return plain(rounds),
    };
    (2 * rounds * chains * lanes) as f64
}

#[cfg(not(target_arch = "x86_64"))]
fn probe(rounds: usize) -> f64 {
    plain(rounds)
}

/// Without intrinsics: as the compiler does it.
fn plain(rounds: usize) -> f64 {
    let (mut sums, x) = ([1.0f32; CHAINS * 4], black_box(0.5f32));
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = if cfg!(target_arch = "aarch64") {
                sum.mul_add(x, x)
            } else {
                *sum * x + x
            };
        }
    }
    black_box(sums);
    (2 * rounds * CHAINS * 4) as f64
}
