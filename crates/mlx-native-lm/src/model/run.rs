//! Recording a program's steps for a number of tokens.

use mlx_native::ops::attention::{AttentionParams, Extras, Family, Mask, attention};
use mlx_native::ops::copy::{CopyParams, copy};
use mlx_native::ops::hadamard::{HadamardParams, hadamard};
use mlx_native::ops::index_mask::{IndexMaskParams, index_mask};
use mlx_native::ops::kv_append::{PagedAppendParams, kv_append_paged};
use mlx_native::ops::layer_norm::{LayerNormParams, layer_norm};
use mlx_native::ops::linear::{GatherParams, gather_linear};
use mlx_native::ops::linear_scan::{LinearScanParams, ScanInputs, linear_scan};
use mlx_native::ops::ngram_ids::{NgramParams, ngram_ids, ngram_keep};
use mlx_native::ops::rms_norm::{RmsNormParams, rms_norm};
use mlx_native::ops::rope::{RopeParams, rope_at};
use mlx_native::ops::route::{RouteParams, route};
use mlx_native::ops::rowwise::{RowwiseParams, rowwise};
use mlx_native::ops::short_conv::{ShortConvParams, short_conv};
use mlx_native::ops::softmax::{SoftmaxParams, softmax};
use mlx_native::ops::step::{KvPool, StepParams, positions};
use mlx_native::ops::weighted_sum::{WeightedSumParams, weighted_sum};
use mlx_native::{DType, MlxBuffer, MlxDevice};

use super::inputs::{Inputs, Layout, Segment};
use super::linear::{Linear, Recorder};
use super::number::u32_of;
use super::program::{
    AttendStep, ConvStep, Ids, IndexStep, NormStep, Operand, Program, RopeStep, RouteStep, RowwiseStep,
    ScanStep, Source, Step, Value,
};
use super::state::{BLOCK, Blocks, Place};
use crate::error::{LmError, Result};
use crate::spec::NormKind;

/// What the steps of one pass read besides values.
pub(super) struct Pass<'a> {
    pub r: Recorder<'a>,
    pub program: &'a Program,
    /// What is written before each pass.
    pub inputs: &'a Inputs,
    /// Which rows are whose.
    pub layout: &'a Layout,
    /// What is kept of all sequences.
    pub blocks: &'a Blocks,
    /// Rows of the program: those of the layout, or of the logits.
    pub rows: usize,
    /// Whether products take one row at a time, and attention its kernels for few, so that a row's bits depend on nothing else.
    pub singly: bool,
}

