//! Lowering of mixers that one or two families have.

use std::sync::Arc;

use mlx_native::DType;
use mlx_native::ops::linear_scan::{Decay, Rule};
use mlx_native::ops::rowwise::Function;

use super::{Builder, part_of, vector, whole};
use crate::error::{LmError, Result};
use crate::model::program::{Ids, ScanStep, Step, Value};
use crate::spec::{
    ChannelMix, ConvMixer, Fading, GatedUnit, LayerInput, LayerInputs, Matrix, Temperature, TimeMix,
};

const NONE: [f32; 4] = [0.0; 4];
const ONE: [f32; 4] = [1.0; 4];
const COPY: [f32; 4] = [1.0, 0.0, 0.0, 0.0];

impl Builder<'_, '_> {
    pub(super) fn fading(&mut self, f: &Fading, x: Value) -> Result<Value> {
        let (heads, dim) = (f.n_heads, f.head_dim);
        let (q, k, v) = (
            self.linear(&f.q, x)?,
            self.linear(&f.k, x)?,
            self.linear(&f.v, x)?,
        );
        if let Some([q_norm, k_norm]) = &f.qk_norms {
            self.norm_in_place(q_norm, q)?;
            self.norm_in_place(k_norm, k)?;
        }
        for turned in [q, k] {
            let factor = self.rotate(&f.rope, turned, heads, dim, 0, dim)?;
            self.scale_heads(turned, heads, dim, f.rope.dims, factor);
        }
        self.map_in_place(Function::Scale, q, [f.scale, 0.0, 0.0, 0.0]);
        let decays: Vec<f32> = slopes(heads)
            .into_iter()
            .map(|s| (-s * f.rate).exp() as f32)
            .collect();
        let decay = self.constant(&decays, DType::F32)?;
        let width = heads * dim;
        let output = self.value(width);
        let mut planes = self.planes();
        let (state, plane) = planes.add(width * dim, DType::F32);
        self.finish_planes(planes);
        self.push(Step::Scan(Box::new(ScanStep {
            q: whole(q, width),
            k: whole(k, width),
            v: whole(v, width),
            decay,
            decay_kind: Decay::Head,
            rates: None,
            beta: None,
            low_rank: None,
            rule: Rule::Decayed,
            output,
            n_heads: heads,
            n_k_heads: heads,
            k_dim: dim,
            v_dim: dim,
            state,
            plane,
        })));
        let y = self.norm(&f.norm, output, width)?;
        let gate = self.linear(&f.gate, x)?;
        let y = self.map(Function::SigmoidMul, &[gate, y], NONE);
        self.linear(&f.o, y)
    }

    pub(super) fn conv_mixer(&mut self, m: &ConvMixer, x: Value) -> Result<Value> {
        let (q, k, v) = (
            self.linear(&m.q, x)?,
            self.linear(&m.k, x)?,
            self.linear(&m.v, x)?,
        );
        self.norm_in_place(&m.qk_norms[0], q)?;
        self.norm_in_place(&m.qk_norms[1], k)?;
        let mut planes = self.planes();
        let (k, v) = (
            self.conv(&m.k_conv, k, &mut planes)?,
            self.conv(&m.v_conv, v, &mut planes)?,
        );
        self.finish_planes(planes);
        let (dim, per) = (m.head_dim, m.n_heads / m.n_kv_heads);
        for i in 0..per {
            // The i-th query head of each kv head.
            let part = part_of(q, i * dim, per * dim);
            for (function, other) in [(Function::Mul, k), (Function::SigmoidMul, v)] {
                let operands = [part.clone(), part_of(other, 0, dim)];
                self.rowwise_into(function, &operands, part.clone(), m.n_kv_heads, dim, ONE);
            }
        }
        self.linear(&m.o, q)
    }

