//! What a group of layers keeps of a sequence, by what it can forget.

use std::fmt::Debug;
use std::ops::Range;

use super::BLOCK;
use crate::error::{LmError, Result};

/// What the layers of one group keep of a sequence, counted in blocks of the pool. What differs between the kinds is what
/// they can forget: keys and values any number of last positions, a ring as many as it still has the predecessors of, a
/// recurrent state none.
pub trait LayerState: Debug + Send + Sync {
    /// Blocks that `len` positions take.
    fn blocks_for(&self, len: usize) -> usize;

    /// Blocks, by their place in the table, that are written when `positions` are appended.
    fn written(&self, positions: Range<usize>) -> Vec<usize>;

    /// Whether the state of `len` positions can become that of the first `kept` of them.
    ///
    /// # Errors
    /// [`LmError::InvalidArgument`], saying why not.
    fn can_truncate(&self, len: usize, kept: usize) -> Result<()>;

    /// Forgets everything from position `kept` on, [`can_truncate`](Self::can_truncate) having agreed; gives the number of
    /// blocks that are still needed.
    fn truncate(&mut self, kept: usize) -> usize;

    /// A step has been computed that ends at position `len`.
    fn advance(&mut self, len: usize);

    /// The first position that is still there, of `len`.
    fn oldest(&self, _len: usize) -> usize {
        0
    }

    /// The state was taken up from elsewhere, with the positions from `first` on.
    fn restored(&mut self, _first: usize) {}

    /// The same state of another sequence.
    fn fork(&self) -> Box<dyn LayerState>;
}

/// Keys and values of all positions: position `p` is in block `p / 64` of the table.
#[derive(Debug, Clone)]
pub struct PagedKv;

/// Keys and values of the last positions, in a ring: position `p` is in block `p / 64 mod ring` of the table.
#[derive(Debug, Clone)]
pub struct RotatingKv {
    window: usize,
    /// Blocks of the ring.
    ring: usize,
    /// Positions ever held: what is behind the ring's tail is gone.
    written: usize,
}

/// The state of a recurrence, one block: it knows one position, the last.
#[derive(Debug, Clone)]
pub struct Recurrent;

impl RotatingKv {
    pub(super) fn new(window: usize, ring: usize) -> Self {
        RotatingKv {
            window,
            ring,
            written: 0,
        }
    }
}

impl LayerState for PagedKv {
    fn blocks_for(&self, len: usize) -> usize {
        len.div_ceil(BLOCK)
    }

    fn written(&self, positions: Range<usize>) -> Vec<usize> {
        (positions.start / BLOCK..positions.end.div_ceil(BLOCK)).collect()
    }

    fn can_truncate(&self, _len: usize, _kept: usize) -> Result<()> {
        Ok(())
    }

    fn truncate(&mut self, kept: usize) -> usize {
        self.blocks_for(kept)
    }

    fn advance(&mut self, _len: usize) {}

    fn fork(&self) -> Box<dyn LayerState> {
        Box::new(self.clone())
    }
}

impl LayerState for RotatingKv {
    fn blocks_for(&self, len: usize) -> usize {
        len.div_ceil(BLOCK).min(self.ring)
    }

    fn written(&self, positions: Range<usize>) -> Vec<usize> {
        let blocks = positions.start / BLOCK..positions.end.div_ceil(BLOCK);
        let mut places: Vec<usize> = blocks.take(self.ring).map(|b| b % self.ring).collect();
        places.sort_unstable();
        places
    }

    fn can_truncate(&self, len: usize, kept: usize) -> Result<()> {
        // The window before `kept` must not have been overwritten.
        let oldest = self.oldest(len);
        if kept.saturating_sub(self.window.saturating_sub(1)) >= oldest {
            return Ok(());
        }
        Err(LmError::InvalidArgument(format!(
            "a cache of {len} positions cannot go back to {kept}: a layer keeps a window of {}, and has them from {oldest} on",
            self.window
        )))
    }

    fn truncate(&mut self, kept: usize) -> usize {
        // Once the ring has turned, any of its blocks may hold a position that is still seen.
        if self.written <= self.ring * BLOCK {
            self.written = self.written.min(kept);
            self.blocks_for(kept)
        } else {
            self.ring
        }
    }

    fn advance(&mut self, len: usize) {
        self.written = self.written.max(len);
    }

    fn oldest(&self, len: usize) -> usize {
        self.written.max(len).saturating_sub(self.ring * BLOCK)
    }

    fn restored(&mut self, first: usize) {
        // As if what is not there had been overwritten.
        if first > 0 {
            self.written = self.written.max(first + self.ring * BLOCK);
        }
    }

    fn fork(&self) -> Box<dyn LayerState> {
        Box::new(self.clone())
    }
}

impl LayerState for Recurrent {
    fn blocks_for(&self, _len: usize) -> usize {
        1
    }

    fn written(&self, _positions: Range<usize>) -> Vec<usize> {
        vec![0]
    }

    fn can_truncate(&self, len: usize, kept: usize) -> Result<()> {
        if kept == 0 || kept == len {
            return Ok(());
        }
        Err(LmError::InvalidArgument(format!(
            "a state of {len} positions cannot go back to {kept}: a layer is recurrent and knows the last position only"
        )))
    }

    fn truncate(&mut self, _kept: usize) -> usize {
        // To the beginning: the next block begins with zeros.
        0
    }

    fn advance(&mut self, _len: usize) {}

    fn fork(&self) -> Box<dyn LayerState> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_goes_back_as_far_as_it_still_has_the_window() {
        // Four blocks of 64 for a window of 100.
        let mut ring = RotatingKv::new(100, 4);
        assert_eq!(ring.blocks_for(65), 2);
        assert_eq!(ring.blocks_for(10_000), 4);
        assert_eq!(ring.written(0..64), [0]);
        assert_eq!(ring.written(250..260), [0, 3]);
        assert_eq!(ring.written(0..1000), [0, 1, 2, 3]);
        ring.advance(256);
        assert!(ring.can_truncate(256, 0).is_ok(), "nothing was overwritten");
        ring.advance(300);
        // Positions from 44 on are there; position 143 sees 44 to 143.
        assert!(ring.can_truncate(300, 143).is_ok());
        let error = ring.can_truncate(300, 142).unwrap_err().to_string();
        assert!(
            error.contains("142") && error.contains("window of 100"),
            "{error}"
        );
        assert_eq!(ring.truncate(150), 4, "a block that has turned is kept");
        // Going back does not bring back what was overwritten.
        assert!(ring.can_truncate(150, 142).is_err());
        let mut short = RotatingKv::new(100, 4);
        short.advance(200);
        assert_eq!(short.truncate(70), 2);
    }

    #[test]
    fn the_other_kinds_go_back_anywhere_and_nowhere() {
        assert!(PagedKv.can_truncate(1000, 3).is_ok());
        assert_eq!(PagedKv.truncate(65), 2);
        assert_eq!(PagedKv.written(63..65), [0, 1]);
        assert!(Recurrent.can_truncate(9, 8).is_err());
        assert!(Recurrent.can_truncate(9, 0).is_ok());
        assert_eq!((Recurrent.blocks_for(0), Recurrent.blocks_for(99)), (1, 1));
    }
}
