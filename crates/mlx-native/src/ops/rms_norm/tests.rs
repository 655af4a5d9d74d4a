//! Cases of `rms_norm`.

use super::{RmsNormOptions, RmsNormParams, rms_norm, rms_norm_with};
use crate::dtype::DType;
use crate::error::Result;
use crate::testing::{Case, Context, FLOATS, Golden, Outputs, Rng, Suite, Tensor, Tolerance, rounded};

/// What the rows hold.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Rows {
    Normal,
    /// Multiples of (7, 1, 5, 5): the root of the mean is exact, so that both roundings can be held to the bit.
    Exact,
    /// NaN in the first row, infinity in the second, zeros in the third.
    Special,
}

#[derive(Debug)]
struct RmsNormCase {
    dtype: DType,
    has_weight: bool,
    params: RmsNormParams,
    contents: Rows,
    /// Inputs that MLX was given; the reference must agree with what it made of them.
    golden: Option<Golden>,
}

impl Case for RmsNormCase {
    fn inputs(&self, rng: &mut Rng) -> Vec<Tensor> {
        if let Some(golden) = &self.golden {
            return ["x", "weight"].iter().filter_map(|name| golden.tensors.get(*name)).map(widened).collect();
        }
        let (rows, dim) = (self.params.rows as usize, self.params.dim as usize);
        let mut x: Vec<f32> = (0..rows * dim).map(|_| rng.normal() * 3.0).collect();
        match self.contents {
            Rows::Normal => {}
            Rows::Exact => {
                let sign = |bits: u32| if bits & 1 == 0 { 1.0 } else { -1.0 };
                x.iter_mut().zip([7.0, 1.0, 5.0, 5.0].iter().cycle()).for_each(|(x, v)| *x = v * sign(rng.bits()));
            }
            Rows::Special => {
                x[0] = f32::NAN;
                x[2 * dim - 1] = f32::INFINITY;
                x[2 * dim..3 * dim].fill(0.0);
            }
        }
        let mut inputs = vec![Tensor::from_f32(self.dtype, &[rows, dim], &x)];
        if self.has_weight {
            inputs.push(Tensor::random(self.dtype, &[dim], rng));
        }
        inputs
    }

    fn outputs(&self) -> Outputs {
        vec![(self.dtype, vec![self.params.rows as usize, self.params.dim as usize])]
    }

    fn reference(&self, inputs: &[Tensor]) -> Vec<Vec<f64>> {
        let dim = self.params.dim as usize;
        let weight = inputs.get(1).map(Tensor::to_f64);
        let row = |x: &[f64]| {
            let mean = x.iter().map(|v| v * v).sum::<f64>() / dim as f64;
            let inverse = 1.0 / (mean + f64::from(self.params.eps)).sqrt();
            let normalised = x.iter().map(|v| rounded(self.dtype, v * inverse));
            match &weight {
                Some(w) => normalised.zip(w).map(|(v, w)| self.last_rounding(v * w)).collect::<Vec<_>>(),
                None => normalised.collect(),
            }
        };
        let out: Vec<f64> = inputs[0].to_f64().chunks(dim).flat_map(row).collect();
        if let Some(golden) = &self.golden {
            for (mlx, ours) in golden.tensor("out").to_f64().iter().zip(&out) {
                // MLX sums in f32 on the CPU, one value after the other.
                assert!((mlx - ours).abs() <= 2e-6 * ours.abs().max(1.0), "MLX has {mlx}, the reference {ours}");
            }
        }
        vec![out]
    }

    fn encode(&self, c: &mut Context<'_>) -> Result<()> {
        rms_norm(c.encoder, c.registry, c.device, &c.inputs[0], c.inputs.get(1), &c.outputs[0], &self.params)
    }

    fn tolerance(&self) -> Tolerance {
        if self.contents == Rows::Exact && self.dtype != DType::F32 {
            return Tolerance::EXACT;
        }
        // f32 sums and the root: 1e-6. In 16 bits a normalised value that is off by so little may round to the neighbour,
        // two half units away, before the product is rounded by half a unit; twice that for subnormals times a weight.
        let rounding = Tolerance::one_rounding(self.dtype);
        Tolerance { absolute: rounding.absolute * 8.0, relative: rounding.relative * 3.01 + 1e-6 }
    }

    fn is_small(&self) -> bool {
        self.params.rows * self.params.dim <= 6000
    }

    fn cost(&self) -> Option<(f64, f64)> {
        let n = f64::from(self.params.rows) * f64::from(self.params.dim);
        (!self.is_small()).then_some((n * 2.0 * self.dtype.size_of() as f64, n * 4.0))
    }
}

impl RmsNormCase {
    /// The product with the weight: rounded where the result must be equal, as it is where a tolerance allows for it.
    fn last_rounding(&self, v: f64) -> f64 {
        if self.contents == Rows::Exact { rounded(self.dtype, v) } else { v }
    }
}

