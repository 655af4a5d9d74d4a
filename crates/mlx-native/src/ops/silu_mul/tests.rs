//! Cases of `silu_mul`.

use super::{SiluMulParams, silu_mul};
use crate::dtype::DType;
use crate::error::Result;
use crate::testing::{Case, Context, FLOATS, Outputs, Rng, Suite, Tensor, Tolerance};

/// What the gate holds.
#[derive(Debug, Clone, Copy)]
enum Gate {
    Normal,
    /// Magnitudes up to the largest of the dtype, where a careless exponential overflows; NaN and +inf.
    Extreme,
}

#[derive(Debug)]
struct SiluMulCase {
    dtype: DType,
    n_elements: u32,
    gate: Gate,
}

const EXTREMES: [f32; 12] = [
    -60_000.0,
    -104.0,
    -89.0,
    -88.0,
    -20.0,
    -0.0,
    0.0,
    20.0,
    89.0,
    60_000.0,
    f32::INFINITY,
    f32::NAN,
];

impl Case for SiluMulCase {
    fn inputs(&self, rng: &mut Rng) -> Vec<Tensor> {
        let shape = [self.n_elements as usize];
        let gate = match self.gate {
            Gate::Normal => (0..shape[0]).map(|_| rng.normal() * 4.0).collect::<Vec<_>>(),
            Gate::Extreme => EXTREMES.iter().copied().cycle().take(shape[0]).collect(),
        };
        vec![Tensor::from_f32(self.dtype, &shape, &gate), Tensor::random(self.dtype, &shape, rng)]
    }

    fn outputs(&self) -> Outputs {
        vec![(self.dtype, vec![self.n_elements as usize])]
    }

    fn reference(&self, inputs: &[Tensor]) -> Vec<Vec<f64>> {
        let (gate, up) = (inputs[0].to_f64(), inputs[1].to_f64());
        let overflow = |v: f64| if self.dtype == DType::F16 && v.abs() >= 65_520.0 { v * f64::INFINITY } else { v };
        vec![gate.iter().zip(up).map(|(g, u)| overflow(g / (1.0 + (-g).exp()) * u)).collect()]
    }

    fn encode(&self, c: &mut Context<'_>) -> Result<()> {
        let params = SiluMulParams { n_elements: self.n_elements };
        silu_mul(c.encoder, c.registry, c.device, &c.inputs[0], &c.inputs[1], &c.outputs[0], &params)
    }

    fn tolerance(&self) -> Tolerance {
        // The exponential is good for 4 units in the last place of f32, quotient and products for one more each.
        let rounding = Tolerance::one_rounding(self.dtype);
        Tolerance { relative: rounding.relative + 6e-7, ..rounding }
    }

    fn is_small(&self) -> bool {
        self.n_elements <= 5000
    }

    fn cost(&self) -> Option<(f64, f64)> {
        let n = f64::from(self.n_elements);
        (!self.is_small()).then_some((n * 3.0 * self.dtype.size_of() as f64, n * 5.0))
    }
}

pub(crate) fn suite() -> Suite {
    let mut cases: Vec<Box<dyn Case>> = Vec::new();
    for &dtype in FLOATS {
        for n_elements in [1, 2, 7, 33, 65, 513, 4099, 3072 * 64] {
            cases.push(Box::new(SiluMulCase { dtype, n_elements, gate: Gate::Normal }));
        }
        cases.push(Box::new(SiluMulCase { dtype, n_elements: 48, gate: Gate::Extreme }));
    }
    Suite {
        op: &super::OP,
        cases,
        random: |rng| {
            let (dtype, n_elements) = (rng.pick(FLOATS), rng.range(1, 3000) as u32);
            Box::new(SiluMulCase { dtype, n_elements, gate: rng.pick(&[Gate::Normal, Gate::Extreme]) })
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
        let x = b.buffer(DType::F32, &[8]);
        let y = b.buffer(DType::F16, &[8]);
        let ints = b.buffer(DType::U32, &[8]);
        let (head, tail) = (x.view(0, DType::F32, vec![4]).unwrap(), x.view(8, DType::F32, vec![4]).unwrap());
        let mut run = |g, u, o, n_elements| {
            silu_mul(&mut b.encoder, &mut b.registry, &b.device, g, u, o, &SiluMulParams { n_elements })
        };
        assert!(run(&x, &x, &x, 8).is_ok(), "in place is fine");
        assert_invalid(run(&head, &head, &tail, 2), &["silu_mul_f32", "output", "share memory"]);
        assert_invalid(run(&x, &x, &x, 0), &["n_elements"]);
        assert_invalid(run(&x, &y, &x, 8), &["up", "f16", "f32"]);
        assert_invalid(run(&ints, &x, &x, 8), &["gate", "u32"]);
        assert_invalid(run(&head, &x, &x, 8), &["gate", "16 bytes"]);
        assert_invalid(run(&x, &x, &head, 8), &["output", "16 bytes"]);
        assert_invalid(run(&head, &x, &tail, 4), &["output", "gate", "share"]);
    }
}
