//! Cases of `route`.

use super::{RouteParams, Score, route};
use crate::dtype::DType;
use crate::error::Result;
use crate::testing::{Case, Context, FLOATS, Outputs, Rng, Suite, Tensor, Tolerance};

#[derive(Debug)]
struct RouteCase {
    dtype: DType,
    params: RouteParams,
    correction: bool,
    /// Many logits are equal: the first of them count. A NaN is never chosen while there is something else.
    ties: bool,
}

impl Case for RouteCase {
    fn inputs(&self, rng: &mut Rng) -> Vec<Tensor> {
        let (rows, n) = (self.params.rows as usize, self.params.n_experts as usize);
        let mut logits: Vec<f32> = Vec::new();
        for _ in 0..rows {
            if self.ties {
                logits.extend((0..n).map(|e| (e % 3) as f32));
                continue;
            }
            // Far enough apart for every dtype and score: a permutation of steps.
            let mut order: Vec<usize> = (0..n).collect();
            for i in (1..n).rev() {
                order.swap(i, rng.range(0, i));
            }
            logits.extend(order.iter().map(|o| (*o as f32 / n as f32 - 0.5) * 8.0));
        }
        if self.ties && n > 4 {
            logits[2] = f32::NAN;
        }
        let mut all = vec![Tensor::from_f32(self.dtype, &[rows, n], &logits)];
        if self.correction {
            let values: Vec<f32> = (0..n).map(|e| (e * 7 % n) as f32 / n as f32 * 0.37).collect();
            all.push(Tensor::from_f32(DType::F32, &[n], &values));
        }
        all
    }

    fn outputs(&self) -> Outputs {
        let shape = vec![self.params.rows as usize, self.params.top_k as usize];
        vec![(DType::U32, shape.clone()), (self.dtype, shape)]
    }

    fn reference(&self, inputs: &[Tensor]) -> Vec<Vec<f64>> {
        let p = &self.params;
        let (n, k) = (p.n_experts as usize, p.top_k as usize);
        let logits = inputs[0].to_f64();
        let correction = self.correction.then(|| inputs[1].to_f64());
        let (mut ids, mut weights) = (Vec::new(), Vec::new());
        for row in logits.chunks(n) {
            let softmax = |v: &[f64]| {
                let high = v.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let e: Vec<f64> = v.iter().map(|x| (x - high).exp()).collect();
                let sum: f64 = e.iter().sum();
                e.iter().map(|e| e / sum).collect::<Vec<_>>()
            };
            let scores: Vec<f64> = match p.score {
                0 => softmax(row),
                2 => row.iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect(),
                3 => row.iter().map(|x| x.exp().ln_1p().sqrt()).collect(),
                _ => row.to_vec(),
            };
            let mut keys: Vec<f64> =
                (0..n).map(|e| scores[e] + correction.as_ref().map_or(0.0, |c| c[e])).collect();
            keys.iter_mut().filter(|v| v.is_nan()).for_each(|v| *v = f64::NEG_INFINITY);
            let size = n / p.n_groups as usize;
            let group = |members: &[f64]| {
                let mut sorted = members.to_vec();
                sorted.sort_by(|a, b| b.total_cmp(a));
                sorted.iter().take(p.best_of as usize).sum::<f64>()
            };
            let groups: Vec<f64> = keys.chunks(size).map(group).collect();
            let mut order: Vec<usize> = (0..groups.len()).collect();
            order.sort_by(|a, b| groups[*b].total_cmp(&groups[*a]).then(a.cmp(b)));
            for g in &order[p.top_groups as usize..] {
                keys[g * size..(g + 1) * size].fill(if p.others == 0 { 0.0 } else { f64::NEG_INFINITY });
            }
            let mut experts: Vec<usize> = (0..n).collect();
            experts.sort_by(|a, b| keys[*b].total_cmp(&keys[*a]).then(a.cmp(b)));
            let chosen = &experts[..k];
            ids.extend(chosen.iter().map(|e| *e as f64));
            let mut picked: Vec<f64> = chosen.iter().map(|e| scores[*e]).collect();
            if p.score == 1 {
                picked = softmax(&picked);
            }
            if p.score == 4 {
                // Those chosen before are out; of the others the near ones share.
                for (j, e) in chosen.iter().enumerate() {
                    let top = keys[*e];
                    let left = (0..n).filter(|o| !chosen[..j].contains(o)).map(|o| keys[o]);
                    let far = |v: f64| (top - v) / v.abs().max(top) > 2.0 * f64::from(p.jitter);
                    let sum: f64 = left.filter(|v| *v > f64::NEG_INFINITY && !far(*v)).map(|v| (v - top).exp()).sum();
                    picked[j] = 1.0 / sum;
                }
            }
            let sum = picked.iter().sum::<f64>() + f64::from(p.sum_eps);
            let factor = f64::from(p.factor);
            weights.extend(picked.iter().map(|w| if p.normalise != 0 { w / sum } else { *w } * factor));
        }
        vec![ids, weights]
    }

    fn encode(&self, c: &mut Context<'_>) -> Result<()> {
        let (logits, correction) = (&c.inputs[0], c.inputs.get(1));
        route(c.encoder, c.registry, c.device, logits, correction, &c.outputs[0], &c.outputs[1], &self.params)
    }

