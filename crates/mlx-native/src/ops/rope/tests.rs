//! Cases of `rope`.

use super::{RopeParams, rope, rope_at};
use crate::dtype::DType;
use crate::error::Result;
use crate::testing::{Case, Context, FLOATS, Golden, Outputs, Rng, Suite, Tensor, Tolerance};

/// How `x` and `output` lie.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Layout {
    /// Both `[n_heads, seq_len, head_dim]`.
    Dense,
    /// From a projection `[seq_len, n_heads, head_dim]` into a cache of this capacity, from its start on.
    IntoCache(u32),
    /// Both `[seq_len, n_heads, head_dim]`: rows of a step, each at a position of its own.
    Step,
}

#[derive(Debug)]
struct RopeCase {
    dtype: DType,
    has_freqs: bool,
    layout: Layout,
    params: RopeParams,
    /// Inputs that MLX was given; the reference must agree with what it made of them.
    golden: Option<Golden>,
}

impl RopeCase {
    /// Elements from one head, and from one position, to the next: of `x`, of the output.
    fn strides(&self) -> [[usize; 2]; 2] {
        let p = &self.params;
        let (heads, seq, dim) = (p.n_heads as usize, p.seq_len as usize, p.head_dim as usize);
        match self.layout {
            Layout::Dense => [[seq * dim, dim]; 2],
            Layout::IntoCache(capacity) => [[dim, heads * dim], [capacity as usize * dim, dim]],
            Layout::Step => [[dim, heads * dim]; 2],
        }
    }

    fn output_shape(&self) -> Vec<usize> {
        let p = &self.params;
        let positions = match self.layout {
            Layout::Dense | Layout::Step => p.seq_len,
            Layout::IntoCache(capacity) => capacity,
        };
        vec![p.n_heads as usize, positions as usize, p.head_dim as usize]
    }

    /// Where each row of a step is.
    fn positions(&self) -> Option<Vec<u32>> {
        let given = self.layout == Layout::Step;
        given.then(|| (0..self.params.seq_len).map(|t| t.wrapping_mul(7919) % 5000).collect())
    }

    /// Frequencies in f32: from the base by f64, or as reciprocals of those given.
    fn frequencies(&self, inputs: &[Tensor]) -> Vec<f32> {
        let pairs = self.params.dims / 2;
        if self.has_freqs {
            return inputs[1].to_f64().into_iter().map(|f| 1.0 / f as f32).collect();
        }
        let power = |i| f64::from(self.params.base).powf(-2.0 * f64::from(i) / f64::from(self.params.dims));
        (0..pairs).map(|i| power(i) as f32).collect()
    }
}

impl Case for RopeCase {
    fn inputs(&self, rng: &mut Rng) -> Vec<Tensor> {
        if let Some(golden) = &self.golden {
            return ["x", "freqs"].iter().filter_map(|name| golden.tensors.get(*name)).map(widened).collect();
        }
        let p = &self.params;
        let shape = [p.n_heads as usize * p.seq_len as usize * p.head_dim as usize];
        let mut inputs = vec![Tensor::random(self.dtype, &shape, rng)];
        if self.has_freqs {
            let pairs = p.dims as usize / 2;
            let freqs: Vec<f32> =
                (0..pairs).map(|i| (i as f32 * 9.0 / pairs as f32).exp() * (1.5 + rng.signed())).collect();
            inputs.push(Tensor::from_f32(DType::F32, &[pairs], &freqs));
        }
        inputs.extend(self.positions().map(|p| Tensor::from_u32(&[p.len()], &p)));
        inputs
    }

    fn outputs(&self) -> Outputs {
        vec![(self.dtype, self.output_shape())]
    }

    fn before(&self, rng: &mut Rng) -> Option<Vec<Tensor>> {
        matches!(self.layout, Layout::IntoCache(_)).then(|| vec![Tensor::random(self.dtype, &self.output_shape(), rng)])
    }

