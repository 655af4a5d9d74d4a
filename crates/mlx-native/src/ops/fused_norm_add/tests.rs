//! Cases of `fused_norm`.

use super::{FusedNormOperands, FusedNormParams, Residual, fused_norm};
use crate::dtype::DType;
use crate::error::Result;
use crate::testing::{Case, Context, FLOATS, Outputs, Rng, Suite, Tensor, Tolerance};

#[derive(Debug)]
struct FusedCase {
    dtype: DType,
    params: FusedNormParams,
    has_weight: bool,
    /// Whether there is a factor, and whether it is a vector.
    scalar: Option<bool>,
    writes_sum: bool,
}

impl Case for FusedCase {
    fn inputs(&self, rng: &mut Rng) -> Vec<Tensor> {
        let (rows, dim) = (self.params.rows as usize, self.params.dim as usize);
        let mut inputs =
            vec![Tensor::random(self.dtype, &[rows, dim], rng), Tensor::random(self.dtype, &[rows, dim], rng)];
        if self.has_weight {
            inputs.push(Tensor::random(self.dtype, &[dim], rng));
        }
        if let Some(is_vector) = self.scalar {
            inputs.push(Tensor::random(self.dtype, &[if is_vector { dim } else { 1 }], rng));
        }
        inputs
    }

    fn outputs(&self) -> Outputs {
        let shape = vec![self.params.rows as usize, self.params.dim as usize];
        let mut outputs = vec![(self.dtype, shape.clone())];
        if self.writes_sum {
            outputs.push((self.dtype, shape));
        }
        outputs
    }

    fn reference(&self, inputs: &[Tensor]) -> Vec<Vec<f64>> {
        let dim = self.params.dim as usize;
        let (residual, x) = (inputs[0].to_f64(), inputs[1].to_f64());
        let mut rest = inputs[2..].iter().map(Tensor::to_f64);
        let weight = if self.has_weight { rest.next() } else { None };
        let scalar = self.scalar.and_then(|_| rest.next());
        let (mut output, mut sums) = (Vec::new(), Vec::new());
        for (r, x) in residual.chunks_exact(dim).zip(x.chunks_exact(dim)) {
            let is_before = self.params.residual == Residual::Before;
            let v: Vec<f64> = x.iter().zip(r).map(|(x, r)| if is_before { x + r } else { *x }).collect();
            let mean = v.iter().map(|v| v * v).sum::<f64>() / dim as f64;
            let inverse = 1.0 / (mean + f64::from(self.params.eps)).sqrt();
            for i in 0..dim {
                let normed = v[i] * inverse * weight.as_ref().map_or(1.0, |w| w[i]);
                let y = if is_before { normed } else { r[i] + normed };
                output.push(y * scalar.as_ref().map_or(1.0, |s| s[i % s.len()]));
            }
            sums.extend(v);
        }
        if self.writes_sum { vec![output, sums] } else { vec![output] }
    }

    fn encode(&self, c: &mut Context<'_>) -> Result<()> {
        let mut rest = c.inputs[2..].iter();
        let weight = if self.has_weight { rest.next() } else { None };
        let operands = FusedNormOperands {
            weight,
            scalar: self.scalar.and_then(|_| rest.next()),
            scalar_is_vector: self.scalar == Some(true),
            output: &c.outputs[0],
            sum: c.outputs.get(1),
        };
        fused_norm(c.encoder, c.registry, c.device, &c.inputs[0], &c.inputs[1], &operands, &self.params)
    }

    fn tolerance(&self) -> Tolerance {
        // The norm and three products in f32; a residual may cancel what they lost.
        Tolerance::accumulated(self.dtype, 4e-6)
    }

    fn is_small(&self) -> bool {
        self.params.rows * self.params.dim <= 5000
    }
}

fn cases() -> Vec<FusedCase> {
    let mut cases = Vec::new();
    for &dtype in FLOATS {
        for (rows, dim) in [(1, 1), (1, 7), (3, 33), (7, 65), (2, 1026), (1, 4099), (5, 5000)] {
            for residual in [Residual::Before, Residual::Behind] {
                let params = FusedNormParams { rows, dim, eps: 1e-6, residual };
                let writes_sum = residual == Residual::Before;
                let base = || FusedCase { dtype, params, has_weight: true, scalar: None, writes_sum: false };
                cases.push(FusedCase { writes_sum, ..base() });
                if dim < 100 {
                    cases.push(FusedCase { has_weight: false, ..base() });
                    cases.push(FusedCase { scalar: Some(false), ..base() });
                    cases.push(FusedCase { scalar: Some(true), writes_sum, ..base() });
                }
            }
        }
    }
    cases
}

