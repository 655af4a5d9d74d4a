//! Lowering of latent attention.

use mlx_native::ops::rowwise::Function;

use super::{Builder, part_of};
use crate::error::Result;
use crate::model::program::{AttendStep, Ids, IndexStep, Step, Value};
use crate::model::state::StateSpec;
use crate::spec::{Latent, Matrix, Run, Stack};

const COPY: [f32; 4] = [1.0, 0.0, 0.0, 0.0];

impl Builder<'_, '_> {
    pub(super) fn latent(&mut self, a: &Latent, x: Value) -> Result<Value> {
        let mut q = x;
        if let Some((first, norm)) = &a.q.first {
            q = self.linear(first, q)?;
            self.norm_in_place(norm, q)?;
        }
        let index = match &a.index {
            Some(index) => Some(self.index(index, q, x, a.n_heads)?),
            None => None,
        };
        let q = self.linear(&a.q.last, q)?;
        let q_dim = a.nope_dim + a.rope_dim;
        if let Some(rope) = &a.rope {
            let factor = self.rotate(rope, q, a.n_heads, q_dim, a.nope_dim, a.rope_dim)?;
            self.scale_part(q, a.n_heads, q_dim, a.nope_dim, a.rope_dim, factor);
        }
        if let Some(t) = a.temperature {
            let index = self.temperature(t);
            self.push(Step::Temperature { x: q, index });
        }
        let latent = self.linear(&a.kv_a, x)?;
        self.norm_in_place(&a.kv_norm, latent)?;
        if a.latent_factor != 1.0 {
            self.map_in_place(Function::Scale, latent, [a.latent_factor, 0.0, 0.0, 0.0]);
        }
        let y = match &a.unembed_out {
            Some(unembed) => self.absorbed(a, x, [q, latent], unembed, index)?,
            None => self.expanded(a, x, [q, latent], index)?,
        };
        if let Some(gate) = &a.gate {
            self.output_gate(gate, x, y, a.n_heads, a.v_dim)?;
        }
        self.linear(&a.o, y)
    }