/// The same values in f32, in which MLX computed the golden outputs.
fn widened(tensor: &Tensor) -> Tensor {
    let values: Vec<f32> = tensor.to_f64().into_iter().map(|v| v as f32).collect();
    Tensor::from_f32(DType::F32, tensor.shape(), &values)
}

fn golden_case(golden: Golden) -> Box<dyn Case> {
    let shape = golden.tensor("x").shape();
    let dim = shape[shape.len() - 1];
    let rows = shape.iter().product::<usize>() / dim;
    let eps = golden.params["eps"].as_f64().expect("every case has an eps") as f32;
    Box::new(RmsNormCase {
        dtype: DType::F32,
        has_weight: golden.tensors.contains_key("weight"),
        params: RmsNormParams { rows: rows as u32, dim: dim as u32, eps },
        contents: Rows::Normal,
        golden: Some(golden),
    })
}

/// A norm with what fewer need, rounded once.
#[derive(Debug)]
struct OptionsCase {
    dtype: DType,
    weight: Option<DType>,
    has_factor: bool,
    has_eps_buffer: bool,
    rows: u32,
    dim: u32,
}

const BUFFER_EPS: f32 = 0.25;

impl Case for OptionsCase {
    fn inputs(&self, rng: &mut Rng) -> Vec<Tensor> {
        let shape = [self.rows as usize, self.dim as usize];
        let mut inputs = vec![Tensor::random(self.dtype, &shape, rng)];
        inputs.extend(self.weight.map(|dtype| Tensor::random(dtype, &shape[1..], rng)));
        inputs.extend(self.has_factor.then(|| Tensor::random(self.dtype, &shape, rng)));
        inputs.extend(self.has_eps_buffer.then(|| Tensor::from_f32(DType::F32, &[1], &[BUFFER_EPS])));
        inputs
    }

    fn outputs(&self) -> Outputs {
        let output = (self.dtype, vec![self.rows as usize, self.dim as usize]);
        if self.has_factor { vec![output.clone(), output] } else { vec![output] }
    }

    fn reference(&self, inputs: &[Tensor]) -> Vec<Vec<f64>> {
        let dim = self.dim as usize;
        let mut rest = inputs[1..].iter().map(Tensor::to_f64);
        let weight = self.weight.and_then(|_| rest.next());
        let factor = if self.has_factor { rest.next() } else { None };
        let eps = if self.has_eps_buffer { BUFFER_EPS } else { 1e-5 };
        let (mut out, mut normed) = (Vec::new(), Vec::new());
        for (row, x) in inputs[0].to_f64().chunks(dim).enumerate() {
            let mean = x.iter().map(|v| v * v).sum::<f64>() / dim as f64;
            let inverse = 1.0 / (mean + f64::from(eps)).sqrt();
            for (i, v) in x.iter().enumerate() {
                let w = weight.as_ref().map_or(1.0, |w| w[i]);
                normed.push(v * inverse * w);
                out.push(v * inverse * w * factor.as_ref().map_or(1.0, |f| f[row * dim + i]));
            }
        }
        if self.has_factor { vec![out, normed] } else { vec![out] }
    }

    fn encode(&self, c: &mut Context<'_>) -> Result<()> {
        let mut rest = c.inputs[1..].iter();
        let options = RmsNormOptions {
            weight: self.weight.and_then(|_| rest.next()),
            factor: if self.has_factor { rest.next() } else { None },
            eps: if self.has_eps_buffer { rest.next() } else { None },
            normed: c.outputs.get(1),
            rounds_once: true,
        };
        let params = RmsNormParams { rows: self.rows, dim: self.dim, eps: 1e-5 };
        rms_norm_with(c.encoder, c.registry, c.device, &c.inputs[0], &options, &c.outputs[0], &params)
    }

    fn tolerance(&self) -> Tolerance {
        let rounding = Tolerance::one_rounding(self.dtype);
        Tolerance { absolute: rounding.absolute, relative: rounding.relative * 1.01 + 1e-6 }
    }

    fn is_small(&self) -> bool {
        self.rows * self.dim <= 6000
    }
}

fn options_cases() -> Vec<Box<dyn Case>> {
    let mut cases: Vec<Box<dyn Case>> = Vec::new();
    for &dtype in FLOATS {
        for weight in [None, Some(dtype), Some(DType::F32)] {
            for (rows, dim) in [(1, 1), (3, 65), (9, 256), (2, 257), (3, 1030), (70, 1025)] {
                for (has_factor, has_eps_buffer) in [(false, true), (true, false), (true, true)] {
                    cases.push(Box::new(OptionsCase { dtype, weight, has_factor, has_eps_buffer, rows, dim }));
                }
            }
        }
    }
    cases
}

