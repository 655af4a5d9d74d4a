//! Cases of `zero` and `accumulate`.

use super::{AccumulateParams, accumulate, zero};
use crate::dtype::DType;
use crate::error::Result;
use crate::testing::{Case, Context, FLOATS, Outputs, Rng, Suite, Tensor, Tolerance};

#[derive(Debug, Clone, Copy)]
enum What {
    Zero(u32),
    Accumulate(DType, AccumulateParams),
}

#[derive(Debug)]
struct MixtureCase(What);

impl Case for MixtureCase {
    fn inputs(&self, rng: &mut Rng) -> Vec<Tensor> {
        match self.0 {
            What::Zero(_) => Vec::new(),
            What::Accumulate(dtype, p) => vec![Tensor::random(dtype, &[p.n_elements as usize], rng)],
        }
    }

    fn outputs(&self) -> Outputs {
        vec![match self.0 {
            What::Zero(n) => (DType::F32, vec![n as usize]),
            What::Accumulate(_, p) => (DType::F32, vec![p.n_elements as usize]),
        }]
    }

    fn before(&self, rng: &mut Rng) -> Option<Vec<Tensor>> {
        let What::Accumulate(_, p) = self.0 else { return None };
        Some(vec![Tensor::random(DType::F32, &[p.n_elements as usize], rng)])
    }

    fn reference(&self, inputs: &[Tensor]) -> Vec<Vec<f64>> {
        let values: Vec<Vec<f64>> = inputs.iter().map(Tensor::to_f64).collect();
        vec![match self.0 {
            What::Zero(n) => vec![0.0; n as usize],
            What::Accumulate(_, p) => {
                values[1].iter().zip(&values[0]).map(|(sum, x)| sum + f64::from(p.weight) * x).collect()
            }
        }]
    }

    fn encode(&self, c: &mut Context<'_>) -> Result<()> {
        let output = &c.outputs[0];
        match &self.0 {
            What::Zero(n) => zero(c.encoder, c.registry, c.device, output, *n),
            What::Accumulate(_, p) => accumulate(c.encoder, c.registry, c.device, output, &c.inputs[0], p),
        }
    }

    fn tolerance(&self) -> Tolerance {
        match self.0 {
            What::Zero(_) => Tolerance::EXACT,
            What::Accumulate(..) => Tolerance::accumulated(DType::F32, 1e-6),
        }
    }

    fn is_small(&self) -> bool {
        match self.0 {
            What::Zero(n) => n <= 5000,
            What::Accumulate(_, p) => p.n_elements <= 5000,
        }
    }
}

pub(crate) fn suite() -> Suite {
    let mut cases: Vec<Box<dyn Case>> = Vec::new();
    for n in [1, 7, 33, 65, 1026, 100_001] {
        cases.push(Box::new(MixtureCase(What::Zero(n))));
        for &dtype in FLOATS {
            cases.push(Box::new(MixtureCase(What::Accumulate(dtype, AccumulateParams { n_elements: n, weight: -0.7 }))));
        }
    }
    Suite {
        op: &super::OP,
        cases,
        random: |rng| {
            let params = AccumulateParams { n_elements: rng.range(1, 3000) as u32, weight: rng.normal() };
            Box::new(MixtureCase(What::Accumulate(rng.pick(FLOATS), params)))
        },
    }
}

#[cfg(test)]
mod refusals {
    use super::*;
    use crate::ops::moe_dispatch::{
        ExpertWeights, MoeDispatchParams, moe_dispatch, moe_gather_topk_weights_encode, moe_swiglu_batch_encode,
        moe_swiglu_fused_encode_offset,
    };
    use crate::testing::{Bench, assert_invalid};

    #[test]
    fn each_names_the_parameter() {
        let mut b = Bench::new();
        let (o, h) = (b.buffer(DType::F32, &[8]), b.buffer(DType::F16, &[8]));
        assert_invalid(zero(&mut b.encoder, &mut b.registry, &b.device, &o, 9), &["output", "32 bytes"]);
        assert_invalid(zero(&mut b.encoder, &mut b.registry, &b.device, &h, 1), &["output", "f16"]);
        let params = AccumulateParams { n_elements: 8, weight: 1.0 };
        assert_invalid(accumulate(&mut b.encoder, &mut b.registry, &b.device, &o, &o, &params), &["sum", "share"]);
    }

    #[test]
    fn the_published_functions() {
        let mut b = Bench::new();
        let (x, o) = (b.buffer(DType::F32, &[16]), b.buffer(DType::F32, &[8]));
        let ids = b.buffer(DType::U32, &[16]);
        let (device, e, r) = (b.device.metal_device(), &mut b.encoder, &mut b.registry);
        let expert = || ExpertWeights { gate_proj: &x, up_proj: &x, down_proj: &x };
        let sizes = MoeDispatchParams { input_dim: 4, intermediate_dim: 4, n_selected: 1 };
        let mut run = |experts: &[ExpertWeights<'_>], weights: &[f32], p: MoeDispatchParams| {
            moe_dispatch(e, r, device, &x, experts, weights, &o, &o, &o, &o, &o, &p)
        };
        assert_invalid(run(&[], &[1.0], sizes), &["expert_weights", "n_selected"]);
        assert_invalid(run(&[expert()], &[], sizes), &["routing_weights", "n_selected"]);
        assert_invalid(run(&[expert()], &[1.0], MoeDispatchParams { intermediate_dim: 5, ..sizes }), &["gate_proj"]);
        let far = MoeDispatchParams { input_dim: usize::MAX, ..sizes };
        assert_invalid(run(&[expert()], &[1.0], far), &["input_dim"]);
        assert_invalid(moe_swiglu_fused_encode_offset(e, r, device, &x, 4, &o, 0, 8), &["gate_up", "64 bytes"]);
        assert_invalid(moe_swiglu_fused_encode_offset(e, r, device, &x, 2, &o, 0, 4), &["gate_up", "offset 2"]);
        assert_invalid(moe_swiglu_fused_encode_offset(e, r, device, &x, usize::MAX, &o, 0, 4), &["gate_up"]);
        assert_invalid(moe_swiglu_batch_encode(e, r, device, &x, &o, 1 << 31, 1), &["intermediate"]);
        assert_invalid(
            moe_gather_topk_weights_encode(e, r, device, &x, &ids, &x, &ids, &o, 4, 5),
            &["top_k 5", "n_experts 4"],
        );
        assert_eq!(e.recorded_dispatches(), 0);
    }
}
