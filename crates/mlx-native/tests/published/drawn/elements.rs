//! Operators on single elements and rows.

use half::{bf16, f16};
use mlx_native::DType;
use mlx_native::ops::elementwise::{self, CastDirection};
use mlx_native::ops::{self, copy::StridedCopyParams};

use crate::support::{Bench, FLOATS, Rng, close, tolerance, values};

pub fn argmax(b: &mut Bench, r: &mut Rng) {
    let n = r.range(1, b.most(5000));
    // Few different values, so that there are equals, and some NaN.
    let mut x: Vec<f32> = (0..n).map(|_| r.range(0, 20) as f32 - 10.0).collect();
    x.iter_mut()
        .for_each(|v| *v = if r.range(0, 9) == 0 { f32::NAN } else { *v });
    if r.range(0, 7) == 0 {
        x.fill(f32::NAN);
    }
    let (mut index, mut value) = (0, f32::NEG_INFINITY);
    for (i, v) in x.iter().enumerate() {
        if *v > value {
            (index, value) = (i, *v);
        }
    }
    let (input, params) = (b.floats(DType::F32, &x), b.words(&[n as u32]));
    let (out_index, out_value) = (b.zeros(DType::U32, 1), b.zeros(DType::F32, 1));
    b.run(|e, reg, d| {
        ops::argmax::dispatch_argmax_f32(
            e,
            reg,
            d.metal_device(),
            &input,
            &out_index,
            &out_value,
            &params,
            n as u32,
        )
    });
    assert_eq!(
        (
            out_index.read::<u32>().unwrap()[0],
            out_value.read::<f32>().unwrap()[0]
        ),
        (index as u32, value)
    );
}

pub fn argsort(b: &mut Bench, r: &mut Rng) {
    let (batch, row) = (r.range(1, 4), r.range(1, b.most(700)));
    let x: Vec<f32> = (0..batch * row)
        .map(|_| {
            if r.range(0, 15) == 0 {
                f32::NEG_INFINITY
            } else {
                r.range(0, 40) as f32
            }
        })
        .collect();
    let (input, output) = (b.floats(DType::F32, &x), b.zeros(DType::U32, batch * row));
    b.run(|e, reg, d| {
        ops::argsort::dispatch_argsort_desc_f32(
            e,
            reg,
            d.metal_device(),
            &input,
            &output,
            batch as u32,
            row as u32,
        )
    });
    for (x, got) in x.chunks(row).zip(output.read::<u32>().unwrap().chunks(row)) {
        let mut want: Vec<u32> = (0..row as u32).collect();
        want.sort_by(|i, j| x[*j as usize].total_cmp(&x[*i as usize]).then(j.cmp(i)));
        assert_eq!(got, want);
    }
}

pub fn strided_copy(b: &mut Bench, r: &mut Rng) {
    let (rows, cols) = (r.range(1, b.most(70)), r.range(1, b.most(70)));
    let (stride_row, stride_col) = (r.range(0, 90), r.range(0, 5));
    let len = (rows - 1) * stride_row + (cols - 1) * stride_col + 1;
    let x = r.floats(len, 1.0);
    let (src, dst) = (b.floats(DType::F32, &x), b.zeros(DType::F32, rows * cols));
    let [rows_, cols_, stride_row_, stride_col_] = [rows, cols, stride_row, stride_col].map(|v| v as u32);
    let params = StridedCopyParams {
        rows: rows_,
        cols: cols_,
        stride_row: stride_row_,
        stride_col: stride_col_,
    };
    b.run(|e, reg, d| ops::copy::dispatch_strided_copy_f32(e, reg, d.metal_device(), &src, &dst, &params));
    let want: Vec<f32> = (0..rows * cols)
        .map(|i| x[i / cols * stride_row + i % cols * stride_col])
        .collect();
    assert_eq!(dst.read::<f32>().unwrap(), want);
}

pub fn elementwise(b: &mut Bench, r: &mut Rng) {
    let (n, dtype) = (r.range(1, b.most(4000)), r.pick(&FLOATS));
    let (x, y) = (
        b.floats(dtype, &r.floats(n, 4.0)),
        b.floats(dtype, &r.floats(n, 4.0)),
    );
    let (sum, product) = (b.zeros(dtype, n), b.zeros(dtype, n));
    b.run(|e, reg, d| {
        elementwise::elementwise_add(e, reg, d.metal_device(), &x, &y, &sum, n, dtype)?;
        elementwise::elementwise_mul(e, reg, d.metal_device(), &x, &y, &product, n, dtype)
    });
    let (xs, ys) = (values(&x), values(&y));
    let pairs = || xs.iter().zip(&ys);
    close(
        "add",
        &values(&sum),
        &pairs().map(|(x, y)| x + y).collect::<Vec<_>>(),
        tolerance(dtype),
    );
    close(
        "mul",
        &values(&product),
        &pairs().map(|(x, y)| x * y).collect::<Vec<_>>(),
        tolerance(dtype),
    );
    let scalar = r.signed() * 3.0;
    if dtype == DType::F16 {
        return;
    }
    let scale = if dtype == DType::F32 {
        elementwise::scalar_mul_f32
    } else {
        elementwise::scalar_mul_bf16
    };
    // In place, as decoders do.
    b.run(|e, reg, d| scale(e, reg, d.metal_device(), &x, &x, n, scalar));
    let want: Vec<f64> = xs.iter().map(|x| x * f64::from(scalar)).collect();
    close("scalar_mul", &values(&x), &want, tolerance(dtype));
    if dtype == DType::F32 {
        let (hidden, rows) = (r.range(1, n), n);
        let rows = rows / hidden;
        let token = r.range(0, rows - 1);
        let out = b.zeros(DType::F32, hidden);
        b.run(|e, reg, d| {
            let device = d.metal_device();
            elementwise::embedding_gather_scale_f32(e, reg, device, &y, &out, token as u32, hidden, scalar)
        });
        let want: Vec<f64> = ys[token * hidden..][..hidden]
            .iter()
            .map(|y| y * f64::from(scalar))
            .collect();
        close("embedding_gather_scale", &values(&out), &want, 1e-6);
    }
}