    pub(super) fn gated_unit(&mut self, u: &GatedUnit, x: Value) -> Result<Value> {
        let width = u.n_heads * u.head_dim;
        let y = self.linear(&u.y, x)?;
        let input = self.linear(&u.x, x)?;
        let mut planes = self.planes();
        let input = self.conv(&u.conv, input, &mut planes)?;
        let gate = self.block_product(&u.input_gate, u, input)?;
        let gated = self.map(Function::SigmoidMul, &[gate, input], NONE);
        let recurrent = self.block_product(&u.recurrent_gate, u, input)?;
        let recurrent = self.cast(recurrent, DType::F32);
        let rate = self.wide(&u.rate, width)?;
        let decay = self.value_of(width, DType::F32);
        let operands = [whole(recurrent, width), vector(rate)];
        self.rowwise_into(
            Function::GatedDecay,
            &operands,
            whole(decay, width),
            1,
            width,
            [-8.0, 0.0, 0.0, 0.0],
        );
        let added = self.complemented(decay, gated, width)?;
        let one = self.constant(&[1.0], self.l.dtype)?;
        let output = self.value(width);
        let (state, plane) = planes.add(width, DType::F32);
        self.finish_planes(planes);
        // Each channel is a head with a state of one element.
        self.push(Step::Scan(Box::new(ScanStep {
            q: whole(one, 1),
            k: whole(one, 1),
            v: whole(added, width),
            decay,
            decay_kind: Decay::Head,
            rates: None,
            beta: None,
            low_rank: None,
            rule: Rule::Decayed,
            output,
            n_heads: width,
            n_k_heads: 1,
            k_dim: 1,
            v_dim: 1,
            state,
            plane,
        })));
        let y = self.map(Function::GeluTanhMul, &[y, output], NONE);
        self.linear(&u.o, y)
    }

    /// `√(1 - a²)·x`, and `x` itself at position 0.
    fn complemented(&mut self, decay: Value, x: Value, width: usize) -> Result<Value> {
        // 1 at position 0, far below 0 behind it.
        let first = self.constant(&[1.0], self.l.dtype)?;
        let index = self.temperature(Temperature {
            scale: -1e4,
            shift: 0,
            every: 1,
        });
        self.push(Step::Temperature { x: first, index });
        self.map_in_place(Function::Clip, first, [0.0, 1.0, 0.0, 0.0]);
        self.map_in_place(Function::Scale, first, [-1.0, 1.0, 0.0, 0.0]);
        let later = self.cast(first, DType::F32);
        let a = self.value_of(width, DType::F32);
        let operands = [whole(decay, width), whole(later, 1).each(width)];
        self.rowwise_into(Function::Mul, &operands, whole(a, width), 1, width, ONE);
        let wide = self.cast(x, DType::F32);
        let added = self.map(Function::Complement, &[a, wide], NONE);
        Ok(self.cast(added, self.l.dtype))
    }

    /// Each head of `x` times a matrix of its own.
    fn block_product(&mut self, names: &(String, String), u: &GatedUnit, x: Value) -> Result<Value> {
        self.own_ids(u.n_heads);
        let stack = self.l.transposed_stack(names, u.n_heads, u.head_dim)?;
        let y = self.value(u.n_heads * u.head_dim);
        self.push(Step::Experts {
            stack,
            x,
            ids: Ids::Own,
            y,
            slots: u.n_heads,
            x_per_slot: true,
        });
        Ok(y)
    }

