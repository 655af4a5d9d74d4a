//! Products of matrices, dense and quantised, and the look-up of quantised rows.

use half::{bf16, f16};
use mlx_native::ops::dense_gemm::{
    DenseGemmF16Params, dispatch_dense_gemm_f16, dispatch_dense_matvec_f16w_f32io,
};
use mlx_native::ops::embedding::{EmbeddingGatherParams, embedding_gather};
use mlx_native::ops::quantized_matmul as affine;
use mlx_native::{
    DType, GgmlQuantizedMatmulIdParams, GgmlQuantizedMatmulParams, GgmlType, MlxBuffer,
    QuantizedMatmulIdParams, QuantizedMatmulParams, quantized_matmul_ggml as ggml,
    quantized_matmul_id as affine_id, quantized_matmul_id_ggml as ggml_id,
};

use crate::support::{Bench, Rng, close, tolerance, values};

pub fn dense_gemm(b: &mut Bench, r: &mut Rng) {
    let (m, n, k) = (
        r.pick(&[1, 2, 7, 33]),
        r.range(1, b.most(90)),
        r.range(1, b.most(300)),
    );
    let [m, n, k] = [m, n, k].map(|v| v.min(b.most(100)));
    let (x, w) = (
        b.floats(DType::F16, &r.floats(m * k, 1.0)),
        b.floats(DType::F16, &r.floats(n * k, 1.0)),
    );
    let out = b.zeros(DType::F16, m * n);
    let params = DenseGemmF16Params {
        m: m as u32,
        n: n as u32,
        k: k as u32,
    };
    b.run(|e, reg, d| dispatch_dense_gemm_f16(e, reg, d.metal_device(), &x, &w, &out, &params));
    close(
        "dense_gemm",
        &values(&out),
        &product(&values(&x), &values(&w), n, k),
        tolerance(DType::F16),
    );
    let (x, out) = (b.floats(DType::F32, &r.floats(k, 1.0)), b.zeros(DType::F32, n));
    let params = DenseGemmF16Params {
        m: 1,
        n: n as u32,
        k: k as u32,
    };
    b.run(|e, reg, d| dispatch_dense_matvec_f16w_f32io(e, reg, d.metal_device(), &x, &w, &out, &params));
    close(
        "matvec",
        &values(&out),
        &product(&values(&x), &values(&w), n, k),
        1e-4,
    );
}

/// `x[m, k] · w[n, k]ᵀ`.
fn product(x: &[f64], w: &[f64], n: usize, k: usize) -> Vec<f64> {
    let dot = |x: &[f64], w: &[f64]| x.iter().zip(w).map(|(x, w)| x * w).sum::<f64>();
    x.chunks(k)
        .flat_map(|x| w.chunks(k).take(n).map(move |w| dot(x, w)).collect::<Vec<_>>())
        .collect()
}

/// A stack of matrices of MLX's affine codes.
struct Affine {
    buffers: [MlxBuffer; 3],
    /// The codes' values, in f32 as the formula has them, before any rounding.
    values: Vec<f32>,
}

impl Affine {
    fn draw(b: &Bench, r: &mut Rng, rows: usize, k: usize, group_size: usize, bits: usize) -> Self {
        let groups = k.div_ceil(group_size);
        let row_bytes = if bits == 6 {
            k.div_ceil(4) * 3
        } else {
            (k * bits).div_ceil(32) * 4
        };
        let codes = r.bytes(rows * row_bytes);
        let scales: Vec<f32> = (0..rows * groups).map(|_| round(r.signed() * 0.05)).collect();
        let biases: Vec<f32> = (0..rows * groups).map(|_| round(r.signed() * 0.5)).collect();
        let code = |row: usize, i: usize| {
            let (first, shift) = (i * bits / 8, i * bits % 8);
            let byte = |at: usize| {
                if at < row_bytes {
                    u32::from(codes[row * row_bytes + at])
                } else {
                    0
                }
            };
            ((byte(first) | byte(first + 1) << 8) >> shift & ((1 << bits) - 1)) as f32
        };
        let values = (0..rows * k)
            .map(|at| {
                let (row, i) = (at / k, at % k);
                let group = row * groups + i / group_size;
                code(row, i) * scales[group] + biases[group]
            })
            .collect();
        let buffers = [
            b.bytes(&codes),
            b.floats(DType::BF16, &scales),
            b.floats(DType::BF16, &biases),
        ];
        Affine { buffers, values }
    }
}

