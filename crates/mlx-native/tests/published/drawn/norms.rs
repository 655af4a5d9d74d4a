//! Norms and rotations.

use mlx_native::ops::{
    fused_head_norm_rope as heads, fused_norm_add as fused, fused_residual_norm, rms_norm as rms,
    rope as ropes,
};
use mlx_native::{DType, MlxBuffer};

use crate::support::{Bench, FLOATS, Rng, close, tolerance, values};

/// Each row divided by the root of the mean of its squares.
fn normed(x: &[f64], dim: usize, eps: f64) -> Vec<f64> {
    x.chunks(dim)
        .flat_map(|row| {
            let r = (row.iter().map(|v| v * v).sum::<f64>() / dim as f64 + eps).sqrt();
            row.iter().map(move |v| v / r).collect::<Vec<_>>()
        })
        .collect()
}

fn times(x: &[f64], factors: &[f64]) -> Vec<f64> {
    x.iter().zip(factors.iter().cycle()).map(|(x, f)| x * f).collect()
}

fn plus(x: &[f64], y: &[f64]) -> Vec<f64> {
    x.iter().zip(y).map(|(x, y)| x + y).collect()
}

const EPS: f32 = 1e-5;

pub fn rms_norm(b: &mut Bench, r: &mut Rng) {
    let (rows, dim, dtype) = (r.range(1, 6), r.range(1, b.most(1500)), r.pick(&FLOATS));
    let len = rows * dim;
    let x = b.floats(dtype, &r.floats(len, 3.0));
    let weight = b.floats(
        if dtype == DType::BF16 { dtype } else { DType::F32 },
        &r.floats(dim, 2.0),
    );
    let factor = b.floats(dtype, &r.floats(len, 2.0));
    let params = b.floats(DType::F32, &[EPS, dim as f32]);
    let [plain, product, bare] = [0; 3].map(|_| b.zeros(dtype, len));
    let (n, d) = (rows as u32, dim as u32);
    b.run(|e, reg, device| {
        let device = device.metal_device();
        rms::dispatch_rms_norm(e, reg, device, &x, &weight, &plain, &params, n, d)?;
        rms::dispatch_rms_norm_mul(e, reg, device, &x, &weight, &factor, &product, &params, n, d)?;
        match dtype {
            DType::F32 => rms::dispatch_rms_norm_no_scale_f32(e, reg, device, &x, &bare, &params, n, d),
            DType::BF16 => rms::dispatch_rms_norm_no_scale_bf16(e, reg, device, &x, &bare, &params, n, d),
            _ => Ok(()),
        }
    });
    let norm = normed(&values(&x), dim, f64::from(EPS));
    let weighted = times(&norm, &values(&weight));
    close("rms_norm", &values(&plain), &weighted, tolerance(dtype));
    close(
        "rms_norm_mul",
        &values(&product),
        &times(&weighted, &values(&factor)),
        tolerance(dtype),
    );
    if dtype != DType::F16 {
        close("no_scale", &values(&bare), &norm, tolerance(dtype));
    }
}

pub fn fused_norm_add(b: &mut Bench, r: &mut Rng) {
    let (rows, dim) = (r.range(1, 5), r.range(1, b.most(1100)));
    let (len, n, d) = (rows * dim, rows as u32, dim as u32);
    for dtype in [DType::F32, DType::BF16] {
        let (res, x) = (
            b.floats(dtype, &r.floats(len, 2.0)),
            b.floats(dtype, &r.floats(len, 3.0)),
        );
        let weight = b.floats(dtype, &r.floats(dim, 2.0));
        let is_vector = r.flip();
        let scalar = b.floats(dtype, &r.floats(if is_vector { dim } else { 1 }, 2.0));
        let [behind, bare, normed_out, sum, scaled_before, scaled_behind] =
            [0; 6].map(|_| b.zeros(dtype, len));
        b.run(|e, reg, device| {
            let v = device.metal_device();
            if dtype == DType::BF16 {
                fused::dispatch_fused_norm_add_bf16(e, reg, v, &res, &x, &weight, &behind, d, n, EPS)?;
                return fused::dispatch_fused_norm_add_no_weight_bf16(e, reg, v, &res, &x, &bare, d, n, EPS);
            }
            fused::dispatch_fused_norm_add_f32(e, reg, v, &res, &x, &weight, &behind, d, n, EPS)?;
            fused::dispatch_fused_residual_norm_f32(
                e,
                reg,
                v,
                &res,
                &x,
                &weight,
                &normed_out,
                Some(&sum),
                n,
                d,
                EPS,
            )?;
            fused::dispatch_fused_residual_norm_scalar_f32(
                e,
                reg,
                v,
                &res,
                &x,
                &weight,
                &scaled_before,
                &scalar,
                n,
                d,
                EPS,
                is_vector,
            )?;
            fused::dispatch_fused_norm_add_scalar_f32(
                e,
                reg,
                v,
                &res,
                &x,
                &weight,
                &scaled_behind,
                &scalar,
                n,
                d,
                EPS,
                is_vector,
            )
        });
        let (res, x, weight, scalar) = (values(&res), values(&x), values(&weight), values(&scalar));
        let norm = normed(&x, dim, f64::from(EPS));
        let added = plus(&res, &times(&norm, &weight));
        close("norm_add", &values(&behind), &added, tolerance(dtype));
        if dtype == DType::BF16 {
            close(
                "norm_add_no_weight",
                &values(&bare),
                &plus(&res, &norm),
                tolerance(dtype),
            );
            continue;
        }
        let total = plus(&res, &x);
        let of_sum = times(&normed(&total, dim, f64::from(EPS)), &weight);
        close("residual_norm", &values(&normed_out), &of_sum, 1e-5);
        close("sum", &values(&sum), &total, 1e-6);
        close(
            "residual_norm_scalar",
            &values(&scaled_before),
            &times(&of_sum, &scalar),
            1e-5,
        );
        close(
            "norm_add_scalar",
            &values(&scaled_behind),
            &times(&added, &scalar),
            1e-5,
        );
    }
}

