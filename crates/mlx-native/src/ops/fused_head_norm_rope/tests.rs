//! Cases of `head_norm_rope`.

use super::{Angles, HeadNorm, HeadNormRopeParams, Pairs, Theta, head_norm_rope};
use crate::dtype::DType;
use crate::error::Result;
use crate::testing::{Case, Context, FLOATS, Outputs, Rng, Suite, Tensor, Tolerance};

#[derive(Debug, Clone, Copy, PartialEq)]
enum From {
    Tables,
    Value,
    Buffer,
    Factors,
}

#[derive(Debug)]
struct RopeCase {
    dtype: DType,
    params: HeadNormRopeParams,
    has_norm: bool,
    has_weight: bool,
    from: From,
}

const THETA: f32 = 1e4;
const EPS: f32 = 1e-5;

impl RopeCase {
    fn len(&self) -> usize {
        let p = self.params;
        p.n_tokens as usize * p.n_heads as usize * p.head_dim as usize
    }
}

impl Case for RopeCase {
    // x, then weight, then two tables, or positions, then theta or factors.
    fn inputs(&self, rng: &mut Rng) -> Vec<Tensor> {
        let p = self.params;
        let pairs = p.n_pairs as usize;
        let mut inputs = vec![Tensor::random(self.dtype, &[self.len()], rng)];
        if self.has_weight {
            inputs.push(Tensor::random(self.dtype, &[p.head_dim as usize], rng));
        }
        let f32s = |values: &[f32]| Tensor::from_f32(DType::F32, &[values.len()], values);
        if self.from == From::Tables {
            let angles: Vec<f32> = (0..pairs.max(1)).map(|_| rng.signed() * 3.0).collect();
            inputs.push(f32s(&angles.iter().map(|a| a.cos()).collect::<Vec<_>>()));
            inputs.push(f32s(&angles.iter().map(|a| a.sin()).collect::<Vec<_>>()));
            return inputs;
        }
        let positions: Vec<u32> = (0..p.n_tokens).map(|_| rng.range(0, 300) as u32).collect();
        inputs.push(Tensor::from_u32(&[positions.len()], &positions));
        match self.from {
            From::Buffer => inputs.push(f32s(&[THETA])),
            From::Factors => {
                let factors: Vec<f32> =
                    (0..pairs).map(|i| if i % 3 == 2 { 1e30 } else { 1.0 + rng.signed().abs() }).collect();
                inputs.push(f32s(&factors));
            }
            _ => {}
        }
        inputs
    }

    fn outputs(&self) -> Outputs {
        vec![(self.dtype, vec![self.len()])]
    }

    fn reference(&self, inputs: &[Tensor]) -> Vec<Vec<f64>> {
        let p = self.params;
        let (dim, heads) = (p.head_dim as usize, p.n_heads as usize);
        let mut rest = inputs[1..].iter().map(Tensor::to_f64);
        let weight = if self.has_weight { rest.next() } else { None };
        let (first, second) = (rest.next().unwrap_or_default(), rest.next());
        let angle = |token: usize, i: usize| {
            let factor = if self.from == From::Factors { second.as_ref().map_or(1.0, |f| f[i]) } else { 1.0 };
            first[token] / f64::from(THETA).powf(2.0 * i as f64 / dim as f64) / factor
        };
        let mut output = Vec::new();
        for (row, x) in inputs[0].to_f64().chunks_exact(dim).enumerate() {
            let mean = x.iter().map(|v| v * v).sum::<f64>() / dim as f64;
            let inverse = if self.has_norm { 1.0 / (mean + f64::from(EPS)).sqrt() } else { 1.0 };
            let n: Vec<f64> =
                x.iter().enumerate().map(|(i, v)| v * inverse * weight.as_ref().map_or(1.0, |w| w[i])).collect();
            let mut y = n.clone();
            for i in 0..p.n_pairs as usize {
                let (cos, sin) = match (&second, self.from) {
                    (Some(sines), From::Tables) => (first[i], sines[i]),
                    _ => (angle(row / heads, i).cos(), angle(row / heads, i).sin()),
                };
                let (a, b) = match p.pairs {
                    Pairs::Interleaved => (2 * i, 2 * i + 1),
                    Pairs::Apart(distance) => (i, i + distance as usize),
                };
                y[a] = n[a] * cos - n[b] * sin;
                y[b] = n[a] * sin + n[b] * cos;
            }
            output.extend(y);
        }
        vec![output]
    }

    fn encode(&self, c: &mut Context<'_>) -> Result<()> {
        let mut rest = c.inputs[1..].iter();
        let weight = if self.has_weight { rest.next() } else { None };
        let (first, second) = (rest.next().unwrap_or(&c.inputs[0]), rest.next());
        let angles = match self.from {
            From::Tables => Angles::Tables { cosines: first, sines: second.unwrap_or(first) },
            from => Angles::Computed {
                positions: first,
                theta: match second {
                    Some(buffer) if from == From::Buffer => Theta::Buffer(buffer),
                    _ => Theta::Value(THETA),
                },
                factors: second.filter(|_| from == From::Factors),
            },
        };
        let norm = self.has_norm.then_some(HeadNorm { weight, eps: EPS });
        head_norm_rope(c.encoder, c.registry, c.device, &c.inputs[0], norm, angles, &c.outputs[0], &self.params)
    }

    fn tolerance(&self) -> Tolerance {
        // An angle of up to 300 in f32 is 3e-5 off; features are of size 3, weights too.
        let from_angles = if self.from == From::Tables { 4e-6 } else { 3e-4 };
        Tolerance::accumulated(self.dtype, from_angles)
    }

    fn is_small(&self) -> bool {
        self.len() <= 5000
    }
}

