//! Lowering of attention.

use mlx_native::DType;
use mlx_native::ops::rowwise::Function;

use super::{Builder, part_of, vector, whole};
use crate::error::{LmError, Result};
use crate::model::program::{AttendStep, IndexStep, RopeStep, Step, Value};
use crate::model::state::StateSpec;
use crate::rope::RopeConfig;
use crate::spec::{Attention, GateShape, HeadNorm, Index, Mixed, OutputGate, Values};

impl Builder<'_, '_> {
    pub(super) fn attention(&mut self, a: &Attention, x: Value) -> Result<Value> {
        let mut scale = a.scale * a.q_factor;
        // One after the other: a device may make one launch of products that nothing lies between.
        let q = self.linear(&a.q, x)?;
        let projected = self.project_keys(a, x)?;
        self.clip(a, q);
        self.head_norm(a.q_norm.as_ref(), q, false)?;
        if let Some(rope) = &a.rope {
            let factor = self.rotate(rope, q, a.n_heads, a.k_dim, 0, a.k_dim)?;
            if a.mixed.is_none() && rope.dims == a.k_dim && a.q_norm.as_ref().is_none_or(|n| !n.after_rope) {
                // All of a query is multiplied by it: so the scores are.
                scale *= factor;
            } else {
                self.scale_heads(q, a.n_heads, a.k_dim, rope.dims, factor);
            }
        }
        self.head_norm(a.q_norm.as_ref(), q, true)?;
        if let Some(name) = &a.q_gain {
            let gain = self.l.vector(name, a.n_heads)?;
            let width = a.n_heads * a.k_dim;
            let operands = [whole(q, width), vector(gain).each(a.k_dim)];
            self.rowwise_into(Function::Mul, &operands, whole(q, width), 1, width, [1.0; 4]);
        }
        if let Some(t) = a.temperature {
            let index = self.temperature(t);
            self.push(Step::Temperature { x: q, index });
        }
        let state = self.keys_and_values(a, projected)?;
        let index = match &a.index {
            Some(index) => Some(self.index(index, x, x, a.n_heads)?),
            None => None,
        };
        let mut y = self.attend(a, q, state, scale, index)?;
        if let Some(mixed) = &a.mixed {
            y = self.mixed(a, mixed, q, y, scale)?;
        }
        if let Some(norm) = &a.out_norm {
            y = self.norm(norm, y, a.n_heads * a.v_dim)?;
        }
        if let Some(gate) = &a.gate {
            self.output_gate(gate, x, y, a.n_heads, a.v_dim)?;
        }
        self.linear(&a.o, y)
    }

    /// Projects keys and values; none where an earlier layer's are shared.
    fn project_keys(&mut self, a: &Attention, x: Value) -> Result<Option<(Value, Value)>> {
        let Some(k_matrix) = &a.k else { return Ok(None) };
        let copy = [1.0, 0.0, 0.0, 0.0];
        let (k, v) = match self.projected.filter(|_| a.reuse_projected) {
            Some((k, v)) => (
                self.map(Function::Scale, &[k], copy),
                self.map(Function::Scale, &[v], copy),
            ),
            None => {
                let k = self.linear(k_matrix, x)?;
                let v = match &a.v {
                    Values::Own(matrix) => self.linear(matrix, x)?,
                    Values::Keys => self.map(Function::Scale, &[k], copy),
                    Values::Shared => {
                        return Err(LmError::Config(format!("{}: values without keys", k_matrix.path)));
                    }
                };
                (k, v)
            }
        };
        if self.keeps_projected && !a.reuse_projected {
            self.projected = Some((
                self.map(Function::Scale, &[k], copy),
                self.map(Function::Scale, &[v], copy),
            ));
        }
        Ok(Some((k, v)))
    }