/// Keys and values of a layer.
struct Kv<'a> {
    keys: &'a MlxBuffer,
    values: &'a MlxBuffer,
    group: usize,
    pool: KvPool,
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
            Step::Embed { table, output } => {
                table.look_up(&mut self.r, &self.inputs.ids, view(*output), rows)
            }
            Step::Positions { table, output } => {
                table.look_up(&mut self.r, self.inputs.positions(), view(*output), rows)
            }
            Step::Linear { matrix, x, y } => {
                self.in_pieces(*x, *y, |r, x, y, rows| matrix.apply(r, x, y, rows))
            }
            Step::TiedHead { table, x, y } => {
                self.in_pieces(*x, *y, |r, x, y, rows| table.as_linear(r, x, y, rows))
            }
            Step::Norm(s) => self.norm(s),
            Step::Rowwise(s) => self.rowwise(s),
            Step::Rope(s) => self.rope(s),
            Step::Temperature { x, index } => self.temperature(*x, *index),
            Step::Append { k, v, state } => self.append(*k, *v, *state),
            Step::Attend(s) => self.attend(s),
            Step::Route(s) => self.route(s),
            Step::Experts {
                stack,
                x,
                ids,
                y,
                slots,
                x_per_slot,
            } => {
                let ids = match ids {
                    Ids::Chosen(ids) => view(*ids),
                    Ids::Own => self.inputs.own_ids(*slots)?,
                };
                self.experts(stack, ids, [*x, *y], *slots, *x_per_slot)
            }
            Step::LookUp {
                table,
                ids,
                output,
                slots,
            } => {
                let ids = match ids {
                    Ids::Chosen(ids) => view(*ids),
                    Ids::Own => self.inputs.own_ids(*slots)?,
                };
                table.look_up(&mut self.r, ids, view(*output), rows * slots)
            }
            Step::WeightedSum {
                x,
                weights,
                y,
                groups,
                slots,
                dim,
            } => {
                let (terms, dim) = (u32_of(*slots)?, u32_of(*dim)?);
                let params = WeightedSumParams {
                    rows: u32_of(rows * groups)?,
                    terms,
                    dim,
                };
                let r = &mut self.r;
                let (x, weights, y) = (view(*x), view(*weights), view(*y));
                Ok(weighted_sum(
                    r.encoder, r.registry, r.device, x, weights, y, &params,
                )?)
            }
            Step::Conv(s) => self.conv(s),
            Step::Scan(s) => self.scan(s),
            Step::Cast { x, y } => self.cast(*x, *y),
            Step::Softmax { x, y } => {
                let cols = u32_of(self.program.values[x.0].width)?;
                let params = SoftmaxParams {
                    rows: u32_of(rows)?,
                    cols,
                };
                let r = &mut self.r;
                Ok(softmax(
                    r.encoder,
                    r.registry,
                    r.device,
                    view(*x),
                    view(*y),
                    &params,
                )?)
            }
            Step::NgramIds {
                params,
                output,
                state,
                plane,
            } => {
                let (history, params) = (self.plane(*state, *plane, 0)?, self.ngrams(params)?);
                let (ids, output) = (&self.inputs.ids, view(*output));
                let r = &mut self.r;
                Ok(ngram_ids(
                    r.encoder, r.registry, r.device, ids, &history, output, &params,
                )?)
            }
            Step::NgramKeep { params, state, plane } => {
                let (history, params) = (self.plane(*state, *plane, 0)?, self.ngrams(params)?);
                let ids = &self.inputs.ids;
                let r = &mut self.r;
                Ok(ngram_keep(
                    r.encoder, r.registry, r.device, ids, &history, &params,
                )?)
            }
            Step::Hadamard { x, block } => {
                let blocks = self.program.values[x.0].width / block;
                let params = HadamardParams::orthogonal(u32_of(rows * blocks)?, u32_of(*block)?);
                let r = &mut self.r;
                Ok(hadamard(
                    r.encoder,
                    r.registry,
                    r.device,
                    view(*x),
                    view(*x),
                    &params,
                )?)
            }
        }
    }

    /// The rule for the rows of this pass.
    fn ngrams(&self, params: &NgramParams) -> Result<NgramParams> {
        Ok(NgramParams {
            rows: u32_of(self.rows)?,
            ..*params
        })
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

    /// Positions of the rows, from the lengths, which are counted on.
    pub fn positions(&mut self) -> Result<()> {
        let params = StepParams {
            n_rows: u32_of(self.layout.rows)?,
            n_seqs: u32_of(self.layout.n_seqs)?,
            advance: 1,
        };
        let (r, i) = (&mut self.r, self.inputs);
        Ok(positions(
            r.encoder,
            r.registry,
            r.device,
            i.starts(),
            i.lens(),
            i.positions(),
            &params,
        )?)
    }

    /// Rows that are computed together: all, or one.
    fn pieces(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let (rows, size) = (self.rows, if self.singly { 1 } else { self.rows });
        (0..rows)
            .step_by(size.max(1))
            .map(move |first| (first, size.min(rows - first)))
    }

    /// Rows of a value from `first` on.
    fn rows_of(&self, v: Value, first: usize, rows: usize) -> Result<MlxBuffer> {
        let (view, info) = (self.view(v), self.program.values[v.0]);
        let skipped = first * info.width * info.dtype.size_of();
        Ok(view.view(skipped, info.dtype, vec![rows, info.width])?)
    }

    /// `f` for all rows, or for one at a time.
    fn in_pieces(
        &mut self,
        x: Value,
        y: Value,
        mut f: impl FnMut(&mut Recorder<'_>, &MlxBuffer, &MlxBuffer, usize) -> Result<()>,
    ) -> Result<()> {
        for (first, rows) in self.pieces() {
            let (x, y) = (self.rows_of(x, first, rows)?, self.rows_of(y, first, rows)?);
            f(&mut self.r, &x, &y, rows)?;
        }
        Ok(())
    }

    fn place(&self, state: usize) -> Result<Place> {
        let place = self.blocks.places.get(state).copied();
        place.ok_or_else(|| LmError::InvalidArgument(format!("there is no state {state}")))
    }

    fn kv(&self, state: usize) -> Result<Kv<'_>> {
        let Place { group, plane } = self.place(state)?;
        let blocks = &self.blocks.groups[group];
        let Some([keys, values]) = blocks.planes.get(plane..plane + 2) else {
            return Err(LmError::InvalidArgument(format!("state {state} has no keys")));
        };
        Ok(Kv {
            keys: &keys.buffer,
            values: &values.buffer,
            group,
            pool: KvPool {
                n_blocks: u32_of(blocks.n_blocks())?,
                block_size: BLOCK as u32,
                n_seqs: u32_of(self.layout.n_seqs)?,
                blocks_per_seq: u32_of(self.layout.table_lens[group])?,
            },
        })
    }

    /// A plane of what a recurrence keeps of a sequence.
    fn plane(&self, state: usize, plane: usize, segment: usize) -> Result<MlxBuffer> {
        let place = self.place(state)?;
        let planes = &self.blocks.groups[place.group].planes;
        let found = planes.get(place.plane + plane);
        let block = self.layout.block_of(segment, place.group);
        let (Some(found), Some(block)) = (found, block) else {
            return Err(LmError::InvalidArgument(format!(
                "state {state} has no plane {plane}"
            )));
        };
        let first = block as usize * found.block_bytes();
        Ok(found.buffer.view(first, found.dtype, found.block.clone())?)
    }

    fn conv(&mut self, s: &ConvStep) -> Result<()> {
        (0..self.layout.segments.len()).try_for_each(|segment| self.conv_of(s, segment))
    }

    fn conv_of(&mut self, s: &ConvStep, segment: usize) -> Result<()> {
        let state = self.plane(s.state, s.plane, segment)?;
        let Segment { first, rows, .. } = self.layout.segments[segment];
        let params = ShortConvParams {
            rows: u32_of(rows)?,
            channels: u32_of(s.channels)?,
            kernel: u32_of(s.kernel)?,
            x_stride: u32_of(s.channels)?,
            silu: s.silu.into(),
        };
        let (x, y) = (self.rows_of(s.x, first, rows)?, self.rows_of(s.y, first, rows)?);
        let (r, bias) = (&mut self.r, s.bias.as_deref());
        Ok(short_conv(
            r.encoder, r.registry, r.device, &x, &s.weight, bias, &state, &y, &params,
        )?)
    }

    fn scan(&mut self, s: &ScanStep) -> Result<()> {
        (0..self.layout.segments.len()).try_for_each(|segment| self.scan_of(s, segment))
    }

    fn scan_of(&mut self, s: &ScanStep, segment: usize) -> Result<()> {
        let state = self.plane(s.state, s.plane, segment)?;
        let Segment { first, rows, .. } = self.layout.segments[segment];
        let operand = |o: &Operand| {
            let whole = self.operand(o)?;
            let skipped = first * o.stride;
            let rest = whole.element_count() - skipped;
            Ok::<_, LmError>(whole.view(skipped * whole.dtype().size_of(), whole.dtype(), vec![rest])?)
        };
        let (q, k, v) = (operand(&s.q)?, operand(&s.k)?, operand(&s.v)?);
        let part = |v: Value| self.rows_of(v, first, rows);
        let (decay, output) = (part(s.decay)?, part(s.output)?);
        let beta = s.beta.map(part).transpose()?;
        let low_rank = match s.low_rank {
            Some((a, b)) => Some((part(a)?, part(b)?)),
            None => None,
        };
        let inputs = ScanInputs {
            q: &q,
            k: &k,
            v: &v,
            decay: &decay,
            rates: s.rates.as_deref(),
            beta: beta.as_ref(),
            low_rank: low_rank.as_ref().map(|(a, b)| (a, b)),
        };
        let params = LinearScanParams {
            rows: u32_of(rows)?,
            n_heads: u32_of(s.n_heads)?,
            n_k_heads: u32_of(s.n_k_heads)?,
            k_dim: u32_of(s.k_dim)?,
            v_dim: u32_of(s.v_dim)?,
            q_stride: u32_of(s.q.stride)?,
            k_stride: u32_of(s.k.stride)?,
            v_stride: u32_of(s.v.stride)?,
        };
        let r = &mut self.r;
        Ok(linear_scan(
            r.encoder,
            r.registry,
            r.device,
            s.rule,
            s.decay_kind,
            &inputs,
            &state,
            &output,
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
        // A base that depends on the length is that of one sequence: the decoder sees to it.
        let end = self.layout.segments.first().map_or(0, |s| s.len + s.rows);
        let whole = self.view(s.x);
        let size = whole.dtype().size_of();
        let x = whole.view(
            s.first * size,
            whole.dtype(),
            vec![whole.element_count() - s.first],
        )?;
        let seq_stride = u32_of(s.n_heads * s.head_stride)?;
        let params = RopeParams {
            n_heads: u32_of(s.n_heads)?,
            seq_len: u32_of(rows)?,
            head_dim: u32_of(s.dim)?,
            dims: u32_of(table.dims)?,
            traditional: table.traditional.into(),
            base: if table.freqs.is_some() {
                0.0
            } else {
                table.base_at(end)
            },
            scale: table.scale,
            offset: 0,
            x_head_stride: u32_of(s.head_stride)?,
            x_seq_stride: seq_stride,
            out_head_stride: u32_of(s.head_stride)?,
            out_seq_stride: seq_stride,
        };
        let (periods, positions) = (s.rotation.periods.as_ref(), self.inputs.positions());
        let r = &mut self.r;
        Ok(rope_at(
            r.encoder, r.registry, r.device, &x, periods, positions, &x, &params,
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
        let (r, factors) = (&mut self.r, &self.inputs.temperatures[index]);
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
        let Kv {
            keys,
            values,
            group,
            pool,
        } = self.kv(state)?;
        let params = PagedAppendParams {
            pool,
            n_rows: u32_of(self.rows)?,
            n_kv_heads: u32_of(keys.shape()[1])?,
            k_dim: u32_of(keys.shape()[3])?,
            v_dim: u32_of(values.shape()[3])?,
            k_row_stride: 0,
            v_row_stride: 0,
        };
        let (keys, values) = (view_of(keys)?, view_of(values)?);
        let (k, v) = (&self.program.views[k.0], &self.program.views[v.0]);
        let step = self.inputs.step(group);
        let r = &mut self.r;
        Ok(kv_append_paged(
            r.encoder, r.registry, r.device, k, v, &keys, &values, &step, &params,
        )?)
    }

    fn attend(&mut self, s: &AttendStep) -> Result<()> {
        let Kv {
            keys,
            values,
            group,
            pool,
        } = self.kv(s.state)?;
        let (keys, values) = (view_of(keys)?, view_of(values)?);
        let window = match s.window {
            Some(window) if s.short_ring && self.rows == 1 => window - 1,
            window => window.unwrap_or(0),
        };
        let params = AttentionParams {
            pool,
            n_rows: u32_of(self.rows)?,
            n_heads: u32_of(s.n_heads)?,
            n_kv_heads: u32_of(s.n_kv_heads)?,
            head_dim: u32_of(s.k_dim)?,
            v_dim: u32_of(s.v_dim)?,
            scale: s.scale,
            softcap: s.cap.unwrap_or(0.0),
            window: u32_of(window)?,
            causal: true,
            max_rows_per_seq: u32_of(self.layout.max_rows)?,
            max_kv_len: u32_of(self.layout.max_kv)?,
            q_row_stride: 0,
            family: if self.singly { Family::Rows } else { Family::Auto },
        };
        // A mask is of one sequence: the decoder sees to it.
        let len = self.layout.segments.first().map_or(0, |s| s.len);
        let hidden = self.hidden_keys(s, len, window)?;
        let mask = hidden.as_ref().map(|(buffer, heads)| Mask {
            buffer,
            seq_stride: 0,
            head_stride: if *heads > 1 { params.max_kv_len } else { 0 },
            row_stride: params.max_kv_len * heads,
        });
        let extras = Extras {
            sinks: s.sinks.as_deref(),
            mask,
        };
        let views = &self.program.views;
        let (q, output, step) = (&views[s.q.0], &views[s.output.0], self.inputs.step(group));
        let r = &mut self.r;
        attention(
            r.encoder, r.registry, r.device, q, &keys, &values, output, &extras, &step, &params,
        )?;
        Ok(())
    }

    /// The mask of an indexer; none where all blocks of keys stay.
    fn chosen_keys(
        &mut self,
        index: &IndexStep,
        n_heads: usize,
        len: usize,
    ) -> Result<Option<(MlxBuffer, u32)>> {
        let end = len + self.rows;
        if end.div_ceil(index.group) <= index.top {
            return Ok(None);
        }
        let choosers = if index.weights.is_some() { 1 } else { index.n_heads };
        let heads = if index.weights.is_some() { 1 } else { n_heads };
        let Kv {
            keys, group, pool, ..
        } = self.kv(index.state)?;
        let keys = view_of(keys)?;
        let params = IndexMaskParams {
            pool,
            n_rows: u32_of(self.rows)?,
            n_heads: u32_of(index.n_heads)?,
            head_dim: u32_of(index.head_dim)?,
            group: u32_of(index.group)?,
            top: u32_of(index.top)?,
            local: u32_of(index.local)?,
            max_rows_per_seq: u32_of(self.rows)?,
            max_kv_len: u32_of(end)?,
            weighted: index.weights.is_some().into(),
            repeat: u32_of(heads / choosers)?,
        };
        let device = self.r.device;
        let scores = device.alloc_tensor(DType::F32, &[params.scores()?])?;
        let mask = device.alloc_tensor(DType::U8, &[params.mask()?])?;
        let views = &self.program.views;
        let (q, weights) = (&views[index.q.0], index.weights.map(|w| &views[w.0]));
        let step = self.inputs.step(group);
        let r = &mut self.r;
        index_mask(
            r.encoder, r.registry, device, q, &keys, weights, &scores, &mask, &step, &params,
        )?;
        Ok(Some((mask, u32_of(heads)?)))
    }

    /// A mask of what causality and a window alone do not hide, with its number of heads.
    fn hidden_keys(&mut self, s: &AttendStep, len: usize, window: usize) -> Result<Option<(MlxBuffer, u32)>> {
        if let Some(index) = &s.index {
            return self.chosen_keys(index, s.n_heads, len);
        }
        let (device, rows) = (self.r.device, self.rows);
        let end = len + rows;
        if let Some(b) = s.blocks {
            let sees = |p: usize, head: usize, key: usize| {
                let (of_row, of_key) = (p / b.size, key / b.size);
                of_row < of_key + b.local || (of_key + head + 1).is_multiple_of(b.stride)
            };
            let mask = mask_of(device, len, rows, s.n_heads, sees)?;
            return Ok(Some((mask, u32_of(s.n_heads)?)));
        }
        let mask = match s.chunk.filter(|c| end > *c) {
            Some(chunk) => mask_of(device, len, rows, 1, |p, _, key| key / chunk == p / chunk)?,
            None if s.short_ring && rows > 1 && len > 0 => {
                mask_of(device, len, rows, 1, |p, _, key| p > len || key + window > p + 1)?
            }
            None => return Ok(None),
        };
        Ok(Some((mask, 1)))
    }

    fn route(&mut self, s: &RouteStep) -> Result<()> {
        let params = RouteParams {
            rows: u32_of(self.rows)?,
            ..s.params
        };
        let views = &self.program.views;
        let (logits, ids, weights) = (&views[s.logits.0], &views[s.ids.0], &views[s.weights.0]);
        let (r, correction) = (&mut self.r, s.correction.as_deref());
        Ok(route(
            r.encoder, r.registry, r.device, logits, correction, ids, weights, &params,
        )?)
    }

    fn experts(
        &mut self,
        stack: &Linear,
        ids: &MlxBuffer,
        [x, y]: [Value; 2],
        slots: usize,
        x_per_slot: bool,
    ) -> Result<()> {
        let bias = stack.bias.as_deref();
        for (first, tokens) in self.pieces() {
            let rows = tokens * slots;
            let params = GatherParams {
                m: u32_of(rows)?,
                x_rows: u32_of(if x_per_slot { rows } else { tokens })?,
                rows_per_x: u32_of(if x_per_slot { 1 } else { slots })?,
                sorted: false,
            };
            let (x, y) = (self.rows_of(x, first, tokens)?, self.rows_of(y, first, tokens)?);
            let ids = ids.view(first * slots * size_of::<u32>(), DType::U32, vec![rows])?;
            let r = &mut self.r;
            gather_linear(
                r.encoder,
                r.registry,
                r.device,
                &x,
                &stack.weight,
                bias,
                &ids,
                None,
                &y,
                &params,
            )?;
        }
        Ok(())
    }
}

/// A handle of the same memory.
fn view_of(buffer: &MlxBuffer) -> Result<MlxBuffer> {
    Ok(buffer.view(0, buffer.dtype(), buffer.shape().to_vec())?)
}

/// 1 where row `i`, at position `len + i`, sees a key, for each head.
fn mask_of(
    device: &MlxDevice,
    len: usize,
    rows: usize,
    heads: usize,
    sees: impl Fn(usize, usize, usize) -> bool,
) -> Result<MlxBuffer> {
    let end = len + rows;
    let size = rows.checked_mul(end).and_then(|n| n.checked_mul(heads));
    let size = size.filter(|n| *n <= MAX_MASK).ok_or_else(|| {
        LmError::InvalidArgument(format!(
            "a mask of {rows} rows over {end} keys; fewer rows in a pass need less"
        ))
    })?;
    let mut bits = Vec::with_capacity(size);
    for p in len..end {
        for head in 0..heads {
            bits.extend((0..end).map(|key| u8::from(sees(p, head, key))));
        }
    }
    let mut mask = device.alloc_tensor(DType::U8, &[rows, heads, end])?;
    mask.write(0, &bits)?;
    Ok(mask)
}

/// Bytes of the largest mask.
const MAX_MASK: usize = 1 << 30;
