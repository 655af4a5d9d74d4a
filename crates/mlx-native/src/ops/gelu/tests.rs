//! Cases of `gelu`.

use super::{GeluParams, gelu};
use crate::dtype::DType;
use crate::error::Result;
use crate::testing::{Case, Context, FLOATS, Outputs, Rng, Suite, Tensor, Tolerance};

#[derive(Debug)]
struct GeluCase {
    dtype: DType,
    params: GeluParams,
    has_up: bool,
    /// Huge values, infinity and NaN among the others.
    specials: bool,
}

impl Case for GeluCase {
    fn inputs(&self, rng: &mut Rng) -> Vec<Tensor> {
        let GeluParams { rows, cols, x_stride, up_stride } = self.params;
        let len = |stride: u32| (rows as usize - 1) * stride as usize + cols as usize;
        let mut x: Vec<f32> = (0..len(x_stride)).map(|_| rng.normal() * 3.0).collect();
        if self.specials {
            let odd = [f32::INFINITY, f32::NAN, 6e4, -6e4, 0.0, -0.0, -11.0];
            x.iter_mut().for_each(|v| *v = if rng.range(0, 2) == 0 { rng.pick(&odd) } else { *v });
        }
        let mut inputs = vec![Tensor::from_f32(self.dtype, &[x.len()], &x)];
        if self.has_up {
            inputs.push(Tensor::random(self.dtype, &[len(up_stride)], rng));
        }
        inputs
    }

    fn outputs(&self) -> Outputs {
        vec![(self.dtype, vec![self.params.rows as usize, self.params.cols as usize])]
    }

    fn reference(&self, inputs: &[Tensor]) -> Vec<Vec<f64>> {
        let GeluParams { rows, cols, x_stride, up_stride } = self.params;
        let x = inputs[0].to_f64();
        let up = inputs.get(1).map(Tensor::to_f64);
        let mut output = Vec::new();
        for row in 0..rows as usize {
            for c in 0..cols as usize {
                let v = x[row * x_stride as usize + c];
                let t = (2.0 / std::f64::consts::PI).sqrt() * (v + 0.044_715 * v * v * v);
                let gelu = 0.5 * v * (1.0 + t.tanh());
                output.push(up.as_ref().map_or(gelu, |up| gelu * up[row * up_stride as usize + c]));
            }
        }
        vec![output]
    }

    fn encode(&self, c: &mut Context<'_>) -> Result<()> {
        gelu(c.encoder, c.registry, c.device, &c.inputs[0], c.inputs.get(1), &c.outputs[0], &self.params)
    }

    fn tolerance(&self) -> Tolerance {
        // The reference cancels below -5 itself; an f32 exponential of an argument up to 10 is 1e-6 off.
        let rounding = Tolerance::one_rounding(self.dtype);
        Tolerance { absolute: rounding.absolute + 1e-6, relative: rounding.relative + 2e-6 }
    }

    fn is_small(&self) -> bool {
        u64::from(self.params.rows) * u64::from(self.params.cols) <= 5000
    }
}

pub(crate) fn suite() -> Suite {
    let mut cases: Vec<Box<dyn Case>> = Vec::new();
    for &dtype in FLOATS {
        for n in [1, 7, 33, 65, 1026, 300_000] {
            cases.push(Box::new(GeluCase { dtype, params: GeluParams::flat(n), has_up: n % 2 == 0, specials: n == 65 }));
        }
        for (rows, cols, x_stride, up_stride) in [(3, 5, 10, 10), (8, 33, 33, 40), (2, 700, 701, 1400)] {
            let params = GeluParams { rows, cols, x_stride, up_stride };
            cases.push(Box::new(GeluCase { dtype, params, has_up: true, specials: false }));
        }
    }
    Suite {
        op: &super::OP,
        cases,
        random: |rng| {
            let cols = rng.range(1, 90) as u32;
            let params = GeluParams {
                rows: rng.range(1, 8) as u32,
                cols,
                x_stride: cols + rng.range(0, 9) as u32,
                up_stride: cols + rng.range(0, 9) as u32,
            };
            Box::new(GeluCase { dtype: rng.pick(FLOATS), params, has_up: rng.range(0, 1) == 0, specials: false })
        },
    }
}

#[cfg(test)]
mod refusals {
    use super::*;
    use crate::ops::gelu::dispatch_gelu;
    use crate::testing::{Bench, assert_invalid};

    #[test]
    fn each_names_the_parameter() {
        let mut b = Bench::new();
        let x = b.buffer(DType::F32, &[8]);
        let y = b.buffer(DType::F16, &[8]);
        let o = b.buffer(DType::F32, &[8]);
        let ok = GeluParams { rows: 2, cols: 4, x_stride: 4, up_stride: 4 };
        let mut run = |a, u, o, p: GeluParams| gelu(&mut b.encoder, &mut b.registry, &b.device, a, u, o, &p);
        assert!(run(&x, None, &x, ok).is_ok(), "in place is fine");
        assert_invalid(run(&x, None, &o, GeluParams { rows: 0, ..ok }), &["rows"]);
        assert_invalid(run(&x, None, &o, GeluParams { x_stride: 3, ..ok }), &["stride of x", "cols 4"]);
        assert_invalid(run(&x, None, &o, GeluParams { x_stride: 5, ..ok }), &["x", "32 bytes"]);
        assert_invalid(run(&x, Some(&x), &o, GeluParams { up_stride: 5, ..ok }), &["up", "32 bytes"]);
        assert_invalid(run(&x, Some(&y), &o, ok), &["up", "f16"]);
        assert_invalid(run(&x, None, &o, GeluParams { rows: u32::MAX, x_stride: u32::MAX, ..ok }), &["output"]);
    }

    #[test]
    fn the_published_function_checks_bytes_too() {
        let mut b = Bench::new();
        let x = b.device.alloc_buffer(4, DType::F32, vec![100]).expect("a small buffer");
        let y = b.buffer(DType::F32, &[100]);
        let (device, e, r) = (b.device.metal_device(), &mut b.encoder, &mut b.registry);
        assert_invalid(dispatch_gelu(e, r, device, &x, &y), &["input", "4 bytes"]);
        assert_invalid(dispatch_gelu(e, r, device, &y, &x), &["output", "4 bytes"]);
    }
}
