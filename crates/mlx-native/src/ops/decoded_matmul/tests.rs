//! Cases of `decoded_matmul` and `decoded_rows`.

use half::f16;

use super::{Coded, DecodedMatmulParams, affine_row_bytes, decoded_matmul, decoded_rows};
use crate::buffer::MlxBuffer;
use crate::dtype::DType;
use crate::error::Result;
use crate::quant::{GgmlType, ggml};
use crate::testing::{Case, Context, Outputs, Rng, Suite, Tensor, Tolerance, rounded};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Format {
    /// Bits, group size, whether the weight is rounded, dtype of x.
    Affine(u32, u32, bool, DType),
    Blocks(GgmlType),
    /// Rows of an affine matrix: bits, group size.
    Rows(u32, u32),
}

#[derive(Debug)]
struct DecodedCase {
    format: Format,
    params: DecodedMatmulParams,
    has_ids: bool,
    /// Bytes between the matrices of a stack.
    gap: usize,
}

impl DecodedCase {
    fn x_dtype(&self) -> DType {
        if let Format::Affine(.., dtype) = self.format { dtype } else { DType::F32 }
    }

    fn row_bytes(&self) -> usize {
        let k = self.params.k;
        match self.format {
            Format::Affine(bits, ..) | Format::Rows(bits, _) => affine_row_bytes(bits, k).unwrap_or(0) as usize,
            Format::Blocks(t) => (k / t.block_values() * t.block_bytes()) as usize,
        }
    }

    fn matrix_bytes(&self) -> usize {
        self.row_bytes() * self.params.n as usize + self.gap
    }

    fn groups(&self) -> usize {
        match self.format {
            Format::Affine(_, group, ..) | Format::Rows(_, group) => self.params.k.div_ceil(group) as usize,
            Format::Blocks(_) => 0,
        }
    }

    /// Random blocks whose scales are of a sensible size.
    fn blocks(&self, t: GgmlType, rng: &mut Rng) -> Vec<u8> {
        let mut bytes: Vec<u8> =
            (0..self.matrix_bytes() * self.params.n_matrices as usize).map(|_| rng.bits() as u8).collect();
        let size = t.block_bytes() as usize;
        let at: &[usize] = match t {
            GgmlType::Q4_K => &[0, 2],
            GgmlType::Q6_K => &[208],
            _ => &[0],
        };
        for matrix in bytes.chunks_mut(self.matrix_bytes()) {
            let len = matrix.len() - self.gap;
            for block in matrix[..len].chunks_exact_mut(size) {
                for &i in at {
                    block[i..i + 2].copy_from_slice(&f16::from_f32(rng.signed() * 0.01).to_le_bytes());
                }
            }
        }
        bytes
    }

    /// Row `column` of matrix `matrix`, in f64.
    fn row(&self, inputs: &[Tensor], matrix: usize, column: usize) -> Vec<f64> {
        let k = self.params.k as usize;
        let start = matrix * self.matrix_bytes() + column * self.row_bytes();
        let codes = &inputs[1].bytes()[start..start + self.row_bytes()];
        let (bits, group, rounds) = match self.format {
            Format::Affine(bits, group, rounds, _) => (bits as usize, group as usize, rounds),
            Format::Rows(bits, group) => (bits as usize, group as usize, false),
            Format::Blocks(t) => {
                let mut values = vec![0.0; k];
                ggml::dequantize(t, codes, &mut values).expect("whole blocks");
                return values.into_iter().map(f64::from).collect();
            }
        };
        let first = (matrix * self.params.n as usize + column) * self.groups();
        let (scales, biases) = (inputs[2].to_f64(), inputs[3].to_f64());
        (0..k)
            .map(|i| {
                let bit = |b: usize| codes[(i * bits + b) / 8] >> ((i * bits + b) % 8) & 1;
                let code: f64 = (0..bits).map(|b| f64::from(bit(b)) * f64::from(1u32 << b)).sum();
                // The product and the sum round in f32, as the format says.
                let w = rounded(DType::F32, rounded(DType::F32, code * scales[first + i / group]) + biases[first + i / group]);
                if rounds { rounded(DType::BF16, w) } else { w }
            })
            .collect()
    }
}

