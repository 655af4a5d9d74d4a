//! Cases of `linear_scan`.

use super::{Decay, LinearScanParams, Rule, ScanInputs, linear_scan};
use crate::dtype::DType;
use crate::error::Result;
use crate::testing::{Case, Context, FLOATS, Outputs, Rng, Suite, Tensor, Tolerance};

#[derive(Debug)]
struct LinearScanCase {
    dtype: DType,
    rule: Rule,
    decay: Decay,
    rows: u32,
    n_heads: u32,
    n_k_heads: u32,
    k_dim: u32,
    v_dim: u32,
    /// Elements between rows of queries, keys and values.
    gap: u32,
    /// A NaN in the first value of head 0: no other row of a state sees it.
    broken: bool,
}

impl LinearScanCase {
    fn params(&self) -> LinearScanParams {
        LinearScanParams {
            rows: self.rows,
            n_heads: self.n_heads,
            n_k_heads: self.n_k_heads,
            k_dim: self.k_dim,
            v_dim: self.v_dim,
            q_stride: self.n_k_heads * self.k_dim + self.gap,
            k_stride: self.n_k_heads * self.k_dim + 2 * self.gap,
            v_stride: self.n_heads * self.v_dim + self.gap,
        }
    }

    fn decay_len(&self) -> usize {
        let per_head = (self.rows * self.n_heads) as usize;
        if self.decay == Decay::Channel { per_head * self.k_dim as usize } else { per_head }
    }

    fn state_len(&self) -> usize {
        (self.n_heads * self.v_dim * self.k_dim) as usize
    }
}

impl Case for LinearScanCase {
    fn inputs(&self, rng: &mut Rng) -> Vec<Tensor> {
        let p = self.params();
        let rows = self.rows as usize;
        // Keys of length one, as the models have them: the delta rule grows without.
        let size = 1.0 / (self.k_dim as f32).sqrt();
        let random = |len: usize, size: f32, rng: &mut Rng| (0..len).map(|_| rng.normal() * size).collect::<Vec<_>>();
        let narrow = |values: &[f32]| Tensor::from_f32(self.dtype, &[values.len()], values);
        let wide = |values: &[f32]| Tensor::from_f32(DType::F32, &[values.len()], values);
        let mut v = random(rows * p.v_stride as usize, 1.0, rng);
        if self.broken {
            v[0] = f32::NAN;
        }
        let mut all = vec![
            narrow(&random(rows * p.q_stride as usize, 1.0, rng)),
            narrow(&random(rows * p.k_stride as usize, size, rng)),
            narrow(&v),
        ];
        let unit = |len: usize, rng: &mut Rng| (0..len).map(|_| 0.5 + 0.5 * rng.signed()).collect::<Vec<_>>();
        all.push(wide(&unit(self.decay_len(), rng)));
        if self.decay == Decay::StepTimesRate {
            let rates = unit((self.n_heads * self.k_dim) as usize, rng);
            all.push(wide(&rates.iter().map(|r| -2.0 * r).collect::<Vec<_>>()));
        }
        match self.rule {
            Rule::Decayed => {}
            Rule::Delta => all.push(wide(&unit(rows * self.n_heads as usize, rng))),
            Rule::LowRank => {
                for _ in 0..2 {
                    all.push(wide(&random(rows * (self.n_heads * self.k_dim) as usize, 0.7 * size, rng)));
                }
            }
        }
        all
    }

    fn outputs(&self) -> Outputs {
        let len = (self.rows * self.n_heads * self.v_dim) as usize;
        vec![(self.dtype, vec![len]), (DType::F32, vec![self.state_len()])]
    }

    fn before(&self, rng: &mut Rng) -> Option<Vec<Tensor>> {
        let len = (self.rows * self.n_heads * self.v_dim) as usize;
        Some(vec![
            Tensor::from_f32(self.dtype, &[len], &vec![0.0; len]),
            Tensor::random(DType::F32, &[self.state_len()], rng),
        ])
    }

