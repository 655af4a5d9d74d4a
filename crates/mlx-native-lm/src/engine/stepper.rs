//! The one place where the engine meets the network: rows of many sequences in, logits out.

use crate::error::Result;
use crate::model::{Decoder, SequenceState};

/// Which rows of logits are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    None,
    Last,
    All,
}

/// What one sequence does in a step.
pub(super) struct Rows<'a, S> {
    pub tokens: &'a [u32],
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
    /// Computes the rows of every sequence: the logits that each wanted, or its error. What goes wrong with one does not touch
    /// the others.
    fn step(&mut self, rows: &mut [Rows<'_, Self::State>]) -> Vec<Result<Vec<f32>>>;
}

/// Sequence after sequence through a [`Decoder`].
pub(super) struct OneByOne {
    decoder: Decoder,
    /// Bytes of an empty state, and of each position.
    fixed_bytes: usize,
    position_bytes: usize,
}

impl OneByOne {
    pub fn new(decoder: Decoder) -> Result<Self> {
        // Two sizes give the line that the others lie on, or below it where a layer has a window.
        const FEW: usize = 256;
        let (few, more) = (
            decoder.new_state(FEW)?.byte_len(),
            decoder.new_state(2 * FEW)?.byte_len(),
        );
        let position_bytes = more.saturating_sub(few).div_ceil(FEW);
        Ok(OneByOne {
            decoder,
            fixed_bytes: few.saturating_sub(position_bytes * FEW),
            position_bytes,
        })
    }
}

impl Stepper for OneByOne {
    type State = SequenceState;

    fn vocab_size(&self) -> usize {
        self.decoder.spec().vocab_size
    }

    fn chunk(&self) -> usize {
        self.decoder.chunk()
    }

    fn state_bytes(&self, positions: usize) -> usize {
        let positions = positions.max(1).next_multiple_of(256);
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
        state.fork(self.decoder.device())
    }

    fn can_truncate(&self, state: &SequenceState, kept: usize) -> bool {
        kept >= state.len() || state.layers().all(|l| l.can_truncate(state.len(), kept).is_ok())
    }

    fn truncate(&mut self, state: &mut SequenceState, kept: usize) -> Result<()> {
        state.truncate(kept)
    }

    fn step(&mut self, rows: &mut [Rows<'_, SequenceState>]) -> Vec<Result<Vec<f32>>> {
        let decoder = &mut self.decoder;
        let mut one = |row: &mut Rows<'_, SequenceState>| match row.wanted {
            Wanted::None => decoder.feed(row.tokens, row.state).map(|()| Vec::new()),
            Wanted::Last => decoder.forward(row.tokens, row.state),
            Wanted::All => decoder.forward_all(row.tokens, row.state),
        };
        rows.iter_mut().map(&mut one).collect()
    }
}