    pub(super) fn time_mix(&mut self, t: &TimeMix, x: Value) -> Result<Value> {
        let width = t.n_heads * t.head_dim;
        if self.width(x) != width {
            return Err(LmError::Config(format!(
                "time mixing of {width} elements in a stream of {}",
                self.width(x)
            )));
        }
        let mut planes = self.planes();
        let last = self.last_token(x, &mut planes)?;
        let mut inputs = Vec::new();
        for name in &t.shares {
            inputs.push(self.towards(x, last, name, width)?);
        }
        let [xr, xw, xk, xv, xa, xg] = inputs[..] else {
            return Err(LmError::Config("time mixing without its six inputs".to_owned()));
        };
        let (r, mut k, mut v) = (
            self.linear(&t.r, xr)?,
            self.linear(&t.k, xk)?,
            self.linear(&t.v, xv)?,
        );
        let rate = self.low_rank(&t.rate, xa, None)?;
        self.map_in_place(Function::Sigmoid, rate, NONE);
        let gate = self.low_rank(&t.gate, xg, Some(Function::Sigmoid))?;
        match (&t.value_share, self.first_values) {
            (Some(share), Some(first)) => {
                let share = self.low_rank(share, xv, None)?;
                self.map_in_place(Function::Sigmoid, share, NONE);
                v = self.map(Function::Lerp, &[v, first, share], NONE);
            }
            (Some(_), None) => {
                return Err(LmError::Config(
                    "values of a first layer that is not there".to_owned(),
                ));
            }
            (None, _) => self.first_values = Some(v),
        }
        let decay = self.low_rank(&t.decay, xw, Some(Function::Tanh))?;
        let decay = self.cast(decay, DType::F32);
        let decay = self.map(Function::ExpSigmoid, &[decay], [-0.606_531, 0.0, 0.0, 0.0]);
        let [of_removed, of_added, of_bonus] = &t.factors;
        let removed = self.times(k, of_removed, width)?;
        let removed = self.unit(whole(removed, width), t.n_heads, t.head_dim, 1e-14, 1.0)?;
        let taught = self.map(Function::Mul, &[k, rate], ONE);
        k = self.towards(k, taught, of_added, width)?;
        let bonus = self.times(k, of_bonus, width)?;
        let bonus = self.dot(r, bonus, t.n_heads);
        let low_rank = {
            let b = self.map(Function::Mul, &[removed, rate], ONE);
            let a = self.map(Function::Scale, &[removed], [-1.0, 0.0, 0.0, 0.0]);
            (self.cast(a, DType::F32), self.cast(b, DType::F32))
        };
        let output = self.value(width);
        let (state, plane) = planes.add(width * t.head_dim, DType::F32);
        self.finish_planes(planes);
        self.push(Step::Scan(Box::new(ScanStep {
            q: whole(r, width),
            k: whole(k, width),
            v: whole(v, width),
            decay,
            decay_kind: Decay::Channel,
            rates: None,
            beta: None,
            low_rank: Some(low_rank),
            rule: Rule::LowRank,
            output,
            n_heads: t.n_heads,
            n_k_heads: t.n_heads,
            k_dim: t.head_dim,
            v_dim: t.head_dim,
            state,
            plane,
        })));
        self.norm_in_place(&t.norm, output)?;
        let bonus_values = self.value(width);
        let operands = [whole(v, width), whole(bonus, t.n_heads).each(t.head_dim)];
        self.rowwise_into(
            Function::Mul,
            &operands,
            whole(bonus_values, width),
            1,
            width,
            ONE,
        );
        self.add(output, bonus_values, 1.0, 1.0);
        let y = self.map(Function::Mul, &[output, gate], ONE);
        self.linear(&t.o, y)
    }

    pub(super) fn channel_mix(&mut self, c: &ChannelMix, x: Value) -> Result<Value> {
        let mut planes = self.planes();
        let last = self.last_token(x, &mut planes)?;
        self.finish_planes(planes);
        let mixed = self.towards(x, last, &c.share, self.width(x))?;
        let inner = self.linear(&c.key, mixed)?;
        self.map_in_place(Function::Relu2, inner, NONE);
        self.linear(&c.value, inner)
    }

    /// `x + (y - x)·share`, a share for each element.
    fn towards(&mut self, x: Value, y: Value, share: &str, width: usize) -> Result<Value> {
        let share = self.shaped(share, width)?;
        let output = self.value(width);
        let operands = [whole(x, width), whole(y, width), vector(share)];
        self.rowwise_into(Function::Lerp, &operands, whole(output, width), 1, width, NONE);
        Ok(output)
    }

    /// `x` times a vector.
    fn times(&mut self, x: Value, name: &str, width: usize) -> Result<Value> {
        let factor = self.shaped(name, width)?;
        let output = self.value(width);
        let operands = [whole(x, width), vector(factor)];
        self.rowwise_into(Function::Mul, &operands, whole(output, width), 1, width, ONE);
        Ok(output)
    }