    fn reference(&self, inputs: &[Tensor]) -> Vec<Vec<f64>> {
        let p = self.params();
        let (heads, k_dim, v_dim) = (self.n_heads as usize, self.k_dim as usize, self.v_dim as usize);
        let all: Vec<Vec<f64>> = inputs.iter().map(Tensor::to_f64).collect();
        let (q, k, v, decay) = (&all[0], &all[1], &all[2], &all[3]);
        let next = if self.decay == Decay::StepTimesRate { 5 } else { 4 };
        let mut state = all[all.len() - 1].clone();
        let mut output = vec![0.0; self.rows as usize * heads * v_dim];
        for t in 0..self.rows as usize {
            for h in 0..heads {
                let k_head = h / (heads / self.n_k_heads as usize);
                let q = &q[t * p.q_stride as usize + k_head * k_dim..][..k_dim];
                let k = &k[t * p.k_stride as usize + k_head * k_dim..][..k_dim];
                let at = t * heads + h;
                let g = |i: usize| match self.decay {
                    Decay::Head => decay[at],
                    Decay::Channel => decay[at * k_dim + i],
                    Decay::StepTimesRate => (decay[at] * all[4][h * k_dim + i]).exp(),
                };
                for r in 0..v_dim {
                    let value = v[t * p.v_stride as usize + h * v_dim + r];
                    let s = &mut state[(h * v_dim + r) * k_dim..][..k_dim];
                    let before = s.to_vec();
                    s.iter_mut().enumerate().for_each(|(i, s)| *s *= g(i));
                    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
                    let added = match self.rule {
                        Rule::Delta => all[next][at] * (value - dot(s, k)),
                        _ => value,
                    };
                    s.iter_mut().zip(k).for_each(|(s, k)| *s += added * k);
                    if self.rule == Rule::LowRank {
                        let answer = dot(&before, &all[next][at * k_dim..][..k_dim]);
                        let b = &all[next + 1][at * k_dim..][..k_dim];
                        s.iter_mut().zip(b).for_each(|(s, b)| *s += answer * b);
                    }
                    output[at * v_dim + r] = dot(s, q);
                }
            }
        }
        vec![output, state]
    }

    fn encode(&self, c: &mut Context<'_>) -> Result<()> {
        let mut rest = c.inputs[4..].iter();
        let rates = (self.decay == Decay::StepTimesRate).then(|| rest.next()).flatten();
        let beta = (self.rule == Rule::Delta).then(|| rest.next()).flatten();
        let low_rank = (self.rule == Rule::LowRank).then(|| rest.next().zip(rest.next())).flatten();
        let inputs = ScanInputs {
            q: &c.inputs[0],
            k: &c.inputs[1],
            v: &c.inputs[2],
            decay: &c.inputs[3],
            rates,
            beta,
            low_rank,
        };
        let (output, state) = (&c.outputs[0], &c.outputs[1]);
        linear_scan(c.encoder, c.registry, c.device, self.rule, self.decay, &inputs, state, output, &self.params())
    }

    fn tolerance(&self) -> Tolerance {
        // Sums over keys of the size of one, some tokens deep.
        Tolerance::accumulated(self.dtype, 2e-5 + 1e-6 * f64::from(self.k_dim))
    }

    fn is_small(&self) -> bool {
        self.rows * self.n_heads * self.v_dim * self.k_dim <= 20_000
    }

    fn cost(&self) -> Option<(f64, f64)> {
        let n = f64::from(self.n_heads) * f64::from(self.v_dim) * f64::from(self.k_dim);
        (!self.is_small()).then_some((n * 8.0, n * f64::from(self.rows) * 7.0))
    }
}

