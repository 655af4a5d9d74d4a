//! One pass over the rows of some sequences: laid out, written to the device, recorded or replayed.

use mlx_native::ops::gather::{GatherParams, gather};
use mlx_native::{CommandEncoder, ComputeGraph, Replay};

use super::inputs::{Layout, Segment};
use super::number::u32_of;
use super::state::{BLOCK, Blocks, Kind};
use super::{Decoder, Pass, Recorder, Rows, Wanted};
use crate::error::{LmError, Result};

/// What a recorded step of decoding holds for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    rows: usize,
    max_kv: usize,
    /// The blocks of recurrent layers, which are bound by their place.
    fixed: Vec<u32>,
}

/// Work that the device has.
#[derive(Debug)]
pub(crate) enum InFlight {
    Replay(Replay),
    Recorded(Box<CommandEncoder>),
}

impl InFlight {
    /// Blocks until it has ended.
    pub fn wait(&self) -> Result<()> {
        match self {
            InFlight::Replay(replay) => replay.wait()?,
            InFlight::Recorded(encoder) => encoder.wait_until_completed()?,
        }
        Ok(())
    }
}

/// Rows of the stream that go through the head.
#[derive(Clone, Copy)]
enum Head {
    None,
    /// So many from the first on.
    Rows {
        first: usize,
        n: usize,
    },
    /// As many as are listed.
    Chosen(usize),
}

/// The most recordings that are kept.
const RECORDINGS: usize = 64;
/// Blocks of the shortest bucket of lengths.
const LEAST_BLOCKS: usize = 4;

/// Rows of the recording that serves `n` sequences.
pub(super) fn bucket(n: usize) -> usize {
    if n <= 8 { n } else { n.next_multiple_of(8) }
}

impl Rows<'_> {
    /// Rows of logits.
    pub(super) fn n_logits(&self) -> usize {
        match self.wanted {
            Wanted::None => 0,
            Wanted::Last => 1,
            Wanted::All => self.tokens.len(),
        }
    }
}