pub fn fused_residual_norm(b: &mut Bench, r: &mut Rng) {
    let (rows, dim) = (r.range(1, 5), r.range(1, b.most(1100)));
    let len = rows * dim;
    let [res, x, weight] = [len, len, dim].map(|n| b.floats(DType::BF16, &r.floats(n, 2.0)));
    let (out, sum) = (b.zeros(DType::BF16, len), b.zeros(DType::BF16, len));
    let wants_sum = r.flip();
    b.run(|e, reg, d| {
        let (device, sum) = (d.metal_device(), wants_sum.then_some(&sum));
        fused_residual_norm::dispatch_fused_residual_norm_bf16(
            e,
            reg,
            device,
            &res,
            &x,
            &weight,
            &out,
            sum,
            rows as u32,
            dim as u32,
            EPS,
        )
    });
    let total = plus(&values(&res), &values(&x));
    let want = times(&normed(&total, dim, f64::from(EPS)), &values(&weight));
    close("normed", &values(&out), &want, tolerance(DType::BF16));
    close(
        "sum",
        &values(&sum),
        &if wants_sum { total } else { vec![0.0; len] },
        tolerance(DType::BF16),
    );
}

/// Turns the pairs `(first(i), second(i))` of a row by `angle(i)`.
fn turn(row: &mut [f64], pairs: impl Iterator<Item = (usize, usize)>, angle: impl Fn(usize) -> f64) {
    for (i, (a, b)) in pairs.enumerate() {
        let (sin, cos) = angle(i).sin_cos();
        (row[a], row[b]) = (row[a] * cos - row[b] * sin, row[a] * sin + row[b] * cos);
    }
}

pub fn fused_head_norm_rope(b: &mut Bench, r: &mut Rng) {
    let (n_heads, head_dim) = (r.range(1, 5), 2 * r.range(1, b.most(260)));
    let (half, len) = (r.range(0, head_dim / 2), n_heads * head_dim);
    let [heads_, dim_, half_] = [n_heads, head_dim, half].map(|v| v as u32);
    for dtype in [DType::F32, DType::BF16] {
        let (x, out) = (b.floats(dtype, &r.floats(len, 2.0)), b.zeros(dtype, len));
        let weight = r.flip().then(|| b.floats(dtype, &r.floats(head_dim, 2.0)));
        let position = r.range(0, 3000) as u32;
        let positions = b.words(&[position]);
        let factors = r
            .flip()
            .then(|| (0..half.max(1)).map(|i| 1.0 + i as f32 / 7.0).collect::<Vec<_>>());
        let factor_buffer = factors.as_ref().map(|f| b.floats(DType::F32, f));
        let angles = r.floats(half.max(1), 3.0);
        let cosines = b.floats(DType::F32, &angles.iter().map(|a| a.cos()).collect::<Vec<_>>());
        let sines = b.floats(DType::F32, &angles.iter().map(|a| a.sin()).collect::<Vec<_>>());
        let theta = r.pick(&[1e4f32, 1e6]);
        b.run(|e, reg, d| match dtype {
            DType::F32 => heads::dispatch_fused_head_norm_rope_f32(
                e,
                reg,
                d.metal_device(),
                &x,
                &out,
                weight.as_ref(),
                &positions,
                factor_buffer.as_ref(),
                heads_,
                dim_,
                half_,
                EPS,
                theta,
            ),
            _ => heads::dispatch_fused_head_norm_rope_bf16(
                e,
                reg,
                d.metal_device(),
                &x,
                &out,
                weight.as_ref(),
                &cosines,
                &sines,
                heads_,
                dim_,
                half_,
                EPS,
            ),
        });
        let ones = vec![1.0; head_dim];
        let mut want = times(
            &normed(&values(&x), head_dim, f64::from(EPS)),
            &weight.as_ref().map_or(ones, values),
        );
        for row in want.chunks_mut(head_dim) {
            match dtype {
                DType::F32 => turn(row, (0..half).map(|i| (i, i + head_dim / 2)), |i| {
                    let angle = f64::from(position) / f64::from(theta).powf(2.0 * i as f64 / head_dim as f64);
                    angle / factors.as_ref().map_or(1.0, |f| f64::from(f[i]))
                }),
                _ => turn(row, (0..half).map(|i| (i, i + half)), |i| f64::from(angles[i])),
            }
        }
        // An angle of thousands in f32 is off by 1e-4.
        close("head_norm_rope", &values(&out), &want, tolerance(dtype).max(5e-4));
    }
}

