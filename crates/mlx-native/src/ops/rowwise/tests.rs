//! Cases of `rowwise`.

use super::{Function, RowwiseParams, rowwise};
use crate::dtype::DType;
use crate::error::Result;
use crate::testing::{Case, Context, FLOATS, Outputs, Rng, Suite, Tensor, Tolerance, rounded};

const ALL: [(Function, [f32; 4]); 33] = [
    (Function::Scale, [1.5, -0.25, 0.0, 0.0]),
    (Function::Add, [1.0, 0.5, 0.0, 0.0]),
    (Function::Mul, [2.0, 0.0, 0.0, 0.0]),
    (Function::Cap, [3.0, 0.0, 0.0, 0.0]),
    (Function::Silu, [0.0; 4]),
    (Function::GeluErf, [0.0; 4]),
    (Function::GeluTanh, [0.0; 4]),
    (Function::Relu2, [0.0; 4]),
    (Function::Sigmoid, [0.0; 4]),
    (Function::Softplus, [0.0; 4]),
    (Function::Tanh, [0.0; 4]),
    (Function::SiluMul, [0.0; 4]),
    (Function::GeluErfMul, [0.0; 4]),
    (Function::GeluTanhMul, [0.0; 4]),
    (Function::Relu2Mul, [0.0; 4]),
    (Function::SigmoidMul, [0.0; 4]),
    (Function::SoftplusMul, [0.0; 4]),
    (Function::ClippedSwiglu, [1.0, 1.702, 0.0, 0.0]),
    (Function::SiluClippedMul, [1.0, 0.0, 0.0, 0.0]),
    (Function::ClippedSiluMul, [1.0, 0.0, 0.0, 0.0]),
    (Function::Xielu, [0.8, 1.1, 0.5, -1e-6]),
    (Function::Decay, [0.0; 4]),
    (Function::BoundedDecay, [-5.0, 0.0, 0.0, 0.0]),
    (Function::StepWidth, [0.05, 1.5, 0.0, 0.0]),
    (Function::Lerp, [0.0; 4]),
    (Function::DecayOfStep, [0.0; 4]),
    (Function::Complement, [0.0; 4]),
    (Function::ExpSigmoid, [-0.606_531, 0.0, 0.0, 0.0]),
    (Function::GatedDecay, [-8.0, 0.0, 0.0, 0.0]),
    (Function::Excess, [0.5, 0.0, 0.0, 0.0]),
    (Function::CappedSiluMul, [2.0, 3.0, 0.0, 0.0]),
    (Function::Clip, [-0.5, f32::INFINITY, 0.0, 0.0]),
    (Function::Grid, [0.25, -3.0, 2.0, 0.0]),
];

/// How the operands lie.
#[derive(Debug, Clone, Copy)]
enum Layout {
    Dense,
    /// `a` within wider rows, `b` one row for all, `c` an element for seven columns.
    Strided,
}

#[derive(Debug)]
struct RowwiseCase {
    dtype: DType,
    function: (Function, [f32; 4]),
    rows: u32,
    cols: u32,
    layout: Layout,
    /// NaN, infinities and magnitudes where a careless exponential overflows.
    extreme: bool,
}

impl RowwiseCase {
    fn params(&self) -> RowwiseParams {
        let dense = RowwiseParams { p: self.function.1, ..RowwiseParams::dense(self.rows, self.cols) };
        match self.layout {
            Layout::Dense => dense,
            Layout::Strided => RowwiseParams {
                a_stride: self.cols + 5,
                b_stride: 0,
                c_stride: self.cols.div_ceil(7),
                output_stride: self.cols + 3,
                c_div: 7,
                ..dense
            },
        }
    }

    fn lengths(&self) -> [usize; 4] {
        let p = self.params();
        let len = |stride: u32, cols: u32| (stride * (self.rows - 1) + cols) as usize;
        [
            len(p.a_stride, p.cols),
            len(p.b_stride, p.cols.div_ceil(p.b_div)),
            len(p.c_stride, p.cols.div_ceil(p.c_div)),
            len(p.output_stride, p.cols),
        ]
    }
}

const EXTREMES: [f32; 12] =
    [-3e4, -104.0, -20.0, -1e-3, -0.0, 0.0, 1e-3, 20.0, 89.0, 3e4, f32::INFINITY, f32::NAN];