pub fn cast(b: &mut Bench, r: &mut Rng) {
    let n = r.range(1, b.most(3000));
    let mut x = r.floats(n, 100.0);
    x[0] = r.pick(&[70000.0, -1e9, f32::INFINITY, f32::NAN, -0.0, 1e-8, 6.1e-5]);
    let wide = b.floats(DType::F32, &x);
    for (half, there, back) in [
        (DType::F16, CastDirection::F32ToF16, CastDirection::F16ToF32),
        (DType::BF16, CastDirection::F32ToBF16, CastDirection::BF16ToF32),
    ] {
        let (narrow, again) = (b.zeros(half, n), b.zeros(DType::F32, n));
        b.run(|e, reg, d| {
            elementwise::cast(e, reg, d.metal_device(), &wide, &narrow, n, there)?;
            elementwise::cast(e, reg, d.metal_device(), &narrow, &again, n, back)
        });
        let want = |v: &f32| match half {
            DType::F16 => f16::from_f32(*v).to_f64(),
            _ => bf16::from_f32(*v).to_f64(),
        };
        let want: Vec<f64> = x.iter().map(want).collect();
        close("cast", &values(&narrow), &want, 0.0);
        close("cast back", &values(&again), &want, 0.0);
    }
}

/// Runs a function of single elements and compares.
fn map(b: &mut Bench, r: &mut Rng, scale: f32, is_capped: bool, f: impl Fn(f64) -> f64) {
    let (n, dtype) = (r.range(1, b.most(3000)), r.pick(&FLOATS));
    let mut x = r.floats(n, scale);
    x[n - 1] = r.pick(&[0.0, 1e4, -1e4, f32::NAN, 1e-6]);
    let (x, y) = (b.floats(dtype, &x), b.zeros(dtype, n));
    let params = b.floats(DType::F32, &[scale / 2.0, f32::from_bits(n as u32)]);
    b.run(|e, reg, d| match is_capped {
        true => ops::softcap::dispatch_softcap(e, reg, d.metal_device(), &x, &y, &params, scale / 2.0),
        false => ops::gelu::dispatch_gelu(e, reg, d.metal_device(), &x, &y),
    });
    let want: Vec<f64> = values(&x).into_iter().map(f).collect();
    close("map", &values(&y), &want, tolerance(dtype));
}

pub fn gelu(b: &mut Bench, r: &mut Rng) {
    map(b, r, 8.0, false, |x| {
        let t = (0.797_884_560_802_865_4 * (x + 0.044715 * x * x * x)).clamp(-15.0, 15.0);
        0.5 * x * (1.0 + t.tanh())
    });
}

pub fn softcap(b: &mut Bench, r: &mut Rng) {
    map(b, r, 60.0, true, |x| (x / 30.0).tanh() * 30.0);
}

fn softmax_of(x: &[f64]) -> Vec<f64> {
    let top = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exps: Vec<f64> = x.iter().map(|x| (x - top).exp()).collect();
    let sum: f64 = exps.iter().sum();
    exps.into_iter().map(|e| e / sum).collect()
}

pub fn softmax(b: &mut Bench, r: &mut Rng) {
    let (rows, cols, dtype) = (r.range(1, 5), r.range(1, b.most(2000)), r.pick(&FLOATS));
    let x = b.floats(dtype, &r.floats(rows * cols, 10.0));
    let y = b.zeros(dtype, rows * cols);
    let params = b.floats(DType::F32, &[cols as f32, 0.0]);
    b.run(|e, reg, d| {
        ops::softmax::dispatch_softmax(
            e,
            reg,
            d.metal_device(),
            &x,
            &y,
            &params,
            rows as u32,
            cols as u32,
        )
    });
    let want: Vec<f64> = values(&x).chunks(cols).flat_map(softmax_of).collect();
    close("softmax", &values(&y), &want, tolerance(dtype));
}

