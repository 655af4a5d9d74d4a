//! Cases of `softmax`.

use super::{SoftmaxParams, softmax};
use crate::dtype::DType;
use crate::error::Result;
use crate::testing::{Case, Context, FLOATS, Outputs, Rng, Suite, Tensor, Tolerance};

#[derive(Debug, Clone, Copy)]
enum Contents {
    Normal,
    /// Hundreds apart: most results vanish.
    Wide,
    /// A row of -infinity, one with some, one with NaN, one with infinity, in turn.
    Specials,
}

#[derive(Debug)]
struct SoftmaxCase {
    dtype: DType,
    params: SoftmaxParams,
    contents: Contents,
    in_place: bool,
}

impl SoftmaxCase {
    fn shape(&self) -> [usize; 2] {
        [self.params.rows as usize, self.params.cols as usize]
    }

    fn tensor(&self, rng: &mut Rng) -> Tensor {
        let normal = Tensor::random(self.dtype, &self.shape(), rng);
        let scale = if matches!(self.contents, Contents::Wide) { 200.0 } else { 1.0 };
        let mut values: Vec<f32> = normal.to_f64().iter().map(|v| *v as f32 * scale).collect();
        if matches!(self.contents, Contents::Specials) {
            for (i, row) in values.chunks_exact_mut(self.params.cols as usize).enumerate() {
                let last = row.len() - 1;
                match i % 5 {
                    0 => row.fill(f32::NEG_INFINITY),
                    1 => row[..last].fill(f32::NEG_INFINITY),
                    2 => row[last / 2] = f32::NAN,
                    3 => row[last] = f32::INFINITY,
                    _ => row.fill(f32::NAN),
                }
            }
        }
        Tensor::from_f32(self.dtype, &self.shape(), &values)
    }
}

impl Case for SoftmaxCase {
    fn inputs(&self, rng: &mut Rng) -> Vec<Tensor> {
        if self.in_place { Vec::new() } else { vec![self.tensor(rng)] }
    }

    fn outputs(&self) -> Outputs {
        vec![(self.dtype, self.shape().to_vec())]
    }

    fn before(&self, rng: &mut Rng) -> Option<Vec<Tensor>> {
        self.in_place.then(|| vec![self.tensor(rng)])
    }

    fn reference(&self, inputs: &[Tensor]) -> Vec<Vec<f64>> {
        let x = inputs[0].to_f64();
        let rows = x.chunks_exact(self.params.cols as usize).flat_map(|row| {
            let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let masked = row.iter().all(|v| *v == f64::NEG_INFINITY);
            let shift = if largest == f64::NEG_INFINITY { 0.0 } else { largest };
            let sum: f64 = row.iter().map(|v| (v - shift).exp()).sum();
            row.iter().map(move |v| if masked { 0.0 } else { (v - shift).exp() / sum }).collect::<Vec<_>>()
        });
        vec![rows.collect()]
    }

    fn encode(&self, c: &mut Context<'_>) -> Result<()> {
        let x = if self.in_place { &c.outputs[0] } else { &c.inputs[0] };
        softmax(c.encoder, c.registry, c.device, x, &c.outputs[0], &self.params)
    }

    fn tolerance(&self) -> Tolerance {
        // exp within 2 units of f32, the sum, the reciprocal and the product one each or little more; differences of large
        // values are exact, or rounded by half a unit of up to 1000: 3e-5 of the result.
        let f32_error = if matches!(self.contents, Contents::Wide) { 6e-5 } else { 2e-6 };
        let rounding = Tolerance::one_rounding(self.dtype);
        Tolerance { absolute: rounding.absolute.max(1e-30), relative: rounding.relative + f32_error }
    }

    fn is_small(&self) -> bool {
        u64::from(self.params.rows) * u64::from(self.params.cols) <= 6000
    }

    fn cost(&self) -> Option<(f64, f64)> {
        let elements = f64::from(self.params.rows) * f64::from(self.params.cols);
        // Read and written; a multiply-add for each term of exp, twice.
        (elements > 1e5).then_some((2.0 * elements * self.dtype.size_of() as f64, 40.0 * elements))
    }
}

pub(crate) fn suite() -> Suite {
    let mut cases: Vec<SoftmaxCase> = Vec::new();
    for &dtype in FLOATS {
        let sizes = [(1, 1), (1, 7), (3, 33), (65, 1), (2, 65), (1, 1025), (5, 1024), (1, 4099), (1, 151_936), (700, 512)];
        for (rows, cols) in sizes {
            let params = SoftmaxParams { rows, cols };
            cases.push(SoftmaxCase { dtype, params, contents: Contents::Normal, in_place: cols % 2 == 0 });
        }
        for (contents, rows, cols) in
            [(Contents::Wide, 3, 200), (Contents::Specials, 5, 1), (Contents::Specials, 10, 37), (Contents::Specials, 5, 600)]
        {
            cases.push(SoftmaxCase { dtype, params: SoftmaxParams { rows, cols }, contents, in_place: rows == 10 });
        }
    }
    Suite {
        op: &super::OP,
        cases: cases.into_iter().map(|c| Box::new(c) as Box<dyn Case>).collect(),
        random: |rng| {
            let (rows, cols) = (rng.range(1, 12) as u32, rng.range(1, 400) as u32);
            Box::new(SoftmaxCase {
                dtype: rng.pick(FLOATS),
                params: SoftmaxParams { rows, cols },
                contents: rng.pick(&[Contents::Normal, Contents::Wide, Contents::Specials]),
                in_place: rng.range(0, 1) == 0,
            })
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
        let y = b.buffer(DType::F16, &[16]);
        let half = x.view(4, DType::F32, vec![8]).expect("inside");
        let ok = SoftmaxParams { rows: 2, cols: 8 };
        let mut run = |x, o, p: SoftmaxParams| softmax(&mut b.encoder, &mut b.registry, &b.device, x, o, &p);
        assert!(run(&x, &x, ok).is_ok(), "in place is fine");
        assert_invalid(run(&x, &x, SoftmaxParams { rows: 0, ..ok }), &["softmax", "rows is 0"]);
        assert_invalid(run(&x, &x, SoftmaxParams { cols: 0, ..ok }), &["cols is 0"]);
        assert_invalid(run(&x, &x, SoftmaxParams { cols: 1 << 31 | 1, ..ok }), &["cols", "2147483649"]);
        assert_invalid(run(&x, &x, SoftmaxParams { rows: 3, ..ok }), &["x", "64 bytes"]);
        assert_invalid(run(&x, &y, ok), &["output", "f16", "f32"]);
        assert_invalid(run(&x, &half, SoftmaxParams { rows: 1, ..ok }), &["output", "x", "share"]);
    }
}
