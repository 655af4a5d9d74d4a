//! Cases of `short_conv`.

use super::{ShortConvParams, short_conv};
use crate::dtype::DType;
use crate::error::Result;
use crate::testing::{Case, Context, FLOATS, Outputs, Rng, Suite, Tensor, Tolerance};

#[derive(Debug)]
struct ShortConvCase {
    dtype: DType,
    rows: u32,
    channels: u32,
    kernel: u32,
    /// Elements of a row of `x` beyond its channels.
    gap: u32,
    bias: bool,
    silu: bool,
    /// An infinity in channel 0, a NaN in the state of channel 1: no other channel sees them.
    broken: bool,
}

impl ShortConvCase {
    /// State has a row more than is used, so that a kernel of 1 has a buffer too.
    fn state_len(&self) -> usize {
        (self.kernel as usize * self.channels as usize).max(1)
    }

    fn x_len(&self) -> usize {
        ((self.rows - 1) * (self.channels + self.gap) + self.channels) as usize
    }
}

impl Case for ShortConvCase {
    fn inputs(&self, rng: &mut Rng) -> Vec<Tensor> {
        let channels = self.channels as usize;
        let mut x: Vec<f32> = (0..self.x_len()).map(|_| rng.normal()).collect();
        if self.broken {
            x[0] = f32::INFINITY;
        }
        let mut all = vec![
            Tensor::from_f32(self.dtype, &[x.len()], &x),
            Tensor::random(self.dtype, &[channels, self.kernel as usize], rng),
        ];
        if self.bias {
            all.push(Tensor::random(self.dtype, &[channels], rng));
        }
        all
    }

    fn outputs(&self) -> Outputs {
        let (rows, channels) = (self.rows as usize, self.channels as usize);
        vec![(self.dtype, vec![rows, channels]), (self.dtype, vec![self.state_len()])]
    }

    fn before(&self, rng: &mut Rng) -> Option<Vec<Tensor>> {
        let mut state: Vec<f32> = (0..self.state_len()).map(|_| rng.normal()).collect();
        if self.broken {
            state[1] = f32::NAN;
        }
        let zeros = vec![0.0; (self.rows * self.channels) as usize];
        let shape = [self.rows as usize, self.channels as usize];
        Some(vec![
            Tensor::from_f32(self.dtype, &shape, &zeros),
            Tensor::from_f32(self.dtype, &[state.len()], &state),
        ])
    }

    fn reference(&self, inputs: &[Tensor]) -> Vec<Vec<f64>> {
        let (channels, kernel, rows) = (self.channels as usize, self.kernel as usize, self.rows as usize);
        let (x, weight) = (inputs[0].to_f64(), inputs[1].to_f64());
        let bias = self.bias.then(|| inputs[2].to_f64());
        let mut state = inputs[inputs.len() - 1].to_f64();
        let stride = channels + self.gap as usize;
        let mut output = vec![0.0; rows * channels];
        for c in 0..channels {
            let mut seen: Vec<f64> = (0..kernel - 1).map(|j| state[j * channels + c]).collect();
            seen.extend((0..rows).map(|t| x[t * stride + c]));
            for t in 0..rows {
                let sum: f64 = (0..kernel).map(|j| weight[c * kernel + j] * seen[t + j]).sum();
                let sum = sum + bias.as_ref().map_or(0.0, |b| b[c]);
                output[t * channels + c] = if self.silu { sum / (1.0 + (-sum).exp()) } else { sum };
            }
            for j in 0..kernel - 1 {
                state[j * channels + c] = seen[rows + j];
            }
        }
        vec![output, state]
    }

    fn encode(&self, c: &mut Context<'_>) -> Result<()> {
        let bias = self.bias.then(|| &c.inputs[2]);
        let params = ShortConvParams {
            rows: self.rows,
            channels: self.channels,
            kernel: self.kernel,
            x_stride: self.channels + self.gap,
            silu: self.silu.into(),
        };
        let (x, weight) = (&c.inputs[0], &c.inputs[1]);
        short_conv(c.encoder, c.registry, c.device, x, weight, bias, &c.outputs[1], &c.outputs[0], &params)
    }