    /// Angles are the f32 products that define them; their sines and cosines, and the rotation, are f64.
    fn reference(&self, inputs: &[Tensor]) -> Vec<Vec<f64>> {
        let p = &self.params;
        let x = inputs[0].to_f64();
        let mut output = match self.layout {
            Layout::Dense | Layout::Step => vec![0.0; x.len()],
            Layout::IntoCache(_) => inputs[inputs.len() - 1].to_f64(),
        };
        let ([x_strides, out_strides], frequencies) = (self.strides(), self.frequencies(inputs));
        let (dim, dims) = (p.head_dim as usize, p.dims as usize);
        let positions = self.positions();
        for head in 0..p.n_heads as usize {
            for t in 0..p.seq_len as usize {
                let from = &x[head * x_strides[0] + t * x_strides[1]..][..dim];
                let to = &mut output[head * out_strides[0] + t * out_strides[1]..][..dim];
                to[dims..].copy_from_slice(&from[dims..]);
                for (i, frequency) in frequencies.iter().enumerate() {
                    let position = positions.as_ref().map_or(p.offset + t as u32, |p| p[t]);
                    let angle = position as f32 * p.scale * frequency;
                    let (sin, cos) = f64::from(angle).sin_cos();
                    let (a, b) = if p.traditional == 1 { (2 * i, 2 * i + 1) } else { (i, i + dims / 2) };
                    to[a] = from[a] * cos - from[b] * sin;
                    to[b] = from[a] * sin + from[b] * cos;
                }
            }
        }
        if let Some(golden) = &self.golden {
            // MLX computes frequencies on the CPU as exponentials in f32, good for some 1e-7 of the angle.
            let near = 2e-6 + 2e-7 * f64::from(p.offset + p.seq_len);
            for (mlx, ours) in golden.tensor("out").to_f64().iter().zip(&output) {
                assert!((mlx - ours).abs() <= near, "MLX has {mlx}, the reference {ours}: {p:?}");
            }
        }
        vec![output]
    }

    fn encode(&self, c: &mut Context<'_>) -> Result<()> {
        let freqs = self.has_freqs.then(|| &c.inputs[1]);
        let (x, output) = (&c.inputs[0], &c.outputs[0]);
        if self.layout == Layout::Step {
            let positions = &c.inputs[c.inputs.len() - 1];
            return rope_at(c.encoder, c.registry, c.device, x, freqs, positions, output, &self.params);
        }
        rope(c.encoder, c.registry, c.device, x, freqs, output, &self.params)
    }

    fn tolerance(&self) -> Tolerance {
        // Values up to 4 times a sine that is off by 2.4e-7 at most, and two products; they may cancel.
        Tolerance::accumulated(self.dtype, 3e-6)
    }

    fn is_small(&self) -> bool {
        self.params.n_heads * self.params.seq_len * self.params.head_dim <= 5000
    }

    fn cost(&self) -> Option<(f64, f64)> {
        let p = &self.params;
        let n = f64::from(p.n_heads * p.seq_len * p.head_dim);
        (!self.is_small()).then_some((n * 2.0 * self.dtype.size_of() as f64, n * 3.0))
    }
}

/// A rotation of dense heads by base 10000, all features.
fn params(n_heads: u32, seq_len: u32, head_dim: u32, offset: u32) -> RopeParams {
    RopeParams {
        n_heads,
        seq_len,
        head_dim,
        dims: head_dim,
        traditional: 0,
        base: 10_000.0,
        scale: 1.0,
        offset,
        x_head_stride: 0,
        x_seq_stride: 0,
        out_head_stride: 0,
        out_seq_stride: 0,
    }
}

fn case(dtype: DType, has_freqs: bool, layout: Layout, mut p: RopeParams) -> Box<dyn Case> {
    if has_freqs {
        p.base = 0.0;
    }
    if let Layout::IntoCache(capacity) = layout {
        (p.x_head_stride, p.x_seq_stride) = (p.head_dim, p.n_heads * p.head_dim);
        (p.out_head_stride, p.out_seq_stride) = (capacity * p.head_dim, p.head_dim);
    }
    if layout == Layout::Step {
        (p.x_head_stride, p.x_seq_stride) = (p.head_dim, p.n_heads * p.head_dim);
        (p.out_head_stride, p.out_seq_stride, p.offset) = (p.x_head_stride, p.x_seq_stride, 0);
    }
    Box::new(RopeCase { dtype, has_freqs, layout, params: p, golden: None })
}

/// The same values in f32, in which MLX computed the golden outputs.
fn widened(tensor: &Tensor) -> Tensor {
    let values: Vec<f32> = tensor.to_f64().into_iter().map(|v| v as f32).collect();
    Tensor::from_f32(DType::F32, tensor.shape(), &values)
}

