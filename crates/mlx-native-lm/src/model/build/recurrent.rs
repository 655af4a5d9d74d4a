//! Lowering of layers with a state of fixed size.

use std::sync::Arc;

use mlx_native::ops::linear_scan::{Decay, Rule};
use mlx_native::ops::rowwise::Function;
use mlx_native::ops::short_conv::MAX_KERNEL;
use mlx_native::{DType, MlxBuffer};

use super::{Builder, part_of, vector, whole};
use crate::error::{LmError, Result};
use crate::model::program::{ConvStep, Operand, ScanStep, Step, Value};
use crate::model::state::StateSpec;
use crate::spec::{
    ChannelDecay, Convolution, Delta, DeltaDecay, DeltaInputs, Mamba1, Mamba2, Matrix, Norm, NormKind,
    ShortConv,
};

const NONE: [f32; 4] = [0.0; 4];
const ONE: [f32; 4] = [1.0; 4];

/// The planes of a layer's state, as they are found.
pub(super) struct Planes {
    state: usize,
    planes: Vec<(usize, DType)>,
}

impl Planes {
    pub(super) fn add(&mut self, elements: usize, dtype: DType) -> (usize, usize) {
        self.planes.push((elements, dtype));
        (self.state, self.planes.len() - 1)
    }
}

impl Builder<'_, '_> {
    /// A state whose planes are still to be found; [`finish_planes`](Self::finish_planes) ends that.
    pub(super) fn planes(&mut self) -> Planes {
        let state = self.state(StateSpec::Recurrent(Vec::new()));
        Planes {
            state,
            planes: Vec::new(),
        }
    }

    pub(super) fn finish_planes(&mut self, planes: Planes) {
        self.states[planes.state] = StateSpec::Recurrent(planes.planes);
    }

    pub(super) fn conv(&mut self, c: &Convolution, x: Value, planes: &mut Planes) -> Result<Value> {
        if c.kernel == 0 || c.kernel > MAX_KERNEL as usize || self.width(x) != c.channels {
            return Err(LmError::Unsupported(format!(
                "{}: a convolution of {} channels over {} tokens, where {} channels come in and {MAX_KERNEL} tokens are possible",
                c.weight,
                c.channels,
                c.kernel,
                self.width(x)
            )));
        }
        let dtype = self.l.dtype;
        let weight = self
            .l
            .vector_as(&c.weight, &[c.channels, c.kernel, 1], dtype, 0.0)?;
        let bias = match &c.bias {
            Some(name) => Some(self.l.vector(name, c.channels)?),
            None => None,
        };
        let (state, plane) = planes.add((c.kernel - 1).max(1) * c.channels, dtype);
        let y = self.value(c.channels);
        self.push(Step::Conv(ConvStep {
            x,
            y,
            weight,
            bias,
            channels: c.channels,
            kernel: c.kernel,
            silu: c.silu,
            state,
            plane,
        }));
        Ok(y)
    }

    /// A convolution with given weights, `kernel` a channel, the last for the token itself.
    pub(super) fn conv_of(
        &mut self,
        x: Value,
        weights: &[f32],
        kernel: usize,
        planes: &mut Planes,
    ) -> Result<Value> {
        let (channels, dtype) = (self.width(x), self.l.dtype);
        let weight = Arc::new(self.l.upload(weights, dtype)?);
        let (state, plane) = planes.add((kernel - 1).max(1) * channels, dtype);
        let y = self.value(channels);
        self.push(Step::Conv(ConvStep {
            x,
            y,
            weight,
            bias: None,
            channels,
            kernel,
            silu: false,
            state,
            plane,
        }));
        Ok(y)
    }

    /// The value of the token before; zeros before the first.
    pub(super) fn last_token(&mut self, x: Value, planes: &mut Planes) -> Result<Value> {
        let weights = [1.0, 0.0].repeat(self.width(x));
        self.conv_of(x, &weights, 2, planes)
    }

