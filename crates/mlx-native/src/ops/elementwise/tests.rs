//! Cases of `mul` and `scale`.

use super::{MulParams, ScaleParams, mul, scale};
use crate::dtype::DType;
use crate::error::Result;
use crate::testing::{Case, Context, FLOATS, Outputs, Rng, Suite, Tensor, Tolerance};

#[derive(Debug, Clone, Copy)]
enum What {
    Mul(MulParams),
    Scale(ScaleParams),
}

#[derive(Debug)]
struct ProductCase {
    dtype: DType,
    what: What,
    /// Puts infinities, NaN and zeros among the values.
    specials: bool,
}

impl ProductCase {
    fn n(&self) -> usize {
        match self.what {
            What::Mul(p) => p.n_elements as usize,
            What::Scale(p) => p.n_elements as usize,
        }
    }

    fn values(&self, n: usize, rng: &mut Rng) -> Tensor {
        let mut values: Vec<f32> = (0..n).map(|_| rng.normal()).collect();
        if self.specials {
            let odd = [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 0.0, -0.0];
            values.iter_mut().for_each(|v| *v = if rng.range(0, 2) == 0 { rng.pick(&odd) } else { *v });
        }
        Tensor::from_f32(self.dtype, &[n], &values)
    }
}

impl Case for ProductCase {
    fn inputs(&self, rng: &mut Rng) -> Vec<Tensor> {
        let mut inputs = vec![self.values(self.n(), rng)];
        if let What::Mul(p) = self.what {
            inputs.push(self.values(p.b_elements as usize, rng));
        }
        inputs
    }

    fn outputs(&self) -> Outputs {
        vec![(self.dtype, vec![self.n()])]
    }

    fn reference(&self, inputs: &[Tensor]) -> Vec<Vec<f64>> {
        let a = inputs[0].to_f64();
        vec![match self.what {
            What::Mul(_) => {
                let b = inputs[1].to_f64();
                a.iter().enumerate().map(|(i, a)| a * b[i % b.len()]).collect()
            }
            What::Scale(p) => a.iter().map(|a| a * f64::from(p.scalar)).collect(),
        }]
    }

    fn encode(&self, c: &mut Context<'_>) -> Result<()> {
        match &self.what {
            What::Mul(p) => mul(c.encoder, c.registry, c.device, &c.inputs[0], &c.inputs[1], &c.outputs[0], p),
            What::Scale(p) => scale(c.encoder, c.registry, c.device, &c.inputs[0], &c.outputs[0], p),
        }
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::one_rounding(self.dtype)
    }

    fn is_small(&self) -> bool {
        self.n() <= 5000
    }
}

pub(crate) fn suite() -> Suite {
    let sizes = [(1, 1), (7, 7), (33, 11), (65, 1), (1026, 513), (4096, 64), (1 << 20, 1 << 20)];
    let mut cases: Vec<Box<dyn Case>> = Vec::new();
    for &dtype in FLOATS {
        for (n_elements, b_elements) in sizes {
            for what in [
                What::Mul(MulParams { n_elements, b_elements }),
                What::Scale(ScaleParams { n_elements, scalar: -1.7 }),
            ] {
                cases.push(Box::new(ProductCase { dtype, what, specials: n_elements == 33 }));
            }
        }
    }
    Suite {
        op: &super::OP,
        cases,
        random: |rng| {
            let b_elements = rng.range(1, 70) as u32;
            let n_elements = b_elements * rng.range(1, 40) as u32;
            let what = match rng.range(0, 1) {
                0 => What::Mul(MulParams { n_elements, b_elements }),
                _ => What::Scale(ScaleParams { n_elements, scalar: rng.normal() }),
            };
            Box::new(ProductCase { dtype: rng.pick(FLOATS), what, specials: false })
        },
    }
}

#[cfg(test)]
mod refusals {
    use super::*;
    use crate::ops::elementwise::{elementwise_mul, embedding_gather_scale_f32, scalar_mul_f32};
    use crate::testing::{Bench, assert_invalid};

    #[test]
    fn each_names_the_parameter() {
        let mut b = Bench::new();
        let x = b.buffer(DType::F32, &[8]);
        let y = b.buffer(DType::F16, &[8]);
        let ok = MulParams { n_elements: 8, b_elements: 8 };
        let mut run = |a, c, o, p: MulParams| mul(&mut b.encoder, &mut b.registry, &b.device, a, c, o, &p);
        assert!(run(&x, &x, &x, ok).is_ok(), "in place is fine");
        assert_invalid(run(&x, &x, &x, MulParams { n_elements: 0, ..ok }), &["n_elements"]);
        assert_invalid(run(&x, &x, &x, MulParams { b_elements: 3, ..ok }), &["n_elements", "b_elements"]);
        assert_invalid(run(&x, &y, &x, ok), &["b", "f16", "f32"]);
        assert_invalid(run(&x, &x, &x, MulParams { n_elements: 16, ..ok }), &["a", "32 bytes"]);
        assert_invalid(run(&x, &x, &x, MulParams { b_elements: 4, ..ok }), &["output", "b", "share"]);
    }

    #[test]
    fn the_published_functions_check_what_0_1_forgot() {
        let mut b = Bench::new();
        let x = b.buffer(DType::F32, &[8]);
        let (device, e, r) = (b.device.metal_device(), &mut b.encoder, &mut b.registry);
        assert_invalid(elementwise_mul(e, r, device, &x, &x, &x, 1 << 33, DType::F32), &["n_elements", "8589934592"]);
        assert_invalid(elementwise_mul(e, r, device, &x, &x, &x, usize::MAX, DType::F32), &["n_elements"]);
        assert_invalid(elementwise_mul(e, r, device, &x, &x, &x, 8, DType::I32), &["i32"]);
        assert_invalid(scalar_mul_f32(e, r, device, &x, &x, 9, 1.0), &["input", "32 bytes"]);
        assert_invalid(embedding_gather_scale_f32(e, r, device, &x, &x, 2, 4, 1.0), &["token_id", "32 bytes"]);
        assert_invalid(
            embedding_gather_scale_f32(e, r, device, &x, &x, u32::MAX, usize::MAX, 1.0),
            &["embedding_gather_scale_f32"],
        );
    }
}