fn round(v: f32) -> f32 {
    bf16::from_f32(v).to_f32()
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|v| f64::from(*v)).collect()
}

/// Extents that are multiples of nothing, and now and then those that 0.1 has other kernels for.
fn extents(b: &Bench, r: &mut Rng) -> (usize, usize, usize, usize) {
    let bits = r.pick(&[4, 6, 8]);
    if r.flip() {
        let k = if b.is_slow { 512 } else { r.pick(&[256, 512, 1024]) };
        return (
            8 * r.range(1, b.most(8)),
            k,
            r.pick(&[16, 32, 64, 128, 256]),
            bits,
        );
    }
    (
        r.range(1, b.most(70)),
        r.range(1, b.most(700)),
        r.pick(&[1, 3, 16, 32, 50, 64]),
        bits,
    )
}

pub fn embedding(b: &mut Bench, r: &mut Rng) {
    let (vocab, groups, group_size) = (r.range(1, 40), r.range(1, b.most(9)), r.pick(&[1, 4, 6, 32, 64]));
    let (dim, bits, n) = (groups * group_size, r.pick(&[4, 6]), r.range(1, 20));
    let table = Affine::draw(b, r, vocab, dim, group_size, bits);
    let ids: Vec<u32> = (0..n).map(|_| r.range(0, vocab - 1) as u32).collect();
    let (id_buffer, out) = (b.words(&ids), b.zeros(DType::F32, n * dim));
    let params = EmbeddingGatherParams {
        embed_dim: dim,
        group_size,
        bits: bits as u8,
        n_tokens: n,
    };
    b.run(|e, reg, d| {
        let [codes, scales, biases] = &table.buffers;
        embedding_gather(
            e,
            reg,
            d.metal_device(),
            codes,
            scales,
            biases,
            &id_buffer,
            &out,
            &params,
        )
    });
    let want: Vec<f32> = ids
        .iter()
        .flat_map(|id| &table.values[*id as usize * dim..][..dim])
        .copied()
        .collect();
    close("embedding", &values(&out), &wide(&want), 1e-6);
}

pub fn quantized_matmul(b: &mut Bench, r: &mut Rng) {
    let (n, k, group_size, bits) = extents(b, r);
    let m = r.pick(&[1, 2, 3, 9]);
    let w = Affine::draw(b, r, n, k, group_size, bits);
    let x = r.floats(m * k, 1.0);
    let input = b.floats(DType::F32, &x);
    let [m_, n_, k_, group_size_, bits_] = [m, n, k, group_size, bits].map(|v| v as u32);
    let params = QuantizedMatmulParams {
        m: m_,
        k: k_,
        n: n_,
        group_size: group_size_,
        bits: bits_,
    };
    let rounded_x: Vec<f32> = x.iter().map(|v| round(*v)).collect();
    let rounded: Vec<f32> = w.values.iter().map(|v| round(*v)).collect();
    let [codes, scales, biases] = &w.buffers;
    let (plain, simd) = b.run(|e, reg, d| {
        Ok((
            affine::quantized_matmul(e, reg, d, &input, codes, scales, biases, &params)?,
            affine::quantized_matmul_simd(e, reg, d, &input, codes, scales, biases, &params)?,
        ))
    });
    assert_eq!((plain.shape(), plain.dtype()), (&[m, n][..], DType::F32));
    let of_rounded = product(&wide(&rounded_x), &wide(&rounded), n, k);
    let has_simd = n % 8 == 0 && k % 256 == 0 && bits != 6;
    close("quantized_matmul", &values(&plain), &of_rounded, 1e-4);
    let of_simd = if has_simd {
        product(&wide(&rounded_x), &wide(&w.values), n, k)
    } else {
        of_rounded
    };
    close("quantized_matmul_simd", &values(&simd), &of_simd, 2e-4);
}