fn reference(f: Function, p: [f64; 4], x: f64, y: f64, z: f64) -> f64 {
    let sigmoid = |v: f64| 1.0 / (1.0 + (-v).exp());
    let softplus = |v: f64| if v.is_nan() { v } else { v.max(0.0) + (-v.abs()).exp().ln_1p() };
    let gelu_tanh = |v: f64| v * sigmoid(2.0 * (2.0 / std::f64::consts::PI).sqrt() * (v + 0.044715 * v * v * v));
    let relu = |v: f64| if v < 0.0 { 0.0 } else { v };
    let clip = |v: f64, lo: f64, hi: f64| if v.is_nan() { v } else { v.max(lo).min(hi) };
    let least = |v: f64, hi: f64| if v > hi { hi } else { v };
    // ∞ times 0 means the limit, 0, as the kernels' arithmetic gives NaN there: both sides say NaN.
    match f {
        Function::Scale => p[0] * x + p[1],
        Function::Add => p[0] * x + p[1] * y,
        Function::Mul => x * y * p[0],
        Function::Cap => p[0] * (x / p[0]).tanh(),
        Function::Silu => x * sigmoid(x),
        Function::GeluErf => gelu(x),
        Function::GeluTanh => gelu_tanh(x),
        Function::Relu2 => relu(x) * relu(x),
        Function::Sigmoid => sigmoid(x),
        Function::Softplus => softplus(x),
        Function::Tanh => x.tanh(),
        Function::SiluMul => x * sigmoid(x) * y,
        Function::GeluErfMul => gelu(x) * y,
        Function::GeluTanhMul => gelu_tanh(x) * y,
        Function::Relu2Mul => relu(x) * relu(x) * y,
        Function::SigmoidMul => sigmoid(x) * y,
        Function::SoftplusMul => softplus(x) * y,
        Function::ClippedSwiglu => {
            let g = least(x, p[0]);
            g * sigmoid(p[1] * g) * (clip(y, -p[0], p[0]) + 1.0)
        }
        Function::SiluClippedMul => least(x * sigmoid(x), p[0]) * clip(y, -p[0], p[0]),
        Function::ClippedSiluMul => {
            let g = least(x, p[0]);
            g * sigmoid(g) * clip(y, -p[0], p[0])
        }
        Function::Xielu if x > 0.0 => p[0] * x * x + p[2] * x,
        Function::Xielu => (least(x, p[3]).exp_m1() - x) * p[1] + p[2] * x,
        Function::Decay => (-z.exp() * softplus(x + y)).exp(),
        Function::BoundedDecay => (p[0] * sigmoid(z.exp() * (x + y))).exp(),
        Function::StepWidth => clip(softplus(x + y), p[0], p[1]),
        Function::Lerp => x + (y - x) * z,
        Function::DecayOfStep => (-z.exp() * x).exp(),
        Function::Complement => if x.is_nan() { x } else { (1.0 - x * x).max(0.0).sqrt() * y },
        Function::ExpSigmoid => (p[0] * sigmoid(x)).exp(),
        Function::GatedDecay => (p[0] * sigmoid(x) * softplus(y)).exp(),
        Function::Excess => relu(x - (y + p[0] * z)),
        Function::CappedSiluMul => p[0] * (x / p[0]).tanh() * sigmoid(x) * (p[1] * (y / p[1]).tanh()),
        Function::Clip => clip(x, p[0], p[1]),
        Function::Grid => clip((x / p[0]).round_ties_even(), p[1], p[2]) * p[0],
    }
}

