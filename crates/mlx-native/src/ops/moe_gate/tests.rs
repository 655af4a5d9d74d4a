//! Cases of `moe_route`, `moe_gate_route` and `weigh_sorted`.

use super::{GateInputs, RouteParams, moe_gate_route, moe_route, weigh_sorted};
use crate::dtype::DType;
use crate::error::Result;
use crate::testing::{Case, Context, FLOATS, Outputs, Rng, Suite, Tensor, Tolerance};

#[derive(Debug, Clone, Copy, PartialEq)]
enum From {
    Logits,
    /// Logits many of which are equal, some -infinity.
    Ties,
    /// Hidden states of a dtype and a length.
    Hidden(DType, u32),
    /// Probabilities and their order, in which one index is no expert.
    Sorted,
}

#[derive(Debug)]
struct RouteCase {
    params: RouteParams,
    has_scale: bool,
    from: From,
}

const EPS: f32 = 1e-6;

impl RouteCase {
    fn sizes(&self) -> (usize, usize, usize) {
        (self.params.n_tokens as usize, self.params.n_experts as usize, self.params.top_k as usize)
    }

    /// The logits of every token, in f64.
    fn logits(&self, inputs: &[Tensor]) -> Vec<f64> {
        let From::Hidden(_, hidden) = self.from else { return inputs[0].to_f64() };
        let (x, router, weight) = (inputs[0].to_f64(), inputs[1].to_f64(), inputs[2].to_f64());
        let hidden = hidden as usize;
        let token = |x: &[f64]| {
            let mean = x.iter().map(|v| v * v).sum::<f64>() / hidden as f64;
            let inverse = 1.0 / (mean + f64::from(EPS)).sqrt();
            let n: Vec<f64> = x.iter().zip(&weight).map(|(x, w)| x * inverse * w).collect();
            router.chunks_exact(hidden).map(|row| row.iter().zip(&n).map(|(a, b)| a * b).sum()).collect::<Vec<f64>>()
        };
        x.chunks_exact(hidden).flat_map(token).collect()
    }

    /// Whether the order of the largest does not hang on the last digits.
    fn is_certain(&self, inputs: &[Tensor]) -> bool {
        let (_, experts, k) = self.sizes();
        self.logits(inputs).chunks_exact(experts).all(|row| {
            let mut row = row.to_vec();
            row.sort_by(|a, b| b.total_cmp(a));
            row.windows(2).take(k).all(|w| w[0] - w[1] > 1e-4)
        })
    }

    fn draw(&self, rng: &mut Rng) -> Vec<Tensor> {
        let (tokens, experts, k) = self.sizes();
        let f32s = |shape: &[usize], values: Vec<f32>| Tensor::from_f32(DType::F32, shape, &values);
        match self.from {
            From::Logits => vec![Tensor::random(DType::F32, &[tokens, experts], rng)],
            From::Ties => {
                let values = (0..tokens * experts).map(|_| rng.pick(&[0.5, -1.0, -0.0, 0.0, f32::NEG_INFINITY]));
                vec![f32s(&[tokens, experts], values.collect())]
            }
            From::Hidden(dtype, hidden) => {
                let hidden = hidden as usize;
                vec![
                    Tensor::random(dtype, &[tokens, hidden], rng),
                    Tensor::random(DType::F32, &[experts, hidden], rng),
                    Tensor::random(DType::F32, &[hidden], rng),
                ]
            }
            From::Sorted => {
                let values = (0..tokens * experts).map(|_| rng.signed().abs()).collect();
                let mut order: Vec<u32> = (0..tokens * experts).map(|i| (i % experts) as u32).collect();
                for row in order.chunks_exact_mut(experts) {
                    for i in (1..experts).rev() {
                        row.swap(i, rng.range(0, i));
                    }
                    if experts > 20 {
                        row[k - 1] = u32::MAX;
                    }
                }
                vec![f32s(&[tokens, experts], values), Tensor::from_u32(&[tokens, experts], &order)]
            }
        }
    }
}