    pub(super) fn short_conv(&mut self, s: &ShortConv, x: Value) -> Result<Value> {
        let channels = s.conv.channels;
        let all = self.linear(&s.input, x)?;
        let part = |i: usize| part_of(all, i * channels, 3 * channels);
        let gated = self.value(channels);
        self.rowwise_into(
            Function::Mul,
            &[part(0), part(2)],
            whole(gated, channels),
            1,
            channels,
            ONE,
        );
        let mut planes = self.planes();
        let y = self.conv(&s.conv, gated, &mut planes)?;
        self.finish_planes(planes);
        self.rowwise_into(
            Function::Mul,
            &[part(1), whole(y, channels)],
            whole(y, channels),
            1,
            channels,
            ONE,
        );
        self.linear(&s.output, y)
    }

    /// Matrices in a row.
    pub(super) fn chain(&mut self, matrices: &[Matrix], x: Value) -> Result<Value> {
        matrices.iter().try_fold(x, |x, matrix| self.linear(matrix, x))
    }

    /// A vector in f32.
    pub(super) fn wide(&mut self, name: &str, len: usize) -> Result<Arc<MlxBuffer>> {
        let shape = self.l.shape(name).map_or(vec![len], <[usize]>::to_vec);
        if shape.iter().product::<usize>() != len {
            return Err(LmError::Weights(format!(
                "{name}: found {shape:?}, wanted {len} elements"
            )));
        }
        self.l.vector_as(name, &shape, DType::F32, 0.0)
    }

    /// Divides each head by the root of its sum of squares and `eps`, then multiplies by `factor`.
    pub(super) fn unit(
        &mut self,
        x: Operand,
        heads: usize,
        dim: usize,
        eps: f32,
        factor: f32,
    ) -> Result<Value> {
        let y = self.value(heads * dim);
        let copied = whole(y, heads * dim);
        self.rowwise_into(
            Function::Scale,
            &[x],
            copied,
            1,
            heads * dim,
            [1.0, 0.0, 0.0, 0.0],
        );
        // The norm divides by the root of the mean square.
        let norm = Norm {
            kind: NormKind::Rms,
            ..Norm::rms_plain(dim, eps / dim as f32)
        };
        self.norm_in_place(&norm, y)?;
        self.map_in_place(Function::Scale, y, [factor / (dim as f32).sqrt(), 0.0, 0.0, 0.0]);
        Ok(y)
    }

    pub(super) fn delta(&mut self, d: &Delta, x: Value) -> Result<Value> {
        let (keys, values) = (d.k_heads * d.k_dim, d.v_heads * d.v_dim);
        let mut planes = self.planes();
        let (q, k, v) = match &d.inputs {
            DeltaInputs::Joint(matrix, conv) => {
                let all = self.linear(matrix, x)?;
                let all = self.conv(conv, all, &mut planes)?;
                let part = |first| part_of(all, first, 2 * keys + values);
                (part(0), part(keys), part(2 * keys))
            }
            DeltaInputs::Apart(three) => {
                let mut parts = Vec::new();
                for (matrix, conv) in three.iter() {
                    let part = self.linear(matrix, x)?;
                    let part = self.conv(conv, part, &mut planes)?;
                    parts.push(whole(part, self.width(part)));
                }
                (parts[0].clone(), parts[1].clone(), parts[2].clone())
            }
        };
        let q = self.unit(q, d.k_heads, d.k_dim, d.qk_eps, 1.0 / (d.k_dim as f32).sqrt())?;
        let k = self.unit(k, d.k_heads, d.k_dim, d.qk_eps, 1.0)?;
        let beta = self.linear(&d.beta, x)?;
        let beta = self.cast(beta, DType::F32);
        let beta = self.map(Function::Sigmoid, &[beta], NONE);
        if d.beta_factor != 1.0 {
            self.map_in_place(Function::Scale, beta, [d.beta_factor, 0.0, 0.0, 0.0]);
        }
        let (decay, decay_kind) = self.delta_decay(d, x)?;
        let output = self.value(values);
        let (state, plane) = planes.add(values * d.k_dim, DType::F32);
        self.finish_planes(planes);
        self.push(Step::Scan(Box::new(ScanStep {
            q: whole(q, keys),
            k: whole(k, keys),
            v,
            decay,
            decay_kind,
            rates: None,
            beta: Some(beta),
            low_rank: None,
            rule: Rule::Delta,
            output,
            n_heads: d.v_heads,
            n_k_heads: d.k_heads,
            k_dim: d.k_dim,
            v_dim: d.v_dim,
            state,
            plane,
        })));
        self.norm_in_place(&d.norm, output)?;
        let gate = self.chain(&d.gate, x)?;
        let function = if d.sigmoid_gate {
            Function::SigmoidMul
        } else {
            Function::SiluMul
        };
        let y = self.map(function, &[gate, output], NONE);
        self.linear(&d.o, y)
    }