pub(crate) fn suite() -> Suite {
    let mut cases: Vec<Box<dyn Case>> = Vec::new();
    for &dtype in FLOATS {
        for (n_tokens, n_heads, head_dim, n_pairs, pairs) in [
            (1, 1, 2, 1, Pairs::Interleaved),
            (3, 2, 64, 32, Pairs::Interleaved),
            (2, 3, 80, 16, Pairs::Apart(40)),
            (1, 7, 33, 9, Pairs::Apart(9)),
            (2, 9, 7, 0, Pairs::Apart(3)),
            (1, 3, 256, 128, Pairs::Apart(128)),
            (5, 33, 128, 64, Pairs::Apart(64)),
        ] {
            let params = HeadNormRopeParams { n_tokens, n_heads, head_dim, n_pairs, pairs };
            for (has_norm, has_weight, from) in [
                (true, true, From::Tables),
                (true, false, From::Value),
                (false, false, From::Buffer),
                (true, true, From::Factors),
            ] {
                if n_pairs > 0 || from == From::Value {
                    cases.push(Box::new(RopeCase { dtype, params, has_norm, has_weight, from }));
                }
            }
        }
    }
    Suite {
        op: &super::OP,
        cases,
        random: |rng| {
            let head_dim = rng.range(2, 140) as u32;
            let n_pairs = rng.range(1, head_dim as usize / 2) as u32;
            let pairs = rng.pick(&[Pairs::Interleaved, Pairs::Apart(head_dim / 2), Pairs::Apart(n_pairs)]);
            let (n_tokens, n_heads) = (rng.range(1, 4) as u32, rng.range(1, 6) as u32);
            let params = HeadNormRopeParams { n_tokens, n_heads, head_dim, n_pairs, pairs };
            let has_norm = rng.range(0, 1) == 0;
            Box::new(RopeCase {
                dtype: rng.pick(FLOATS),
                params,
                has_norm,
                has_weight: has_norm && rng.range(0, 1) == 0,
                from: rng.pick(&[From::Tables, From::Value, From::Buffer, From::Factors]),
            })
        },
    }
}

#[cfg(test)]
mod refusals {
    use super::*;
    use crate::ops::fused_head_norm_rope::{dispatch_fused_head_norm_rope_bf16, dispatch_fused_head_norm_rope_f32};
    use crate::testing::{Bench, assert_invalid};

    #[test]
    fn each_names_the_parameter() {
        let mut b = Bench::new();
        let (x, o) = (b.buffer(DType::F32, &[2, 8]), b.buffer(DType::F32, &[2, 8]));
        let (t, h) = (b.buffer(DType::U32, &[1]), b.buffer(DType::BF16, &[2, 8]));
        let ok = HeadNormRopeParams { n_tokens: 1, n_heads: 2, head_dim: 8, n_pairs: 4, pairs: Pairs::Apart(4) };
        let angles = Angles::Computed { positions: &t, theta: Theta::Value(THETA), factors: None };
        let mut run = |o, angles, p: HeadNormRopeParams| {
            let norm = Some(HeadNorm { weight: None, eps: 1e-6 });
            head_norm_rope(&mut b.encoder, &mut b.registry, &b.device, &x, norm, angles, o, &p)
        };
        assert!(run(&o, angles, ok).is_ok() && run(&x, angles, ok).is_ok());
        assert_invalid(run(&o, angles, HeadNormRopeParams { n_heads: 0, ..ok }), &["n_heads"]);
        assert_invalid(run(&o, angles, HeadNormRopeParams { n_heads: 3, ..ok }), &["x", "64 bytes"]);
        assert_invalid(run(&o, angles, HeadNormRopeParams { n_pairs: 5, ..ok }), &["pairs", "overlap"]);
        assert_invalid(run(&o, angles, HeadNormRopeParams { pairs: Pairs::Apart(5), ..ok }), &["n_pairs", "head_dim"]);
        assert_invalid(run(&o, angles, HeadNormRopeParams { n_tokens: u32::MAX, ..ok }), &["n_tokens"]);
        assert_invalid(run(&o, angles, HeadNormRopeParams { n_tokens: 2, n_heads: 1, ..ok }), &["positions", "4 bytes"]);
        assert_invalid(run(&h, angles, ok), &["output", "bf16"]);
        let tables = Angles::Tables { cosines: &t, sines: &x };
        assert_invalid(run(&o, tables, ok), &["cosines", "u32"]);
        let inside = Angles::Tables { cosines: &o, sines: &x };
        assert_invalid(run(&o, inside, ok), &["output", "cosines", "share"]);
    }

    #[test]
    fn the_published_functions_check_what_0_1_forgot() {
        let mut b = Bench::new();
        let (x, o) = (b.buffer(DType::F32, &[2, 8]), b.buffer(DType::F32, &[2, 8]));
        let h = b.buffer(DType::BF16, &[2, 8]);
        let (device, e, r) = (b.device.metal_device(), &mut b.encoder, &mut b.registry);
        let mut f32s = |heads, dim, half| {
            dispatch_fused_head_norm_rope_f32(e, r, device, &x, &o, None, &o, None, heads, dim, half, 1e-6, 1e4)
        };
        assert_invalid(f32s(3, 8, 4), &["input", "64 bytes"]);
        assert_invalid(f32s(2, 8, 5), &["half_rope_dim 5", "head_dim 8"]);
        assert_invalid(f32s(u32::MAX, u32::MAX, 4), &["input"]);
        let tiny = b.device.alloc_buffer(4, DType::F32, vec![8]).expect("a small buffer");
        assert_invalid(
            dispatch_fused_head_norm_rope_bf16(e, r, device, &h, &h, None, &tiny, &x, 2, 8, 4, 1e-6),
            &["cos_cache", "4 bytes"],
        );
    }
}