pub(crate) fn suite() -> Suite {
    // rows, dim; up to 256 a simdgroup does a row, beyond a threadgroup.
    let shapes = [
        (1, 1),
        (3, 7),
        (9, 33),
        (8, 64),
        (17, 65),
        (5, 128),
        (2, 256),
        (1, 257),
        (3, 513),
        (1, 1024),
        (1, 4099),
        (1, 5120),
        (64, 1024),
        (2048, 128),
    ];
    let mut cases: Vec<Box<dyn Case>> = Vec::new();
    for &dtype in FLOATS {
        for has_weight in [true, false] {
            let case = |rows, dim, eps, contents| {
                let params = RmsNormParams { rows, dim, eps };
                Box::new(RmsNormCase { dtype, has_weight, params, contents, golden: None })
            };
            for (rows, dim) in shapes {
                cases.push(case(rows, dim, 1e-5, Rows::Normal));
            }
            for dim in [64, 260] {
                cases.push(case(2, dim, 0.0, Rows::Exact));
                cases.push(case(3, dim, 1e-6, Rows::Special));
            }
        }
    }
    cases.extend(options_cases());
    cases.extend(Golden::load("rms_norm").into_iter().map(golden_case));
    Suite {
        op: &super::OP,
        cases,
        random: |rng| {
            let dim = if rng.range(0, 1) == 0 { rng.range(1, 256) } else { rng.range(257, 900) };
            let params = RmsNormParams { rows: rng.range(1, 6) as u32, dim: dim as u32, eps: 1e-6 };
            let has_weight = rng.range(0, 2) > 0;
            Box::new(RmsNormCase { dtype: rng.pick(FLOATS), has_weight, params, contents: Rows::Normal, golden: None })
        },
    }
}

#[cfg(test)]
mod refusals {
    use super::*;
    use crate::testing::{Bench, assert_invalid};

    #[test]
    fn the_published_functions_check_what_0_1_forgot() {
        use crate::ops::rms_norm::{dispatch_rms_norm, dispatch_rms_norm_mul};
        let mut b = Bench::new();
        let (x, y) = (b.buffer(DType::F32, &[3, 4]), b.buffer(DType::F32, &[3, 4]));
        let tiny = b.device.alloc_buffer(2, DType::F32, vec![4]).unwrap();
        let (device, e, r) = (b.device.metal_device(), &mut b.encoder, &mut b.registry);
        assert_invalid(dispatch_rms_norm(e, r, device, &x, &tiny, &y, &y, 3, 4), &["weight", "2 bytes"]);
        assert_invalid(dispatch_rms_norm(e, r, device, &x, &x, &y, &tiny, 3, 4), &["params_buf", "2 bytes"]);
        assert_invalid(dispatch_rms_norm(e, r, device, &x, &x, &y, &x, 3, 5), &["input", "15 elements"]);
        assert_invalid(dispatch_rms_norm(e, r, device, &x, &x, &y, &x, u32::MAX, u32::MAX), &["input"]);
        assert_invalid(dispatch_rms_norm_mul(e, r, device, &x, &x, &tiny, &y, &x, 3, 4), &["scale_weight"]);
    }

    #[test]
    fn each_names_the_parameter() {
        let mut b = Bench::new();
        let (x, w) = (b.buffer(DType::F32, &[3, 4]), b.buffer(DType::F32, &[4]));
        let (half, big) = (b.buffer(DType::F16, &[12]), b.buffer(DType::F32, &[16]));
        let late = big.view(16, DType::F32, vec![12]).unwrap();
        let ok = RmsNormParams { rows: 3, dim: 4, eps: 1e-5 };
        let mut run = |x, w, o, p| rms_norm(&mut b.encoder, &mut b.registry, &b.device, x, w, o, &p);
        assert!(run(&x, Some(&w), &x, ok).is_ok(), "in place is fine");
        assert!(run(&x, None, &big, ok).is_ok(), "no weight, too large an output");
        assert_invalid(run(&x, None, &x, RmsNormParams { rows: 0, ..ok }), &["rows"]);
        assert_invalid(run(&x, None, &x, RmsNormParams { dim: 0, ..ok }), &["dim"]);
        for eps in [-1e-5, f32::NAN, f32::INFINITY] {
            assert_invalid(run(&x, None, &x, RmsNormParams { eps, ..ok }), &["eps"]);
        }
        assert_invalid(run(&x, Some(&half), &x, ok), &["weight", "f16", "f32"]);
        assert_invalid(run(&x, Some(&w), &half, ok), &["output", "f16", "f32"]);
        assert_invalid(run(&w, None, &x, ok), &["x holds 16 bytes"]);
        assert_invalid(run(&x, None, &w, ok), &["output holds 16 bytes"]);
        assert_invalid(run(&x, Some(&w), &x, RmsNormParams { rows: 1, dim: 8, ..ok }), &["weight holds 16 bytes"]);
        assert_invalid(run(&x, Some(&x), &x, ok), &["output", "weight", "share"]);
        assert_invalid(run(&big, None, &late, ok), &["output", "x", "share"]);
    }
}