    fn delta_decay(&mut self, d: &Delta, x: Value) -> Result<(Value, Decay)> {
        match &d.decay {
            DeltaDecay::Head {
                matrix,
                a_log,
                dt_bias,
            } => {
                let a = self.linear(matrix, x)?;
                let a = self.cast(a, DType::F32);
                let (bias, rate) = (self.wide(dt_bias, d.v_heads)?, self.wide(a_log, d.v_heads)?);
                let g = self.value_of(d.v_heads, DType::F32);
                let operands = [whole(a, d.v_heads), vector(bias), vector(rate)];
                self.rowwise_into(
                    Function::Decay,
                    &operands,
                    whole(g, d.v_heads),
                    1,
                    d.v_heads,
                    NONE,
                );
                Ok((g, Decay::Head))
            }
            DeltaDecay::Channel(ChannelDecay {
                matrices,
                a_log,
                dt_bias,
                bound,
            }) => {
                let width = d.v_heads * d.k_dim;
                let a = self.chain(matrices, x)?;
                let a = self.cast(a, DType::F32);
                let (bias, rate) = (self.wide(dt_bias, width)?, self.wide(a_log, d.v_heads)?);
                let g = self.value_of(width, DType::F32);
                let operands = [whole(a, width), vector(bias), vector(rate).each(d.k_dim)];
                let (function, p) = match bound {
                    Some(bound) => (Function::BoundedDecay, [*bound, 0.0, 0.0, 0.0]),
                    None => (Function::Decay, NONE),
                };
                self.rowwise_into(function, &operands, whole(g, width), 1, width, p);
                Ok((g, Decay::Channel))
            }
        }
    }

