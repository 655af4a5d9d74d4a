//! What is written before a pass and read by its steps: ids, where rows and keys of each sequence lie. The host knows what
//! the buffers hold, and writes what differs: nothing, where a step goes on where the last one ended.

use mlx_native::ops::step::KvState;
use mlx_native::{DType, MlxBuffer, MlxDevice};

use super::number::u32_of;
use super::write_f32;
use crate::error::{LmError, Result};
use crate::spec::Temperature;

/// A buffer of u32 of which the host knows the contents.
#[derive(Debug)]
pub(super) struct Words {
    buffer: MlxBuffer,
    known: Vec<u32>,
}

impl Words {
    pub fn new(device: &MlxDevice, n: usize) -> Result<Self> {
        let mut words = Words {
            buffer: device.alloc_tensor(DType::U32, &[n.max(1)])?,
            known: vec![0; n.max(1)],
        };
        words.buffer.write(0, &words.known)?;
        Ok(words)
    }

    pub fn buffer(&self) -> &MlxBuffer {
        &self.buffer
    }

    /// Makes room for `n` words; whether the buffer is another one now.
    pub fn fit(&mut self, device: &MlxDevice, n: usize) -> Result<bool> {
        let is_small = self.known.len() < n;
        if is_small {
            *self = Words::new(device, n.next_power_of_two())?;
        }
        Ok(is_small)
    }

    /// The first words become `words`; waits for work in flight if they are others.
    pub fn set(&mut self, words: &[u32]) -> Result<()> {
        if self.known[..words.len()] != *words {
            self.buffer.write(0, words)?;
            self.known[..words.len()].copy_from_slice(words);
        }
        Ok(())
    }
}

/// What the rows of a pass are.
#[derive(Debug)]
pub(super) struct Layout {
    /// Rows, those of nobody included.
    pub rows: usize,
    /// The sequences that have rows, in order.
    pub segments: Vec<Segment>,
    /// Sequences of the tables, those without rows included.
    pub n_seqs: usize,
    /// Rows of a sequence, at most.
    pub max_rows: usize,
    /// Positions of a sequence, at most.
    pub max_kv: usize,
    /// Entries of a sequence in the table of each group of layers.
    pub table_lens: Vec<usize>,
}

/// The rows of a sequence.
#[derive(Debug, Clone)]
pub(super) struct Segment {
    pub first: usize,
    pub rows: usize,
    /// Positions before.
    pub len: usize,
    /// Its blocks, for each group of layers.
    pub tables: Vec<Vec<u32>>,
}

impl Layout {
    /// The block that a sequence has of a group that has one for each sequence.
    pub fn block_of(&self, segment: usize, group: usize) -> Option<u32> {
        self.segments[segment].tables[group].first().copied()
    }
}

/// Small buffers of a pass.
#[derive(Debug)]
pub(super) struct Inputs {
    /// Written by the host, and where tokens are chosen on the device.
    pub ids: MlxBuffer,
    positions: MlxBuffer,
    starts: Words,
    /// Positions of each sequence before the next pass: a pass counts them on.
    lens: Words,
    tables: Vec<Words>,
    /// Rows of the stream of which logits are wanted.
    pub chosen: Words,
    /// For stacks that are products of heads: the ids `0, 1, …` for each row.
    own: Vec<(usize, MlxBuffer)>,
    /// A factor for each row, one buffer a temperature.
    pub temperatures: Vec<MlxBuffer>,
    /// Counts the times that a buffer was replaced.
    pub generation: u64,
}

impl Inputs {
    pub fn new(
        device: &MlxDevice,
        dtype: DType,
        rows: usize,
        groups: usize,
        temperatures: usize,
        own: &[usize],
    ) -> Result<Self> {
        let mut ids = Vec::new();
        for slots in own {
            let mut buffer = device.alloc_tensor(DType::U32, &[rows * slots])?;
            let pattern: Vec<u32> = (0..rows * slots)
                .map(|i| u32_of(i % slots))
                .collect::<Result<_>>()?;
            buffer.write(0, &pattern)?;
            ids.push((*slots, buffer));
        }
        Ok(Inputs {
            ids: device.alloc_tensor(DType::U32, &[rows])?,
            positions: device.alloc_tensor(DType::U32, &[rows])?,
            starts: Words::new(device, rows + 1)?,
            lens: Words::new(device, rows)?,
            tables: (0..groups)
                .map(|_| Words::new(device, 16))
                .collect::<Result<_>>()?,
            chosen: Words::new(device, rows)?,
            own: ids,
            temperatures: (0..temperatures)
                .map(|_| Ok(device.alloc_tensor(dtype, &[rows])?))
                .collect::<Result<_>>()?,
            generation: 0,
        })
    }

    /// Writes what a pass of `layout` reads besides ids.
    pub fn write(&mut self, device: &MlxDevice, layout: &Layout, temperatures: &[Temperature]) -> Result<()> {
        let mut starts = Vec::with_capacity(layout.n_seqs + 1);
        let mut lens = self.lens.known[..layout.n_seqs].to_vec();
        starts.push(0);
        for (segment, len) in layout.segments.iter().zip(&mut lens) {
            starts.push(u32_of(segment.first + segment.rows)?);
            *len = u32_of(segment.len)?;
        }
        // The others rest.
        starts.resize(layout.n_seqs + 1, starts.last().copied().unwrap_or(0));
        self.starts.set(&starts)?;
        self.lens.set(&lens)?;
        for (group, (table, len)) in self.tables.iter_mut().zip(&layout.table_lens).enumerate() {
            if table.fit(device, layout.n_seqs * len)? {
                self.generation += 1;
            }
            let mut words = vec![0; layout.segments.len() * len];
            for (row, segment) in words.chunks_exact_mut(*len).zip(&layout.segments) {
                let blocks = &segment.tables[group];
                let n = blocks.len().min(row.len());
                row[..n].copy_from_slice(&blocks[..n]);
            }
            table.set(&words)?;
        }
        for (t, buffer) in temperatures.iter().zip(&mut self.temperatures) {
            let factor = |p: usize| 1.0 + t.scale * (1.0 + ((p + t.shift) / t.every) as f32).ln();
            let rows = layout.segments.iter().flat_map(|s| s.len..s.len + s.rows);
            write_f32(buffer, &rows.map(factor).collect::<Vec<_>>())?;
        }
        Ok(())
    }

    /// A pass of `layout` was handed over: it counts the lengths on.
    pub fn advance(&mut self, layout: &Layout) -> Result<()> {
        for (segment, len) in layout.segments.iter().zip(&mut self.lens.known) {
            *len = u32_of(segment.len + segment.rows)?;
        }
        Ok(())
    }

    pub fn positions(&self) -> &MlxBuffer {
        &self.positions
    }

    pub fn starts(&self) -> &MlxBuffer {
        self.starts.buffer()
    }

    pub fn lens(&self) -> &MlxBuffer {
        self.lens.buffer()
    }

    pub fn step(&self, group: usize) -> KvState<'_> {
        KvState {
            block_table: self.tables[group].buffer(),
            seq_starts: self.starts.buffer(),
            kv_lens: self.lens.buffer(),
        }
    }

    /// `0, 1, … slots - 1` for each row.
    pub fn own_ids(&self, slots: usize) -> Result<&MlxBuffer> {
        let found = self
            .own
            .iter()
            .find(|(n, _)| *n == slots)
            .map(|(_, buffer)| buffer);
        found.ok_or_else(|| LmError::InvalidArgument(format!("no ids for {slots} heads")))
    }
}
