//! Cases of `softcap`.

use super::{SoftcapParams, softcap};
use crate::dtype::DType;
use crate::error::Result;
use crate::testing::{Case, Context, FLOATS, Outputs, Rng, Suite, Tensor, Tolerance};

#[derive(Debug)]
struct SoftcapCase {
    dtype: DType,
    params: SoftcapParams,
    /// Standard deviation of the values, in units of the cap.
    spread: f32,
}

impl Case for SoftcapCase {
    fn inputs(&self, rng: &mut Rng) -> Vec<Tensor> {
        let n = self.params.n_elements as usize;
        let mut x: Vec<f32> = (0..n).map(|_| rng.normal() * self.spread * self.params.cap).collect();
        for (v, special) in x.iter_mut().skip(20).zip([f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 0.0, -0.0]) {
            *v = special;
        }
        vec![Tensor::from_f32(self.dtype, &[n], &x)]
    }

    fn outputs(&self) -> Outputs {
        vec![(self.dtype, vec![self.params.n_elements as usize])]
    }

    fn reference(&self, inputs: &[Tensor]) -> Vec<Vec<f64>> {
        let cap = f64::from(self.params.cap);
        vec![inputs[0].to_f64().iter().map(|x| (x / cap).tanh() * cap).collect()]
    }

    fn encode(&self, c: &mut Context<'_>) -> Result<()> {
        softcap(c.encoder, c.registry, c.device, &c.inputs[0], &c.outputs[0], &self.params)
    }

    fn tolerance(&self) -> Tolerance {
        // tanh within 4 units in the last place, the quotient and the product half of one each.
        let rounding = Tolerance::one_rounding(self.dtype);
        Tolerance { absolute: rounding.absolute, relative: rounding.relative + 6e-7 }
    }

    fn is_small(&self) -> bool {
        self.params.n_elements <= 5000
    }
}

pub(crate) fn suite() -> Suite {
    let mut cases: Vec<Box<dyn Case>> = Vec::new();
    for &dtype in FLOATS {
        for (n_elements, cap, spread) in [(1, 30.0, 1.0), (7, 50.0, 0.1), (33, 30.0, 0.01), (65, 1.5, 3.0), (1026, 15.0, 1.0), (200_000, 30.0, 1.0)] {
            cases.push(Box::new(SoftcapCase { dtype, params: SoftcapParams { cap, n_elements }, spread }));
        }
    }
    Suite {
        op: &super::OP,
        cases,
        random: |rng| {
            let params = SoftcapParams { cap: 1.0 + rng.signed().abs() * 60.0, n_elements: rng.range(1, 900) as u32 };
            Box::new(SoftcapCase { dtype: rng.pick(FLOATS), params, spread: rng.signed().abs() * 4.0 })
        },
    }
}

#[cfg(test)]
mod refusals {
    use super::*;
    use crate::ops::softcap::dispatch_softcap;
    use crate::testing::{Bench, assert_invalid};

    #[test]
    fn each_names_the_parameter() {
        let mut b = Bench::new();
        let x = b.buffer(DType::F32, &[8]);
        let y = b.buffer(DType::F16, &[8]);
        let ok = SoftcapParams { cap: 30.0, n_elements: 8 };
        let mut run = |x, o, p: SoftcapParams| softcap(&mut b.encoder, &mut b.registry, &b.device, x, o, &p);
        assert!(run(&x, &x, ok).is_ok(), "in place is fine");
        for cap in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            assert_invalid(run(&x, &x, SoftcapParams { cap, ..ok }), &["cap"]);
        }
        assert_invalid(run(&x, &x, SoftcapParams { n_elements: 0, ..ok }), &["n_elements"]);
        assert_invalid(run(&x, &x, SoftcapParams { n_elements: 9, ..ok }), &["x", "32 bytes"]);
        assert_invalid(run(&x, &y, ok), &["output", "f16"]);
        let (device, e, r) = (b.device.metal_device(), &mut b.encoder, &mut b.registry);
        let tiny = b.device.alloc_buffer(4, DType::F32, vec![8]).expect("a small buffer");
        assert_invalid(dispatch_softcap(e, r, device, &tiny, &x, &tiny, 30.0), &["input", "4 bytes"]);
        assert_invalid(dispatch_softcap(e, r, device, &tiny, &x, &tiny, f32::NAN), &["cap"]);
    }
}