pub fn quantized_matmul_bf16(b: &mut Bench, r: &mut Rng) {
    let (n, k, group_size, bits) = extents(b, r);
    let (m, stack) = (r.pick(&[1, 2, 9]), 3);
    let w = Affine::draw(b, r, stack * n, k, group_size, bits);
    let input = b.floats(DType::BF16, &r.floats(m * k, 1.0));
    let [m_, n_, k_, group_size_, bits_] = [m, n, k, group_size, bits].map(|v| v as u32);
    let params = QuantizedMatmulParams {
        m: m_,
        k: k_,
        n: n_,
        group_size: group_size_,
        bits: bits_,
    };
    let [codes, scales, biases] = &w.buffers;
    let out = b.run(|e, reg, d| {
        affine::dispatch_quantized_matmul_simd_bf16(e, reg, d, &input, codes, scales, biases, &params)
    });
    assert_eq!((out.shape(), out.dtype()), (&[m, n][..], DType::BF16));
    let has_kernel = n % 8 == 0 && ((bits == 4 && k % 512 == 0) || (bits == 8 && k % 256 == 0));
    // Where 0.1 has no kernel for it, the weight is rounded.
    let rounded = |v: &f32| f64::from(if has_kernel { *v } else { round(*v) });
    let want = product(
        &values(&input),
        &w.values[..n * k].iter().map(rounded).collect::<Vec<_>>(),
        n,
        k,
    );
    close("simd_bf16", &values(&out), &want, tolerance(DType::BF16));
    let expert = r.range(0, stack - 1);
    let [code_bytes, group_bytes] = [codes, scales].map(|buffer| (buffer.byte_len() / stack * expert) as u32);
    let result = b.try_run(|e, reg, d| {
        affine::dispatch_quantized_matmul_simd_bf16_expert(
            e,
            reg,
            d,
            &input,
            codes,
            scales,
            biases,
            &params,
            code_bytes,
            group_bytes,
            group_bytes,
        )
    });
    assert_eq!(result.is_ok(), has_kernel, "{result:?}");
    if let Ok(out) = result {
        let want = product(&values(&input), &wide(&w.values[expert * n * k..][..n * k]), n, k);
        close("simd_bf16_expert", &values(&out), &want, tolerance(DType::BF16));
    }
}

pub fn quantized_matmul_id(b: &mut Bench, r: &mut Rng) {
    let (n, k, group_size, bits) = extents(b, r);
    let (m, used, experts) = (r.range(1, 5), r.range(1, 4), r.range(1, 6));
    let w = Affine::draw(b, r, experts * n, k, group_size, bits);
    let x = r.floats(m * k, 1.0);
    // Now and then one that is no expert.
    let ids: Vec<u32> = (0..m * used)
        .map(|_| (r.range(0, experts * 4) % (experts + 1)) as u32)
        .collect();
    let (input, id_buffer) = (b.floats(DType::F32, &x), b.words(&ids));
    let [m_, n_, k_, group_size_, bits_] = [m, n, k, group_size, bits].map(|v| v as u32);
    let params = QuantizedMatmulIdParams {
        m: m_,
        k: k_,
        n: n_,
        group_size: group_size_,
        bits: bits_,
        n_expert_used: used as u32,
        num_experts: experts as u32,
    };
    let [codes, scales, biases] = &w.buffers;
    let out = b.run(|e, reg, d| affine_id(e, reg, d, &input, codes, scales, biases, &id_buffer, &params));
    assert_eq!(out.shape(), [m, used, n]);
    let rounded: Vec<f64> = w.values.iter().map(|v| f64::from(round(*v))).collect();
    let want: Vec<f64> = ids
        .iter()
        .enumerate()
        .flat_map(|(row, id)| {
            let x: Vec<f64> = x[row / used * k..][..k]
                .iter()
                .map(|v| f64::from(round(*v)))
                .collect();
            match *id as usize {
                id if id < experts => product(&x, &rounded[id * n * k..][..n * k], n, k),
                _ => vec![0.0; n],
            }
        })
        .collect();
    close("quantized_matmul_id", &values(&out), &want, 1e-4);
}

/// Blocks of drawn codes, and their values.
fn blocks(r: &mut Rng, ty: GgmlType, count: usize) -> (Vec<u8>, Vec<f64>) {
    let (mut bytes, mut decoded) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let block = r.bytes(ty.block_bytes() as usize - 2);
        let d = f16::from_f32(r.signed() * 0.05);
        let scale = d.to_f64();
        match ty {
            GgmlType::Q4_0 => {
                bytes.extend(d.to_le_bytes());
                let value = |code: u8| (f64::from(code) - 8.0) * scale;
                decoded.extend(block.iter().map(|c| value(c & 15)));
                decoded.extend(block.iter().map(|c| value(c >> 4)));
                bytes.extend(block);
            }
            GgmlType::Q8_0 => {
                bytes.extend(d.to_le_bytes());
                decoded.extend(block.iter().map(|c| f64::from(*c as i8) * scale));
                bytes.extend(block);
            }
            _ => {
                for i in 0..256 {
                    let (half, quarter, l) = (i / 128, i % 128 / 32, i % 32);
                    let low = block[64 * half + 32 * (quarter % 2) + l] >> (4 * (quarter / 2)) & 15;
                    let high = block[128 + 32 * half + l] >> (2 * quarter) & 3;
                    let factor = block[192 + 8 * half + 2 * quarter + l / 16] as i8;
                    decoded.push(f64::from(factor) * scale * (f64::from(low | high << 4) - 32.0));
                }
                bytes.extend(block);
                bytes.extend(d.to_le_bytes());
            }
        }
    }
    (bytes, decoded)
}

