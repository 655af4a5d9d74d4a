//! Cases of `quantized_matmul`.

use super::{QuantizedMatmulParams, quantized_matmul};
use crate::dtype::DType;
use crate::error::Result;
use crate::testing::{Case, Context, FLOATS, Golden, Outputs, Rng, Suite, Tensor, Tolerance};

/// What is in the inputs besides ordinary numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Special {
    Nothing,
    /// One element of the last row of `x`.
    InX(f32),
    /// One scale.
    NanScale,
}

#[derive(Debug)]
struct QmmCase {
    dtype: DType,
    scales: DType,
    params: QuantizedMatmulParams,
    special: Special,
}

/// Inputs of a golden file; the reference must agree with what MLX computed from them.
#[derive(Debug)]
struct GoldenCase {
    golden: Golden,
    params: QuantizedMatmulParams,
}

/// `x · Wᵀ` or `x · W` from `[x, weight, scales, biases]`.
fn product(inputs: &[Tensor], p: &QuantizedMatmulParams) -> Vec<f64> {
    let (m, n, k) = (p.m as usize, p.n as usize, p.k as usize);
    let x = inputs[0].to_f64();
    let columns = if p.transpose { k } else { n };
    let w = dequantized(&inputs[1..4], columns, p.group_size as usize, p.bits as usize);
    let mut out = vec![0.0; m * n];
    for i in 0..m {
        for j in 0..n {
            out[i * n + j] = (0..k)
                .map(|l| x[i * k + l] * if p.transpose { w[j * k + l] } else { w[l * n + j] })
                .sum();
        }
    }
    out
}

/// `code * scale + bias` from `[weight, scales, biases]` with rows of `columns` elements.
pub(crate) fn dequantized(inputs: &[Tensor], columns: usize, group_size: usize, bits: usize) -> Vec<f64> {
    let (words, scales, biases) = (inputs[0].to_u32(), inputs[1].to_f64(), inputs[2].to_f64());
    let per_word = 32 / bits;
    let row_words = columns / per_word;
    (0..words.len() * per_word)
        .map(|i| {
            let (row, column) = (i / columns, i % columns);
            let word = words[row * row_words + column / per_word];
            let code = word >> (column % per_word * bits) & ((1u64 << bits) - 1) as u32;
            let group = i / group_size;
            f64::from(code) * scales[group] + biases[group]
        })
        .collect()
}

/// `[weight, scales, biases]` of `rows` x `columns`, the weights of a size around 1.
pub(crate) fn random_weight(
    rows: usize,
    columns: usize,
    group_size: u32,
    bits: u32,
    scales: DType,
    rng: &mut Rng,
) -> [Tensor; 3] {
    let groups = columns / group_size as usize;
    let mut draw = |size: f32| {
        let values: Vec<f32> = (0..rows * groups).map(|_| rng.normal() * size).collect();
        Tensor::from_f32(scales, &[rows, groups], &values)
    };
    let (s, b) = (draw(2.0 / (1 << bits) as f32), draw(0.5));
    [Tensor::random_bits(&[rows, columns * bits as usize / 32], rng), s, b]
}

/// One rounding, and sums of `k` products of size 1 in f32, up to 256 of them one after the other: the sum grows like
/// `sqrt(k)` and each addition is off by half a unit of it.
fn tolerance(dtype: DType, k: u32) -> Tolerance {
    Tolerance::accumulated(dtype, 6e-6 * f64::from(k).sqrt())
}

fn encode(c: &mut Context<'_>, params: &QuantizedMatmulParams) -> Result<()> {
    let [x, weight, scales, biases] = c.inputs else { unreachable!("four inputs") };
    quantized_matmul(c.encoder, c.registry, c.device, x, weight, scales, biases, &c.outputs[0], params)
}

fn is_small(p: &QuantizedMatmulParams) -> bool {
    p.m as usize * p.n as usize * p.k as usize <= 150_000
}