pub fn softmax_sample(b: &mut Bench, r: &mut Rng) {
    let n = r.range(1, b.most(5000));
    let x = r.floats(n, 5.0);
    let (temperature, random) = (r.pick(&[0.3f32, 1.0, 2.0]), r.signed().abs() * 0.999);
    let (logits, scratch) = (b.floats(DType::F32, &x), b.zeros(DType::F32, n));
    let (token, logprob) = (b.zeros(DType::U32, 1), b.zeros(DType::F32, 1));
    let params = b.floats(DType::F32, &[n as f32, temperature, random]);
    b.run(|e, reg, d| {
        let device = d.metal_device();
        ops::softmax_sample::dispatch_softmax_sample_f32(
            e,
            reg,
            device,
            &logits,
            &scratch,
            &token,
            &logprob,
            &params,
            n as u32,
            temperature,
            random,
        )
    });
    let p = softmax_of(
        &x.iter()
            .map(|x| f64::from(*x) / f64::from(temperature))
            .collect::<Vec<_>>(),
    );
    let token = token.read::<u32>().unwrap()[0] as usize;
    let before: f64 = p[..token].iter().sum();
    // Where the sum in f32 and that in f64 may part.
    assert!(
        before < f64::from(random) + 1e-4 && before + p[token] > f64::from(random) - 1e-4,
        "{token} of {n}"
    );
    close("logprob", &values(&logprob), &[p[token].ln()], 1e-4);
}

pub fn gather(b: &mut Bench, r: &mut Rng) {
    let (rows, width, n) = (r.range(1, 50), r.range(1, b.most(300)), r.range(1, 40));
    let x = r.floats(rows * width, 1.0);
    let indices: Vec<u32> = (0..n).map(|_| r.pick(&[r.0 as u32 % 60, u32::MAX, 0])).collect();
    let (src, ids, out) = (
        b.floats(DType::F32, &x),
        b.words(&indices),
        b.zeros(DType::F32, n * width),
    );
    b.run(|e, reg, d| {
        let sizes = [rows, width, n].map(|v| v as u32);
        ops::gather::dispatch_gather_f32(
            e,
            reg,
            d.metal_device(),
            &src,
            &ids,
            &out,
            sizes[0],
            sizes[1],
            sizes[2],
        )
    });
    let row = |i: &u32| &x[(*i as usize).min(rows - 1) * width..][..width];
    assert_eq!(
        out.read::<f32>().unwrap(),
        indices.iter().flat_map(row).copied().collect::<Vec<_>>()
    );
}

pub fn gather_bench(b: &mut Bench, r: &mut Rng) {
    let (capacity, dim) = (r.range(1, b.most(60)), 2 * r.range(1, b.most(100)));
    let (packed, centroids) = (r.bytes(capacity * dim / 2), r.floats(16 * dim, 1.0));
    let (codes, table) = (b.bytes(&packed), b.floats(DType::F32, &centroids));
    let out = b.zeros(DType::F32, capacity * dim);
    b.run(|e, reg, d| {
        let device = d.metal_device();
        ops::gather_bench::dispatch_gather_nibble(
            e,
            reg,
            device,
            &codes,
            &table,
            &out,
            capacity as u32,
            dim as u32,
        )
    });
    let nibble = |i: usize| usize::from(packed[i / 2] >> (4 * (i % 2)) & 15);
    let want: Vec<f32> = (0..capacity * dim)
        .map(|i| centroids[nibble(i) * dim + i % dim])
        .collect();
    assert_eq!(out.read::<f32>().unwrap(), want);
    let cache = b.floats(DType::F16, &r.floats(capacity * dim, 9.0));
    b.run(|e, reg, d| {
        ops::gather_bench::dispatch_gather_f16_seq(
            e,
            reg,
            d.metal_device(),
            &cache,
            &out,
            capacity as u32,
            dim as u32,
        )
    });
    close("f16_seq", &values(&out), &values(&cache), 0.0);
}

pub fn transpose(b: &mut Bench, r: &mut Rng) {
    let (rows, cols, dtype) = (
        r.range(1, b.most(90)),
        r.range(1, b.most(90)),
        r.pick(&[DType::F32, DType::F16]),
    );
    let x = b.floats(dtype, &r.floats(rows * cols, 1.0));
    let y = b.zeros(dtype, rows * cols);
    b.run(|e, reg, d| ops::transpose::transpose_2d(e, reg, d.metal_device(), &x, &y, rows, cols, dtype));
    let xs = values(&x);
    let want: Vec<f64> = (0..rows * cols).map(|i| xs[i % rows * cols + i / rows]).collect();
    close("transpose_2d", &values(&y), &want, 0.0);
    let [da, db, dc] = [0; 3].map(|_| r.range(1, b.most(20)));
    let x = b.floats(DType::BF16, &r.floats(da * db * dc, 1.0));
    let y = b.zeros(DType::BF16, da * db * dc);
    b.run(|e, reg, d| ops::transpose::permute_021_bf16(e, reg, d.metal_device(), &x, &y, da, db, dc));
    let xs = values(&x);
    let want: Vec<f64> = (0..da * db * dc)
        .map(|i| {
            let (j, i, k) = (i / (da * dc), i / dc % da, i % dc);
            xs[(i * db + j) * dc + k]
        })
        .collect();
    close("permute", &values(&y), &want, 0.0);
}
