//! Cases of `matmul`.

use super::{MatmulParams, matmul};
use crate::dtype::DType;
use crate::error::Result;
use crate::testing::{Case, Context, FLOATS, Outputs, Rng, Suite, Tensor, Tolerance};

#[derive(Debug)]
struct MatmulCase {
    dtype: DType,
    weight: DType,
    params: MatmulParams,
    /// NaN and infinity in `x` and `weight`.
    specials: bool,
}

impl MatmulCase {
    fn new(dtype: DType, weight: DType, m: u32, n: u32, k: u32, transpose: bool) -> Self {
        MatmulCase { dtype, weight, params: MatmulParams { m, n, k, transpose }, specials: false }
    }

    fn weight_shape(&self) -> [usize; 2] {
        let MatmulParams { n, k, transpose, .. } = self.params;
        if transpose { [n as usize, k as usize] } else { [k as usize, n as usize] }
    }
}

/// `tensor` with NaN, infinity and its negative here and there: three lonely elements, so that most results stay finite.
fn with_specials(tensor: Tensor) -> Tensor {
    let mut values: Vec<f32> = tensor.to_f64().iter().map(|v| *v as f32).collect();
    let len = values.len();
    values[len / 5] = f32::INFINITY;
    values[len / 2] = f32::NEG_INFINITY;
    values[len - 1] = f32::NAN;
    Tensor::from_f32(tensor.dtype(), tensor.shape(), &values)
}

impl Case for MatmulCase {
    fn inputs(&self, rng: &mut Rng) -> Vec<Tensor> {
        let MatmulParams { m, k, .. } = self.params;
        let x = Tensor::random(self.dtype, &[m as usize, k as usize], rng);
        let weight = Tensor::random(self.weight, &self.weight_shape(), rng);
        if self.specials { vec![with_specials(x), with_specials(weight)] } else { vec![x, weight] }
    }

    fn outputs(&self) -> Outputs {
        vec![(self.dtype, vec![self.params.m as usize, self.params.n as usize])]
    }

    fn reference(&self, inputs: &[Tensor]) -> Vec<Vec<f64>> {
        let MatmulParams { m, n, k, transpose } = self.params;
        let (m, n, k) = (m as usize, n as usize, k as usize);
        let (x, w) = (inputs[0].to_f64(), inputs[1].to_f64());
        let at = |row: usize, column: usize| -> f64 {
            let x = &x[row * k..(row + 1) * k];
            if transpose {
                x.iter().zip(&w[column * k..(column + 1) * k]).map(|(x, w)| x * w).sum()
            } else {
                x.iter().enumerate().map(|(i, x)| x * w[i * n + column]).sum()
            }
        };
        vec![(0..m * n).map(|i| at(i / n, i % n)).collect()]
    }

    fn encode(&self, c: &mut Context<'_>) -> Result<()> {
        matmul(c.encoder, c.registry, c.device, &c.inputs[0], &c.inputs[1], &c.outputs[0], &self.params)
    }

    fn tolerance(&self) -> Tolerance {
        // k products of normal values in f32: the error of a sum grows like the root of k, times its size, which does
        // likewise. 2^-24 for each, and a factor of 4 for the unlucky element.
        let k = f64::from(self.params.k);
        Tolerance::accumulated(self.dtype, 4.0 * 6e-8 * (k + 4.0))
    }

    fn is_small(&self) -> bool {
        let MatmulParams { m, n, k, .. } = self.params;
        u64::from(m) * u64::from(n) * u64::from(k) <= 300_000
    }

    fn cost(&self) -> Option<(f64, f64)> {
        let MatmulParams { m, n, k, .. } = self.params;
        let [m, n, k] = [m, n, k].map(f64::from);
        let (x, w) = (self.dtype.size_of() as f64, self.weight.size_of() as f64);
        (m * n * k > 4e6).then_some((m * k * x + n * k * w + m * n * x, 2.0 * m * n * k))
    }
}