pub fn quantized_matmul_ggml(b: &mut Bench, r: &mut Rng) {
    let ty = r.pick(&[GgmlType::Q4_0, GgmlType::Q8_0, GgmlType::Q6_K]);
    let (per_row, n) = (r.range(1, b.most(3)), r.range(1, b.most(40)));
    let k = per_row * ty.block_values() as usize;
    let (tokens, top_k, experts) = (r.pick(&[1, 2, 5, 13]), r.range(1, 4), r.range(1, 5));
    let (mut bytes, mut decoded) = (Vec::new(), Vec::new());
    // Experts may lie further apart than they are long.
    let expert_bytes = n * per_row * ty.block_bytes() as usize;
    let stride = expert_bytes + if r.flip() { 0 } else { 2 * r.range(0, 50) };
    for expert in 0..experts {
        let (code, value) = blocks(r, ty, n * per_row);
        bytes.extend(code);
        decoded.extend(value);
        if expert + 1 < experts {
            bytes.resize((expert + 1) * stride, 0xFF);
        }
    }
    let x = r.floats(tokens * k, 1.0);
    let ids: Vec<u32> = (0..tokens * top_k)
        .map(|_| r.range(0, experts - 1) as u32)
        .collect();
    let (weight, input, id_buffer) = (b.bytes(&bytes), b.floats(DType::F32, &x), b.words(&ids));
    let mut out = b.zeros(DType::F32, tokens * top_k * n);
    let [n_, k_] = [n, k].map(|v| v as u32);
    let params = GgmlQuantizedMatmulIdParams {
        n_tokens: tokens as u32,
        top_k: top_k as u32,
        n: n_,
        k: k_,
        n_experts: experts as u32,
        expert_stride: stride as u64,
        ggml_type: ty,
    };
    b.run(|e, reg, d| ggml_id(e, reg, d, &input, &weight, &id_buffer, &mut out, &params));
    let got = out.read::<f32>().unwrap();
    for (row, id) in ids.iter().enumerate() {
        let got = &got[row * n..][..n];
        let x = &x[row / top_k * k..][..k];
        let want = product(&wide(x), &decoded[*id as usize * n * k..][..n * k], n, k);
        let magnitude = wide(x).iter().map(|v| v.abs()).sum::<f64>() * 100.0;
        close("ggml_id", &wide(got), &want, 1e-6 * magnitude.max(10.0));
        // The plain product of the same row has the same bits.
        let matrix = b.bytes(&bytes[*id as usize * stride..][..expert_bytes]);
        let (input, mut plain) = (b.floats(DType::F32, x), b.zeros(DType::F32, n));
        let params = GgmlQuantizedMatmulParams {
            m: 1,
            n: n_,
            k: k_,
            ggml_type: ty,
        };
        b.run(|e, reg, d| ggml(e, reg, d, &input, &matrix, &mut plain, &params));
        assert_eq!(plain.read::<f32>().unwrap(), got, "row {row} of {ty:?}");
    }
    // So have many rows at once.
    let matrix = b.bytes(&bytes[..expert_bytes]);
    let mut all = b.zeros(DType::F32, tokens * n);
    let params = GgmlQuantizedMatmulParams {
        m: tokens as u32,
        n: n_,
        k: k_,
        ggml_type: ty,
    };
    b.run(|e, reg, d| ggml(e, reg, d, &input, &matrix, &mut all, &params));
    let all = all.read::<f32>().unwrap();
    for (row, _) in ids.iter().enumerate().filter(|(_, id)| **id == 0) {
        assert_eq!(
            all[row / top_k * n..][..n],
            got[row * n..][..n],
            "row {row} of {ty:?}"
        );
    }
}