impl Case for DecodedCase {
    // x, codes, then scales and biases, then ids.
    fn inputs(&self, rng: &mut Rng) -> Vec<Tensor> {
        let p = self.params;
        let x_rows = p.m.div_ceil(p.rows_per_x) as usize;
        let mut inputs = vec![Tensor::random(self.x_dtype(), &[x_rows, p.k as usize], rng)];
        let stack = p.n_matrices as usize;
        let codes = match self.format {
            Format::Blocks(t) => self.blocks(t, rng),
            _ => (0..self.matrix_bytes() * stack).map(|_| rng.bits() as u8).collect(),
        };
        inputs.push(Tensor::from_bytes(DType::U8, &[codes.len()], codes));
        if self.groups() > 0 {
            let len = stack * p.n as usize * self.groups();
            for size in [0.02, 0.1] {
                let values: Vec<f32> = (0..len).map(|_| rng.normal() * size).collect();
                inputs.push(Tensor::from_f32(DType::BF16, &[len], &values));
            }
        }
        if self.has_ids {
            // One beyond the stack, or the matrix.
            let limit = if matches!(self.format, Format::Rows(..)) { p.n } else { p.n_matrices };
            let ids: Vec<u32> = (0..p.m).map(|i| if i == 2 { limit } else { rng.range(0, limit as usize - 1) as u32 }).collect();
            inputs.push(Tensor::from_u32(&[ids.len()], &ids));
        }
        inputs
    }

    fn outputs(&self) -> Outputs {
        let columns = if matches!(self.format, Format::Rows(..)) { self.params.k } else { self.params.n };
        vec![(self.x_dtype(), vec![self.params.m as usize, columns as usize])]
    }

    fn reference(&self, inputs: &[Tensor]) -> Vec<Vec<f64>> {
        let p = self.params;
        let k = p.k as usize;
        let x = inputs[0].to_f64();
        let ids = if self.has_ids { inputs[inputs.len() - 1].to_u32() } else { vec![0; p.m as usize] };
        let mut output = Vec::new();
        for row in 0..p.m as usize {
            if matches!(self.format, Format::Rows(..)) {
                let is_row = ids[row] < p.n;
                output.extend(if is_row { self.row(inputs, 0, ids[row] as usize) } else { vec![0.0; k] });
                continue;
            }
            let x = &x[row / p.rows_per_x as usize * k..][..k];
            let is_affine = matches!(self.format, Format::Affine(..));
            let x: Vec<f64> = x.iter().map(|v| if is_affine { rounded(DType::BF16, *v) } else { *v }).collect();
            for column in 0..p.n as usize {
                output.push(match ids[row] < p.n_matrices {
                    true => {
                        let w = self.row(inputs, ids[row] as usize, column);
                        w.iter().zip(&x).map(|(w, x)| w * x).sum()
                    }
                    false => 0.0,
                });
            }
        }
        vec![output]
    }

    fn encode(&self, c: &mut Context<'_>) -> Result<()> {
        let (x, codes): (&MlxBuffer, &MlxBuffer) = (&c.inputs[0], &c.inputs[1]);
        let ids = if self.has_ids { c.inputs.last() } else { None };
        let affine = |bits, group_size, rounds_weight| Coded::Affine {
            bits,
            group_size,
            codes,
            scales: &c.inputs[2],
            biases: &c.inputs[3],
            rounds_weight,
        };
        let weight = match self.format {
            Format::Affine(bits, group, rounds, _) => affine(bits, group, rounds),
            Format::Rows(bits, group) => {
                let p = self.params;
                let (ids, output) = (ids.unwrap_or(x), &c.outputs[0]);
                let weight = affine(bits, group, false);
                return decoded_rows(c.encoder, c.registry, c.device, ids, weight, output, p.m, p.n, p.k);
            }
            Format::Blocks(ggml_type) => {
                Coded::Blocks { ggml_type, blocks: codes, stride: Some(self.matrix_bytes() as u64) }
            }
        };
        decoded_matmul(c.encoder, c.registry, c.device, x, weight, ids, &c.outputs[0], &self.params)
    }

    fn tolerance(&self) -> Tolerance {
        if matches!(self.format, Format::Rows(..)) {
            return Tolerance::EXACT;
        }
        // Up to 4096 products of size 3 in f32. Weights of Q6_K are up to 40.
        Tolerance::accumulated(self.x_dtype(), 2e-4)
    }

    fn is_small(&self) -> bool {
        u64::from(self.params.m) * u64::from(self.params.n) * u64::from(self.params.k) <= 40_000
    }
}