pub(crate) fn suite() -> Suite {
    let mut cases: Vec<MatmulCase> = Vec::new();
    // Every kernel at every pair of dtypes.
    for &x in FLOATS {
        for &w in FLOATS {
            for transpose in [true, false] {
                cases.push(MatmulCase::new(x, w, 2, 37, 133, transpose));
                cases.push(MatmulCase::new(x, w, 9, 33, 41, transpose));
                cases.push(MatmulCase::new(x, w, 67, 65, 35, transpose));
            }
        }
    }
    // Sizes that are multiples of nothing, and every number of rows of the mat-vec family.
    let sizes = [
        (1, 1, 1), (1, 7, 33), (7, 1, 65), (1, 65, 257), (33, 7, 1), (65, 33, 7), (16, 3, 300), (33, 65, 33), (64, 64, 64),
        (3, 130, 17), (4, 9, 128), (5, 31, 127), (6, 8, 100), (8, 66, 129), (15, 70, 40), (29, 35, 270), (128, 67, 19),
    ];
    for (m, n, k) in sizes {
        for transpose in [true, false] {
            cases.push(MatmulCase::new(DType::F32, DType::F32, m, n, k, transpose));
        }
    }
    // NaN and infinity go where they should, and nowhere else.
    for &dtype in FLOATS {
        for (m, n, k) in [(1, 9, 40), (5, 40, 33), (33, 34, 35), (66, 67, 20)] {
            for transpose in [true, false] {
                cases.push(MatmulCase { specials: true, ..MatmulCase::new(dtype, dtype, m, n, k, transpose) });
            }
        }
    }
    // Larger than one block of everything on the CPU; the benchmarks time some of these.
    cases.push(MatmulCase::new(DType::F32, DType::F32, 350, 290, 530, true));
    cases.push(MatmulCase::new(DType::F32, DType::BF16, 350, 290, 530, false));
    for (x, w) in [(DType::F32, DType::F32), (DType::F32, DType::BF16), (DType::F16, DType::F16), (DType::BF16, DType::BF16)] {
        cases.push(MatmulCase::new(x, w, 1, 1030, 4100, true));
    }
    cases.push(MatmulCase::new(DType::F32, DType::BF16, 5, 520, 4100, true));
    cases.push(MatmulCase::new(DType::F32, DType::F32, 1, 4100, 1030, false));
    Suite {
        op: &super::OP,
        cases: cases.into_iter().map(|c| Box::new(c) as Box<dyn Case>).collect(),
        random: |rng| {
            let (m, n, k) = (rng.range(1, 80), rng.range(1, 70), rng.range(1, 150));
            let m = if rng.range(0, 1) == 0 { m.div_ceil(10) } else { m };
            let transpose = rng.range(0, 1) == 0;
            let (x, w) = (rng.pick(FLOATS), rng.pick(FLOATS));
            let n = n.min(280_000 / (m * k)).max(1);
            Box::new(MatmulCase::new(x, w, m as u32, n as u32, k as u32, transpose))
        },
    }
}

#[cfg(test)]
mod refusals {
    use super::*;
    use crate::ops::matmul::{Family, ROUTES, route};
    use crate::testing::{Bench, assert_invalid};

    #[test]
    fn each_names_the_parameter() {
        let mut b = Bench::new();
        let x = b.buffer(DType::F32, &[3, 8]);
        let w = b.buffer(DType::BF16, &[5, 8]);
        let y = b.buffer(DType::F32, &[3, 5]);
        let y16 = b.buffer(DType::F16, &[3, 5]);
        let ints = b.buffer(DType::U32, &[5, 8]);
        let ok = MatmulParams { m: 3, n: 5, k: 8, transpose: true };
        let mut run = |x, w, y, p: MatmulParams| matmul(&mut b.encoder, &mut b.registry, &b.device, x, w, y, &p);
        assert!(run(&x, &w, &y, ok).is_ok());
        assert_invalid(run(&x, &w, &y, MatmulParams { m: 0, ..ok }), &["matmul", "m is 0"]);
        assert_invalid(run(&x, &w, &y, MatmulParams { n: 0, ..ok }), &["n is 0"]);
        assert_invalid(run(&x, &w, &y, MatmulParams { k: 0, ..ok }), &["k is 0"]);
        assert_invalid(run(&x, &w, &y, MatmulParams { m: 4, ..ok }), &["x", "96 bytes"]);
        assert_invalid(run(&x, &w, &y, MatmulParams { n: 6, ..ok }), &["weight", "80 bytes"]);
        let all = MatmulParams { m: u32::MAX, n: u32::MAX, k: u32::MAX, ..ok };
        assert_invalid(run(&x, &w, &y, all), &["overflows"]);
        assert_invalid(run(&x, &w, &x, MatmulParams { n: 1, ..ok }), &["output", "x", "share"]);
        assert_invalid(run(&x, &w, &y16, ok), &["output", "f16", "f32"]);
        assert_invalid(run(&x, &ints, &y, ok), &["weight", "u32"]);
        assert_invalid(run(&x, &y, &y, MatmulParams { n: 1, ..ok }), &["output", "weight", "share"]);
    }

    #[test]
    fn the_table_routes_everything() {
        let at = |m, n, transpose| route(&MatmulParams { m, n, k: 1, transpose });
        assert_eq!(at(1, 1, true), Family::Gemv);
        assert_eq!(at(8, 4096, false), Family::Gevm);
        assert_eq!(at(9, 4096, true), Family::Gemm32);
        assert_eq!(at(64, 64, false), Family::Gemm64);
        assert_eq!(at(u32::MAX, 63, true), Family::Gemm32);
        let last = ROUTES[ROUTES.len() - 1];
        assert_eq!((last.min_m, last.max_m, last.min_n, last.transpose), (1, u32::MAX, 1, None));
    }
}