    fn tolerance(&self) -> Tolerance {
        // Sums of up to eight products of the size of one.
        Tolerance::accumulated(self.dtype, 4e-6)
    }

    fn is_small(&self) -> bool {
        self.rows * self.channels <= 3000
    }

    fn cost(&self) -> Option<(f64, f64)> {
        let n = f64::from(self.rows) * f64::from(self.channels);
        (!self.is_small()).then_some((n * 2.0 * self.dtype.size_of() as f64, n * 2.0 * f64::from(self.kernel)))
    }
}

pub(crate) fn suite() -> Suite {
    let mut cases: Vec<Box<dyn Case>> = Vec::new();
    for &dtype in FLOATS {
        for (rows, channels, kernel, gap, bias, silu) in [
            (1, 1, 4, 0, true, true),
            (1, 65, 4, 0, false, true),
            (7, 33, 3, 5, true, false),
            (33, 65, 4, 1, true, true),
            (2, 130, 8, 0, false, false),
            (5, 7, 1, 2, true, false),
            (3, 4, 2, 0, false, true),
        ] {
            cases.push(Box::new(ShortConvCase { dtype, rows, channels, kernel, gap, bias, silu, broken: false }));
        }
        let broken = ShortConvCase {
            dtype,
            rows: 6,
            channels: 70,
            kernel: 4,
            gap: 0,
            bias: true,
            silu: false,
            broken: true,
        };
        cases.push(Box::new(broken));
    }
    let large =
        ShortConvCase { dtype: DType::F32, rows: 512, channels: 4096, kernel: 4, gap: 0, bias: false, silu: true, broken: false };
    cases.push(Box::new(large));
    Suite {
        op: &super::OP,
        cases,
        random: |rng| {
            Box::new(ShortConvCase {
                dtype: rng.pick(FLOATS),
                rows: rng.range(1, 12) as u32,
                channels: rng.range(1, 150) as u32,
                kernel: rng.range(1, 8) as u32,
                gap: rng.range(0, 9) as u32,
                bias: rng.pick(&[true, false]),
                silu: rng.pick(&[true, false]),
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
        let x = b.buffer(DType::F32, &[4, 8]);
        let (w, s, o) = (b.buffer(DType::F32, &[8, 4]), b.buffer(DType::F32, &[3, 8]), b.buffer(DType::F32, &[4, 8]));
        let half = b.buffer(DType::F16, &[8, 4]);
        let ok = ShortConvParams { rows: 4, channels: 8, kernel: 4, x_stride: 8, silu: 1 };
        let mut run = |x, w, s, o, p: ShortConvParams| {
            short_conv(&mut b.encoder, &mut b.registry, &b.device, x, w, None, s, o, &p)
        };
        assert!(run(&x, &w, &s, &o, ok).is_ok());
        assert!(run(&x, &w, &s, &x, ok).is_ok(), "in place is fine");
        assert_invalid(run(&x, &w, &s, &o, ShortConvParams { rows: 0, ..ok }), &["rows"]);
        assert_invalid(run(&x, &w, &s, &o, ShortConvParams { rows: 5, x_stride: 8, ..ok }), &["x", "128 bytes"]);
        assert_invalid(run(&x, &w, &s, &o, ShortConvParams { kernel: 9, ..ok }), &["kernel is 9"]);
        assert_invalid(run(&x, &w, &s, &o, ShortConvParams { x_stride: 7, ..ok }), &["x_stride 7"]);
        assert_invalid(run(&x, &w, &s, &o, ShortConvParams { silu: 2, ..ok }), &["silu 2"]);
        assert_invalid(run(&x, &half, &s, &o, ok), &["weight", "f16"]);
        assert_invalid(run(&x, &w, &x, &o, ok), &["state", "x"]);
        assert_invalid(run(&x, &w, &s, &w, ok), &["output", "weight"]);
        let huge = ShortConvParams { rows: u32::MAX, channels: u32::MAX, x_stride: u32::MAX, ..ok };
        assert_invalid(run(&x, &w, &s, &o, huge), &["short_conv"]);
    }
}