impl Case for QmmCase {
    fn inputs(&self, rng: &mut Rng) -> Vec<Tensor> {
        let p = &self.params;
        let (m, n, k) = (p.m as usize, p.n as usize, p.k as usize);
        let (rows, columns) = if p.transpose { (n, k) } else { (k, n) };
        let mut x: Vec<f32> = (0..m * k).map(|_| rng.normal()).collect();
        let [weight, mut scales, biases] = random_weight(rows, columns, p.group_size, p.bits, self.scales, rng);
        match self.special {
            Special::Nothing => {}
            Special::InX(value) => x[(m - 1) * k + k / 3] = value,
            Special::NanScale => {
                let mut values: Vec<f32> = scales.to_f64().iter().map(|v| *v as f32).collect();
                let middle = values.len() / 2;
                values[middle] = f32::NAN;
                scales = Tensor::from_f32(self.scales, scales.shape(), &values);
            }
        }
        vec![Tensor::from_f32(self.dtype, &[m, k], &x), weight, scales, biases]
    }

    fn outputs(&self) -> Outputs {
        vec![(self.dtype, vec![self.params.m as usize, self.params.n as usize])]
    }

    fn reference(&self, inputs: &[Tensor]) -> Vec<Vec<f64>> {
        vec![product(inputs, &self.params)]
    }

    fn encode(&self, c: &mut Context<'_>) -> Result<()> {
        encode(c, &self.params)
    }

    fn tolerance(&self) -> Tolerance {
        tolerance(self.dtype, self.params.k)
    }

    fn is_small(&self) -> bool {
        is_small(&self.params)
    }

    fn cost(&self) -> Option<(f64, f64)> {
        let p = &self.params;
        let (m, n, k) = (f64::from(p.m), f64::from(p.n), f64::from(p.k));
        let x = self.dtype.size_of() as f64 * (m * k + m * n);
        let w = n * k * f64::from(p.bits) / 8.0 + 2.0 * self.scales.size_of() as f64 * n * k / f64::from(p.group_size);
        (n * k >= 1e6).then_some((x + w, 2.0 * m * n * k))
    }

    fn is_only_timed(&self) -> bool {
        self.cost().is_some()
    }
}

impl Case for GoldenCase {
    fn inputs(&self, _rng: &mut Rng) -> Vec<Tensor> {
        ["x", "w_q", "scales", "biases"].map(|name| self.golden.tensor(name).clone()).into()
    }

    fn outputs(&self) -> Outputs {
        let dtype = self.golden.tensor("x").dtype();
        vec![(dtype, vec![self.params.m as usize, self.params.n as usize])]
    }

    fn reference(&self, inputs: &[Tensor]) -> Vec<Vec<f64>> {
        let out = self.golden.tensor("out").to_f64();
        for (mlx, ours) in out.iter().zip(product(inputs, &self.params)) {
            assert!((mlx - ours).abs() < 1e-4, "MLX has {mlx}, the reference {ours}: {:?}", self.params);
        }
        vec![out]
    }

    fn encode(&self, c: &mut Context<'_>) -> Result<()> {
        encode(c, &self.params)
    }

    fn tolerance(&self) -> Tolerance {
        let own = tolerance(self.golden.tensor("x").dtype(), self.params.k);
        let mlx = self.golden.params["mlx_vs_f64"].as_f64().unwrap_or(0.0);
        Tolerance { absolute: own.absolute + mlx, ..own }
    }

    fn is_small(&self) -> bool {
        is_small(&self.params)
    }
}

fn case(dtype: DType, scales: DType, m: u32, n: u32, k: u32, group_size: u32, bits: u32, transpose: bool) -> QmmCase {
    let params = QuantizedMatmulParams { m, n, k, group_size, bits, transpose };
    QmmCase { dtype, scales, params, special: Special::Nothing }
}