    pub(super) fn mamba2(&mut self, m: &Mamba2, x: Value) -> Result<Value> {
        let inner = m.n_heads * m.head_dim;
        let groups = m.n_groups * m.state;
        let gate = self.linear(&m.gate, x)?;
        let input = self.linear(&m.input, x)?;
        let mut planes = self.planes();
        let input = self.conv(&m.conv, input, &mut planes)?;
        let width = self.width(input);
        let (keys, queries, dt) = match &m.projected {
            None => {
                let dt = self.linear(&m.dt, x)?;
                (
                    part_of(input, inner, width),
                    part_of(input, inner + groups, width),
                    dt,
                )
            }
            Some(three) => {
                let mut parts = Vec::new();
                for (matrix, norm) in three.iter() {
                    let part = self.linear(matrix, input)?;
                    self.norm_in_place(norm, part)?;
                    parts.push(part);
                }
                let dt = self.linear(&m.dt, parts[2])?;
                (whole(parts[0], groups), whole(parts[1], groups), dt)
            }
        };
        let dt = self.cast(dt, DType::F32);
        let (bias, rate) = (self.wide(&m.dt_bias, m.n_heads)?, self.wide(&m.a_log, m.n_heads)?);
        let heads = m.n_heads;
        let step = self.value_of(heads, DType::F32);
        let p = [m.dt_limits.0, m.dt_limits.1, 0.0, 0.0];
        self.rowwise_into(
            Function::StepWidth,
            &[whole(dt, heads), vector(bias)],
            whole(step, heads),
            1,
            heads,
            p,
        );
        let decay = self.value_of(heads, DType::F32);
        let operands = [whole(step, heads), vector(rate.clone()), vector(rate)];
        self.rowwise_into(
            Function::DecayOfStep,
            &operands,
            whole(decay, heads),
            1,
            heads,
            NONE,
        );
        let step = self.cast(step, self.l.dtype);
        let u = part_of(input, 0, width);
        let v = self.value(inner);
        let operands = [u.clone(), whole(step, heads).each(m.head_dim)];
        self.rowwise_into(Function::Mul, &operands, whole(v, inner), 1, inner, ONE);
        let output = self.value(inner);
        let (state, plane) = planes.add(inner * m.state, DType::F32);
        self.finish_planes(planes);
        self.push(Step::Scan(Box::new(ScanStep {
            q: queries,
            k: keys,
            v: whole(v, inner),
            decay,
            decay_kind: Decay::Head,
            rates: None,
            beta: None,
            low_rank: None,
            rule: Rule::Decayed,
            output,
            n_heads: heads,
            n_k_heads: m.n_groups,
            k_dim: m.state,
            v_dim: m.head_dim,
            state,
            plane,
        })));
        let d = self.l.vector(&m.d, heads)?;
        self.rowwise_into(
            Function::Mul,
            &[u, vector(d).each(m.head_dim)],
            whole(v, inner),
            1,
            inner,
            ONE,
        );
        self.add(output, v, 1.0, 1.0);
        let mut y = output;
        if let Some(norm) = m.norm.as_ref().filter(|n| !n.gate_first) {
            y = self.norm(&norm.norm, y, inner)?;
        }
        y = self.map(Function::SiluMul, &[gate, y], NONE);
        if let Some(norm) = m.norm.as_ref().filter(|n| n.gate_first) {
            y = self.norm(&norm.norm, y, inner)?;
        }
        self.linear(&m.o, y)
    }

    pub(super) fn mamba1(&mut self, m: &Mamba1, x: Value) -> Result<Value> {
        let inner = m.inner;
        let u = self.linear(&m.input, x)?;
        let z = self.linear(&m.gate, x)?;
        let mut planes = self.planes();
        let u = self.conv(&m.conv, u, &mut planes)?;
        let mut parts = Vec::new();
        for (i, matrix) in m.x.iter().enumerate() {
            let part = self.linear(matrix, u)?;
            if let Some(norms) = &m.norms {
                self.norm_in_place(&norms[i], part)?;
            }
            parts.push(part);
        }
        let step = self.linear(&m.dt, parts[0])?;
        let step = self.map(Function::Softplus, &[step], NONE);
        let v = self.map(Function::Mul, &[step, u], ONE);
        let step = self.cast(step, DType::F32);
        let rates: Vec<f32> = self
            .l
            .host(&m.a_log, &[inner, m.state])?
            .iter()
            .map(|a| -a.exp())
            .collect();
        let rates = Arc::new(self.l.upload(&rates, DType::F32)?);
        let output = self.value(inner);
        let (state, plane) = planes.add(inner * m.state, DType::F32);
        self.finish_planes(planes);
        self.push(Step::Scan(Box::new(ScanStep {
            q: whole(parts[2], m.state),
            k: whole(parts[1], m.state),
            v: whole(v, inner),
            decay: step,
            decay_kind: Decay::StepTimesRate,
            rates: Some(rates),
            beta: None,
            low_rank: None,
            rule: Rule::Decayed,
            output,
            n_heads: inner,
            n_k_heads: 1,
            k_dim: m.state,
            v_dim: 1,
            state,
            plane,
        })));
        let d = self.l.vector(&m.d, inner)?;
        self.rowwise_into(
            Function::Mul,
            &[whole(u, inner), vector(d)],
            whole(v, inner),
            1,
            inner,
            ONE,
        );
        self.add(output, v, 1.0, 1.0);
        let y = self.map(Function::SiluMul, &[z, output], NONE);
        self.linear(&m.o, y)
    }
}