impl Decoder {
    /// Refuses what cannot be computed, before anything changes.
    pub(super) fn check(&self, rows: &[Rows<'_>]) -> Result<()> {
        let n: usize = rows.iter().map(|r| r.tokens.len()).sum();
        if n == 0 || n > self.rows || rows.iter().any(|r| r.tokens.is_empty()) {
            return Err(LmError::InvalidArgument(format!(
                "forward: {n} tokens of {} sequences, 1 to {} in all are possible, and at least one of each",
                rows.len(),
                self.rows
            )));
        }
        let vocab_size = self.spec.vocab_size;
        let mut ids = rows.iter().flat_map(|r| r.tokens);
        if let Some(id) = ids.find(|id| **id as usize >= vocab_size) {
            return Err(LmError::InvalidArgument(format!(
                "token id {id} is outside a vocabulary of {vocab_size}"
            )));
        }
        for row in rows {
            if !row.state.is_of(&self.pool) {
                return Err(LmError::InvalidArgument(
                    "the state is of another decoder".to_owned(),
                ));
            }
            let end = row.state.len() + row.tokens.len();
            if let Some((_, positions)) = &self.spec.embedding.positions
                && end > *positions
            {
                return Err(LmError::InvalidArgument(format!(
                    "a context of {end} tokens, the model has {positions} positions"
                )));
            }
        }
        Ok(())
    }

    /// Hands a pass over `rows` to the device: logits come in the order of the rows that are wanted. With `on_device` the ids
    /// are those that the device chose, and tokens only say how many there are.
    pub(crate) fn submit(&mut self, rows: &mut [Rows<'_>], on_device: bool) -> Result<InFlight> {
        self.check(rows)?;
        for row in &mut *rows {
            row.state.prepare(row.tokens.len())?;
        }
        let is_decode = self.is_fixed
            && rows
                .iter()
                .all(|r| r.tokens.len() == 1 && r.wanted != Wanted::None);
        let layout = self.lay_out(rows, is_decode);
        let head = if is_decode {
            Head::Rows {
                first: 0,
                n: layout.rows,
            }
        } else {
            self.head_of(rows, &layout)?
        };
        let head_rows = match head {
            Head::None => 0,
            Head::Rows { n, .. } | Head::Chosen(n) => bucket(n),
        };
        if head_rows > self.built.head.rows {
            self.allocate_head(head_rows)?;
        }
        if !on_device {
            let ids: Vec<u32> = rows.iter().flat_map(|r| r.tokens.iter().copied()).collect();
            self.inputs.ids.write(0, &ids)?;
        }
        self.inputs
            .write(&self.device, &layout, &self.built.temperatures)?;
        let work = if is_decode {
            InFlight::Replay(self.replay(&layout, head)?)
        } else {
            let mut encoder = self.device.command_encoder()?;
            self.record(&mut encoder, &layout, head)?;
            encoder.try_commit()?;
            InFlight::Recorded(Box::new(encoder))
        };
        self.inputs.advance(&layout)?;
        for row in rows {
            row.state.advance(row.tokens.len());
        }
        Ok(work)
    }

    fn allocate_head(&mut self, rows: usize) -> Result<()> {
        self.built.head.allocate(&self.device, rows)?;
        let view = &self.built.head.views[self.built.head_input.0];
        self.gathered = view.view(0, self.dtype, view.shape().to_vec())?;
        self.scratch += 1;
        Ok(())
    }

    fn lay_out(&self, rows: &[Rows<'_>], is_decode: bool) -> Layout {
        let blocks = self.pool.lock();
        let mut first = 0;
        let segments: Vec<Segment> = (rows.iter())
            .map(|row| {
                let segment = Segment {
                    first,
                    rows: row.tokens.len(),
                    len: row.state.len(),
                    tables: (0..blocks.groups.len())
                        .map(|g| row.state.blocks(g).to_vec())
                        .collect(),
                };
                first += segment.rows;
                segment
            })
            .collect();
        let longest = segments.iter().map(|s| s.len + s.rows).max().unwrap_or(1);
        let (n_rows, n_seqs, max_kv) = if is_decode {
            let n = bucket(segments.len()).min(self.rows).max(segments.len());
            let n_blocks = longest.div_ceil(BLOCK).next_power_of_two().max(LEAST_BLOCKS);
            (n, n, n_blocks * BLOCK)
        } else {
            (first, segments.len(), longest)
        };
        let table_len = |kind: Kind| match kind {
            Kind::Paged => max_kv.div_ceil(BLOCK),
            Kind::Rotating { ring, .. } => ring,
            Kind::Recurrent => 1,
        };
        Layout {
            rows: n_rows,
            n_seqs,
            max_rows: segments.iter().map(|s| s.rows).max().unwrap_or(1),
            max_kv,
            table_lens: blocks.groups.iter().map(|g| table_len(g.kind)).collect(),
            segments,
        }
    }

    /// The rows of the stream that are wanted; listed for the device where they are not side by side.
    fn head_of(&mut self, rows: &[Rows<'_>], layout: &Layout) -> Result<Head> {
        let mut chosen = Vec::new();
        for (row, segment) in rows.iter().zip(&layout.segments) {
            let end = segment.first + segment.rows;
            for r in end - row.n_logits()..end {
                chosen.push(u32_of(r)?);
            }
        }
        let (Some(first), Some(last)) = (chosen.first(), chosen.last()) else {
            return Ok(Head::None);
        };
        if (last - first) as usize + 1 == chosen.len() {
            return Ok(Head::Rows {
                first: *first as usize,
                n: chosen.len(),
            });
        }
        self.inputs.chosen.set(&chosen)?;
        Ok(Head::Chosen(chosen.len()))
    }

    /// Replays a step of decoding; records it first where that has not been done.
    fn replay(&mut self, layout: &Layout, head: Head) -> Result<Replay> {
        let (key, generation) = {
            let blocks = self.pool.lock();
            (key_of(layout, &blocks), blocks.generation)
        };
        let now = [generation, self.inputs.generation, self.scratch];
        if self.recorded_for != now || self.recorded.len() >= RECORDINGS {
            self.recorded.clear();
            self.recorded_for = now;
        }
        if !self.recorded.contains_key(&key) {
            let mut encoder = self.device.command_encoder()?;
            encoder.start_capture();
            self.record(&mut encoder, layout, head)?;
            let nodes = encoder.take_capture().unwrap_or_default();
            let graph = ComputeGraph::from_nodes(nodes).prepare(&self.device)?;
            self.recorded.insert(key.clone(), graph);
        }
        Ok(self.recorded[&key].replay()?)
    }

    fn record(&mut self, encoder: &mut CommandEncoder, layout: &Layout, head: Head) -> Result<()> {
        let pool = self.pool.clone();
        let blocks = pool.lock();
        let mut pass = Pass {
            r: Recorder {
                encoder,
                registry: &mut self.registry,
                device: &self.device,
            },
            program: &self.built.body,
            inputs: &self.inputs,
            layout,
            blocks: &blocks,
            rows: layout.rows,
            singly: self.singly,
        };
        pass.positions()?;
        pass.record()?;
        let stream = &self.built.body.views[self.built.stream.0];
        let width = self.spec.hidden_size;
        let (input, n) = match head {
            Head::None => return Ok(()),
            Head::Rows { first, n } => {
                let skipped = first * width * self.dtype.size_of();
                (stream.view(skipped, self.dtype, vec![n, width])?, n)
            }
            Head::Chosen(n) => {
                let params = GatherParams {
                    row_width: u32_of(width)?,
                    n_indices: u32_of(n)?,
                    src_rows: u32_of(layout.rows)?,
                };
                let (r, chosen) = (&mut pass.r, self.inputs.chosen.buffer());
                gather(
                    r.encoder,
                    r.registry,
                    r.device,
                    stream,
                    chosen,
                    &self.gathered,
                    &params,
                )?;
                (self.gathered.view(0, self.dtype, vec![n, width])?, n)
            }
        };
        self.built.head.views[self.built.head_input.0] = input;
        pass.program = &self.built.head;
        pass.rows = n;
        pass.record()
    }
}

fn key_of(layout: &Layout, blocks: &Blocks) -> Key {
    let groups = blocks.groups.iter().enumerate();
    let recurrent = groups.filter(|(_, g)| g.kind == Kind::Recurrent);
    let fixed = recurrent.flat_map(|(g, _)| {
        layout
            .segments
            .iter()
            .filter_map(move |s| s.tables[g].first().copied())
    });
    Key {
        rows: layout.rows,
        max_kv: layout.max_kv,
        fixed: fixed.collect(),
    }
}