pub fn rope(b: &mut Bench, r: &mut Rng) {
    let (seq, dim, dtype) = (r.range(1, 9), 2 * r.range(1, b.most(260)), r.pick(&FLOATS));
    let positions: Vec<u32> = (0..seq).map(|_| r.range(0, 2000) as u32).collect();
    let theta = r.pick(&[1e4f32, 5e5]);
    let (x, out) = (
        b.floats(dtype, &r.floats(seq * dim, 2.0)),
        b.zeros(dtype, seq * dim),
    );
    let (params, pos) = (
        b.floats(DType::F32, &[theta, dim as f32, 0.0, 0.0]),
        b.words(&positions),
    );
    b.run(|e, reg, d| {
        ropes::dispatch_rope(
            e,
            reg,
            d.metal_device(),
            &x,
            &out,
            &params,
            &pos,
            seq as u32,
            dim as u32,
        )
    });
    let mut want = values(&x);
    for (row, p) in want.chunks_mut(dim).zip(&positions) {
        let angle = |i: usize| f64::from(*p) / f64::from(theta).powf(2.0 * i as f64 / dim as f64);
        turn(row, (0..dim / 2).map(|i| (2 * i, 2 * i + 1)), angle);
    }
    close("rope", &values(&out), &want, tolerance(dtype).max(5e-4));
}

pub fn rope_neox(b: &mut Bench, r: &mut Rng) {
    let (seq, n_heads, dim) = (r.range(1, 5), r.range(1, 4), 2 * r.range(1, b.most(260)));
    let rope_dim = 2 * r.range(0, dim / 2);
    let positions: Vec<u32> = (0..seq).map(|_| r.range(0, 2000) as u32).collect();
    let (theta, len) = (r.pick(&[1e4f32, 1e6]), seq * n_heads * dim);
    let [seq_, heads_, dim_, rope_] = [seq, n_heads, dim, rope_dim].map(|v| v as u32);
    for dtype in [DType::F32, DType::BF16] {
        let (x, out) = (b.floats(dtype, &r.floats(len, 2.0)), b.zeros(dtype, len));
        let params = b.floats(DType::F32, &[theta, dim as f32, rope_dim as f32, 0.0]);
        let pos = b.words(&positions);
        // 1e30: such a pair is not turned.
        let factors = (dtype == DType::F32 && r.flip()).then(|| {
            (0..rope_dim.max(2) / 2)
                .map(|i| if i % 3 == 2 { 1e30 } else { 1.5f32 })
                .collect::<Vec<_>>()
        });
        let factor_buffer: Option<MlxBuffer> = factors.as_ref().map(|f| b.floats(DType::F32, f));
        b.run(|e, reg, d| match dtype {
            DType::F32 => ropes::dispatch_rope_neox_f32(
                e,
                reg,
                d.metal_device(),
                &x,
                &out,
                &params,
                &pos,
                factor_buffer.as_ref(),
                seq_,
                heads_,
                dim_,
                rope_,
            ),
            _ => ropes::dispatch_rope_neox_bf16(
                e,
                reg,
                d.metal_device(),
                &x,
                &out,
                &params,
                &pos,
                seq_,
                heads_,
                dim_,
                rope_,
            ),
        });
        let mut want = values(&x);
        for (at, row) in want.chunks_mut(dim).enumerate() {
            let position = f64::from(positions[at / n_heads]);
            turn(row, (0..rope_dim / 2).map(|i| (i, i + dim / 2)), |i| {
                let angle = position / f64::from(theta).powf(2.0 * i as f64 / dim as f64);
                angle / factors.as_ref().map_or(1.0, |f| f64::from(f[i]))
            });
        }
        close("rope_neox", &values(&out), &want, tolerance(dtype).max(5e-4));
        // Features that are not turned keep their bits.
        let (before, after) = (values(&x), values(&out));
        for i in (0..len).filter(|i| i % dim % (dim / 2) >= rope_dim / 2) {
            assert_eq!(before[i], after[i], "feature {i}");
        }
    }
}
