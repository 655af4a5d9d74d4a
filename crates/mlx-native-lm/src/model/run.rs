//! Recording a program's steps for a number of tokens.

use mlx_native::MlxBuffer;
use mlx_native::ops::copy::{CopyParams, copy};
use mlx_native::ops::kv_append::{KvAppendParams, kv_append};
use mlx_native::ops::layer_norm::{LayerNormParams, layer_norm};
use mlx_native::ops::linear_scan::{LinearScanParams, ScanInputs, linear_scan};
use mlx_native::ops::rms_norm::{RmsNormParams, rms_norm};
use mlx_native::ops::rope::{RopeParams, rope};
use mlx_native::ops::rowwise::{RowwiseParams, rowwise};
use mlx_native::ops::sdpa::{MAX_HEAD_DIM, SdpaParams, sdpa};

use mlx_native::ops::short_conv::{ShortConvParams, short_conv};

use super::linear::Recorder;
use super::loader::u32_of;
use super::program::{
    AttendStep, ConvStep, NormStep, Operand, Program, RopeStep, RowwiseStep, ScanStep, Source, Step, Value,
};
use super::state::{KvState, SequenceState};
use crate::error::{LmError, Result};
use crate::spec::NormKind;

/// What the steps of one pass read besides values.
pub(super) struct Pass<'a> {
    pub r: Recorder<'a>,
    pub program: &'a Program,
    /// Token ids and their positions, u32.
    pub ids: &'a MlxBuffer,
    pub positions: &'a MlxBuffer,
    /// A factor for each row, one buffer a temperature.
    pub temperatures: &'a [MlxBuffer],
    /// `None` in the head's program, which has no use for it.
    pub state: Option<&'a SequenceState>,
    pub rows: usize,
}

