//! Cases of `hadamard`.

use super::{HadamardParams, hadamard};
use crate::dtype::DType;
use crate::error::Result;
use crate::testing::{Case, Context, FLOATS, Outputs, Rng, Suite, Tensor, Tolerance};

#[derive(Debug)]
struct HadamardCase {
    dtype: DType,
    params: HadamardParams,
    /// Whether the values are small integers, whose sums are exact.
    is_whole: bool,
}

impl Case for HadamardCase {
    fn inputs(&self, rng: &mut Rng) -> Vec<Tensor> {
        let shape = [self.params.rows as usize, self.params.dim as usize];
        let mut x: Vec<f32> = (0..shape[0] * shape[1])
            .map(|_| if self.is_whole { rng.range(0, 16) as f32 - 8.0 } else { rng.normal() })
            .collect();
        if shape[0] == 3 {
            x[0] = f32::NAN;
            x[shape[1]] = f32::INFINITY;
        }
        vec![Tensor::from_f32(self.dtype, &shape, &x)]
    }

    fn outputs(&self) -> Outputs {
        vec![(self.dtype, vec![self.params.rows as usize, self.params.dim as usize])]
    }

    fn reference(&self, inputs: &[Tensor]) -> Vec<Vec<f64>> {
        let dim = self.params.dim as usize;
        let scale = f64::from(self.params.scale);
        // By the definition: the sign of element (i, j) is the parity of the bits that i and j share.
        let sign = |i: usize, j: usize| if (i & j).count_ones() % 2 == 0 { 1.0 } else { -1.0 };
        let row = |x: &[f64]| {
            let sum = |i: usize| x.iter().enumerate().map(|(j, v)| sign(i, j) * v).sum::<f64>();
            (0..dim).map(|i| sum(i) * scale).collect::<Vec<_>>()
        };
        vec![inputs[0].to_f64().chunks_exact(dim).flat_map(row).collect()]
    }

    fn encode(&self, c: &mut Context<'_>) -> Result<()> {
        hadamard(c.encoder, c.registry, c.device, &c.inputs[0], &c.outputs[0], &self.params)
    }

    fn tolerance(&self) -> Tolerance {
        // log2(dim) roundings of sums whose size is √dim, before a scale of 1/√dim.
        let error = if self.is_whole { 0.0 } else { 2e-6 };
        Tolerance::accumulated(self.dtype, error * f64::from(self.params.scale) * f64::from(self.params.dim).sqrt())
    }

    fn is_small(&self) -> bool {
        self.params.rows * self.params.dim <= 5000
    }
}

pub(crate) fn suite() -> Suite {
    let mut cases: Vec<Box<dyn Case>> = Vec::new();
    for &dtype in FLOATS {
        for (rows, dim) in [(1, 1), (7, 2), (3, 4), (3, 64), (5, 128), (3, 256), (2, 512), (1, 1024), (1, 4096), (2, 8192)] {
            cases.push(Box::new(HadamardCase { dtype, params: HadamardParams::orthogonal(rows, dim), is_whole: false }));
        }
        cases.push(Box::new(HadamardCase { dtype, params: HadamardParams { rows: 33, dim: 32, scale: 1.0 }, is_whole: true }));
    }
    Suite {
        op: &super::OP,
        cases,
        random: |rng| {
            let params = HadamardParams::orthogonal(rng.range(1, 4) as u32, 1 << rng.range(0, 9));
            Box::new(HadamardCase { dtype: rng.pick(FLOATS), params, is_whole: rng.range(0, 1) == 0 })
        },
    }
}

#[cfg(test)]
mod refusals {
    use super::*;
    use crate::ops::fwht_standalone::dispatch_fwht_f32;
    use crate::ops::hadamard::dispatch_hadamard_transform;
    use crate::testing::{Bench, assert_invalid};

    #[test]
    fn each_names_the_parameter() {
        let mut b = Bench::new();
        let x = b.buffer(DType::F32, &[16]);
        let y = b.buffer(DType::F16, &[16]);
        let ok = HadamardParams::orthogonal(2, 8);
        let mut run = |x, o, p: HadamardParams| hadamard(&mut b.encoder, &mut b.registry, &b.device, x, o, &p);
        assert!(run(&x, &x, ok).is_ok(), "in place is fine");
        assert_invalid(run(&x, &x, HadamardParams { rows: 0, ..ok }), &["rows"]);
        assert_invalid(run(&x, &x, HadamardParams { dim: 12, ..ok }), &["dim is 12", "power of two"]);
        assert_invalid(run(&x, &x, HadamardParams { dim: 16384, ..ok }), &["dim", "8192"]);
        assert_invalid(run(&x, &x, HadamardParams { rows: 3, ..ok }), &["x", "64 bytes"]);
        assert_invalid(run(&x, &y, ok), &["output", "f16"]);
        let inside = x.view(4, DType::F32, vec![8]).expect("inside");
        assert_invalid(run(&x, &inside, HadamardParams { rows: 1, ..ok }), &["output", "share"]);
    }

    #[test]
    fn the_published_functions() {
        let mut b = Bench::new();
        let x = b.buffer(DType::F32, &[16]);
        let (device, e, r) = (b.device.metal_device(), &mut b.encoder, &mut b.registry);
        assert!(dispatch_hadamard_transform(e, r, device, &x, 0, 3).is_ok());
        assert!(dispatch_hadamard_transform(e, r, device, &x, 8, 0).is_ok());
        assert_invalid(dispatch_hadamard_transform(e, r, device, &x, 12, 1), &["head_dim", "power of two"]);
        assert_invalid(dispatch_hadamard_transform(e, r, device, &x, 8, 3), &["data", "24"]);
        assert_invalid(dispatch_hadamard_transform(e, r, device, &x, 1 << 31, u32::MAX), &["data"]);
        assert_invalid(dispatch_fwht_f32(e, r, device, &x, 3, 8), &["data", "64 bytes"]);
        assert_invalid(dispatch_fwht_f32(e, r, device, &x, 0, 8), &["num_heads"]);
        assert_eq!(e.recorded_dispatches(), 0);
    }
}