    fn scale_part(
        &mut self,
        v: Value,
        n_heads: usize,
        stride: usize,
        first: usize,
        dims: usize,
        factor: f32,
    ) {
        if factor != 1.0 {
            let x = part_of(v, first, stride);
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

    /// Copies `cols` elements of each of `rows` parts of a token.
    fn copy_parts(
        &mut self,
        from: (Value, usize, usize),
        to: (Value, usize, usize),
        rows: usize,
        cols: usize,
    ) {
        let (source, target) = (part_of(from.0, from.1, from.2), part_of(to.0, to.1, to.2));
        self.rowwise_into(Function::Scale, &[source], target, rows, cols, COPY);
    }

    /// The key that all heads share, turned; `copies` of it.
    fn rope_key(&mut self, a: &Latent, x: Value, copies: usize) -> Result<Value> {
        let matrix = match copies {
            1 => a.k_rope.clone(),
            // Rows once more for each head.
            _ => {
                let (first, of) = match a.k_rope.rows {
                    crate::spec::Rows::From { first, of } => (first, of),
                    _ => (0, a.k_rope.outputs),
                };
                let repeated = Run {
                    first,
                    block: a.rope_dim,
                    stride: 0,
                    count: copies * a.rope_dim,
                };
                Matrix::new(a.k_rope.path.clone(), 0, a.k_rope.inputs)
                    .with_bias(a.k_rope.bias)
                    .picked(vec![repeated], of)
            }
        };
        let k = self.linear(&matrix, x)?;
        if let Some(rope) = &a.rope {
            let factor = self.rotate(rope, k, copies, a.rope_dim, 0, a.rope_dim)?;
            self.scale_part(k, copies, a.rope_dim, 0, a.rope_dim, factor);
        }
        Ok(k)
    }

    /// Queries taken to the latent: keys and values of all heads are the latent itself.
    fn absorbed(
        &mut self,
        a: &Latent,
        x: Value,
        [q, latent]: [Value; 2],
        unembed: &str,
        index: Option<Box<IndexStep>>,
    ) -> Result<Value> {
        let (n, q_dim, wide) = (a.n_heads, a.nope_dim + a.rope_dim, a.rank + a.rope_dim);
        self.own_ids(n);
        let k_rope = self.rope_key(a, x, 1)?;
        let key = self.value(wide);
        self.copy_parts((latent, 0, a.rank), (key, 0, wide), 1, a.rank);
        self.copy_parts((k_rope, 0, a.rope_dim), (key, a.rank, wide), 1, a.rope_dim);
        let nope = self.value(n * a.nope_dim);
        self.copy_parts((q, 0, q_dim), (nope, 0, a.nope_dim), n, a.nope_dim);
        let taken = self.head_product(&a.embed_q, n, a.rank, a.nope_dim, nope)?;
        let query = self.value(n * wide);
        self.copy_parts((taken, 0, a.rank), (query, 0, wide), n, a.rank);
        self.copy_parts((q, a.nope_dim, q_dim), (query, a.rank, wide), n, a.rope_dim);
        let seen = self.attend_latent(a, [query, key, latent], [1, wide, a.rank], index)?;
        self.head_product(unembed, n, a.v_dim, a.rank, seen)
    }

    /// Keys and values of each head, from the latent.
    fn expanded(
        &mut self,
        a: &Latent,
        x: Value,
        [q, latent]: [Value; 2],
        index: Option<Box<IndexStep>>,
    ) -> Result<Value> {
        let (n, q_dim, both) = (a.n_heads, a.nope_dim + a.rope_dim, a.nope_dim + a.v_dim);
        let kv = self.linear(&Matrix::new(a.embed_q.clone(), n * both, a.rank), latent)?;
        let k_rope = self.rope_key(a, x, n)?;
        let (key, value) = (self.value(n * q_dim), self.value(n * a.v_dim));
        self.copy_parts((kv, 0, both), (key, 0, q_dim), n, a.nope_dim);
        self.copy_parts((k_rope, 0, a.rope_dim), (key, a.nope_dim, q_dim), n, a.rope_dim);
        self.copy_parts((kv, a.nope_dim, both), (value, 0, a.v_dim), n, a.v_dim);
        self.attend_latent(a, [q, key, value], [n, q_dim, a.v_dim], index)
    }

    fn attend_latent(
        &mut self,
        a: &Latent,
        [q, k, v]: [Value; 3],
        [n_kv_heads, k_dim, v_dim]: [usize; 3],
        index: Option<Box<IndexStep>>,
    ) -> Result<Value> {
        let state = self.state(StateSpec::Kv {
            n_heads: n_kv_heads,
            k_dim,
            v_dim,
            window: None,
        });
        self.push(Step::Append { k, v, state });
        let output = self.value(a.n_heads * v_dim);
        self.push(Step::Attend(AttendStep {
            q,
            output,
            state,
            n_heads: a.n_heads,
            n_kv_heads,
            k_dim,
            v_dim,
            scale: a.scale * a.q_factor,
            cap: None,
            window: None,
            chunk: None,
            short_ring: false,
            blocks: None,
            sinks: None,
            index,
        }));
        Ok(output)
    }

    /// `y[h] = W[h] x[h]` for each head.
    fn head_product(
        &mut self,
        path: &str,
        n: usize,
        outputs: usize,
        inputs: usize,
        x: Value,
    ) -> Result<Value> {
        let spec = Stack {
            path: path.to_owned(),
            outputs,
            inputs,
            bias: false,
            rows: None,
        };
        let stack = self.l.stack(&spec, n)?;
        let y = self.value(n * outputs);
        self.push(Step::Experts {
            stack,
            x,
            ids: Ids::Own,
            y,
            slots: n,
            x_per_slot: true,
        });
        Ok(y)
    }
}