    /// A tensor of so many elements, whatever its shape.
    pub(super) fn shaped(&mut self, name: &str, len: usize) -> Result<Arc<mlx_native::MlxBuffer>> {
        let shape = self.l.shape(name).map_or(vec![len], <[usize]>::to_vec);
        if shape.iter().product::<usize>() != len {
            return Err(LmError::Weights(format!(
                "{name}: found {shape:?}, wanted {len} elements"
            )));
        }
        let dtype = self.l.dtype;
        self.l.vector_as(name, &shape, dtype, 0.0)
    }

    /// Two matrices with a function between.
    fn low_rank(&mut self, [down, up]: &[Matrix; 2], x: Value, between: Option<Function>) -> Result<Value> {
        let inner = self.linear(down, x)?;
        if let Some(function) = between {
            self.map_in_place(function, inner, NONE);
        }
        self.linear(up, inner)
    }

    /// The inputs of all layers: `(norm(projection x / √h) + table row·√dim) / √2`.
    pub(super) fn all_layer_inputs(&mut self, i: &LayerInputs, stream: Value) -> Result<Value> {
        let width = i.layers * i.dim;
        let table = self.l.embedding(&i.table, i.rows, width)?;
        let looked_up = self.value(width);
        self.push(Step::Embed {
            table: table.clone(),
            output: looked_up,
        });
        if i.rows < self.vocab {
            // Ids beyond the table gave zeros: they take its first row.
            let beyond: Vec<f32> = (0..self.vocab)
                .map(|id| f32::from(u8::from(id >= i.rows)))
                .collect();
            let is_beyond = self.column(&beyond)?;
            let flag = self.value(1);
            self.push(Step::Embed {
                table: is_beyond,
                output: flag,
            });
            self.own_ids(1);
            let first = self.value(width);
            self.push(Step::LookUp {
                table,
                ids: Ids::Own,
                output: first,
                slots: 1,
            });
            let operands = [whole(first, width), whole(flag, 1).each(width)];
            self.rowwise_into(Function::Mul, &operands, whole(first, width), 1, width, ONE);
            self.add(looked_up, first, 1.0, 1.0);
        }
        let projected = self.linear(&i.projection, stream)?;
        let by_root = 1.0 / (i.projection.inputs as f32).sqrt();
        self.map_in_place(Function::Scale, projected, [by_root, 0.0, 0.0, 0.0]);
        self.norm_in_place(&i.norm, projected)?;
        let half = std::f32::consts::FRAC_1_SQRT_2;
        self.add(projected, looked_up, half, half * (i.dim as f32).sqrt());
        Ok(projected)
    }

    pub(super) fn layer_input(&mut self, i: &LayerInput, x: Value) -> Result<Value> {
        let dim = i.gate.outputs;
        let all = self
            .layer_inputs
            .filter(|all| (i.index + 1) * dim <= self.width(*all));
        let Some(all) = all else {
            return Err(LmError::Config(format!(
                "{}: no input for layer {}",
                i.gate.path, i.index
            )));
        };
        let gate = self.linear(&i.gate, x)?;
        let operands = [whole(gate, dim), part_of(all, i.index * dim, self.width(all))];
        self.rowwise_into(Function::GeluTanhMul, &operands, whole(gate, dim), 1, dim, COPY);
        self.linear(&i.projection, gate)
    }
}

/// The slopes of ALiBi: powers of two in even steps; for a number of heads that is no
/// power of two, those of the power below and every other one of the power above.
fn slopes(heads: usize) -> Vec<f64> {
    let of_power = |n: usize| {
        let step = (3.0 - (n as f64).log2()).exp2();
        (0..n).map(move |i| (-step * (i + 1) as f64).exp2())
    };
    let below = if heads.is_power_of_two() {
        heads
    } else {
        heads.next_power_of_two() / 2
    };
    of_power(below)
        .chain(of_power(2 * below).step_by(2))
        .take(heads)
        .collect()
}
