//! Cases of `layer_norm`.

use super::{LayerNormParams, layer_norm};
use crate::dtype::DType;
use crate::error::Result;
use crate::testing::{Case, Context, FLOATS, Outputs, Rng, Suite, Tensor, Tolerance};

/// What the rows hold.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Rows {
    Normal,
    /// A mean far from zero, which one pass over the squares would drown in.
    Shifted,
    /// A NaN in the first row, an infinity in the second: both become rows of NaN, the others do not.
    Broken,
}

#[derive(Debug)]
struct LayerNormCase {
    dtype: DType,
    rows: u32,
    dim: u32,
    weight: bool,
    bias: bool,
    contents: Rows,
}

impl Case for LayerNormCase {
    fn inputs(&self, rng: &mut Rng) -> Vec<Tensor> {
        let (rows, dim) = (self.rows as usize, self.dim as usize);
        let mut x: Vec<f32> = (0..rows * dim).map(|_| rng.normal()).collect();
        match self.contents {
            Rows::Normal => {}
            Rows::Shifted => x.iter_mut().for_each(|v| *v = *v * 0.5 + 30.0),
            Rows::Broken => {
                x[0] = f32::NAN;
                x[2 * dim - 1] = f32::INFINITY;
            }
        }
        let mut all = vec![Tensor::from_f32(self.dtype, &[rows, dim], &x)];
        for wanted in [self.weight, self.bias] {
            if wanted {
                all.push(Tensor::random(self.dtype, &[dim], rng));
            }
        }
        all
    }

    fn outputs(&self) -> Outputs {
        vec![(self.dtype, vec![self.rows as usize, self.dim as usize])]
    }

    fn reference(&self, inputs: &[Tensor]) -> Vec<Vec<f64>> {
        let dim = self.dim as usize;
        let x = inputs[0].to_f64();
        let weight = self.weight.then(|| inputs[1].to_f64());
        let bias = self.bias.then(|| inputs[1 + usize::from(self.weight)].to_f64());
        let row = |row: &[f64]| -> Vec<f64> {
            let mean = row.iter().sum::<f64>() / dim as f64;
            let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / dim as f64;
            let scale = 1.0 / (variance + 0.01f32 as f64).sqrt();
            let at = |v: &Option<Vec<f64>>, i: usize, none: f64| v.as_ref().map_or(none, |v| v[i]);
            let normal = |(i, v): (usize, &f64)| (v - mean) * scale * at(&weight, i, 1.0) + at(&bias, i, 0.0);
            row.iter().enumerate().map(normal).collect()
        };
        vec![x.chunks(dim).flat_map(row).collect()]
    }

    fn encode(&self, c: &mut Context<'_>) -> Result<()> {
        let weight = self.weight.then(|| &c.inputs[1]);
        let bias = self.bias.then(|| &c.inputs[1 + usize::from(self.weight)]);
        let params = LayerNormParams { rows: self.rows, dim: self.dim, eps: 0.01 };
        layer_norm(c.encoder, c.registry, c.device, &c.inputs[0], weight, bias, &c.outputs[0], &params)
    }

    fn tolerance(&self) -> Tolerance {
        // A mean of 30 is known to 30 units of f32 in the last place, and deviations are of the size of one.
        Tolerance::accumulated(self.dtype, if self.contents == Rows::Shifted { 4e-5 } else { 4e-6 })
    }

    fn is_small(&self) -> bool {
        self.rows * self.dim <= 5000
    }

    fn cost(&self) -> Option<(f64, f64)> {
        let n = f64::from(self.rows) * f64::from(self.dim);
        (!self.is_small()).then_some((n * 2.0 * self.dtype.size_of() as f64, n * 8.0))
    }
}

pub(crate) fn suite() -> Suite {
    let mut cases: Vec<Box<dyn Case>> = Vec::new();
    let mut push = |dtype, rows, dim, (weight, bias), contents| {
        cases.push(Box::new(LayerNormCase { dtype, rows, dim, weight, bias, contents }));
    };
    for &dtype in FLOATS {
        for (rows, dim) in [(1, 1), (3, 7), (2, 33), (5, 65), (1, 1025), (2, 2047)] {
            push(dtype, rows, dim, (true, true), Rows::Normal);
        }
        for affine in [(false, false), (true, false), (false, true)] {
            push(dtype, 3, 80, affine, Rows::Normal);
        }
        push(dtype, 4, 96, (true, true), Rows::Shifted);
        push(dtype, 4, 96, (true, true), Rows::Broken);
        push(dtype, 64, 4096, (true, true), Rows::Normal);
    }
    Suite {
        op: &super::OP,
        cases,
        random: |rng| {
            let (rows, dim) = (rng.range(1, 6) as u32, rng.range(1, 700) as u32);
            let (weight, bias) = (rng.pick(&[true, false]), rng.pick(&[true, false]));
            Box::new(LayerNormCase { dtype: rng.pick(FLOATS), rows, dim, weight, bias, contents: Rows::Normal })
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
        let (x, w, half) = (b.buffer(DType::F32, &[4, 8]), b.buffer(DType::F32, &[8]), b.buffer(DType::F16, &[8]));
        let short = b.buffer(DType::F32, &[7]);
        let mut run = |x, w: Option<&_>, b2: Option<&_>, o, (rows, dim, eps)| {
            layer_norm(&mut b.encoder, &mut b.registry, &b.device, x, w, b2, o, &LayerNormParams { rows, dim, eps })
        };
        assert!(run(&x, Some(&w), Some(&w), &x, (4, 8, 1e-5)).is_ok(), "in place is fine");
        assert_invalid(run(&x, None, None, &x, (0, 8, 1e-5)), &["rows"]);
        assert_invalid(run(&x, None, None, &x, (5, 8, 1e-5)), &["x", "128 bytes"]);
        assert_invalid(run(&x, Some(&short), None, &x, (4, 8, 1e-5)), &["weight", "28 bytes"]);
        assert_invalid(run(&x, None, Some(&half), &x, (4, 8, 1e-5)), &["bias", "f16"]);
        assert_invalid(run(&x, None, None, &x, (4, 8, -1.0)), &["eps"]);
        assert_invalid(run(&x, Some(&w), None, &w, (1, 8, 1e-5)), &["output", "weight"]);
        assert_invalid(run(&x, None, None, &x, (u32::MAX, u32::MAX, 0.0)), &["dim"]);
    }
}