/// Every kernel: each pair of dtypes, each width, each route.
fn every_kernel() -> Vec<QmmCase> {
    let mut cases = Vec::new();
    let mut index = 0;
    for &dtype in FLOATS {
        for &scales in FLOATS {
            for bits in [4, 8] {
                let group = [32, 64, 128][index % 3];
                index += 1;
                for (m, n) in [(1, 7), (3, 9), (17, 33)] {
                    cases.push(case(dtype, scales, m, n, 2 * group, group, bits, true));
                }
                for (m, k) in [(2, 33), (5, 7)] {
                    cases.push(case(dtype, scales, m, 2 * group, k, group, bits, false));
                }
            }
        }
    }
    cases
}

/// Sizes that are multiples of nothing, each group size; the dtypes of the program.
fn every_shape() -> Vec<QmmCase> {
    let mut cases = Vec::new();
    let mut index = 0;
    for n in [1, 7, 8, 33, 65, 128] {
        for m in [1, 2, 3, 5, 8, 9, 33, 65] {
            for bits in [4, 8] {
                let group = [32, 64, 128][index % 3];
                let k = [group, 2 * group, 192u32.next_multiple_of(group), 4160u32.next_multiple_of(group)][(index + index / 4) % 4];
                let dtypes = [(DType::F32, DType::BF16), (DType::BF16, DType::BF16)][index / 2 % 2];
                index += 1;
                // The dtypes and group of a case decide what is compiled, so only the CPU sees them all.
                cases.push(case(dtypes.0, dtypes.1, m, n, k, group, bits, true));
                let (rows, columns) = (n, group * (1 + m % 3));
                cases.push(case(dtypes.0, dtypes.1, m, columns, rows, group, bits, false));
            }
        }
    }
    // More than one block of K on the CPU, the last one short.
    cases.push(case(DType::F32, DType::BF16, 1, 5, 8320, 128, 4, true));
    cases.push(case(DType::F32, DType::BF16, 8, 3, 1120, 32, 4, true));
    cases
}

fn special() -> Vec<QmmCase> {
    let mut cases = Vec::new();
    for special in [Special::InX(f32::NAN), Special::InX(f32::INFINITY), Special::NanScale] {
        for (m, transpose) in [(1, true), (3, true), (14, true), (2, false), (6, false)] {
            for bits in [4, 8] {
                let (n, k) = if transpose { (9, 192) } else { (64, 70) };
                let group_size = if transpose { 32 } else { 64 };
                let params = QuantizedMatmulParams { m, n, k, group_size, bits, transpose };
                cases.push(QmmCase { dtype: DType::F32, scales: DType::BF16, params, special });
            }
        }
    }
    cases
}

/// Sizes of real models, for benchmarks.
fn timed() -> Vec<QmmCase> {
    [(1, 4096, 4096), (8, 4096, 4096), (512, 4096, 4096), (1, 151_936, 1024)]
        .iter()
        .flat_map(|&(m, n, k)| [4, 8].map(|bits| case(DType::BF16, DType::BF16, m, n, k, 64, bits, true)))
        .chain([1, 512].map(|m| case(DType::F32, DType::BF16, m, 4096, 4096, 64, 4, true)))
        .collect()
}

pub(crate) fn suite() -> Suite {
    let own = [every_kernel(), every_shape(), special(), timed()].into_iter().flatten();
    let golden = Golden::load("quantized_matmul").into_iter().map(|golden| {
        let [m, n, k, group_size, bits] = ["m", "n", "k", "group_size", "bits"].map(|name| golden.u32(name));
        GoldenCase { golden, params: QuantizedMatmulParams { m, n, k, group_size, bits, transpose: true } }
    });
    Suite {
        op: &super::OP,
        cases: own.map(|c| Box::new(c) as Box<dyn Case>).chain(golden.map(|c| Box::new(c) as Box<dyn Case>)).collect(),
        random: |rng| {
            let group_size = rng.pick(&[32, 64, 128]);
            let packed = group_size * rng.range(1, 3) as u32;
            let (free, m, transpose) = (rng.range(1, 70) as u32, rng.range(1, 20) as u32, rng.range(0, 2) > 0);
            let (n, k) = if transpose { (free, packed) } else { (packed, free) };
            Box::new(case(rng.pick(FLOATS), rng.pick(FLOATS), m, n, k, group_size, rng.pick(&[4, 8]), transpose))
        },
    }
}

