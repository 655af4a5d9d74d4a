//! Cases of `softmax_sample`.

use super::{SoftmaxSampleParams, softmax_sample};
use crate::dtype::DType;
use crate::error::Result;
use crate::testing::{Case, Context, Outputs, Rng, Suite, Tensor, Tolerance};

#[derive(Debug)]
struct SampleCase {
    params: SoftmaxSampleParams,
    /// Whether the first and the last logits are -infinity.
    is_masked: bool,
}

/// The probabilities, and the token: `None` where `random` is too near an edge for f32 to be sure.
fn sample(logits: &[f64], params: &SoftmaxSampleParams) -> (Vec<f64>, Option<usize>) {
    let scaled: Vec<f64> = logits.iter().map(|v| v / f64::from(params.temperature)).collect();
    let largest = scaled.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = scaled.iter().map(|v| (v - largest).exp()).sum();
    let p: Vec<f64> = scaled.iter().map(|v| (v - largest).exp() / sum).collect();
    let random = f64::from(params.random);
    let mut below = 0.0;
    for (i, v) in p.iter().enumerate() {
        let is_certain = (below + v - random).abs() > 2e-5 && (below - random).abs() > 2e-5 || random == 0.0;
        if below + v >= random && *v > 0.0 {
            return (p.clone(), is_certain.then_some(i));
        }
        below += v;
    }
    (p, None)
}

impl Case for SampleCase {
    fn inputs(&self, rng: &mut Rng) -> Vec<Tensor> {
        let n = self.params.n_elements as usize;
        loop {
            let mut logits: Vec<f32> = (0..n).map(|_| rng.normal() * 4.0).collect();
            if self.is_masked {
                logits[..n / 3].fill(f32::NEG_INFINITY);
                logits[n - n / 4..].fill(f32::NEG_INFINITY);
            }
            let tensor = Tensor::from_f32(DType::F32, &[n], &logits);
            if sample(&tensor.to_f64(), &self.params).1.is_some() {
                return vec![tensor];
            }
        }
    }

    fn outputs(&self) -> Outputs {
        vec![(DType::F32, vec![self.params.n_elements as usize]), (DType::U32, vec![1]), (DType::F32, vec![1])]
    }

    fn reference(&self, inputs: &[Tensor]) -> Vec<Vec<f64>> {
        let (p, token) = sample(&inputs[0].to_f64(), &self.params);
        let token = token.unwrap_or(usize::MAX);
        vec![p.clone(), vec![token as f64], vec![p.get(token).copied().unwrap_or(f64::NAN).ln()]]
    }

    fn encode(&self, c: &mut Context<'_>) -> Result<()> {
        let [p, token, logprob] = [&c.outputs[0], &c.outputs[1], &c.outputs[2]];
        softmax_sample(c.encoder, c.registry, c.device, &c.inputs[0], p, token, logprob, &self.params)
    }

    fn tolerance(&self) -> Tolerance {
        // Exponents of up to 60 in f32 are 4e-6 off; log-probabilities as much, of values down to -20. A token is a whole
        // number: a neighbour is far outside.
        Tolerance { absolute: 2e-6, relative: 1e-5 }
    }

    fn is_small(&self) -> bool {
        self.params.n_elements <= 5000
    }
}

pub(crate) fn suite() -> Suite {
    let mut cases: Vec<Box<dyn Case>> = Vec::new();
    for (n_elements, temperature) in [(1, 1.0), (7, 0.5), (33, 2.0), (65, 1.0), (1025, 0.8), (4099, 1.5), (151_936, 1.0)] {
        for random in [0.0, 0.37, 0.93] {
            let params = SoftmaxSampleParams { n_elements, temperature, random };
            let is_masked = random == 0.0 && n_elements > 4;
            cases.push(Box::new(SampleCase { params, is_masked }));
        }
    }
    Suite {
        op: &super::OP,
        cases,
        random: |rng| {
            let params = SoftmaxSampleParams {
                n_elements: rng.range(4, 900) as u32,
                temperature: 0.3 + rng.signed().abs() * 2.0,
                random: rng.signed().abs() * 0.99,
            };
            Box::new(SampleCase { params, is_masked: rng.range(0, 1) == 0 })
        },
    }
}

#[cfg(test)]
mod refusals {
    use super::*;
    use crate::ops::softmax_sample::dispatch_softmax_sample_f32;
    use crate::testing::{Bench, assert_invalid};

    #[test]
    fn each_names_the_parameter() {
        let mut b = Bench::new();
        let (x, p) = (b.buffer(DType::F32, &[8]), b.buffer(DType::F32, &[8]));
        let (t, l) = (b.buffer(DType::U32, &[1]), b.buffer(DType::F32, &[1]));
        let ok = SoftmaxSampleParams { n_elements: 8, temperature: 1.0, random: 0.5 };
        let mut run = |p, t, params: SoftmaxSampleParams| {
            softmax_sample(&mut b.encoder, &mut b.registry, &b.device, &x, p, t, &l, &params)
        };
        assert!(run(&p, &t, ok).is_ok());
        for temperature in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            assert_invalid(run(&p, &t, SoftmaxSampleParams { temperature, ..ok }), &["temperature"]);
        }
        for random in [-0.1, 1.0, f32::NAN] {
            assert_invalid(run(&p, &t, SoftmaxSampleParams { random, ..ok }), &["random"]);
        }
        assert_invalid(run(&p, &t, SoftmaxSampleParams { n_elements: 0, ..ok }), &["n_elements"]);
        assert_invalid(run(&p, &t, SoftmaxSampleParams { n_elements: 9, ..ok }), &["logits", "32 bytes"]);
        assert_invalid(run(&x, &t, ok), &["probabilities", "logits", "share"]);
        assert_invalid(run(&p, &l, ok), &["token", "f32"]);
        let (device, e, r) = (b.device.metal_device(), &mut b.encoder, &mut b.registry);
        assert_invalid(
            dispatch_softmax_sample_f32(e, r, device, &x, &p, &t, &l, &l, 1 << 25, 1.0, 0.5),
            &["logits", "33554432"],
        );
    }

    #[test]
    fn nothing_but_nan_gives_the_last_token() {
        let mut b = Bench::new();
        let mut x = b.buffer(DType::F32, &[3]);
        x.write(0, &[1.0f32, f32::NAN, 2.0]).expect("it fits");
        let (p, t, l) = (b.buffer(DType::F32, &[3]), b.buffer(DType::U32, &[1]), b.buffer(DType::F32, &[1]));
        let params = SoftmaxSampleParams { n_elements: 3, temperature: 1.0, random: 0.5 };
        softmax_sample(&mut b.encoder, &mut b.registry, &b.device, &x, &p, &t, &l, &params).expect("recorded");
        b.encoder.commit_and_wait().expect("it runs");
        assert_eq!(t.read::<u32>().expect("read"), [2]);
        assert!(l.read::<f32>().expect("read")[0].is_nan());
    }
}
