//! What the cases of `matmul` do not see: how the work is cut, and the micro-kernels alone.

use super::micro::{MicroKernel, Tile};
use super::*;
use crate::isa::IsaToken;

#[test]
fn tasks_cover_the_output_once() {
    for (m, n, parts) in [
        (1, 1, 1),
        (9, 33, 2),
        (512, 4096, 2),
        (337, 257, 16),
        (1000, 31, 64),
    ] {
        for width in [8, 12, 16, 32] {
            let plan = Plan::new(Shape { m, n, k: 1 }, width, parts);
            assert!(
                plan.row_chunk <= ROW_CHUNK && plan.group <= GROUP,
                "{m} {n} {width}"
            );
            assert!(plan.row_chunk * (plan.tasks() / plan.groups()) >= m);
            assert!(plan.group * plan.groups() >= n && plan.group * (plan.groups() - 1) < n);
        }
    }
}

#[test]
fn every_tile_height_of_every_micro_kernel_is_right() {
    for isa in IsaToken::available() {
        let kernel = MicroKernel::of(isa);
        for rows in 1..=kernel.rows {
            let depth = 5;
            let a: Vec<f32> = (0..rows * PITCH).map(|i| (i % 13) as f32 - 6.0).collect();
            let b: Vec<f32> = (0..depth * kernel.columns)
                .map(|i| (i % 7) as f32 - 3.0)
                .collect();
            let mut c = vec![1.0; rows * GROUP];
            for is_first in [false, true] {
                kernel.multiply(&mut Tile {
                    rows,
                    depth,
                    is_first,
                    a: &a,
                    b: &b,
                    c: &mut c,
                });
                for i in 0..rows {
                    for j in 0..GROUP {
                        let dot = |k: usize| a[i * PITCH + k] * b[k * kernel.columns + j];
                        let want = match (j < kernel.columns, is_first) {
                            (false, _) => 1.0,
                            (true, first) => (0..depth).map(dot).sum::<f32>() + if first { 0.0 } else { 1.0 },
                        };
                        assert_eq!(c[i * GROUP + j], want, "{isa} {rows} rows, element {i} {j}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_alone_and_beside_others() {
    use crate::ops::matmul::{MatmulParams, matmul};
    use crate::{DType, DeviceKind, KernelRegistry, MlxDevice};
    let device = MlxDevice::open(DeviceKind::Cpu).unwrap();
    let mut registry = KernelRegistry::new();
    for (n, k) in [(3, 7), (65, 33), (70, 2500), (129, 1024)] {
        let value = |i: usize| ((i * 7919 + 13) % 1009) as f32 / 500.0 - 1.0;
        for dtype in [DType::F32, DType::BF16] {
            let mut weight = device.alloc_tensor(DType::F32, &[n, k]).unwrap();
            weight
                .write(0, &(0..n * k).map(value).collect::<Vec<f32>>())
                .unwrap();
            let wide: Vec<f32> = (0..8 * k).map(|i| value(i * 3 + 1)).collect();
            let mut product = |first: usize, m: usize| -> Vec<u8> {
                let values = &wide[first * k..(first + m) * k];
                let mut x = device.alloc_tensor(dtype, &[m, k]).unwrap();
                match dtype {
                    DType::F32 => x.write(0, values).unwrap(),
                    _ => x
                        .write(
                            0,
                            &values
                                .iter()
                                .map(|v| half::bf16::from_f32(*v))
                                .collect::<Vec<_>>(),
                        )
                        .unwrap(),
                }
                let y = device.alloc_tensor(dtype, &[m, n]).unwrap();
                let params = MatmulParams {
                    m: m as u32,
                    n: n as u32,
                    k: k as u32,
                    transpose: true,
                };
                let mut encoder = device.command_encoder().unwrap();
                matmul(&mut encoder, &mut registry, &device, &x, &weight, &y, &params).unwrap();
                encoder.commit_and_wait().unwrap();
                let mut bytes = vec![0; m * n * dtype.size_of()];
                y.read_into(0, &mut bytes).unwrap();
                bytes
            };
            let alone: Vec<Vec<u8>> = (0..8).map(|i| product(i, 1)).collect();
            for m in 2..=8 {
                assert!(
                    product(0, m) == alone[..m].concat(),
                    "{m} rows, n {n}, k {k}, {dtype}"
                );
            }
        }
    }
}
