//! Cases of `weighted_sum`.

use super::{WeightedSumParams, weighted_sum};
use crate::dtype::DType;
use crate::error::Result;
use crate::testing::{Case, Context, FLOATS, Outputs, Rng, Suite, Tensor, Tolerance};

#[derive(Debug)]
struct WeightedSumCase {
    dtype: DType,
    params: WeightedSumParams,
    /// A NaN in the first row: it is seen in the first sum only.
    broken: bool,
}

impl Case for WeightedSumCase {
    fn inputs(&self, rng: &mut Rng) -> Vec<Tensor> {
        let WeightedSumParams { rows, terms, dim } = self.params;
        let mut x: Vec<f32> = (0..rows * terms * dim).map(|_| rng.normal()).collect();
        if self.broken {
            x[0] = f32::NAN;
        }
        vec![
            Tensor::from_f32(self.dtype, &[x.len()], &x),
            Tensor::random(self.dtype, &[(rows * terms) as usize], rng),
        ]
    }

    fn outputs(&self) -> Outputs {
        vec![(self.dtype, vec![self.params.rows as usize, self.params.dim as usize])]
    }

    fn reference(&self, inputs: &[Tensor]) -> Vec<Vec<f64>> {
        let (terms, dim) = (self.params.terms as usize, self.params.dim as usize);
        let (x, weights) = (inputs[0].to_f64(), inputs[1].to_f64());
        let element = |i: usize| {
            let row = i / dim;
            (0..terms).map(|j| weights[row * terms + j] * x[(row * terms + j) * dim + i % dim]).sum()
        };
        vec![(0..self.params.rows as usize * dim).map(element).collect()]
    }

    fn encode(&self, c: &mut Context<'_>) -> Result<()> {
        weighted_sum(c.encoder, c.registry, c.device, &c.inputs[0], &c.inputs[1], &c.outputs[0], &self.params)
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::accumulated(self.dtype, 1e-6 * f64::from(self.params.terms))
    }

    fn is_small(&self) -> bool {
        self.params.rows * self.params.terms * self.params.dim <= 5000
    }

    fn cost(&self) -> Option<(f64, f64)> {
        let WeightedSumParams { rows, terms, dim } = self.params;
        let n = f64::from(rows) * f64::from(terms) * f64::from(dim);
        (!self.is_small()).then_some((n * self.dtype.size_of() as f64, n * 2.0))
    }
}

pub(crate) fn suite() -> Suite {
    let mut cases: Vec<Box<dyn Case>> = Vec::new();
    for &dtype in FLOATS {
        for (rows, terms, dim) in [(1, 1, 1), (3, 2, 7), (2, 8, 33), (1, 5, 65), (1, 2, 1025), (64, 8, 2048)] {
            let params = WeightedSumParams { rows, terms, dim };
            cases.push(Box::new(WeightedSumCase { dtype, params, broken: false }));
        }
        let params = WeightedSumParams { rows: 2, terms: 3, dim: 5 };
        cases.push(Box::new(WeightedSumCase { dtype, params, broken: true }));
    }
    Suite {
        op: &super::OP,
        cases,
        random: |rng| {
            let (rows, terms, dim) = (rng.range(1, 5) as u32, rng.range(1, 9) as u32, rng.range(1, 100) as u32);
            let params = WeightedSumParams { rows, terms, dim };
            Box::new(WeightedSumCase { dtype: rng.pick(FLOATS), params, broken: false })
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
        let (x, w, o) = (b.buffer(DType::F32, &[2, 2, 4]), b.buffer(DType::F32, &[2, 2]), b.buffer(DType::F32, &[2, 4]));
        let half = b.buffer(DType::F16, &[2, 2]);
        let mut run = |x, w, o, rows, terms, dim| {
            weighted_sum(&mut b.encoder, &mut b.registry, &b.device, x, w, o, &WeightedSumParams { rows, terms, dim })
        };
        assert!(run(&x, &w, &o, 2, 2, 4).is_ok());
        assert_invalid(run(&x, &w, &o, 0, 2, 4), &["rows"]);
        assert_invalid(run(&x, &w, &o, 2, 3, 4), &["x", "64 bytes"]);
        assert_invalid(run(&x, &half, &o, 2, 2, 4), &["weights", "f16"]);
        assert_invalid(run(&x, &w, &w, 1, 1, 4), &["output", "weights"]);
        assert_invalid(run(&x, &w, &o, u32::MAX, u32::MAX, u32::MAX), &["overflows"]);
    }
}