impl Case for RouteCase {
    fn inputs(&self, rng: &mut Rng) -> Vec<Tensor> {
        let mut inputs = self.draw(rng);
        while matches!(self.from, From::Logits | From::Hidden(..)) && !self.is_certain(&inputs) {
            inputs = self.draw(rng);
        }
        if self.has_scale {
            let scale: Vec<f32> = (0..self.params.n_experts).map(|_| 0.5 + rng.signed().abs()).collect();
            inputs.push(Tensor::from_f32(DType::F32, &[scale.len()], &scale));
        }
        inputs
    }

    fn outputs(&self) -> Outputs {
        let (tokens, _, k) = self.sizes();
        vec![(DType::U32, vec![tokens, k]), (DType::F32, vec![tokens, k])]
    }

    fn reference(&self, inputs: &[Tensor]) -> Vec<Vec<f64>> {
        let (tokens, experts, k) = self.sizes();
        let scale = if self.has_scale { inputs.last().map(Tensor::to_f64) } else { None };
        let logits = self.logits(inputs);
        let (mut ids, mut weights) = (Vec::new(), Vec::new());
        for token in 0..tokens {
            let row = &logits[token * experts..][..experts];
            let (chosen, masses): (Vec<u32>, Vec<f64>) = if self.from == From::Sorted {
                let order = &inputs[1].to_u32()[token * experts..][..k];
                let mass = |id: &u32| row.get(*id as usize).copied().unwrap_or(0.0);
                (order.to_vec(), order.iter().map(mass).collect())
            } else {
                let mut order: Vec<u32> = (0..experts as u32).collect();
                let value = |i: u32| row[i as usize] + 0.0;
                order.sort_by(|&a, &b| value(b).total_cmp(&value(a)).then(a.cmp(&b)));
                order.truncate(k);
                let largest = value(order[0]);
                let mass = |i: &u32| if largest == f64::NEG_INFINITY { 0.0 } else { (value(*i) - largest).exp() };
                let masses = order.iter().map(mass).collect();
                (order, masses)
            };
            let sum: f64 = masses.iter().sum();
            let scale_of = |id: u32| scale.as_ref().map_or(1.0, |s| s.get(id as usize).copied().unwrap_or(0.0));
            let mut w: Vec<f64> = masses
                .iter()
                .zip(&chosen)
                .map(|(m, id)| if sum == 0.0 { 0.0 } else { m / sum * scale_of(*id) })
                .collect();
            let sum: f64 = w.iter().sum();
            if self.params.normalize && sum > 0.0 {
                w.iter_mut().for_each(|w| *w /= sum);
            }
            ids.extend(chosen.into_iter().map(f64::from));
            weights.extend(w);
        }
        vec![ids, weights]
    }

    fn encode(&self, c: &mut Context<'_>) -> Result<()> {
        let (ids, weights) = (&c.outputs[0], &c.outputs[1]);
        let scale = if self.has_scale { c.inputs.last() } else { None };
        let p = &self.params;
        match self.from {
            From::Hidden(_, hidden) => {
                let inputs = GateInputs { x: &c.inputs[0], router: &c.inputs[1], norm_weight: &c.inputs[2], scale };
                moe_gate_route(c.encoder, c.registry, c.device, &inputs, ids, weights, hidden, EPS, p)
            }
            From::Sorted => {
                let (probabilities, sorted) = (&c.inputs[0], &c.inputs[1]);
                weigh_sorted(c.encoder, c.registry, c.device, probabilities, sorted, scale, ids, weights, p)
            }
            _ => moe_route(c.encoder, c.registry, c.device, &c.inputs[0], scale, ids, weights, p),
        }
    }

    fn tolerance(&self) -> Tolerance {
        // Logits of size √hidden, summed in f32, are up to 2e-5 off; an id is a whole number. Weights far below the largest
        // are subnormal: two of f32's smallest steps there.
        match self.from {
            From::Hidden(..) => Tolerance { absolute: 2.9e-45, relative: 1e-4 },
            _ => Tolerance { absolute: 2.9e-45, relative: 2e-6 },
        }
    }

    fn is_small(&self) -> bool {
        let width = if let From::Hidden(_, hidden) = self.from { hidden } else { self.params.top_k };
        self.params.n_tokens * self.params.n_experts * width <= 20_000
    }
}

