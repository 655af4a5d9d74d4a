//! Lowering of layers that alternate between streams. The streams of a token lie one behind the other in one value.

use mlx_native::ops::rowwise::Function;

use super::{Builder, part_of, vector, whole};
use crate::error::{LmError, Result};
use crate::model::program::{Step, Value};
use crate::spec::{AltLayer, AltStreams, Matrix};

const NONE: [f32; 4] = [0.0; 4];
const ONE: [f32; 4] = [1.0; 4];
const COPY: [f32; 4] = [1.0, 0.0, 0.0, 0.0];

impl Builder<'_, '_> {
    /// All streams of a token: the embedded token, and projections of it of the same size.
    pub(super) fn alternating_streams(&mut self, a: &AltStreams, first: Value) -> Result<Value> {
        let (hidden, n) = (self.width(first), a.projections.len() + 1);
        let streams = self.value(n * hidden);
        let size = self.size(first, 1);
        self.copy_stream(first, (streams, 0, n));
        for (i, projection) in a.projections.iter().enumerate() {
            let stream = self.linear(projection, first)?;
            self.resize(stream, size);
            self.copy_stream(stream, (streams, i + 1, n));
        }
        Ok(streams)
    }

    /// The mean of the streams, all but the first taken back and given its size.
    pub(super) fn joined_streams(&mut self, a: &AltStreams, streams: Value, output: Value) -> Result<()> {
        let (hidden, n) = (self.width(output), a.unembed.len() + 1);
        let first = self.stream(streams, 0, n, hidden);
        let size = self.size(first, 1);
        for (i, matrix) in a.unembed.iter().enumerate() {
            let stream = self.stream(streams, i + 1, n, hidden);
            let stream = self.linear(matrix, stream)?;
            self.resize(stream, size);
            self.add(first, stream, 1.0, 1.0);
        }
        let p = [1.0 / n as f32, 0.0, 0.0, 0.0];
        self.rowwise_into(
            Function::Scale,
            &[whole(first, hidden)],
            whole(output, hidden),
            1,
            hidden,
            p,
        );
        Ok(())
    }

    /// Gives each row the size that `size` says.
    fn resize(&mut self, x: Value, size: Value) {
        let width = self.width(x);
        let unit = self.unit_size(x, 1);
        let operands = [whole(unit, width), whole(size, 1).each(width)];
        self.rowwise_into(Function::Mul, &operands, whole(x, width), 1, width, ONE);
    }

    fn copy_stream(&mut self, x: Value, (streams, i, n): (Value, usize, usize)) {
        let hidden = self.width(x);
        let target = part_of(streams, i * hidden, n * hidden);
        self.rowwise_into(Function::Scale, &[whole(x, hidden)], target, 1, hidden, COPY);
    }

    /// A copy of one stream.
    fn stream(&mut self, streams: Value, i: usize, n: usize, hidden: usize) -> Value {
        let y = self.value(hidden);
        let source = part_of(streams, i * hidden, n * hidden);
        self.rowwise_into(Function::Scale, &[source], whole(y, hidden), 1, hidden, COPY);
        y
    }

    pub(super) fn alternating_layer(&mut self, l: &AltLayer, streams: Value, hidden: usize) -> Result<()> {
        let n = l.n_streams;
        if self.width(streams) != n * hidden || l.active >= n {
            return Err(LmError::Config(format!(
                "a layer of {n} streams, {} computed on",
                l.active
            )));
        }
        let active = self.stream(streams, l.active, n, hidden);
        let predicted = self.predicted(l, streams, active, hidden)?;
        let own = self.stream(predicted, l.active, n, hidden);
        let y = self.computed(l, own, hidden)?;
        self.corrected(l, [predicted, own, y], streams, hidden)?;
        let first = self.stream(streams, l.active, n, hidden);
        if let Some(name) = &l.scale {
            let scale = self.l.vector(name, hidden)?;
            let operands = [whole(first, hidden), vector(scale)];
            self.rowwise_into(Function::Mul, &operands, whole(first, hidden), 1, hidden, ONE);
        }
        let input = self.layer_input(&l.input, first)?;
        let input = self.norm(&l.input_post, input, hidden)?;
        for i in 1..n {
            let target = part_of(streams, i * hidden, n * hidden);
            let operands = [target.clone(), whole(input, hidden)];
            self.rowwise_into(Function::Add, &operands, target, 1, hidden, ONE);
        }
        Ok(())
    }