    /// Turns and stores keys and values; gives the state that has them.
    fn keys_and_values(&mut self, a: &Attention, projected: Option<(Value, Value)>) -> Result<usize> {
        let Some((k, v)) = projected else {
            return a.shared_with.filter(|s| *s < self.states.len()).ok_or_else(|| {
                LmError::Config(format!("{}: shares keys of a layer that comes later", a.q.path))
            });
        };
        let (k, v) = match &a.token_mix {
            Some((of_k, of_v)) => self.mixed_with_last(a, (k, of_k), (v, of_v))?,
            None => (k, v),
        };
        self.clip(a, k);
        self.clip(a, v);
        if a.v_scale != 1.0 {
            self.map_in_place(Function::Scale, v, [a.v_scale, 0.0, 0.0, 0.0]);
        }
        if let Some(norm) = &a.v_norm {
            self.norm_in_place(norm, v)?;
        }
        self.head_norm(a.k_norm.as_ref(), k, false)?;
        if let Some(rope) = &a.rope {
            let factor = self.rotate(rope, k, a.n_kv_heads, a.k_dim, 0, a.k_dim)?;
            self.scale_heads(k, a.n_kv_heads, a.k_dim, rope.dims, factor);
        }
        self.head_norm(a.k_norm.as_ref(), k, true)?;
        if let Some((of_k, of_v)) = &a.grid {
            for (value, name) in [(k, of_k), (v, of_v)] {
                let step = self.l.scalar(name)?;
                self.map_in_place(Function::Grid, value, [step, -128.0, 127.0, 0.0]);
            }
        }
        let state = self.state(StateSpec::Kv {
            n_heads: a.n_kv_heads,
            k_dim: a.k_dim,
            v_dim: a.v_dim,
            window: a.window,
        });
        self.push(Step::Append { k, v, state });
        Ok(state)
    }

    fn attend(
        &mut self,
        a: &Attention,
        q: Value,
        state: usize,
        scale: f32,
        index: Option<Box<IndexStep>>,
    ) -> Result<Value> {
        let output = self.value(a.n_heads * a.v_dim);
        let sinks = match &a.sinks {
            Some(name) => Some(self.l.vector_as(name, &[a.n_heads], DType::F32, 0.0)?),
            None => None,
        };
        self.push(Step::Attend(AttendStep {
            q,
            output,
            state,
            n_heads: a.n_heads,
            n_kv_heads: a.n_kv_heads,
            k_dim: a.k_dim,
            v_dim: a.v_dim,
            scale,
            cap: a.cap,
            window: a.window,
            chunk: a.chunk,
            short_ring: a.short_ring,
            blocks: a.blocks,
            sinks,
            index,
        }));
        Ok(output)
    }

    /// The queries and weights of an indexer, whose keys are stored; `from` is what its queries come from.
    pub(super) fn index(
        &mut self,
        i: &Index,
        from: Value,
        x: Value,
        n_heads: usize,
    ) -> Result<Box<IndexStep>> {
        if i.weights.is_none() && !n_heads.is_multiple_of(i.n_heads) {
            return Err(LmError::Config(format!(
                "{}: {} heads choose for {n_heads}",
                i.q.path, i.n_heads
            )));
        }
        let (q, k) = (self.linear(&i.q, from)?, self.linear(&i.k, x)?);
        if let Some(norm) = &i.q_norm {
            self.norm_in_place(norm, q)?;
        }
        self.norm_in_place(&i.k_norm, k)?;
        for (value, heads) in [(q, i.n_heads), (k, 1)] {
            let factor = self.rotate(&i.rope, value, heads, i.head_dim, 0, i.head_dim)?;
            self.scale_heads(value, heads, i.head_dim, i.rope.dims, factor);
        }
        let weights = match &i.weights {
            Some(matrix) => Some(self.linear(matrix, x)?),
            None => None,
        };
        let state = self.state(StateSpec::Kv {
            n_heads: 1,
            k_dim: i.head_dim,
            v_dim: 1,
            window: None,
        });
        // Such keys have no values.
        let v = self.constant(&[0.0], self.l.dtype)?;
        self.push(Step::Append { k, v, state });
        Ok(Box::new(IndexStep {
            q,
            weights,
            state,
            n_heads: i.n_heads,
            head_dim: i.head_dim,
            group: i.group,
            top: i.top,
            local: i.local,
        }))
    }

    /// Keys and values, each `w₀·(the token before) + w₁·(this one)` with two factors a head.
    fn mixed_with_last(
        &mut self,
        a: &Attention,
        (k, of_k): (Value, &str),
        (v, of_v): (Value, &str),
    ) -> Result<(Value, Value)> {
        let mut planes = self.planes();
        let mut of = |b: &mut Self, x: Value, name: &str, dim: usize| {
            let n = a.n_kv_heads;
            let shape = b.l.shape(name).map_or(vec![n, 2], <[usize]>::to_vec);
            if shape.iter().product::<usize>() != 2 * n {
                return Err(LmError::Weights(format!(
                    "{name}: found {shape:?}, wanted {n} times 2"
                )));
            }
            let factors = b.l.host(name, &shape)?;
            let each: Vec<f32> = factors.chunks(2).flat_map(|w| w.repeat(dim)).collect();
            b.conv_of(x, &each, 2, &mut planes)
        };
        let (k, v) = (of(self, k, of_k, a.k_dim)?, of(self, v, of_v, a.v_dim)?);
        self.finish_planes(planes);
        Ok((k, v))
    }