impl Pass<'_> {
    /// Records every step.
    pub fn record(&mut self) -> Result<()> {
        let program = self.program;
        program.steps.iter().try_for_each(|step| self.step(step))
    }

    fn view(&self, v: Value) -> &MlxBuffer {
        &self.program.views[v.0]
    }

    fn step(&mut self, step: &Step) -> Result<()> {
        let rows = self.rows;
        let view = |v: Value| &self.program.views[v.0];
        match step {
            Step::Embed { table, output } => table.look_up(&mut self.r, self.ids, view(*output), rows),
            Step::Positions { table, output } => {
                table.look_up(&mut self.r, self.positions, view(*output), rows)
            }
            Step::Linear { matrix, x, y } => matrix.apply(&mut self.r, view(*x), view(*y), rows),
            Step::TiedHead { table, x, y } => table.as_linear(&mut self.r, view(*x), view(*y), rows),
            Step::Norm(s) => self.norm(s),
            Step::Rowwise(s) => self.rowwise(s),
            Step::Rope(s) => self.rope(s),
            Step::Temperature { x, index } => self.temperature(*x, *index),
            Step::Append { k, v, state } => self.append(*k, *v, *state),
            Step::Attend(s) => self.attend(s),
            Step::Conv(s) => self.conv(s),
            Step::Scan(s) => self.scan(s),
            Step::Cast { x, y } => self.cast(*x, *y),
        }
    }

    fn norm(&mut self, s: &NormStep) -> Result<()> {
        let (rows, dim) = (u32_of(self.rows * s.groups)?, u32_of(s.dim)?);
        let (x, y) = (&self.program.views[s.x.0], &self.program.views[s.y.0]);
        let (weight, bias) = (s.weight.as_deref(), s.bias.as_deref());
        let r = &mut self.r;
        match s.kind {
            NormKind::Rms => {
                let params = RmsNormParams {
                    rows,
                    dim,
                    eps: s.eps,
                };
                rms_norm(r.encoder, r.registry, r.device, x, weight, y, &params)?;
            }
            NormKind::Layer => {
                let params = LayerNormParams {
                    rows,
                    dim,
                    eps: s.eps,
                };
                layer_norm(r.encoder, r.registry, r.device, x, weight, bias, y, &params)?;
            }
        }
        Ok(())
    }

    /// The buffer of an operand, from its first element on.
    fn operand(&self, o: &Operand) -> Result<MlxBuffer> {
        let buffer = match &o.source {
            Source::Value(v) => self.view(*v),
            Source::Vector(v) => v,
        };
        let skipped = o.offset * buffer.dtype().size_of();
        let rest = buffer.element_count() - o.offset;
        Ok(buffer.view(skipped, buffer.dtype(), vec![rest])?)
    }

    fn rowwise(&mut self, s: &RowwiseStep) -> Result<()> {
        let get = |i: usize| s.operands.get(i).map(|o| self.operand(o)).transpose();
        let (a, b, c) = (get(0)?, get(1)?, get(2)?);
        let Some(a) = a else {
            return Err(LmError::InvalidArgument(format!("{:?} of nothing", s.function)));
        };
        let output = self.operand(&s.output)?;
        let stride = |i: usize| u32_of(s.operands.get(i).map_or(0, |o| o.stride));
        let div = |i: usize| u32_of(s.operands.get(i).map_or(1, |o| o.div));
        let params = RowwiseParams {
            rows: u32_of(self.rows * s.rows)?,
            cols: u32_of(s.cols)?,
            a_stride: stride(0)?,
            b_stride: stride(1)?,
            c_stride: stride(2)?,
            output_stride: u32_of(s.output.stride)?,
            b_div: div(1)?,
            c_div: div(2)?,
            p: s.p,
        };
        let r = &mut self.r;
        rowwise(
            r.encoder,
            r.registry,
            r.device,
            s.function,
            &a,
            b.as_ref(),
            c.as_ref(),
            &output,
            &params,
        )?;
        Ok(())
    }

    /// The state of the sequence.
    fn sequence(&self) -> Result<&SequenceState> {
        self.state
            .ok_or_else(|| LmError::InvalidArgument("a step that needs the state of a sequence".to_owned()))
    }

    fn kv(&self, state: usize) -> Result<(&KvState, usize)> {
        let sequence = self.sequence()?;
        let kv = sequence.layer(state).kv();
        let kv = kv.ok_or_else(|| LmError::InvalidArgument(format!("state {state} has no keys")))?;
        Ok((kv, sequence.len()))
    }

    fn plane(&self, state: usize, plane: usize) -> Result<MlxBuffer> {
        let planes = self.sequence()?.layer(state).planes();
        let buffer = planes.and_then(|p| p.get(plane));
        let buffer =
            buffer.ok_or_else(|| LmError::InvalidArgument(format!("state {state} has no plane {plane}")))?;
        Ok(buffer.view(0, buffer.dtype(), buffer.shape().to_vec())?)
    }

    fn conv(&mut self, s: &ConvStep) -> Result<()> {
        let state = self.plane(s.state, s.plane)?;
        let params = ShortConvParams {
            rows: u32_of(self.rows)?,
            channels: u32_of(s.channels)?,
            kernel: u32_of(s.kernel)?,
            x_stride: u32_of(s.channels)?,
            silu: s.silu.into(),
        };
        let (x, y) = (&self.program.views[s.x.0], &self.program.views[s.y.0]);
        let (r, bias) = (&mut self.r, s.bias.as_deref());
        Ok(short_conv(
            r.encoder, r.registry, r.device, x, &s.weight, bias, &state, y, &params,
        )?)
    }

    fn scan(&mut self, s: &ScanStep) -> Result<()> {
        let state = self.plane(s.state, s.plane)?;
        let (q, k, v) = (self.operand(&s.q)?, self.operand(&s.k)?, self.operand(&s.v)?);
        let view = |v: Value| &self.program.views[v.0];
        let inputs = ScanInputs {
            q: &q,
            k: &k,
            v: &v,
            decay: view(s.decay),
            rates: s.rates.as_deref(),
            beta: s.beta.map(view),
            low_rank: s.low_rank.map(|(a, b)| (view(a), view(b))),
        };
        let params = LinearScanParams {
            rows: u32_of(self.rows)?,
            n_heads: u32_of(s.n_heads)?,
            n_k_heads: u32_of(s.n_k_heads)?,
            k_dim: u32_of(s.k_dim)?,
            v_dim: u32_of(s.v_dim)?,
            q_stride: u32_of(s.q.stride)?,
            k_stride: u32_of(s.k.stride)?,
            v_stride: u32_of(s.v.stride)?,
        };
        let (r, output) = (&mut self.r, view(s.output));
        Ok(linear_scan(
            r.encoder,
            r.registry,
            r.device,
            s.rule,
            s.decay_kind,
            &inputs,
            &state,
            output,
            &params,
        )?)
    }

    fn cast(&mut self, x: Value, y: Value) -> Result<()> {
        let n_elements = u32_of(self.rows * self.program.values[x.0].width)?;
        let (x, y) = (&self.program.views[x.0], &self.program.views[y.0]);
        let r = &mut self.r;
        Ok(copy(
            r.encoder,
            r.registry,
            r.device,
            x,
            y,
            &CopyParams { n_elements },
        )?)
    }

    fn rope(&mut self, s: &RopeStep) -> Result<()> {
        let (table, rows) = (&s.rotation.table, self.rows);
        let position = self.sequence()?.len();
        let size = self.view(s.x).dtype().size_of();
        let whole = self.view(s.x);
        let x = whole.view(
            s.first * size,
            whole.dtype(),
            vec![whole.element_count() - s.first],
        )?;
        let seq_stride = s.n_heads * s.head_stride;
        let params = RopeParams {
            n_heads: u32_of(s.n_heads)?,
            seq_len: u32_of(rows)?,
            head_dim: u32_of(s.dim)?,
            dims: u32_of(table.dims)?,
            traditional: table.traditional.into(),
            base: if table.freqs.is_some() {
                0.0
            } else {
                table.base_at(position + rows)
            },
            scale: table.scale,
            offset: u32_of(position)?,
            x_head_stride: u32_of(s.head_stride)?,
            x_seq_stride: u32_of(seq_stride)?,
            out_head_stride: u32_of(s.head_stride)?,
            out_seq_stride: u32_of(seq_stride)?,
        };
        let r = &mut self.r;
        Ok(rope(
            r.encoder,
            r.registry,
            r.device,
            &x,
            s.rotation.periods.as_ref(),
            &x,
            &params,
        )?)
    }

    fn temperature(&mut self, x: Value, index: usize) -> Result<()> {
        let x = &self.program.views[x.0];
        let cols = x.element_count() / self.program.rows;
        let params = RowwiseParams {
            b_stride: 1,
            b_div: u32_of(cols)?,
            ..RowwiseParams::dense(u32_of(self.rows)?, u32_of(cols)?)
        };
        let (r, factors) = (&mut self.r, &self.temperatures[index]);
        let function = mlx_native::ops::rowwise::Function::Mul;
        rowwise(
            r.encoder,
            r.registry,
            r.device,
            function,
            x,
            Some(factors),
            None,
            x,
            &params,
        )?;
        Ok(())
    }

    fn append(&mut self, k: Value, v: Value, state: usize) -> Result<()> {
        let rows = self.rows;
        let (k, v) = (&self.program.views[k.0], &self.program.views[v.0]);
        let Some(sequence) = self.state else { return Ok(()) };
        let len = sequence.len();
        let Some(kv) = sequence.layer(state).kv() else {
            return Ok(());
        };
        for (x, cache) in [(k, kv.keys()), (v, kv.values())] {
            let (n_heads, dim) = (cache.shape()[0], cache.shape()[2]);
            let mut done = 0;
            // At the end of a ring the rest goes to its beginning.
            while done < rows {
                let slot = (len + done) % kv.capacity();
                let run = (kv.capacity() - slot).min(rows - done);
                let width = n_heads * dim;
                let part = x.view(done * width * x.dtype().size_of(), x.dtype(), vec![run * width])?;
                let params = KvAppendParams {
                    n_kv_heads: u32_of(n_heads)?,
                    head_dim: u32_of(dim)?,
                    n_tokens: u32_of(run)?,
                    capacity: u32_of(kv.capacity())?,
                    position: u32_of(slot)?,
                };
                let r = &mut self.r;
                kv_append(r.encoder, r.registry, r.device, &part, cache, &params)?;
                done += run;
            }
        }
        Ok(())
    }

    fn attend(&mut self, s: &AttendStep) -> Result<()> {
        let (kv, len) = self.kv(s.state)?;
        let end = len + self.rows;
        let sees_all = s.window.is_none_or(|w| end <= w) && s.chunk.is_none_or(|c| end <= c);
        let plain = sees_all
            && s.k_dim == s.v_dim
            && s.k_dim <= MAX_HEAD_DIM as usize
            && s.cap.is_none()
            && s.sinks.is_none()
            && !kv.has_wrapped(end);
        if !plain {
            return Err(LmError::Unsupported(
                "attention with windows, caps or sinks".to_owned(),
            ));
        }
        let (capacity, rows) = (kv.capacity(), self.rows);
        let params = SdpaParams {
            n_heads: u32_of(s.n_heads)?,
            n_kv_heads: u32_of(s.n_kv_heads)?,
            head_dim: u32_of(s.k_dim)?,
            seq_len: u32_of(rows)?,
            kv_seq_len: u32_of(end)?,
            scale: s.scale,
            kv_capacity: u32_of(capacity)?,
        };
        // One row lies the same with tokens or heads outermost.
        let (q, output) = if rows == 1 { (s.q, s.output) } else { s.by_head };
        if rows > 1 {
            self.transpose(s.q, q, rows, s.n_heads, s.k_dim)?;
        }
        let views = &self.program.views;
        let (kv, _) = self.kv(s.state)?;
        let (keys, values) = (
            kv.keys().view(0, kv.keys().dtype(), kv.keys().shape().to_vec())?,
            kv.values()
                .view(0, kv.values().dtype(), kv.values().shape().to_vec())?,
        );
        let r = &mut self.r;
        sdpa(
            r.encoder,
            r.registry,
            r.device,
            &views[q.0],
            &keys,
            &values,
            &views[output.0],
            &params,
            1,
        )?;
        if rows > 1 {
            self.transpose(output, s.output, s.n_heads, rows, s.v_dim)?;
        }
        Ok(())
    }

    /// `[outer, inner, dim]` to `[inner, outer, dim]`.
    fn transpose(&mut self, x: Value, y: Value, outer: usize, inner: usize, dim: usize) -> Result<()> {
        let params = KvAppendParams {
            n_kv_heads: u32_of(inner)?,
            head_dim: u32_of(dim)?,
            n_tokens: u32_of(outer)?,
            capacity: u32_of(outer)?,
            position: 0,
        };
        let (r, views) = (&mut self.r, &self.program.views);
        Ok(kv_append(
            r.encoder,
            r.registry,
            r.device,
            &views[x.0],
            &views[y.0],
            &params,
        )?)
    }
}