pub(crate) fn suite() -> Suite {
    let mut cases: Vec<Box<dyn Case>> = Vec::new();
    let plain = |m, n, k| DecodedMatmulParams { m, n, k, rows_per_x: 1, n_matrices: 1 };
    let routed = |m, n, k| DecodedMatmulParams { m, n, k, rows_per_x: 2, n_matrices: 3 };
    for bits in [4, 6, 8] {
        for dtype in [DType::F32, DType::BF16] {
            for (group, params, rounds) in [
                (1, plain(1, 1, 1), true),
                (64, plain(1, 7, 64), true),
                (32, plain(3, 9, 128), false),
                (16, plain(2, 5, 33), true),
                (128, plain(7, 65, 1000), false),
            ] {
                let format = Format::Affine(bits, group, rounds, dtype);
                cases.push(Box::new(DecodedCase { format, params, has_ids: false, gap: 0 }));
            }
            let format = Format::Affine(bits, 32, true, dtype);
            cases.push(Box::new(DecodedCase { format, params: routed(6, 9, 64), has_ids: true, gap: 0 }));
        }
        for (m, n, k, group) in [(1, 1, 8, 8), (5, 33, 64, 32), (3, 7, 128, 64), (9, 50, 33, 11)] {
            let format = Format::Rows(bits, group);
            cases.push(Box::new(DecodedCase { format, params: plain(m, n, k), has_ids: true, gap: 0 }));
        }
    }
    for t in [GgmlType::Q4_0, GgmlType::Q8_0, GgmlType::Q4_K, GgmlType::Q6_K] {
        let block = t.block_values();
        for (m, n, blocks) in [(1, 1, 1), (3, 9, 2), (2, 33, 5)] {
            let params = plain(m, n, block * blocks);
            cases.push(Box::new(DecodedCase { format: Format::Blocks(t), params, has_ids: false, gap: 0 }));
        }
        for gap in [0, 6] {
            let params = routed(6, 7, block);
            cases.push(Box::new(DecodedCase { format: Format::Blocks(t), params, has_ids: true, gap }));
        }
    }
    Suite {
        op: &super::OP,
        cases,
        random: |rng| {
            let bits = rng.pick(&[4, 6, 8]);
            let dtype = rng.pick(&[DType::F32, DType::BF16]);
            let format = Format::Affine(bits, rng.range(1, 70) as u32, rng.range(0, 1) == 0, dtype);
            let params = DecodedMatmulParams {
                m: rng.range(1, 5) as u32,
                n: rng.range(1, 20) as u32,
                k: rng.range(1, 150) as u32,
                rows_per_x: rng.range(1, 3) as u32,
                n_matrices: rng.range(1, 3) as u32,
            };
            Box::new(DecodedCase { format, params, has_ids: params.n_matrices > 1, gap: 0 })
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
        let (x, o) = (b.buffer(DType::F32, &[2, 64]), b.buffer(DType::F32, &[2, 3]));
        let (codes, ids) = (b.buffer(DType::U8, &[96]), b.buffer(DType::U32, &[2]));
        let (s, t) = (b.buffer(DType::BF16, &[3]), b.buffer(DType::BF16, &[3]));
        let ok = DecodedMatmulParams { m: 2, n: 3, k: 64, rows_per_x: 1, n_matrices: 1 };
        let affine = |bits, group_size| Coded::Affine {
            bits,
            group_size,
            codes: &codes,
            scales: &s,
            biases: &t,
            rounds_weight: true,
        };
        let mut run = |w, p: DecodedMatmulParams| {
            decoded_matmul(&mut b.encoder, &mut b.registry, &b.device, &x, w, Some(&ids), &o, &p)
        };
        assert!(run(affine(4, 64), ok).is_ok());
        assert_invalid(run(affine(5, 64), ok), &["bits is 5"]);
        assert_invalid(run(affine(4, 0), ok), &["group_size"]);
        assert_invalid(run(affine(8, 64), ok), &["codes", "96 bytes"]);
        assert_invalid(run(affine(4, 32), ok), &["scales", "6 bytes"]);
        assert_invalid(run(affine(4, 64), DecodedMatmulParams { n: 4, ..ok }), &["scales"]);
        assert_invalid(run(affine(4, 64), DecodedMatmulParams { m: 3, ..ok }), &["x", "512 bytes"]);
        assert_invalid(run(affine(4, 64), DecodedMatmulParams { n: 1 << 31, n_matrices: u32::MAX, ..ok }), &["scales"]);
        let blocks = |ggml_type, stride| Coded::Blocks { ggml_type, blocks: &codes, stride };
        assert_invalid(run(blocks(GgmlType::Q5_0, None), ok), &["Q5_0"]);
        assert_invalid(run(blocks(GgmlType::Q6_K, None), ok), &["k 64", "256"]);
        assert_invalid(run(blocks(GgmlType::Q4_0, None), ok), &["codes", "96 bytes"]);
        assert_invalid(run(blocks(GgmlType::Q4_0, Some(7)), ok), &["stride", "7"]);
        let huge = DecodedMatmulParams { n_matrices: u32::MAX, ..ok };
        assert_invalid(run(blocks(GgmlType::Q4_0, Some(u64::MAX)), huge), &["overflows"]);
    }
}
