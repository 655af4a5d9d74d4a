//! What a template may use.

use std::cell::Cell;

use super::error::{Error, Res};

/// Steps of one rendering: an operation costs one, data that is made or looked through one for each 64 bytes. A chat of a
/// hundred messages takes some ten thousand, one of 500 KB with loops over all messages in each up to ten million.
/// Fewer in this crate's own tests, unoptimised as they are: what runs out of them takes a second there too.
const STEPS: u64 = if cfg!(test) { 12_000_000 } else { 50_000_000 };
/// Largest piece of data, in bytes.
const MAX_PIECE: usize = 64 << 20;
/// Most memory of texts and lists that live at one time, in bytes.
const MAX_LIVE: usize = 256 << 20;
/// Deepest nesting of expressions, statements and calls of macros at run time.
const MAX_DEPTH: u32 = 600;

thread_local! {
    /// Bytes of the texts and lists of this thread. A rendering has a thread of its own.
    static LIVE: Cell<usize> = const { Cell::new(0) };
}

/// What is left of it.
#[derive(Debug)]
pub(crate) struct Budget {
    steps: Cell<u64>,
    depth: Cell<u32>,
    most: u32,
}

impl Budget {
    /// All of it, and of the depth one `part`th.
    pub(crate) fn new(part: u32) -> Self {
        Budget {
            most: MAX_DEPTH / part.max(1),
            steps: Cell::new(STEPS),
            depth: Cell::new(0),
        }
    }

    pub(crate) fn add_live(bytes: usize) {
        // A value may be dropped when the thread's own values are gone already.
        let _ = LIVE.try_with(|live| live.set(live.get().saturating_add(bytes)));
    }

    pub(crate) fn remove_live(bytes: usize) {
        let _ = LIVE.try_with(|live| live.set(live.get().saturating_sub(bytes)));
    }

    /// One operation.
    pub(crate) fn step(&self) -> Res<()> {
        self.take(1)
    }

    /// Data of so many bytes, before it is made or looked through.
    pub(crate) fn charge(&self, bytes: usize) -> Res<()> {
        if bytes > MAX_PIECE {
            return Err(Error::new(format!(
                "found data of {bytes} bytes, wanted at most {MAX_PIECE} in one piece"
            )));
        }
        self.take(1 + bytes as u64 / 64)
    }

    fn take(&self, steps: u64) -> Res<()> {
        let left = self.steps.get().checked_sub(steps);
        let Some(left) = left else {
            self.steps.set(0);
            return Err(Error::new(format!("takes more than {STEPS} steps")));
        };
        self.steps.set(left);
        if LIVE.with(Cell::get) > MAX_LIVE {
            return Err(Error::new(format!("takes more than {MAX_LIVE} bytes of memory")));
        }
        Ok(())
    }

    /// One level deeper; [`leave`](Self::leave) goes back.
    pub(crate) fn enter(&self) -> Res<()> {
        let depth = self.depth.get() + 1;
        if depth > self.most {
            return Err(Error::too_deep(format!(
                "recursion: found more than {} levels of calls and expressions",
                self.most
            )));
        }
        self.depth.set(depth);
        self.step()
    }

    pub(crate) fn leave(&self) {
        self.depth.set(self.depth.get().saturating_sub(1));
    }
}
