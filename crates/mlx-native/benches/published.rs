//! What the published functions of 0.1 cost beside the operators that they adapt. `cargo bench -p mlx-native --bench published`
//!
//! Recording on the device that runs nothing, then recording and running on the processor; each pair alternates, and the
//! least of many runs counts.

#![allow(clippy::print_stdout, reason = "the table is what it is for")]

use std::time::{Duration, Instant};

use mlx_native::ops::add::{AddParams, add};
use mlx_native::ops::dense_gemm::{DenseGemmF16Params, dispatch_dense_gemm_f16};
use mlx_native::ops::elementwise::elementwise_add;
use mlx_native::ops::linear::{LinearParams, linear};
use mlx_native::ops::matmul::{MatmulParams, matmul};
use mlx_native::ops::quantized_matmul::{dispatch_quantized_matmul_simd_bf16, quantized_matmul};
use mlx_native::ops::rms_norm::{RmsNormParams, dispatch_rms_norm, rms_norm};
use mlx_native::quant::{Weight, WeightFormat};
use mlx_native::{
    CommandEncoder, DType, DeviceKind, KernelRegistry, MlxBuffer, MlxDevice, QuantizedMatmulParams, Result,
};

type Call<'a> = &'a dyn Fn(&mut CommandEncoder, &mut KernelRegistry, &MlxDevice) -> Result<()>;

/// The least time of `repeats` calls in one encoder, for each of two functions.
fn pair(device: &MlxDevice, repeats: u32, runs: u32, [ours, theirs]: [Call<'_>; 2]) -> Result<[f64; 2]> {
    let mut registry = KernelRegistry::new();
    let mut least = [Duration::MAX; 2];
    for _ in 0..runs {
        for (call, least) in [ours, theirs].into_iter().zip(&mut least) {
            let begin = Instant::now();
            let mut encoder = device.command_encoder()?;
            for _ in 0..repeats {
                call(&mut encoder, &mut registry, device)?;
            }
            encoder.commit_and_wait()?;
            *least = (*least).min(begin.elapsed());
        }
    }
    Ok(least.map(|t| t.as_secs_f64() * 1e6 / f64::from(repeats)))
}

fn row(name: &str, [ours, theirs]: [f64; 2]) {
    println!("{name:44} {ours:10.2} µs {theirs:10.2} µs {:6.2}", theirs / ours);
}

fn on(kind: DeviceKind, repeats: u32, runs: u32) -> Result<()> {
    let device = &MlxDevice::open(kind)?;
    let tensor = |dtype: DType, n: usize| device.alloc_tensor(dtype, &[n]);
    println!(
        "{:44} {:>13} {:>13} ratio",
        device.name(),
        "operator",
        "as in 0.1"
    );

    let n = 1 << 16;
    let [a, b, c] = [
        tensor(DType::F32, n)?,
        tensor(DType::F32, n)?,
        tensor(DType::F32, n)?,
    ];
    let sum = AddParams {
        n_elements: n as u32,
        b_elements: n as u32,
    };
    let times = pair(
        device,
        repeats,
        runs,
        [&|e, r, d| add(e, r, d, &a, &b, &c, &sum), &|e, r, d| {
            elementwise_add(e, r, d.metal_device(), &a, &b, &c, n, DType::F32)
        }],
    )?;
    row("add, elementwise_add: 65536 f32", times);

    let (rows, dim) = (16u32, 4096u32);
    let [weight, eps] = [tensor(DType::F32, dim as usize)?, tensor(DType::F32, 2)?];
    let norm = RmsNormParams { rows, dim, eps: 1e-5 };
    let times = pair(
        device,
        repeats,
        runs,
        [
            &|e, r, d| rms_norm(e, r, d, &a, Some(&weight), &c, &norm),
            &|e, r, d| dispatch_rms_norm(e, r, d.metal_device(), &a, &weight, &c, &eps, rows, dim),
        ],
    )?;
    row("rms_norm, dispatch_rms_norm: 16 x 4096 f32", times);

    let (m, n, k) = (8u32, 512u32, 512u32);
    let halves = |n: u32, k: u32| tensor(DType::F16, (n * k) as usize);
    let [a, b, c] = [halves(m, k)?, halves(n, k)?, halves(m, n)?];
    let times = pair(
        device,
        repeats,
        runs,
        [
            &|e, r, d| {
                matmul(
                    e,
                    r,
                    d,
                    &a,
                    &b,
                    &c,
                    &MatmulParams {
                        m,
                        n,
                        k,
                        transpose: true,
                    },
                )
            },
            &|e, r, d| {
                dispatch_dense_gemm_f16(
                    e,
                    r,
                    d.metal_device(),
                    &a,
                    &b,
                    &c,
                    &DenseGemmF16Params { m, n, k },
                )
            },
        ],
    )?;
    row("matmul, dense_gemm_f16: 8 x 512 x 512", times);
    products(device, repeats, runs)
}

/// Four bits in groups of 64.
fn products(device: &MlxDevice, repeats: u32, runs: u32) -> Result<()> {
    let (n, k, group_size) = (1024u32, 1024u32, 64u32);
    let words = device.alloc_tensor(DType::U32, &[n as usize, (k / 8) as usize])?;
    let plane = || device.alloc_tensor(DType::BF16, &[n as usize, (k / group_size) as usize]);
    let [scales, biases] = [plane()?, plane()?];
    let format = WeightFormat::affine(4, group_size, DType::BF16)?;
    let planes: Vec<MlxBuffer> = vec![
        words.view(0, DType::U32, words.shape().to_vec())?,
        scales.view(0, DType::BF16, scales.shape().to_vec())?,
        biases.view(0, DType::BF16, biases.shape().to_vec())?,
    ];
    let weight = Weight::new(format, planes, &[n as usize, k as usize])?;
    for m in [1u32, 8] {
        let x = device.alloc_tensor(DType::BF16, &[m as usize, k as usize])?;
        let wide = device.alloc_tensor(DType::F32, &[m as usize, k as usize])?;
        let params = QuantizedMatmulParams {
            m,
            k,
            n,
            group_size,
            bits: 4,
        };
        // The published function makes its output.
        let of_operator = |e: &mut CommandEncoder, r: &mut KernelRegistry, d: &MlxDevice, x: &MlxBuffer| {
            let y = d.alloc_tensor(x.dtype(), &[m as usize, n as usize])?;
            linear(e, r, d, x, &weight, None, &y, &LinearParams { m })
        };
        let times = pair(
            device,
            repeats,
            runs,
            [&|e, r, d| of_operator(e, r, d, &x), &|e, r, d| {
                dispatch_quantized_matmul_simd_bf16(e, r, d, &x, &words, &scales, &biases, &params).map(drop)
            }],
        )?;
        row(&format!("linear, quantized_matmul_simd_bf16: {m} row(s)"), times);
        let times = pair(
            device,
            repeats,
            runs,
            [&|e, r, d| of_operator(e, r, d, &wide), &|e, r, d| {
                quantized_matmul(e, r, d, &wide, &words, &scales, &biases, &params).map(drop)
            }],
        )?;
        row(&format!("linear, quantized_matmul (rounds): {m} row(s)"), times);
    }
    Ok(())
}

fn main() -> Result<()> {
    on(DeviceKind::Null, 256, 40)?;
    on(DeviceKind::Cpu, 8, 40)
}