    fn tolerance(&self) -> Tolerance {
        // Ids are far from the bound where they could be taken for others; weights carry an exponential and a quotient.
        let rounding = Tolerance::one_rounding(self.dtype);
        Tolerance { relative: rounding.relative + 2e-6, absolute: rounding.absolute + 1e-7 }
    }

    fn is_small(&self) -> bool {
        self.params.rows * self.params.n_experts <= 2000
    }

    fn cost(&self) -> Option<(f64, f64)> {
        let n = f64::from(self.params.rows) * f64::from(self.params.n_experts);
        (!self.is_small()).then_some((n * 4.0, n * 20.0))
    }
}

fn params(rows: u32, n_experts: u32, top_k: u32, score: Score) -> RouteParams {
    RouteParams {
        rows,
        n_experts,
        top_k,
        score: score as u32,
        n_groups: 1,
        top_groups: 1,
        best_of: 1,
        others: 0,
        normalise: 0,
        sum_eps: 0.0,
        factor: 1.0,
        jitter: 0.0,
    }
}

const SCORES: [Score; 5] =
    [Score::Softmax, Score::SoftmaxOfChosen, Score::Sigmoid, Score::SqrtSoftplus, Score::SparseMixer];

pub(crate) fn suite() -> Suite {
    let mut cases: Vec<Box<dyn Case>> = Vec::new();
    for &dtype in FLOATS {
        for score in SCORES {
            for (rows, n, k) in [(1, 1, 1), (3, 7, 2), (2, 33, 5), (1, 65, 8)] {
                let jitter = if n == 33 { 0.3 } else { 0.01 };
                let params = RouteParams { normalise: n % 2, factor: 2.5, jitter, ..params(rows, n, k, score) };
                cases.push(Box::new(RouteCase { dtype, params, correction: false, ties: false }));
            }
            let params = RouteParams { normalise: 1, sum_eps: 1e-6, ..params(4, 32, 4, score) };
            cases.push(Box::new(RouteCase { dtype, params, correction: dtype == DType::F32 && score != Score::SparseMixer, ties: false }));
        }
        for (best_of, others, n_groups, top_groups) in [(1, 0, 8, 3), (2, 1, 4, 2), (2, 0, 32, 5), (2, 0, 64, 8)] {
            let params = RouteParams { n_groups, top_groups, best_of, others, ..params(3, 64, 4, Score::Sigmoid) };
            cases.push(Box::new(RouteCase { dtype, params, correction: dtype == DType::F32, ties: false }));
        }
        cases.push(Box::new(RouteCase { dtype, params: params(1, 9, 6, Score::Sigmoid), correction: false, ties: true }));
    }
    let large = params(512, 256, 8, Score::Softmax);
    cases.push(Box::new(RouteCase { dtype: DType::F32, params: large, correction: true, ties: false }));
    Suite {
        op: &super::OP,
        cases,
        random: |rng| {
            let n = rng.range(1, 80) as u32;
            let k = rng.range(1, n.min(10) as usize) as u32;
            let params = params(rng.range(1, 5) as u32, n, k, rng.pick(&SCORES));
            Box::new(RouteCase { dtype: rng.pick(FLOATS), params, correction: false, ties: false })
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
        let (x, ids, w) = (b.buffer(DType::F32, &[2, 8]), b.buffer(DType::U32, &[2, 2]), b.buffer(DType::F32, &[2, 2]));
        let ok = params(2, 8, 2, Score::Softmax);
        let mut run = |x, c: Option<&_>, i, w, p: RouteParams| {
            route(&mut b.encoder, &mut b.registry, &b.device, x, c, i, w, &p)
        };
        assert!(run(&x, None, &ids, &w, ok).is_ok());
        assert_invalid(run(&x, None, &ids, &w, RouteParams { rows: 0, ..ok }), &["rows"]);
        assert_invalid(run(&x, None, &ids, &w, RouteParams { rows: 3, ..ok }), &["logits", "64 bytes"]);
        assert_invalid(run(&x, None, &ids, &w, RouteParams { top_k: 9, ..ok }), &["top_k is 9"]);
        assert_invalid(run(&x, None, &ids, &w, RouteParams { n_experts: 4096, ..ok }), &["n_experts is 4096"]);
        assert_invalid(run(&x, None, &ids, &w, RouteParams { n_groups: 3, ..ok }), &["n_groups 3"]);
        assert_invalid(run(&x, None, &ids, &w, RouteParams { top_groups: 2, ..ok }), &["top_groups is 2"]);
        assert_invalid(run(&x, None, &ids, &w, RouteParams { best_of: 0, ..ok }), &["best_of is 0"]);
        assert_invalid(run(&x, None, &ids, &w, RouteParams { score: 5, ..ok }), &["score is 5"]);
        assert_invalid(run(&x, None, &ids, &w, RouteParams { jitter: f32::NAN, ..ok }), &["jitter"]);
        assert_invalid(run(&x, None, &ids, &w, RouteParams { factor: f32::NAN, ..ok }), &["factor"]);
        assert_invalid(run(&x, Some(&w), &ids, &w, ok), &["correction", "16 bytes"]);
        assert_invalid(run(&x, None, &w, &w, ok), &["ids", "f32"]);
        assert_invalid(run(&x, None, &ids, &x, ok), &["weights", "logits"]);
    }
}
