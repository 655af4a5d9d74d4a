//! Lowering of feed-forward layers.

use mlx_native::ops::rowwise::Function;

use super::{Builder, whole};
use crate::error::{LmError, Result};
use crate::model::program::{NormStep, Step, Value};
use crate::spec::{Mlp, MlpActivation, NormKind};

impl Builder<'_, '_> {
    pub(super) fn mlp(&mut self, m: &Mlp, x: Value) -> Result<Value> {
        let up = self.linear(&m.up, x)?;
        let gate = match &m.gate {
            Some(gate) => Some(self.linear(gate, x)?),
            None => None,
        };
        let mut y = self.activate(&m.activation, gate, up)?;
        if let Some(norm) = &m.norm {
            let width = self.width(y);
            y = self.norm(norm, y, width)?;
        }
        self.linear(&m.down, y)
    }

    /// `f(gate)·up`, or `f(up)`.
    pub(super) fn activate(
        &mut self,
        activation: &MlpActivation,
        gate: Option<Value>,
        up: Value,
    ) -> Result<Value> {
        let gate = match (activation, gate) {
            (MlpActivation::SparseGeluTanh { deviations }, Some(gate)) => {
                Some(self.excess(gate, *deviations))
            }
            (_, gate) => gate,
        };
        let (function, p) = self.activation(activation, gate.is_some())?;
        let y = match gate {
            Some(gate) if self.width(gate) != self.width(up) => {
                return Err(LmError::Config(format!(
                    "a gate of {} elements for {}",
                    self.width(gate),
                    self.width(up)
                )));
            }
            Some(gate) => self.map(function, &[gate, up], p),
            None => self.map(function, &[up], p),
        };
        Ok(y)
    }

    fn activation(&mut self, activation: &MlpActivation, gated: bool) -> Result<(Function, [f32; 4])> {
        let none = [0.0; 4];
        let unfit = || LmError::Unsupported(format!("the activation {activation:?} with gate: {gated}"));
        Ok(match (activation, gated) {
            (MlpActivation::Silu, true) => (Function::SiluMul, none),
            (MlpActivation::Silu, false) => (Function::Silu, none),
            (MlpActivation::GeluErf, true) => (Function::GeluErfMul, none),
            (MlpActivation::GeluErf, false) => (Function::GeluErf, none),
            (MlpActivation::SparseGeluTanh { .. }, true) => (Function::GeluTanhMul, none),
            (MlpActivation::GeluTanh, true) => (Function::GeluTanhMul, none),
            (MlpActivation::GeluTanh, false) => (Function::GeluTanh, none),
            (MlpActivation::Relu2, true) => (Function::Relu2Mul, none),
            (MlpActivation::Relu2, false) => (Function::Relu2, none),
            (MlpActivation::ClippedSwiglu { limit, alpha }, true) => {
                (Function::ClippedSwiglu, [*limit, *alpha, 0.0, 0.0])
            }
            (MlpActivation::SiluClipped { limit }, true) => {
                (Function::SiluClippedMul, [*limit, 0.0, 0.0, 0.0])
            }
            (MlpActivation::ClippedSilu { limit }, true) => {
                (Function::ClippedSiluMul, [*limit, 0.0, 0.0, 0.0])
            }
            (MlpActivation::CappedSilu { beta, limit }, true) => {
                (Function::CappedSiluMul, [*beta, *limit, 0.0, 0.0])
            }
            (MlpActivation::Xielu { path }, false) => (Function::Xielu, self.xielu(path)?),
            _ => return Err(unfit()),
        })
    }

    /// What exceeds a row's mean by so many of its standard deviations.
    fn excess(&mut self, x: Value, deviations: f32) -> Value {
        let width = self.width(x);
        let by_width = [1.0 / width as f32, 0.0, 0.0, 0.0];
        let ones = self.map(Function::Scale, &[x], [0.0, 1.0, 0.0, 0.0]);
        let mean = self.dot(x, ones, 1);
        self.map_in_place(Function::Scale, mean, by_width);
        let centred = self.value(width);
        let operands = [whole(x, width), whole(mean, 1).each(width)];
        self.rowwise_into(
            Function::Add,
            &operands,
            whole(centred, width),
            1,
            width,
            [1.0, -1.0, 0.0, 0.0],
        );
        let deviation = self.size(centred, 1);
        let y = self.value(width);
        let operands = [
            whole(x, width),
            whole(mean, 1).each(width),
            whole(deviation, 1).each(width),
        ];
        self.rowwise_into(
            Function::Excess,
            &operands,
            whole(y, width),
            1,
            width,
            [deviations, 0.0, 0.0, 0.0],
        );
        y
    }

    /// Each of `groups` parts divided by the root of its mean square.
    pub(super) fn unit_size(&mut self, x: Value, groups: usize) -> Value {
        let width = self.width(x);
        let y = self.value(width);
        self.push(Step::Norm(NormStep {
            kind: NormKind::Rms,
            weight: None,
            bias: None,
            x,
            y,
            groups,
            dim: width / groups,
            // Rows of zeros stay so.
            eps: 1e-30,
        }));
        y
    }

    /// The root of the mean square of each of `groups` parts: the mean of products with what has the size 1.
    pub(super) fn size(&mut self, x: Value, groups: usize) -> Value {
        let unit = self.unit_size(x, groups);
        let size = self.dot(x, unit, groups);
        let by_dim = groups as f32 / self.width(x) as f32;
        self.map_in_place(Function::Scale, size, [by_dim, 0.0, 0.0, 0.0]);
        size
    }

    /// `[softplus α_p, β + softplus α_n, β, ε]`
    fn xielu(&mut self, path: &str) -> Result<[f32; 4]> {
        let mut get = |name: &str| self.l.scalar(&format!("{path}.{name}"));
        let softplus = |v: f32| f64::from(v).exp().ln_1p() as f32;
        let (alpha_p, alpha_n, beta, eps) = (get("alpha_p")?, get("alpha_n")?, get("beta")?, get("eps")?);
        Ok([softplus(alpha_p), beta + softplus(alpha_n), beta, eps])
    }
}