fn golden_case(golden: Golden) -> Box<dyn Case> {
    let &[batch, heads, seq_len, head_dim] = golden.tensor("x").shape() else { panic!("x has four axes") };
    let p = RopeParams {
        dims: golden.u32("dims"),
        traditional: golden.params["traditional"].as_bool().expect("every case says it").into(),
        // None with frequencies.
        base: golden.params["base"].as_f64().unwrap_or(0.0) as f32,
        scale: golden.params["scale"].as_f64().expect("every case has a scale") as f32,
        ..params((batch * heads) as u32, seq_len as u32, head_dim as u32, golden.u32("offset"))
    };
    let has_freqs = golden.tensors.contains_key("freqs");
    Box::new(RopeCase { dtype: DType::F32, has_freqs, layout: Layout::Dense, params: p, golden: Some(golden) })
}

pub(crate) fn suite() -> Suite {
    let mut cases = Vec::new();
    for &dtype in FLOATS {
        for traditional in [0, 1] {
            let with = |n_heads, seq_len, head_dim, offset| RopeParams {
                traditional,
                ..params(n_heads, seq_len, head_dim, offset)
            };
            cases.extend([
                case(dtype, false, Layout::Dense, with(1, 1, 2, 0)),
                case(dtype, false, Layout::Dense, with(3, 7, 6, 5)),
                case(dtype, false, Layout::Dense, with(5, 1, 64, 1000)),
                case(dtype, false, Layout::Dense, RopeParams { dims: 32, ..with(3, 3, 80, 33) }),
                case(dtype, false, Layout::Dense, RopeParams { dims: 20, ..with(2, 3, 65, 7) }),
                case(dtype, false, Layout::Dense, RopeParams { scale: 0.25, base: 1e6, ..with(7, 2, 96, 65) }),
                // Far out, where a sine without full reduction has nothing left.
                case(dtype, false, Layout::Dense, RopeParams { base: 1e6, ..with(1, 3, 128, 120_000) }),
                case(dtype, false, Layout::Dense, RopeParams { scale: 1000.0, ..with(1, 2, 64, 1 << 24) }),
                case(dtype, true, Layout::Dense, with(2, 7, 66, 30_000)),
                case(dtype, true, Layout::Dense, RopeParams { dims: 64, scale: 0.5, ..with(9, 1, 128, 3) }),
                case(dtype, false, Layout::IntoCache(9), with(3, 5, 66, 11)),
                case(dtype, false, Layout::Step, with(3, 7, 66, 0)),
                case(dtype, true, Layout::Step, RopeParams { dims: 20, ..with(5, 1, 33, 0) }),
                case(dtype, true, Layout::IntoCache(33), RopeParams { dims: 48, ..with(8, 1, 64, 31) }),
            ]);
        }
        cases.push(case(dtype, false, Layout::IntoCache(512), params(16, 256, 128, 0)));
    }
    cases.extend(Golden::load("rope").into_iter().map(golden_case));
    Suite {
        op: &super::OP,
        cases,
        random: |rng| {
            let head_dim = 2 * rng.range(1, 40) as u32;
            let (heads, seq_len) = (rng.range(1, 9) as u32, rng.range(1, 6) as u32);
            let p = RopeParams {
                dims: 2 * rng.range(1, head_dim as usize / 2) as u32,
                traditional: rng.range(0, 1) as u32,
                base: rng.pick(&[10_000.0, 500_000.0, 7.0]),
                scale: rng.pick(&[1.0, 0.125, 1.7]),
                ..params(heads, seq_len, head_dim, rng.range(0, 5000) as u32)
            };
            let layout = rng.pick(&[Layout::Dense, Layout::IntoCache(7), Layout::Step]);
            case(rng.pick(FLOATS), rng.range(0, 1) == 1, layout, p)
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
        let (x, y) = (b.buffer(DType::F32, &[2, 3, 8]), b.buffer(DType::F32, &[48]));
        let (half, small) = (b.buffer(DType::F16, &[48]), b.buffer(DType::F32, &[47]));
        let (freqs, few) = (b.buffer(DType::F32, &[4]), b.buffer(DType::F32, &[3]));
        let late = x.view(32, DType::F32, vec![40]).unwrap();
        let one = RopeParams { n_heads: 1, ..params(2, 3, 8, 0) };
        let ok = params(2, 3, 8, 0);
        let mut run = |x, f, o, p| rope(&mut b.encoder, &mut b.registry, &b.device, x, f, o, &p);
        assert!(run(&x, None, &x, ok).is_ok(), "in place is fine");
        assert!(run(&x, Some(&freqs), &y, RopeParams { base: 0.0, ..ok }).is_ok());
        for (name, p) in [
            ("n_heads", RopeParams { n_heads: 0, ..ok }),
            ("seq_len", RopeParams { seq_len: 0, ..ok }),
            ("head_dim", RopeParams { head_dim: 0, ..ok }),
            ("dims", RopeParams { dims: 0, ..ok }),
            ("dims", RopeParams { dims: 3, ..ok }),
            ("dims", RopeParams { dims: 10, ..ok }),
            ("dims", RopeParams { head_dim: 4096, dims: 2050, ..ok }),
            ("traditional", RopeParams { traditional: 2, ..ok }),
            ("base", RopeParams { base: 0.0, ..ok }),
            ("base", RopeParams { base: f32::NAN, ..ok }),
            ("scale", RopeParams { scale: f32::INFINITY, ..ok }),
            ("offset", RopeParams { offset: u32::MAX - 2, ..ok }),
            ("seq_len", RopeParams { seq_len: 1 << 31, ..ok }),
            ("out_seq_stride", RopeParams { out_head_stride: 24, out_seq_stride: 7, ..ok }),
            ("out_head_stride", RopeParams { out_head_stride: 23, out_seq_stride: 8, ..ok }),
            ("out_head_stride", RopeParams { out_seq_stride: 8, ..one.with_heads(2) }),
        ] {
            assert_invalid(run(&x, None, &y, p), &[name]);
        }
        assert_invalid(run(&x, Some(&freqs), &y, ok), &["base", "freqs"]);
        let by_freqs = RopeParams { base: 0.0, ..ok };
        assert_invalid(run(&x, Some(&half), &y, by_freqs), &["freqs", "f16"]);
        assert_invalid(run(&x, Some(&few), &y, by_freqs), &["freqs holds 12 bytes"]);
        assert_invalid(run(&x, None, &half, ok), &["output", "f16", "f32"]);
        assert_invalid(run(&small, None, &y, ok), &["x holds 188 bytes"]);
        assert_invalid(run(&x, None, &small, ok), &["output holds 188 bytes"]);
        assert_invalid(run(&x, None, &late, one), &["output", "x", "share"]);
        let turned = RopeParams { out_head_stride: 8, out_seq_stride: 16, ..ok };
        assert_invalid(run(&x, None, &x, turned), &["output is x", "strides"]);
    }

    #[test]
    fn positions_are_checked() {
        let mut b = Bench::new();
        let (x, y) = (b.buffer(DType::F32, &[3, 2, 8]), b.buffer(DType::F32, &[48]));
        let (at, few) = (b.buffer(DType::U32, &[3]), b.buffer(DType::U32, &[2]));
        let ok = params(2, 3, 8, 0);
        let mut run = |at, p| rope_at(&mut b.encoder, &mut b.registry, &b.device, &x, None, at, &y, &p);
        assert!(run(&at, ok).is_ok());
        assert_invalid(run(&at, RopeParams { offset: 1, ..ok }), &["offset is 1"]);
        assert_invalid(run(&few, ok), &["positions holds 8 bytes"]);
        assert_invalid(run(&x, ok), &["positions", "f32"]);
    }

    impl RopeParams {
        fn with_heads(self, n_heads: u32) -> Self {
            RopeParams { n_heads, ..self }
        }
    }

    #[test]
    fn in_place_equals_out_of_place() {
        let mut b = Bench::new();
        let (mut x, y) = (b.buffer(DType::F32, &[3, 5, 34]), b.buffer(DType::F32, &[3, 5, 34]));
        let values: Vec<f32> = (0..510).map(|i| i as f32 * 0.01 - 2.0).collect();
        x.write(0, &values).unwrap();
        let p = RopeParams { dims: 30, ..params(3, 5, 34, 9) };
        rope(&mut b.encoder, &mut b.registry, &b.device, &x, None, &y, &p).unwrap();
        rope(&mut b.encoder, &mut b.registry, &b.device, &x, None, &x, &p).unwrap();
        b.encoder.commit_and_wait().unwrap();
        assert_eq!(x.read::<f32>().unwrap(), y.read::<f32>().unwrap());
        assert_ne!(x.read::<f32>().unwrap(), values);
    }
}