pub(crate) fn suite() -> Suite {
    let mut cases: Vec<Box<dyn Case>> = Vec::new();
    let rules = [Rule::Decayed, Rule::Delta, Rule::LowRank];
    let decays = [Decay::Head, Decay::Channel, Decay::StepTimesRate];
    for &dtype in FLOATS {
        for rule in rules {
            for decay in decays {
                for (rows, n_heads, n_k_heads, k_dim, v_dim, gap) in [(1, 1, 1, 1, 1, 0), (5, 4, 2, 33, 7, 3)] {
                    let broken = false;
                    cases.push(Box::new(LinearScanCase {
                        dtype,
                        rule,
                        decay,
                        rows,
                        n_heads,
                        n_k_heads,
                        k_dim,
                        v_dim,
                        gap,
                        broken,
                    }));
                }
            }
        }
        for (rows, n_heads, n_k_heads, k_dim, v_dim) in [(3, 65, 1, 16, 1), (2, 1, 1, 128, 33), (2, 1, 1, 512, 5)] {
            let (rule, decay) = (Rule::Decayed, Decay::StepTimesRate);
            cases.push(Box::new(LinearScanCase {
                dtype,
                rule,
                decay,
                rows,
                n_heads,
                n_k_heads,
                k_dim,
                v_dim,
                gap: 0,
                broken: true,
            }));
        }
    }
    let large = LinearScanCase {
        dtype: DType::F32,
        rule: Rule::Delta,
        decay: Decay::Head,
        rows: 64,
        n_heads: 32,
        n_k_heads: 16,
        k_dim: 128,
        v_dim: 128,
        gap: 0,
        broken: false,
    };
    cases.push(Box::new(large));
    Suite {
        op: &super::OP,
        cases,
        random: move |rng| {
            let n_k_heads = rng.range(1, 3) as u32;
            Box::new(LinearScanCase {
                dtype: rng.pick(FLOATS),
                rule: rng.pick(&[Rule::Decayed, Rule::Delta, Rule::LowRank]),
                decay: rng.pick(&[Decay::Head, Decay::Channel, Decay::StepTimesRate]),
                rows: rng.range(1, 6) as u32,
                n_heads: n_k_heads * rng.range(1, 3) as u32,
                n_k_heads,
                k_dim: rng.range(1, 70) as u32,
                v_dim: rng.range(1, 20) as u32,
                gap: rng.range(0, 4) as u32,
                broken: false,
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
        let (x, g, o) = (b.buffer(DType::F32, &[2, 8]), b.buffer(DType::F32, &[2, 2]), b.buffer(DType::F32, &[2, 8]));
        let s = b.buffer(DType::F32, &[2, 4, 4]);
        let half = b.buffer(DType::F16, &[2, 8]);
        let ok = LinearScanParams {
            rows: 2,
            n_heads: 2,
            n_k_heads: 2,
            k_dim: 4,
            v_dim: 4,
            q_stride: 8,
            k_stride: 8,
            v_stride: 8,
        };
        let inputs = ScanInputs { q: &x, k: &x, v: &x, decay: &g, rates: None, beta: None, low_rank: None };
        let mut run = |rule, decay, inputs: &ScanInputs<'_>, s, o, p: LinearScanParams| {
            linear_scan(&mut b.encoder, &mut b.registry, &b.device, rule, decay, inputs, s, o, &p)
        };
        let (d, h) = (Rule::Decayed, Decay::Head);
        assert!(run(d, h, &inputs, &s, &o, ok).is_ok());
        assert_invalid(run(Rule::Delta, h, &inputs, &s, &o, ok), &["beta", "missing"]);
        assert_invalid(run(d, h, &ScanInputs { beta: Some(&g), ..inputs }, &s, &o, ok), &["beta", "not taken"]);
        assert_invalid(run(Rule::LowRank, h, &inputs, &s, &o, ok), &["low_rank", "missing"]);
        assert_invalid(run(d, Decay::StepTimesRate, &inputs, &s, &o, ok), &["rates", "missing"]);
        assert_invalid(run(d, Decay::Channel, &inputs, &s, &o, ok), &["decay", "16 bytes"]);
        assert_invalid(run(d, h, &inputs, &s, &o, LinearScanParams { k_dim: 513, ..ok }), &["k_dim is 513"]);
        assert_invalid(run(d, h, &inputs, &s, &o, LinearScanParams { n_heads: 3, ..ok }), &["n_heads 3"]);
        assert_invalid(run(d, h, &inputs, &s, &o, LinearScanParams { q_stride: 7, ..ok }), &["q_stride is 7"]);
        assert_invalid(run(d, h, &inputs, &s, &o, LinearScanParams { rows: 3, ..ok }), &["64 bytes"]);
        assert_invalid(run(d, h, &ScanInputs { q: &half, ..inputs }, &s, &o, ok), &["f16"]);
        assert_invalid(run(d, h, &inputs, &x, &o, ok), &["state"]);
        assert_invalid(run(d, h, &inputs, &s, &x, ok), &["output", "share"]);
    }
}