#[cfg(test)]
mod refusals {
    use super::*;
    use crate::testing::{Bench, assert_invalid};

    #[test]
    fn each_names_the_parameter() {
        let mut b = Bench::new();
        let f32s = |n| b.device.alloc_tensor(DType::F32, &[n]).expect("a small buffer");
        let (x, scales, biases, out) = (f32s(2 * 64), f32s(3), f32s(3), f32s(2 * 3));
        let weight = b.buffer(DType::U32, &[3 * 8]);
        let (half, bytes) = (b.buffer(DType::F16, &[256]), b.buffer(DType::U8, &[4096]));
        let half_out = b.device.alloc_tensor(DType::F16, &[6]).expect("a small buffer");
        let ok = QuantizedMatmulParams { m: 2, n: 3, k: 64, group_size: 64, bits: 4, transpose: true };
        let mut run = |x, w, s, z, o, p: QuantizedMatmulParams| {
            quantized_matmul(&mut b.encoder, &mut b.registry, &b.device, x, w, s, z, o, &p)
        };
        assert!(run(&x, &weight, &scales, &biases, &out, ok).is_ok());
        assert!(run(&half, &weight, &scales, &biases, &half_out, ok).is_ok(), "mixed dtypes are fine");
        for (wrong, words) in [
            (QuantizedMatmulParams { m: 0, ..ok }, &["m is 0"][..]),
            (QuantizedMatmulParams { n: 0, ..ok }, &["n is 0"]),
            (QuantizedMatmulParams { k: 0, ..ok }, &["k is 0"]),
            (QuantizedMatmulParams { k: 96, ..ok }, &["k 96", "group_size 64"]),
            (QuantizedMatmulParams { transpose: false, ..ok }, &["n 3", "group_size 64"]),
            (QuantizedMatmulParams { group_size: 16, ..ok }, &["group_size is 16", "128"]),
            (QuantizedMatmulParams { group_size: 0, ..ok }, &["group_size is 0"]),
            (QuantizedMatmulParams { bits: 3, ..ok }, &["bits is 3", "4, 8"]),
            (QuantizedMatmulParams { bits: 0, ..ok }, &["bits is 0"]),
            (QuantizedMatmulParams { m: 3, ..ok }, &["x holds 512 bytes"]),
            (QuantizedMatmulParams { n: 4, ..ok }, &["weight holds 96 bytes"]),
            (QuantizedMatmulParams { group_size: 32, ..ok }, &["scales holds 12 bytes"]),
            (QuantizedMatmulParams { m: u32::MAX, n: u32::MAX, k: !127, ..ok }, &["size of x", "overflows"]),
        ] {
            assert_invalid(run(&x, &weight, &scales, &biases, &out, wrong), words);
        }
        assert_invalid(run(&bytes, &weight, &scales, &biases, &out, ok), &["x", "u8"]);
        assert_invalid(run(&x, &bytes, &scales, &biases, &out, ok), &["weight", "u8", "u32"]);
        assert_invalid(run(&x, &weight, &half, &biases, &out, ok), &["biases", "f32", "f16"]);
        assert_invalid(run(&x, &weight, &bytes, &biases, &out, ok), &["scales", "u8"]);
        assert_invalid(run(&x, &weight, &scales, &biases, &half, ok), &["output", "f16", "f32"]);
        assert_invalid(run(&x, &weight, &scales, &biases, &biases, ok), &["output holds 12 bytes"]);
        assert_invalid(run(&x, &weight, &scales, &biases, &x, ok), &["output", "shares memory", "`x`"]);
    }
}