    /// What comes out, mixed with attention to another layer's keys and values.
    fn mixed(&mut self, a: &Attention, m: &Mixed, q: Value, own: Value, scale: f32) -> Result<Value> {
        if m.state >= self.states.len() {
            return Err(LmError::Config(format!(
                "{}: mixes in a layer that comes later",
                m.weight
            )));
        }
        let other = self.attend(a, q, m.state, scale, None)?;
        if let Some(Step::Attend(step)) = self.last_step() {
            (step.window, step.short_ring) = (None, false);
        }
        let dtype = self.l.dtype;
        let weight = self.l.vector_as(&m.weight, &[a.n_heads, a.k_dim], dtype, 0.0)?;
        let weight = self.spread(weight, a.n_heads * a.k_dim, dtype);
        let gate = self.dot(q, weight, a.n_heads);
        let bias = self.l.vector(&m.bias, a.n_heads)?;
        let operands = [whole(gate, a.n_heads), vector(bias)];
        self.rowwise_into(
            Function::Add,
            &operands,
            whole(gate, a.n_heads),
            1,
            a.n_heads,
            [1.0; 4],
        );
        self.map_in_place(Function::Sigmoid, gate, [0.0; 4]);
        let width = a.n_heads * a.v_dim;
        let operands = [
            whole(own, width),
            whole(other, width),
            whole(gate, a.n_heads).each(a.v_dim),
        ];
        let y = self.value(width);
        self.rowwise_into(Function::Lerp, &operands, whole(y, width), 1, width, [0.0; 4]);
        Ok(y)
    }

    fn clip(&mut self, a: &Attention, v: Value) {
        if let Some(limit) = a.clip {
            self.map_in_place(Function::Clip, v, [-limit, limit, 0.0, 0.0]);
        }
    }

    fn head_norm(&mut self, norm: Option<&HeadNorm>, v: Value, after_rope: bool) -> Result<()> {
        match norm {
            Some(n) if n.after_rope == after_rope => self.norm_in_place(&n.norm, v),
            _ => Ok(()),
        }
    }

    /// Turns elements `first ..` of each head of `v`; gives the factor that the rotated elements are still to be multiplied with.
    pub(super) fn rotate(
        &mut self,
        rope: &RopeConfig,
        v: Value,
        n_heads: usize,
        head_stride: usize,
        first: usize,
        dim: usize,
    ) -> Result<f32> {
        if rope.dims > dim {
            return Err(LmError::Config(format!(
                "rope: {} features are to be turned of heads that have {dim}",
                rope.dims
            )));
        }
        let rotation = self.rotation(rope)?;
        let factor = rotation.table.factor;
        self.push(Step::Rope(RopeStep {
            x: v,
            rotation,
            n_heads,
            head_stride,
            first,
            dim,
        }));
        Ok(factor)
    }

    /// Multiplies the first `dims` elements of each head.
    pub(super) fn scale_heads(
        &mut self,
        v: Value,
        n_heads: usize,
        head_dim: usize,
        dims: usize,
        factor: f32,
    ) {
        if factor != 1.0 {
            let x = part_of(v, 0, head_dim);
            self.rowwise_into(
                Function::Scale,
                std::slice::from_ref(&x),
                x.clone(),
                n_heads,
                dims,
                [factor, 0.0, 0.0, 0.0],
            );
        }
    }

    /// `y = y·gate(x)`
    pub(super) fn output_gate(
        &mut self,
        gate: &OutputGate,
        x: Value,
        y: Value,
        n_heads: usize,
        v_dim: usize,
    ) -> Result<()> {
        let g = self.linear(&gate.matrix, x)?;
        let function = if gate.softplus {
            Function::Softplus
        } else {
            Function::Sigmoid
        };
        self.map_in_place(function, g, [0.0; 4]);
        let width = n_heads * v_dim;
        let (wanted, div) = match gate.shape {
            GateShape::Head => (n_heads, v_dim),
            GateShape::Element => (width, 1),
        };
        if self.width(g) != wanted {
            return Err(LmError::Config(format!(
                "{}: {} gates, wanted {wanted}",
                gate.matrix.path,
                self.width(g)
            )));
        }
        let operands = [whole(y, width), whole(g, wanted).each(div)];
        self.rowwise_into(Function::Mul, &operands, whole(y, width), 1, width, [1.0; 4]);
        Ok(())
    }
}