    /// A number for each stream, by what `x` is.
    fn modalities(&mut self, l: &AltLayer, x: Value, hidden: usize) -> Result<Value> {
        let normed = self.norm(&l.router_norm, x, hidden)?;
        self.map_in_place(Function::Scale, normed, [1.0 / hidden as f32, 0.0, 0.0, 0.0]);
        let routed = self.linear(&l.router, normed)?;
        self.map_in_place(Function::Tanh, routed, NONE);
        Ok(routed)
    }

    /// `matrix x`, its weights clipped.
    fn clipped(&mut self, matrix: &Matrix, clip: Option<f32>, x: Value) -> Result<Value> {
        let Some(clip) = clip else {
            return self.linear(matrix, x);
        };
        let loaded = self.l.clipped(matrix, clip)?;
        Ok(self.apply(loaded, x))
    }

    /// `X_i + Σ_j C_ij X_j`
    fn predicted(&mut self, l: &AltLayer, streams: Value, active: Value, hidden: usize) -> Result<Value> {
        let n = l.n_streams;
        let modalities = self.modalities(l, active, hidden)?;
        let all = self.clipped(&l.predict, l.clip, modalities)?;
        let predicted = self.map(Function::Scale, &[streams], COPY);
        for i in 0..n {
            let weights = self.value(n);
            let source = part_of(all, i * n, n * n);
            self.rowwise_into(Function::Scale, &[source], whole(weights, n), 1, n, COPY);
            let sum = self.value(hidden);
            self.push(Step::WeightedSum {
                x: streams,
                weights,
                y: sum,
                groups: 1,
                slots: n,
                dim: hidden,
            });
            let target = part_of(predicted, i * hidden, n * hidden);
            let operands = [target.clone(), whole(sum, hidden)];
            self.rowwise_into(Function::Add, &operands, target, 1, hidden, ONE);
        }
        Ok(predicted)
    }

    /// What attention, the layer of low rank and the feed-forward layer make of the stream that is computed on.
    fn computed(&mut self, l: &AltLayer, own: Value, hidden: usize) -> Result<Value> {
        let x = self.norm(&l.norm, own, hidden)?;
        let low = self.linear(&l.low_rank[0], x)?;
        let low = self.linear(&l.low_rank[1], low)?;
        let low = self.norm(&l.low_rank_norm, low, hidden)?;
        let attended = self.attention(&l.attention, x)?;
        let y = self.norm(&l.attention_post, attended, hidden)?;
        // ((own + attention) + (x + low)) / √2
        for other in [own, low, x] {
            self.add(y, other, 1.0, 1.0);
        }
        self.map_in_place(
            Function::Scale,
            y,
            [std::f32::consts::FRAC_1_SQRT_2, 0.0, 0.0, 0.0],
        );
        let inner = self.norm(&l.mlp_norm, y, hidden)?;
        let inner = self.mlp(&l.mlp, inner)?;
        let inner = self.norm(&l.mlp_post, inner, hidden)?;
        self.add(y, inner, 1.0, 1.0);
        Ok(y)
    }

    /// `X_i = P_i + (y - P_a)·(1 + c_i)`
    fn corrected(
        &mut self,
        l: &AltLayer,
        [predicted, own, y]: [Value; 3],
        streams: Value,
        hidden: usize,
    ) -> Result<()> {
        let n = l.n_streams;
        let modalities = self.modalities(l, y, hidden)?;
        let factors = self.clipped(&l.correct, l.clip, modalities)?;
        self.map_in_place(Function::Scale, factors, [1.0, 1.0, 0.0, 0.0]);
        self.add(y, own, 1.0, -1.0);
        for i in 0..n {
            let change = self.value(hidden);
            let operands = [whole(y, hidden), part_of(factors, i, n).each(hidden)];
            self.rowwise_into(Function::Mul, &operands, whole(change, hidden), 1, hidden, ONE);
            let (from, to) = (
                part_of(predicted, i * hidden, n * hidden),
                part_of(streams, i * hidden, n * hidden),
            );
            self.rowwise_into(Function::Add, &[from, whole(change, hidden)], to, 1, hidden, ONE);
        }
        Ok(())
    }
}