pub(crate) fn suite() -> Suite {
    let mut cases: Vec<Box<dyn Case>> = Vec::new();
    let mut add = |n_tokens, n_experts, top_k, normalize, has_scale, from| {
        let params = RouteParams { n_tokens, n_experts, top_k, normalize };
        cases.push(Box::new(RouteCase { params, has_scale, from }));
    };
    for (tokens, experts, k) in [(1, 1, 1), (1, 7, 2), (3, 33, 9), (2, 65, 65), (1, 128, 8), (2, 300, 10)] {
        for from in [From::Logits, From::Ties, From::Sorted] {
            add(tokens, experts, k, true, true, from);
            add(tokens, experts, k, false, experts % 2 == 0, from);
        }
    }
    for &dtype in FLOATS {
        add(1, 1, 1, true, true, From::Hidden(dtype, 1));
        add(3, 9, 4, true, true, From::Hidden(dtype, 65));
        add(2, 17, 3, false, false, From::Hidden(dtype, 130));
        add(5, 128, 8, true, true, From::Hidden(dtype, 2048));
    }
    Suite {
        op: &super::OP,
        cases,
        random: |rng| {
            let n_experts = rng.range(2, 80) as u32;
            let params = RouteParams {
                n_tokens: rng.range(1, 3) as u32,
                n_experts,
                top_k: rng.range(1, n_experts.min(10) as usize) as u32,
                normalize: rng.range(0, 1) == 0,
            };
            let dtype = rng.pick(FLOATS);
            let hidden = From::Hidden(dtype, rng.range(20, 90) as u32);
            let from = rng.pick(&[From::Logits, From::Ties, hidden, From::Sorted]);
            Box::new(RouteCase { params, has_scale: rng.range(0, 1) == 0, from })
        },
    }
}

#[cfg(test)]
mod refusals {
    use super::*;
    use crate::ops::moe_gate::{MoeGateParams, moe_gate};
    use crate::testing::{Bench, assert_invalid};

    #[test]
    fn each_names_the_parameter() {
        let mut b = Bench::new();
        let (x, s) = (b.buffer(DType::F32, &[2, 8]), b.buffer(DType::F32, &[8]));
        let (ids, w) = (b.buffer(DType::U32, &[2, 3]), b.buffer(DType::F32, &[2, 3]));
        let ok = RouteParams { n_tokens: 2, n_experts: 8, top_k: 3, normalize: true };
        let mut run = |s, w, p: RouteParams| {
            moe_route(&mut b.encoder, &mut b.registry, &b.device, &x, Some(s), &ids, w, &p)
        };
        assert!(run(&s, &w, ok).is_ok());
        assert_invalid(run(&s, &w, RouteParams { top_k: 9, ..ok }), &["top_k 9", "n_experts 8"]);
        assert_invalid(run(&s, &w, RouteParams { top_k: 0, ..ok }), &["top_k"]);
        assert_invalid(run(&s, &w, RouteParams { top_k: 4, ..ok }), &["ids", "24 bytes"]);
        assert_invalid(run(&s, &w, RouteParams { n_tokens: 3, ..ok }), &["logits", "64 bytes"]);
        assert_invalid(run(&s, &s, RouteParams { n_tokens: 1, ..ok }), &["weights", "scale", "share"]);
        assert_invalid(run(&ids, &w, ok), &["scale", "u32"]);
        let (device, e, r) = (b.device.metal_device(), &mut b.encoder, &mut b.registry);
        let sizes = MoeGateParams { hidden_dim: 8, n_experts: 1, top_k: 1, seq_len: 2, rms_eps: 1e-6 };
        let mut old = |p: MoeGateParams| moe_gate(e, r, device, &x, &x, &s, &s, &ids, &w, &p);
        assert!(old(sizes).is_ok());
        assert_invalid(old(MoeGateParams { top_k: 2, ..sizes }), &["top_k 2", "n_experts 1"]);
        assert_invalid(old(MoeGateParams { hidden_dim: 0, ..sizes }), &["hidden_dim"]);
        assert_invalid(old(MoeGateParams { n_experts: 3, ..sizes }), &["router_weights", "64 bytes"]);
        assert_invalid(old(MoeGateParams { seq_len: usize::MAX, ..sizes }), &["seq_len"]);
        assert_invalid(old(MoeGateParams { rms_eps: f32::NAN, ..sizes }), &["eps"]);
    }
}
