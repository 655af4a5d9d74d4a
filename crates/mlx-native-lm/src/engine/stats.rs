//! What the engine counts.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use super::event::StopReason;

/// Numbers of an engine since it started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// Requests that wait to be taken up.
    pub waiting: usize,
    /// Texts that are computed at the moment.
    pub running: usize,
    /// Bytes of keys, values and other states, those of the cache included.
    pub kv_bytes: usize,
    /// The limit of these.
    pub kv_limit: usize,
    /// Texts in the prompt cache.
    pub cache_entries: usize,
    /// Tokens of prompts that were looked up in the cache.
    pub cache_queried: u64,
    /// Those that it had.
    pub cache_hits: u64,
    /// Tokens of prompts computed.
    pub prompt_tokens: u64,
    /// Tokens generated.
    pub generated_tokens: u64,
    /// Texts that ended by themselves.
    pub finished_stop: u64,
    /// Texts that ended by their length.
    pub finished_length: u64,
    /// Texts that nobody waited for any more.
    pub cancelled: u64,
    /// Texts that failed.
    pub failed: u64,
    /// Texts that had to wait in the middle, for want of memory.
    pub preemptions: u64,
    /// Tokens that were guessed, to be computed together.
    pub guessed: u64,
    /// Those of them that came.
    pub guessed_right: u64,
    /// Steps.
    pub steps: u64,
    /// Steps of at most so many tokens as [`STEP_BOUNDS`] says.
    pub step_sizes: [u64; STEP_BOUNDS.len()],
    /// Tokens of all steps.
    pub step_tokens: u64,
}

/// Upper bounds of the tokens of a step.
pub const STEP_BOUNDS: [u64; 10] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512];

#[derive(Debug, Default)]
pub(super) struct Shared {
    waiting: AtomicUsize,
    running: AtomicUsize,
    kv_bytes: AtomicUsize,
    cache_entries: AtomicUsize,
    cache_queried: AtomicU64,
    cache_hits: AtomicU64,
    prompt_tokens: AtomicU64,
    generated_tokens: AtomicU64,
    finished_stop: AtomicU64,
    finished_length: AtomicU64,
    cancelled: AtomicU64,
    failed: AtomicU64,
    preemptions: AtomicU64,
    guessed: AtomicU64,
    guessed_right: AtomicU64,
    steps: AtomicU64,
    step_sizes: [AtomicU64; STEP_BOUNDS.len()],
    step_tokens: AtomicU64,
}

impl Shared {
    /// A place in a queue of `most`, or how many wait.
    pub fn enter_queue(&self, most: usize) -> Result<(), usize> {
        let enter = |n: usize| (n < most).then_some(n + 1);
        self.waiting.fetch_update(Relaxed, Relaxed, enter).map(drop)
    }

    pub fn left_queue(&self) {
        let _ = self.waiting.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1));
    }

    pub fn count_lookup(&self, queried: usize, hits: usize) {
        self.cache_queried.fetch_add(queried as u64, Relaxed);
        self.cache_hits.fetch_add(hits as u64, Relaxed);
    }

    pub fn count_prompt(&self, tokens: usize) {
        self.prompt_tokens.fetch_add(tokens as u64, Relaxed);
    }

    pub fn count_generated(&self, tokens: usize) {
        self.generated_tokens.fetch_add(tokens as u64, Relaxed);
    }

    pub fn count_finished(&self, reason: &StopReason) {
        let counter = match reason {
            StopReason::Length => &self.finished_length,
            _ => &self.finished_stop,
        };
        counter.fetch_add(1, Relaxed);
    }

    pub fn count_cancelled(&self, n: usize) {
        self.cancelled.fetch_add(n as u64, Relaxed);
    }

    pub fn count_failed(&self) {
        self.failed.fetch_add(1, Relaxed);
    }

    pub fn count_preemption(&self) {
        self.preemptions.fetch_add(1, Relaxed);
    }

    pub fn count_guesses(&self, guessed: usize, right: usize) {
        self.guessed.fetch_add(guessed as u64, Relaxed);
        self.guessed_right.fetch_add(right as u64, Relaxed);
    }

    pub fn count_step(&self, tokens: usize) {
        let tokens = tokens as u64;
        self.steps.fetch_add(1, Relaxed);
        self.step_tokens.fetch_add(tokens, Relaxed);
        for (_, size) in STEP_BOUNDS
            .iter()
            .zip(&self.step_sizes)
            .filter(|(bound, _)| tokens <= **bound)
        {
            size.fetch_add(1, Relaxed);
        }
    }

    pub fn set_gauges(&self, running: usize, kv_bytes: usize, cache_entries: usize) {
        self.running.store(running, Relaxed);
        self.kv_bytes.store(kv_bytes, Relaxed);
        self.cache_entries.store(cache_entries, Relaxed);
    }

    pub fn snapshot(&self, kv_limit: usize) -> EngineStats {
        EngineStats {
            waiting: self.waiting.load(Relaxed),
            running: self.running.load(Relaxed),
            kv_bytes: self.kv_bytes.load(Relaxed),
            kv_limit,
            cache_entries: self.cache_entries.load(Relaxed),
            cache_queried: self.cache_queried.load(Relaxed),
            cache_hits: self.cache_hits.load(Relaxed),
            prompt_tokens: self.prompt_tokens.load(Relaxed),
            generated_tokens: self.generated_tokens.load(Relaxed),
            finished_stop: self.finished_stop.load(Relaxed),
            finished_length: self.finished_length.load(Relaxed),
            cancelled: self.cancelled.load(Relaxed),
            failed: self.failed.load(Relaxed),
            preemptions: self.preemptions.load(Relaxed),
            guessed: self.guessed.load(Relaxed),
            guessed_right: self.guessed_right.load(Relaxed),
            steps: self.steps.load(Relaxed),
            step_sizes: std::array::from_fn(|i| self.step_sizes[i].load(Relaxed)),
            step_tokens: self.step_tokens.load(Relaxed),
        }
    }
}
