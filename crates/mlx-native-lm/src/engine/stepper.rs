//! The one place where the engine meets the network: rows of many sequences in, logits out.

use crate::error::Result;
pub(super) use crate::model::Wanted;
use crate::model::{self, Decoder, SequenceState};

/// Rows that are computed in one pass at most. Up to so many the kernels are those for few rows, which give a row the same bits
/// whatever stands beside it; from a dozen on it would be those for many.
const ROWS: usize = 8;
/// Next tokens of one sequence in a step at most, guesses included.
pub(super) const MOST_NEXT: usize = ROWS;

/// What one sequence does in a step.
pub(super) struct Rows<'a, S> {
    /// Those of a prompt, or the next one, with guesses of what follows it behind.
    pub tokens: &'a [u32],
    /// Whether they are next tokens: [`MOST_NEXT`] at most.
    pub is_next: bool,
    pub state: &'a mut S,
    pub wanted: Wanted,
}

/// A network that many sequences are fed to.
pub(super) trait Stepper {
    /// What it keeps of a sequence.
    type State;

    fn vocab_size(&self) -> usize;
    /// Tokens of one sequence in a step at most.
    fn chunk(&self) -> usize;
    /// Bytes that a state of so many positions takes.
    fn state_bytes(&self, positions: usize) -> usize;
    fn bytes(&self, state: &Self::State) -> usize;
    fn new_state(&mut self, positions: usize) -> Result<Self::State>;
    fn fork(&mut self, state: &Self::State) -> Result<Self::State>;
    /// Whether a state of `len` positions can go back to `kept`.
    fn can_truncate(&self, state: &Self::State, kept: usize) -> bool;
    fn truncate(&mut self, state: &mut Self::State, kept: usize) -> Result<()>;
    /// What a state keeps of 64 positions, as bytes for a file.
    fn page(&self, state: &Self::State, page: usize) -> Result<Vec<u8>>;
    /// Fills an empty state from the pages of a text; how many of them.
    fn restore(&mut self, state: &mut Self::State, pages: &[Vec<u8>]) -> Result<usize>;
    /// Whether the page at the end of a state has more than one in its middle.
    fn ends_matter(&self) -> bool;
    /// Computes the rows of every sequence: the logits that each wanted, or its error. What goes wrong with one does not touch
    /// the others.
    fn step(&mut self, rows: &mut [Rows<'_, Self::State>]) -> Vec<Result<Vec<f32>>>;
}

/// Rows through a [`Decoder`]: next tokens together, chunks of prompts each by itself.
pub(super) struct Passes {
    decoder: Decoder,
    /// Bytes of an empty state, and of each position.
    fixed_bytes: usize,
    position_bytes: usize,
    ends_matter: bool,
}

impl Passes {
    pub fn new(decoder: Decoder) -> Result<Self> {
        // Two sizes give the line that the others lie on, or below it where a layer has a window.
        const FEW: usize = 256;
        let bytes = |positions: usize| Ok::<_, crate::LmError>(decoder.new_state(positions)?.byte_len());
        let (few, more) = (bytes(FEW)?, bytes(2 * FEW)?);
        let position_bytes = more.saturating_sub(few).div_ceil(FEW);
        let empty = decoder.new_state(0)?;
        let ends_matter = empty.layers().any(|layer| layer.can_truncate(2, 1).is_err());
        drop(empty);
        Ok(Passes {
            ends_matter,
            decoder,
            fixed_bytes: few.saturating_sub(position_bytes * FEW),
            position_bytes,
        })
    }

    /// One pass. What it refuses as a whole is tried one by one, so that only those at fault fail.
    fn pass(&mut self, rows: &mut [&mut Rows<'_, SequenceState>]) -> Vec<Result<Vec<f32>>> {
        let result = {
            let mut wanted = Vec::with_capacity(rows.len());
            for row in rows.iter_mut() {
                wanted.push(model::Rows {
                    tokens: row.tokens,
                    wanted: row.wanted,
                    state: &mut *row.state,
                });
            }
            self.decoder.step(&mut wanted)
        };
        match result {
            Ok(logits) => logits.into_iter().map(Ok).collect(),
            Err(error) if rows.len() == 1 => vec![Err(error)],
            Err(_) => rows.chunks_mut(1).flat_map(|one| self.pass(one)).collect(),
        }
    }
}

impl Stepper for Passes {
    type State = SequenceState;

    fn vocab_size(&self) -> usize {
        self.decoder.spec().vocab_size
    }

    fn chunk(&self) -> usize {
        self.decoder.chunk()
    }

    fn state_bytes(&self, positions: usize) -> usize {
        let positions = positions.max(1).next_multiple_of(64);
        self.position_bytes
            .saturating_mul(positions)
            .saturating_add(self.fixed_bytes)
    }

    fn bytes(&self, state: &SequenceState) -> usize {
        state.byte_len()
    }

    fn new_state(&mut self, positions: usize) -> Result<SequenceState> {
        self.decoder.new_state(positions)
    }

    fn fork(&mut self, state: &SequenceState) -> Result<SequenceState> {
        Ok(state.fork())
    }

    fn can_truncate(&self, state: &SequenceState, kept: usize) -> bool {
        state.can_truncate(kept).is_ok()
    }

    fn truncate(&mut self, state: &mut SequenceState, kept: usize) -> Result<()> {
        state.truncate(kept)
    }

    fn page(&self, state: &SequenceState, page: usize) -> Result<Vec<u8>> {
        state.page(page)
    }

    fn restore(&mut self, state: &mut SequenceState, pages: &[Vec<u8>]) -> Result<usize> {
        // Pages are of states without anything reserved.
        *state = state.empty();
        state.restore(pages)
    }

    fn ends_matter(&self) -> bool {
        self.ends_matter
    }

    fn step(&mut self, rows: &mut [Rows<'_, SequenceState>]) -> Vec<Result<Vec<f32>>> {
        let mut results: Vec<Option<Result<Vec<f32>>>> = rows.iter().map(|_| None).collect();
        let (mut next, mut chunks) = (Vec::new(), Vec::new());
        for (index, row) in rows.iter_mut().enumerate() {
            if row.is_next {
                next.push((index, row));
            } else {
                chunks.push((index, row));
            }
        }
        let most = ROWS.min(self.decoder.chunk()).max(1);
        let mut run = |part: &mut [(usize, &mut Rows<'_, SequenceState>)]| {
            let indices: Vec<usize> = part.iter().map(|(index, _)| *index).collect();
            let mut rows: Vec<_> = part.iter_mut().map(|(_, row)| &mut **row).collect();
            for (index, result) in indices.into_iter().zip(self.pass(&mut rows)) {
                results[index] = Some(result);
            }
        };
        chunks.chunks_mut(1).for_each(&mut run);
        let mut rest = &mut next[..];
        while !rest.is_empty() {
            let mut room = most;
            let fit = rest.iter().take_while(|(_, row)| {
                let fits = row.tokens.len() <= room;
                room = room.saturating_sub(row.tokens.len());
                fits
            });
            let (part, behind) = rest.split_at_mut(fit.count().max(1));
            run(part);
            rest = behind;
        }
        let missing = || {
            Err(crate::LmError::InvalidArgument(
                "a step without a result".to_owned(),
            ))
        };
        results.into_iter().map(|r| r.unwrap_or_else(missing)).collect()
    }
}
