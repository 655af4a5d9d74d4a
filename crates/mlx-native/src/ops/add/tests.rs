//! Cases of `add`.

use super::{AddParams, add};
use crate::dtype::DType;
use crate::error::Result;
use crate::testing::{Case, Context, FLOATS, Outputs, Rng, Suite, Tensor, Tolerance};

#[derive(Debug)]
struct AddCase {
    dtype: DType,
    params: AddParams,
}

impl Case for AddCase {
    fn inputs(&self, rng: &mut Rng) -> Vec<Tensor> {
        let AddParams { n_elements, b_elements } = self.params;
        vec![
            Tensor::random(self.dtype, &[n_elements as usize], rng),
            Tensor::random(self.dtype, &[b_elements as usize], rng),
        ]
    }

    fn outputs(&self) -> Outputs {
        vec![(self.dtype, vec![self.params.n_elements as usize])]
    }

    fn reference(&self, inputs: &[Tensor]) -> Vec<Vec<f64>> {
        let (a, b) = (inputs[0].to_f64(), inputs[1].to_f64());
        vec![a.iter().enumerate().map(|(i, a)| a + b[i % b.len()]).collect()]
    }

    fn encode(&self, c: &mut Context<'_>) -> Result<()> {
        add(c.encoder, c.registry, c.device, &c.inputs[0], &c.inputs[1], &c.outputs[0], &self.params)
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::one_rounding(self.dtype)
    }

    fn is_small(&self) -> bool {
        self.params.n_elements <= 5000
    }
}

pub(crate) fn suite() -> Suite {
    let sizes = [(1, 1), (7, 7), (33, 11), (65, 1), (1026, 513), (4096, 64), (1 << 20, 1 << 20)];
    let cases = FLOATS.iter().flat_map(|&dtype| {
        sizes.map(|(n_elements, b_elements)| {
            Box::new(AddCase { dtype, params: AddParams { n_elements, b_elements } }) as Box<dyn Case>
        })
    });
    Suite {
        op: &super::OP,
        cases: cases.collect(),
        random: |rng| {
            let b_elements = rng.range(1, 70) as u32;
            let n_elements = b_elements * rng.range(1, 40) as u32;
            Box::new(AddCase { dtype: rng.pick(FLOATS), params: AddParams { n_elements, b_elements } })
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
        let ok = AddParams { n_elements: 8, b_elements: 8 };
        let mut run = |a, c, o, p: AddParams| add(&mut b.encoder, &mut b.registry, &b.device, a, c, o, &p);
        assert!(run(&x, &x, &x, ok).is_ok(), "in place is fine");
        assert_invalid(run(&x, &x, &x, AddParams { n_elements: 0, ..ok }), &["n_elements"]);
        assert_invalid(run(&x, &x, &x, AddParams { b_elements: 0, ..ok }), &["b_elements"]);
        assert_invalid(run(&x, &x, &x, AddParams { b_elements: 3, ..ok }), &["n_elements", "b_elements"]);
        assert_invalid(run(&x, &y, &x, ok), &["b", "f16", "f32"]);
        assert_invalid(run(&x, &x, &x, AddParams { n_elements: 16, ..ok }), &["a", "32 bytes"]);
    }
}
