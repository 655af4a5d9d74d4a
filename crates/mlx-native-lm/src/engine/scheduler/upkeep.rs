//! What the engine does for prompts to come: answers are made part of the cache, and the cache part of the disk's.
//!
//! A state that an answer was generated with has its rows from the kernels for single tokens, whose bits are not those that a prompt
//! gets. So that the next turn of a chat finds the answer in the cache and still gets the bits that it would get without, the tokens of the
//! answer are computed again as a prompt is, in chunks of the grid, when nobody waits.

use super::super::stepper::{Rows, Stepper, Wanted};
use super::{GRID, Scheduler};
use crate::model::PAGE;

/// Texts that wait for it at most; the oldest are given up.
const MOST: usize = 8;

/// A text whose state is to be completed and kept.
pub(super) struct Upkeep<S> {
    tokens: Vec<u32>,
    salt: String,
    /// Behind the first `at` tokens, as a prompt would have them.
    state: S,
    at: usize,
    /// Up to where it is to be completed.
    end: usize,
    /// The next page for the disk.
    page: usize,
}

impl<P: Stepper> Scheduler<'_, P> {
    /// Notes that `state`, which is that of the first `at` tokens, may be completed up to `tokens` and written.
    pub(super) fn keep_up(&mut self, tokens: &[u32], salt: &str, state: &P::State, at: usize) {
        let end = (tokens.len() / GRID * GRID).max(at);
        if self.config.prompt_cache_entries == 0 || (end == at && self.disk.is_none()) {
            return;
        }
        let Ok(state) = self.stepper.fork(state) else {
            return;
        };
        self.upkeep.push_back(Upkeep {
            tokens: tokens[..end].to_vec(),
            salt: salt.to_owned(),
            state,
            at,
            end,
            page: 0,
        });
        if self.upkeep.len() > MOST {
            self.upkeep.pop_front();
        }
    }

    /// Does a piece of it: where the engine is `idle` whatever comes next, else only what costs little. Whether there was something
    /// to do.
    pub(super) fn do_upkeep(&mut self, idle: bool) -> bool {
        let Some(mut job) = self.upkeep.pop_front() else {
            return false;
        };
        if self.write_page(&mut job) {
            self.upkeep.push_front(job);
            return true;
        }
        if job.at >= job.end {
            return true;
        }
        if !idle {
            self.upkeep.push_back(job);
            return false;
        }
        if self.compute(&mut job) {
            self.upkeep.push_front(job);
        }
        true
    }

    /// Gives the next page that is complete to the disk; whether there was one.
    fn write_page(&mut self, job: &mut Upkeep<P::State>) -> bool {
        let Some(disk) = &self.disk else { return false };
        while (job.page + 1) * PAGE <= job.at {
            let is_last = (job.page + 1) * PAGE == job.at;
            // The end of a state may have a part that the page lacks when it was written in the middle of one.
            if disk.has(&job.tokens, &job.salt, job.page) && !(is_last && self.stepper.ends_matter()) {
                job.page += 1;
                continue;
            }
            // The disk is only asked for what it can take.
            let Ok(bytes) = self.stepper.page(&job.state, job.page) else {
                job.page += 1;
                continue;
            };
            if disk.write(&job.tokens, &job.salt, job.page, bytes) {
                job.page += 1;
                return true;
            }
            // It is behind: a moment for it, where there is nothing else to do.
            std::thread::sleep(std::time::Duration::from_millis(1));
            return true;
        }
        false
    }

    /// Computes the next chunk; whether the job goes on.
    fn compute(&mut self, job: &mut Upkeep<P::State>) -> bool {
        let room = self
            .stepper
            .state_bytes(job.end)
            .saturating_sub(self.stepper.bytes(&job.state));
        if self.bytes().saturating_add(room) > self.config.kv_bytes {
            return false;
        }
        let next = (job.at + GRID.min(self.stepper.chunk())).min(job.end);
        let mut rows = [Rows {
            tokens: &job.tokens[job.at..next],
            is_next: false,
            state: &mut job.state,
            wanted: Wanted::None,
        }];
        let is_done = self.stepper.step(&mut rows).pop().is_some_and(|r| r.is_ok());
        if !is_done {
            return false;
        }
        job.at = next;
        if job.at == job.end {
            let Ok(copy) = self.stepper.fork(&job.state) else {
                return true;
            };
            let bytes = self.stepper.bytes(&copy);
            let stepper = &self.stepper;
            let back = |state: &P::State, kept: usize| stepper.can_truncate(state, kept);
            self.cache
                .insert(job.tokens.clone(), &job.salt, copy, bytes, back);
            self.fit();
        }
        true
    }

    /// Writes what can be written before the end.
    pub(super) fn flush(&mut self) {
        let until = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while let Some(mut job) = self.upkeep.pop_front() {
            while std::time::Instant::now() < until && self.write_page(&mut job) {}
        }
        // Its thread ends when all that waits is written.
        self.disk = None;
    }

    /// A state with the beginning of `tokens` from the disk, when that has more than `known` of them.
    pub(super) fn take_from_disk(
        &mut self,
        tokens: &[u32],
        salt: &str,
        known: usize,
    ) -> Option<(P::State, usize)> {
        let disk = self.disk.as_ref()?;
        // One token is always computed.
        let most = tokens.len().saturating_sub(1) / PAGE * PAGE;
        let tokens = &tokens[..most];
        if disk.known(tokens, salt) * PAGE <= known {
            return None;
        }
        let pages = disk.read(tokens, salt);
        let mut state = self.stepper.new_state(most).ok()?;
        let n = match self.stepper.restore(&mut state, &pages) {
            Ok(n) if n * PAGE > known => n * PAGE,
            Ok(_) => return None,
            Err(error) => {
                tracing::warn!("a state from the prompt cache could not be taken up: {error}");
                return None;
            }
        };
        Some((state, n))
    }
}
