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