/// `x·Φ(x)` by the integral of the density, Simpson's rule: no erf in std.
fn gelu(x: f64) -> f64 {
    if x.is_nan() {
        return x;
    }
    if x.abs() > 12.0 {
        return if x > 0.0 { x } else { x * 0.0 };
    }
    // The tail from |x| on.
    let z = x.abs();
    let density = |t: f64| (-t * t / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    let (n, end) = (4000, z + 14.0);
    let h = (end - z) / f64::from(n);
    let sum: f64 = (0..=n)
        .map(|i| {
            let weight = if i == 0 || i == n { 1.0 } else if i % 2 == 1 { 4.0 } else { 2.0 };
            weight * density(z + h * f64::from(i))
        })
        .sum();
    let tail = sum * h / 3.0;
    x * if x < 0.0 { tail } else { 1.0 - tail }
}

impl Case for RowwiseCase {
    fn inputs(&self, rng: &mut Rng) -> Vec<Tensor> {
        let lengths = self.lengths();
        (0..self.function.0.operands())
            .map(|i| {
                let mut values: Vec<f32> = (0..lengths[i]).map(|_| rng.normal() * 1.5).collect();
                if self.extreme {
                    values = EXTREMES.iter().copied().cycle().skip(i * 5).take(lengths[i]).collect();
                }
                Tensor::from_f32(self.dtype, &[lengths[i]], &values)
            })
            .collect()
    }

    fn outputs(&self) -> Outputs {
        vec![(self.dtype, vec![self.lengths()[3]])]
    }

    fn before(&self, _rng: &mut Rng) -> Option<Vec<Tensor>> {
        let len = self.lengths()[3];
        Some(vec![Tensor::from_f32(self.dtype, &[len], &vec![7.0; len])])
    }

    fn reference(&self, inputs: &[Tensor]) -> Vec<Vec<f64>> {
        let p = self.params();
        let n = self.function.0.operands();
        let values: Vec<Vec<f64>> = inputs[..n].iter().map(Tensor::to_f64).collect();
        let mut output = inputs[n].to_f64();
        let at = |i: usize, row: u32, column: u32| {
            let (stride, div) = [(p.a_stride, 1), (p.b_stride, p.b_div), (p.c_stride, p.c_div)][i];
            values.get(i).map_or(0.0, |v| v[(row * stride + column / div) as usize])
        };
        for row in 0..self.rows {
            for column in 0..self.cols {
                let (x, y, z) = (at(0, row, column), at(1, row, column), at(2, row, column));
                let value = reference(self.function.0, self.function.1.map(f64::from), x, y, z);
                output[(row * p.output_stride + column) as usize] = rounded(self.dtype, value);
            }
        }
        vec![output]
    }

    fn encode(&self, c: &mut Context<'_>) -> Result<()> {
        let (a, b, z) = (&c.inputs[0], c.inputs.get(1), c.inputs.get(2));
        rowwise(c.encoder, c.registry, c.device, self.function.0, a, b, z, &c.outputs[0], &self.params())
    }

    fn tolerance(&self) -> Tolerance {
        // Exponentials of exponents up to 30 carry 30 times the rounding of the exponent; sums of both signs lose the
        // digits of the larger.
        let rounding = Tolerance::one_rounding(self.dtype);
        Tolerance { relative: 2.1 * rounding.relative + 4e-6, absolute: rounding.absolute + 1e-6 }
    }

    fn is_small(&self) -> bool {
        self.rows * self.cols < 1000
    }

    fn cost(&self) -> Option<(f64, f64)> {
        let n = f64::from(self.rows) * f64::from(self.cols);
        let operands = self.function.0.operands() as f64 + 1.0;
        (!self.is_small()).then_some((n * operands * self.dtype.size_of() as f64, n * 8.0))
    }
}

pub(crate) fn suite() -> Suite {
    let mut cases: Vec<Box<dyn Case>> = Vec::new();
    for &dtype in FLOATS {
        for function in ALL {
            for (rows, cols, layout) in [(1, 1, Layout::Dense), (3, 65, Layout::Strided)] {
                cases.push(Box::new(RowwiseCase { dtype, function, rows, cols, layout, extreme: false }));
            }
        }
        for function in [Function::Silu, Function::GeluErf, Function::GeluTanh, Function::Tanh, Function::Sigmoid] {
            let function = (function, [1.0, 0.0, 0.0, 0.0]);
            let layout = Layout::Dense;
            cases.push(Box::new(RowwiseCase { dtype, function, rows: 1, cols: 10, layout, extreme: true }));
        }
    }
    for function in [ALL[0], ALL[13]] {
        let (dtype, layout, extreme) = (DType::F32, Layout::Dense, false);
        cases.push(Box::new(RowwiseCase { dtype, function, rows: 64, cols: 3072, layout, extreme }));
    }
    Suite {
        op: &super::OP,
        cases,
        random: |rng| {
            let function = rng.pick(&ALL);
            let (rows, cols) = (rng.range(1, 9) as u32, rng.range(1, 100) as u32);
            let layout = rng.pick(&[Layout::Dense, Layout::Strided]);
            Box::new(RowwiseCase { dtype: rng.pick(FLOATS), function, rows, cols, layout, extreme: false })
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
        let x = b.buffer(DType::F32, &[4, 8]);
        let y = b.buffer(DType::F16, &[4, 8]);
        let out = b.buffer(DType::F32, &[4, 8]);
        let params = RowwiseParams::dense(4, 8);
        let mut run = |f, a, y: Option<&_>, o, p: RowwiseParams| {
            rowwise(&mut b.encoder, &mut b.registry, &b.device, f, a, y, None, o, &p)
        };
        assert!(run(Function::Scale, &x, None, &x, params).is_ok(), "in place is fine");
        let (left, right) = (x.view(0, DType::F32, vec![28]).unwrap(), x.view(16, DType::F32, vec![28]).unwrap());
        let halves = RowwiseParams { cols: 4, ..params };
        assert_invalid(run(Function::Scale, &left, None, &right, halves), &["output", "share memory"]);
        assert_invalid(run(Function::Scale, &left, None, &right, RowwiseParams { cols: 5, ..params }), &["output"]);
        assert_invalid(run(Function::Scale, &x, None, &out, RowwiseParams { rows: 0, ..params }), &["rows"]);
        assert_invalid(run(Function::Scale, &x, None, &out, RowwiseParams { rows: 5, ..params }), &["holds"]);
        assert_invalid(run(Function::Mul, &x, None, &out, params), &["Mul", "2 operands"]);
        assert_invalid(run(Function::Scale, &x, Some(&x), &out, params), &["Scale", "1 operands"]);
        assert_invalid(run(Function::Mul, &x, Some(&y), &out, params), &["b", "f16"]);
        assert_invalid(
            run(Function::Scale, &x, None, &out, RowwiseParams { output_stride: 7, ..params }),
            &["output_stride"],
        );
        assert_invalid(
            run(Function::Scale, &x, None, &out, RowwiseParams { p: [f32::NAN; 4], ..params }),
            &["NaN"],
        );
        let huge = RowwiseParams { rows: u32::MAX, a_stride: u32::MAX, output_stride: u32::MAX, ..params };
        assert_invalid(run(Function::Scale, &x, None, &out, huge), &["output"]);
    }
}
