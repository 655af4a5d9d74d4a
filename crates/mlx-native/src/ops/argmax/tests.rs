//! Cases of `argmax`.

use super::{ArgmaxParams, argmax, argmax_with_value};
use crate::dtype::DType;
use crate::error::Result;
use crate::testing::{Case, Context, FLOATS, Outputs, Rng, Suite, Tensor, Tolerance};

#[derive(Debug, Clone, Copy)]
enum Contents {
    Normal,
    /// Small integers, negative ones too: many are equal.
    Ties,
    /// Zeros of both signs, and below.
    Zeros,
    /// A row of -infinity, one with NaN, one with NaN and infinity, one of NaN, in turn.
    Specials,
}

#[derive(Debug)]
struct ArgmaxCase {
    dtype: DType,
    params: ArgmaxParams,
    contents: Contents,
    /// Whether the values are wanted too; NaN then counts as -infinity.
    has_values: bool,
}

impl Case for ArgmaxCase {
    fn inputs(&self, rng: &mut Rng) -> Vec<Tensor> {
        let ArgmaxParams { rows, cols } = self.params;
        let shape = [rows as usize, cols as usize];
        let mut values: Vec<f32> = (0..shape[0] * shape[1])
            .map(|_| match self.contents {
                Contents::Ties => rng.range(0, 6) as f32 - 8.0,
                Contents::Zeros => rng.pick(&[0.0, -0.0, -1.0]),
                _ => rng.normal(),
            })
            .collect();
        if matches!(self.contents, Contents::Specials) {
            for (i, row) in values.chunks_exact_mut(shape[1]).enumerate() {
                let last = row.len() - 1;
                match i % 4 {
                    0 => row.fill(f32::NEG_INFINITY),
                    1 => {
                        row[last] = -f32::NAN;
                        row[last / 2] = f32::NAN;
                    }
                    2 => {
                        row[0] = f32::INFINITY;
                        row[last] = f32::NAN;
                    }
                    _ => row.fill(f32::NAN),
                }
            }
        }
        vec![Tensor::from_f32(self.dtype, &shape, &values)]
    }

    fn outputs(&self) -> Outputs {
        let rows = vec![self.params.rows as usize];
        let mut outputs = vec![(DType::U32, rows.clone())];
        outputs.extend(self.has_values.then_some((DType::F32, rows)));
        outputs
    }

    fn reference(&self, inputs: &[Tensor]) -> Vec<Vec<f64>> {
        let mut x = inputs[0].to_f64();
        if self.has_values {
            x.iter_mut().filter(|v| v.is_nan()).for_each(|v| *v = f64::NEG_INFINITY);
        }
        let index = |row: &[f64]| {
            let mut best = 0;
            for (i, v) in row.iter().enumerate() {
                if *v > row[best] || v.is_nan() && !row[best].is_nan() {
                    best = i;
                }
            }
            best as f64
        };
        let rows = || x.chunks_exact(self.params.cols as usize);
        let indices: Vec<f64> = rows().map(index).collect();
        if self.has_values {
            let values = rows().zip(&indices).map(|(row, i)| row[*i as usize]).collect();
            return vec![indices, values];
        }
        vec![indices]
    }

    fn encode(&self, c: &mut Context<'_>) -> Result<()> {
        let (x, output) = (&c.inputs[0], &c.outputs[0]);
        match c.outputs.get(1) {
            Some(values) => argmax_with_value(c.encoder, c.registry, c.device, x, output, values, &self.params),
            None => argmax(c.encoder, c.registry, c.device, x, output, &self.params),
        }
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::EXACT
    }

    fn is_small(&self) -> bool {
        u64::from(self.params.rows) * u64::from(self.params.cols) <= 6000
    }

    fn cost(&self) -> Option<(f64, f64)> {
        let elements = f64::from(self.params.rows) * f64::from(self.params.cols);
        (elements > 1e5).then_some((elements * self.dtype.size_of() as f64, elements))
    }
}

pub(crate) fn suite() -> Suite {
    let mut cases: Vec<ArgmaxCase> = Vec::new();
    for &dtype in FLOATS {
        for (rows, cols) in [(1, 1), (1, 7), (3, 33), (65, 1), (2, 65), (1, 1025), (3, 1024), (1, 4099), (1, 151_936), (300, 600)] {
            let params = ArgmaxParams { rows, cols };
            cases.push(ArgmaxCase { dtype, params, contents: Contents::Normal, has_values: cols % 2 == 1 });
        }
        for contents in [Contents::Ties, Contents::Zeros, Contents::Specials] {
            for (rows, cols) in [(9, 3), (8, 130), (4, 1300)] {
                for has_values in [false, true] {
                    cases.push(ArgmaxCase { dtype, params: ArgmaxParams { rows, cols }, contents, has_values });
                }
            }
        }
    }
    Suite {
        op: &super::OP,
        cases: cases.into_iter().map(|c| Box::new(c) as Box<dyn Case>).collect(),
        random: |rng| {
            let params = ArgmaxParams { rows: rng.range(1, 12) as u32, cols: rng.range(1, 400) as u32 };
            let contents = rng.pick(&[Contents::Normal, Contents::Ties, Contents::Zeros, Contents::Specials]);
            Box::new(ArgmaxCase { dtype: rng.pick(FLOATS), params, contents, has_values: rng.range(0, 1) == 0 })
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
        let x = b.buffer(DType::F32, &[16]);
        let y = b.buffer(DType::U32, &[2]);
        let inside = x.view(0, DType::U32, vec![2]).expect("inside");
        let ok = ArgmaxParams { rows: 2, cols: 8 };
        let mut run = |x, o, p: ArgmaxParams| argmax(&mut b.encoder, &mut b.registry, &b.device, x, o, &p);
        assert!(run(&x, &y, ok).is_ok());
        assert_invalid(run(&x, &y, ArgmaxParams { rows: 0, ..ok }), &["argmax", "rows is 0"]);
        assert_invalid(run(&x, &y, ArgmaxParams { cols: 0, ..ok }), &["cols is 0"]);
        assert_invalid(run(&x, &y, ArgmaxParams { cols: 1 << 31 | 1, ..ok }), &["cols", "2147483649"]);
        assert_invalid(run(&x, &y, ArgmaxParams { cols: 9, ..ok }), &["x", "64 bytes"]);
        assert_invalid(run(&x, &y, ArgmaxParams { rows: 4, cols: 4 }), &["output", "8 bytes"]);
        assert_invalid(run(&x, &x, ok), &["output", "f32", "u32"]);
        assert_invalid(run(&y, &y, ArgmaxParams { rows: 1, cols: 1 }), &["x", "u32"]);
        assert_invalid(run(&x, &inside, ok), &["output", "x", "share"]);
    }
}
