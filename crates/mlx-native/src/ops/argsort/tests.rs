//! Cases of `argsort`.

use std::cmp::Ordering;

use super::{ArgsortParams, argsort};
use crate::dtype::DType;
use crate::error::Result;
use crate::testing::{Case, Context, FLOATS, Outputs, Rng, Suite, Tensor, Tolerance};

#[derive(Debug)]
struct ArgsortCase {
    dtype: DType,
    params: ArgsortParams,
    /// Whether the rows are full of equals, zeros of both signs, infinities and NaN.
    ties: bool,
}

impl Case for ArgsortCase {
    fn inputs(&self, rng: &mut Rng) -> Vec<Tensor> {
        let shape = [self.params.rows as usize, self.params.cols as usize];
        let odd = [0.0, -0.0, 1.0, -1.0, f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 3.5];
        let values: Vec<f32> = (0..shape[0] * shape[1])
            .map(|_| if self.ties { rng.pick(&odd) } else { rng.normal() })
            .collect();
        vec![Tensor::from_f32(self.dtype, &shape, &values)]
    }

    fn outputs(&self) -> Outputs {
        vec![(DType::U32, vec![self.params.rows as usize, self.params.cols as usize])]
    }

    fn reference(&self, inputs: &[Tensor]) -> Vec<Vec<f64>> {
        let ArgsortParams { cols, descending, later_first, .. } = self.params;
        let ascending = |a: f64, b: f64| match (a.is_nan(), b.is_nan()) {
            (false, false) => a.partial_cmp(&b).unwrap_or(Ordering::Equal),
            (a, b) => a.cmp(&b),
        };
        let x = inputs[0].to_f64();
        let row = |row: &[f64]| {
            let mut order: Vec<usize> = (0..row.len()).collect();
            order.sort_by(|&i, &j| {
                let by_value = ascending(row[i], row[j]);
                let by_place = i.cmp(&j);
                let by_value = if descending { by_value.reverse() } else { by_value };
                by_value.then(if later_first { by_place.reverse() } else { by_place })
            });
            order.into_iter().map(|i| i as f64).collect::<Vec<_>>()
        };
        vec![x.chunks_exact(cols as usize).flat_map(row).collect()]
    }

    fn encode(&self, c: &mut Context<'_>) -> Result<()> {
        argsort(c.encoder, c.registry, c.device, &c.inputs[0], &c.outputs[0], &self.params)
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::EXACT
    }

    fn is_small(&self) -> bool {
        u64::from(self.params.rows) * u64::from(self.params.cols).pow(2) <= 400_000
    }
}

pub(crate) fn suite() -> Suite {
    let mut cases: Vec<Box<dyn Case>> = Vec::new();
    for &dtype in FLOATS {
        for (i, (rows, cols)) in
            [(1, 1), (1, 7), (3, 33), (65, 1), (2, 65), (3, 255), (2, 256), (1, 257), (1, 600), (2, 5000)].into_iter().enumerate()
        {
            for ties in [false, true] {
                let params = ArgsortParams { rows, cols, descending: i % 2 == 0, later_first: (i / 2 % 2 == 0) != ties };
                cases.push(Box::new(ArgsortCase { dtype, params, ties }));
            }
        }
    }
    Suite {
        op: &super::OP,
        cases,
        random: |rng| {
            let params = ArgsortParams {
                rows: rng.range(1, 5) as u32,
                cols: rng.range(1, 280) as u32,
                descending: rng.range(0, 1) == 0,
                later_first: rng.range(0, 1) == 0,
            };
            Box::new(ArgsortCase { dtype: rng.pick(FLOATS), params, ties: rng.range(0, 1) == 0 })
        },
    }
}

#[cfg(test)]
mod refusals {
    use super::*;
    use crate::ops::argsort::dispatch_argsort_desc_f32;
    use crate::testing::{Bench, assert_invalid};

    #[test]
    fn each_names_the_parameter() {
        let mut b = Bench::new();
        let x = b.buffer(DType::F32, &[16]);
        let y = b.buffer(DType::U32, &[16]);
        let ok = ArgsortParams { rows: 2, cols: 8, descending: false, later_first: false };
        let mut run = |x, o, p: ArgsortParams| argsort(&mut b.encoder, &mut b.registry, &b.device, x, o, &p);
        assert!(run(&x, &y, ok).is_ok());
        assert_invalid(run(&x, &y, ArgsortParams { rows: 0, ..ok }), &["rows is 0"]);
        assert_invalid(run(&x, &y, ArgsortParams { cols: 1 << 31 | 1, ..ok }), &["cols", "2147483649"]);
        assert_invalid(run(&x, &y, ArgsortParams { cols: 9, ..ok }), &["x", "64 bytes"]);
        assert_invalid(run(&x, &x, ok), &["output", "f32", "u32"]);
        let (device, e, r) = (b.device.metal_device(), &mut b.encoder, &mut b.registry);
        assert_invalid(dispatch_argsort_desc_f32(e, r, device, &x, &y, u32::MAX, u32::MAX), &["input"]);
        assert_invalid(dispatch_argsort_desc_f32(e, r, device, &x, &y, 1, 17), &["input", "64 bytes"]);
        assert_invalid(dispatch_argsort_desc_f32(e, r, device, &x, &x, 1, 16), &["output", "share"]);
    }
}
