//! What is written before each pass and read by its steps: ids, positions, and where the sequence's keys lie.

use mlx_native::ops::step::KvState;
use mlx_native::{DType, MlxBuffer, MlxDevice};

use super::number::u32_of;
use super::state::BLOCK;
use super::write_f32;
use crate::error::{LmError, Result};
use crate::spec::Temperature;

/// Small buffers of a pass.
#[derive(Debug)]
pub(super) struct Inputs {
    ids: MlxBuffer,
    positions: MlxBuffer,
    seq_starts: MlxBuffer,
    kv_lens: MlxBuffer,
    /// Block `i` of a sequence is block `i` of its pool.
    table: MlxBuffer,
    /// For stacks that are products of heads: the ids `0, 1, …` for each row.
    own: Vec<(usize, MlxBuffer)>,
    /// A factor for each row, one buffer a temperature.
    pub temperatures: Vec<MlxBuffer>,
}

impl Inputs {
    pub fn new(
        device: &MlxDevice,
        dtype: DType,
        rows: usize,
        temperatures: usize,
        own: &[usize],
    ) -> Result<Self> {
        let word = |n: usize| device.alloc_tensor(DType::U32, &[n]);
        let mut ids = Vec::new();
        for slots in own {
            let mut buffer = word(rows * slots)?;
            let pattern: Vec<u32> = (0..rows * slots)
                .map(|i| u32_of(i % slots))
                .collect::<Result<_>>()?;
            buffer.write(0, &pattern)?;
            ids.push((*slots, buffer));
        }
        Ok(Inputs {
            ids: word(rows)?,
            positions: word(rows)?,
            seq_starts: word(2)?,
            kv_lens: word(1)?,
            table: word(1)?,
            own: ids,
            temperatures: (0..temperatures)
                .map(|_| Ok(device.alloc_tensor(dtype, &[rows])?))
                .collect::<Result<_>>()?,
        })
    }

    /// Writes what a pass over `tokens` from position `start` on reads, with room for `capacity` positions in the table.
    pub fn write(
        &mut self,
        device: &MlxDevice,
        tokens: &[u32],
        start: usize,
        capacity: usize,
        temperatures: &[Temperature],
    ) -> Result<()> {
        let positions = start..start + tokens.len();
        let words: Vec<u32> = positions.clone().map(u32_of).collect::<Result<_>>()?;
        self.ids.write(0, tokens)?;
        self.positions.write(0, &words)?;
        self.seq_starts.write(0, &[0, u32_of(tokens.len())?])?;
        self.kv_lens.write(0, &[u32_of(positions.end)?])?;
        let blocks = capacity.div_ceil(BLOCK);
        if self.table.element_count() < blocks {
            let identity: Vec<u32> = (0..blocks).map(u32_of).collect::<Result<_>>()?;
            self.table = device.alloc_tensor(DType::U32, &[blocks])?;
            self.table.write(0, &identity)?;
        }
        for (t, buffer) in temperatures.iter().zip(&mut self.temperatures) {
            let factor = |p: usize| 1.0 + t.scale * (1.0 + ((p + t.shift) / t.every) as f32).ln();
            let factors: Vec<f32> = positions.clone().map(factor).collect();
            write_f32(buffer, &factors)?;
        }
        Ok(())
    }

    pub fn ids(&self) -> &MlxBuffer {
        &self.ids
    }

    pub fn positions(&self) -> &MlxBuffer {
        &self.positions
    }

    pub fn step(&self) -> KvState<'_> {
        KvState {
            block_table: &self.table,
            seq_starts: &self.seq_starts,
            kv_lens: &self.kv_lens,
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