pub(crate) fn suite() -> Suite {
    Suite {
        op: &super::OP,
        cases: cases().into_iter().map(|c| Box::new(c) as Box<dyn Case>).collect(),
        random: |rng| {
            let residual = rng.pick(&[Residual::Before, Residual::Behind]);
            let params = FusedNormParams {
                rows: rng.range(1, 6) as u32,
                dim: rng.range(1, 600) as u32,
                eps: 1e-5,
                residual,
            };
            Box::new(FusedCase {
                dtype: rng.pick(FLOATS),
                params,
                has_weight: rng.range(0, 1) == 0,
                scalar: rng.pick(&[None, Some(false), Some(true)]),
                writes_sum: residual == Residual::Before && rng.range(0, 1) == 0,
            })
        },
    }
}

#[cfg(test)]
mod refusals {
    use super::*;
    use crate::ops::fused_norm_add::{
        dispatch_fused_moe_routing_f32, dispatch_fused_norm_add_bf16, dispatch_fused_residual_norm_f32,
    };
    use crate::testing::{Bench, assert_invalid};

    #[test]
    fn each_names_the_parameter() {
        let mut b = Bench::new();
        let buffers: Vec<_> = (0..5).map(|_| b.buffer(DType::F32, &[2, 8])).collect();
        let [r, x, w, o, s] = &buffers[..] else { unreachable!() };
        let ok = FusedNormParams { rows: 2, dim: 8, eps: 1e-6, residual: Residual::Before };
        let all =
            FusedNormOperands { weight: Some(w), scalar: None, scalar_is_vector: false, output: o, sum: Some(s) };
        let mut run = |operands: FusedNormOperands<'_>, p: FusedNormParams| {
            fused_norm(&mut b.encoder, &mut b.registry, &b.device, r, x, &operands, &p)
        };
        assert!(run(all, ok).is_ok());
        assert!(run(FusedNormOperands { output: x, sum: Some(r), ..all }, ok).is_ok(), "in place is fine");
        assert_invalid(run(all, FusedNormParams { rows: 0, ..ok }), &["rows"]);
        assert_invalid(run(all, FusedNormParams { rows: 3, ..ok }), &["x", "64 bytes"]);
        assert_invalid(run(all, FusedNormParams { eps: f32::NAN, ..ok }), &["eps"]);
        assert_invalid(run(all, FusedNormParams { residual: Residual::Behind, ..ok }), &["sum"]);
        assert_invalid(run(all, FusedNormParams { rows: u32::MAX, dim: 1 << 31, ..ok }), &["x"]);
        assert_invalid(run(FusedNormOperands { output: w, ..all }, ok), &["output", "weight", "share"]);
        assert_invalid(run(FusedNormOperands { output: s, ..all }, ok), &["output", "sum", "share"]);
    }

    #[test]
    fn the_published_functions_check_what_0_1_forgot() {
        let mut b = Bench::new();
        let (x, y) = (b.buffer(DType::F32, &[2, 8]), b.buffer(DType::F32, &[2, 8]));
        let (h, ids) = (b.buffer(DType::BF16, &[2, 8]), b.buffer(DType::U32, &[8]));
        let (device, e, r) = (b.device.metal_device(), &mut b.encoder, &mut b.registry);
        assert_invalid(
            dispatch_fused_residual_norm_f32(e, r, device, &x, &x, &x, &y, None, 3, 8, 1e-6),
            &["residual", "64 bytes"],
        );
        assert_invalid(
            dispatch_fused_residual_norm_f32(e, r, device, &x, &x, &x, &y, None, u32::MAX, u32::MAX, 1e-6),
            &["input"],
        );
        assert_invalid(dispatch_fused_norm_add_bf16(e, r, device, &h, &h, &h, &h, 8, 2, 1e-6), &["weight", "8"]);
        assert_invalid(
            dispatch_fused_moe_routing_f32(e, r, device, &x, &ids, &y, &x, 4, 5),
            &["top_k 5", "n_experts 4"],
        );
        assert_eq!(e.recorded_dispatches(), 0);
    }
}
