//! The thread that owns the device: which rows each step computes, and what becomes of them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Instant;

use super::EngineConfig;
use super::disk::DiskCache;
use super::event::{Event, StopReason};
use super::guess::look_back;
use super::prefix::PrefixCache;
use super::sequence::{Job, Sequence};
use super::stats::Shared;
use super::stepper::{MOST_NEXT, Rows, Stepper, Wanted};
use crate::error::Result;
use crate::model::PAGE;
use crate::tokenizer::Tokenizer;

mod draft;
mod upkeep;

pub(super) use draft::Draft;
use upkeep::Upkeep;

/// Positions that are reserved for an answer when its prompt is taken up; a longer one gets more as it grows.
const RESERVE: usize = 1024;
/// Prompts are computed in chunks that begin at multiples of this, whoever else is there, and cached up to such a multiple. Sums of a
/// row may depend on how many rows are computed with it, so this is what makes a text the same in company, alone and after a
/// cached beginning.
const GRID: usize = 32;
/// What a step may spend on prompts while others wait for their next token, as a multiple of the time that those take.
const PREFILL_SHARE: f64 = 1.0;

/// What the thread is told.
pub(super) enum Command {
    Take(Box<Job>),
    Stop,
}

/// Seconds that rows take, as a moving average.
#[derive(Debug, Default, Clone, Copy)]
struct Pace {
    decode_step: f64,
    prefill_token: f64,
}

fn blend(average: &mut f64, seconds: f64) {
    *average = if *average == 0.0 {
        seconds
    } else {
        0.8 * *average + 0.2 * seconds
    };
}

pub(super) struct Scheduler<'t, P: Stepper> {
    stepper: P,
    /// A smaller model, which guesses.
    drafter: Option<P>,
    tokenizer: &'t Tokenizer,
    eos: Vec<u32>,
    config: EngineConfig,
    shared: Arc<Shared>,
    waiting: VecDeque<Sequence<'t, P::State>>,
    running: Vec<Sequence<'t, P::State>>,
    cache: PrefixCache<P::State>,
    disk: Option<DiskCache>,
    upkeep: VecDeque<Upkeep<P::State>>,
    pace: Pace,
}

/// What a sequence does in the coming step: how many tokens from where it stands.
struct Plan {
    index: usize,
    count: usize,
    wanted: Wanted,
}

impl<'t, P: Stepper> Scheduler<'t, P> {
    pub fn new(
        stepper: P,
        tokenizer: &'t Tokenizer,
        eos: Vec<u32>,
        config: EngineConfig,
        shared: Arc<Shared>,
        disk: Option<DiskCache>,
    ) -> Self {
        Scheduler {
            stepper,
            drafter: None,
            tokenizer,
            eos,
            cache: PrefixCache::new(config.prompt_cache_entries, GRID),
            config,
            shared,
            waiting: VecDeque::new(),
            running: Vec::new(),
            disk,
            upkeep: VecDeque::new(),
            pace: Pace::default(),
        }
    }

    /// With a smaller model that guesses.
    pub fn with_drafter(mut self, drafter: Option<P>) -> Self {
        self.drafter = drafter;
        self
    }

    /// Works until it is told to stop, or nobody is left who could say so.
    pub fn run(mut self, commands: &Receiver<Command>) {
        loop {
            let idle = self.waiting.is_empty() && self.running.is_empty();
            let command = if idle && self.upkeep.is_empty() {
                commands.recv().map_err(|_| TryRecvError::Disconnected)
            } else {
                commands.try_recv()
            };
            match command {
                Ok(Command::Take(job)) => {
                    self.take(*job);
                    continue;
                }
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => break,
                Err(TryRecvError::Empty) => {}
            }
            self.do_upkeep(idle);
            self.drop_gone();
            self.admit();
            self.step();
            self.report();
        }
        self.flush();
    }

    fn take(&mut self, job: Job) {
        let job = Arc::new(job);
        match Sequence::new(job.clone(), self.tokenizer, self.stepper.vocab_size()) {
            Ok(sequence) => self.waiting.push_back(sequence),
            Err(error) => {
                job.sender.send(Event::Failed(error.to_string()));
                self.shared.left_queue();
            }
        }
    }

    /// Forgets the requests that nobody waits for any more.
    fn drop_gone(&mut self) {
        let before = self.waiting.len();
        let shared = &self.shared;
        self.waiting.retain(|s| {
            let gone = s.job.sender.is_gone();
            if gone && s.is_new() {
                shared.left_queue();
            }
            !gone
        });
        self.shared.count_cancelled(before - self.waiting.len());
        let mut index = 0;
        while index < self.running.len() {
            if self.running[index].job.sender.is_gone() {
                let sequence = self.running.swap_remove(index);
                self.shared.count_cancelled(1);
                self.keep(sequence);
            } else {
                index += 1;
            }
        }
    }

    /// Bytes of all states, those of the cache included.
    fn bytes(&self) -> usize {
        let states = self.running.iter().filter_map(|s| s.state.as_ref());
        let drafts = self.running.iter().filter_map(|s| s.draft.as_ref());
        self.cache.bytes()
            + states.map(|s| self.stepper.bytes(s)).sum::<usize>()
            + drafts.map(|d| self.stepper.bytes(&d.state)).sum::<usize>()
    }

    /// Lets go of something that nobody waits for; whether there was something.
    fn forget_some(&mut self) -> bool {
        self.upkeep.clear();
        self.cache.evict()
    }

    /// Takes up waiting requests, in their order, as long as there is room.
    fn admit(&mut self) {
        while self.running.len() < self.config.max_sequences {
            let Some(next) = self.waiting.front() else { return };
            let n = next.job.request.n.max(1);
            let room = next.tokens.len() + next.left().min(RESERVE);
            let needed = self.stepper.state_bytes(room).saturating_mul(n);
            while self.bytes().saturating_add(needed) > self.config.kv_bytes && self.forget_some() {}
            let fits = self.bytes().saturating_add(needed) <= self.config.kv_bytes;
            if !fits && !self.running.is_empty() {
                return;
            }
            let Some(mut sequence) = self.waiting.pop_front() else {
                return;
            };
            if sequence.is_new() {
                self.shared.left_queue();
            }
            sequence.admit();
            match self.begin(&mut sequence, room) {
                Ok(()) => self.running.push(sequence),
                Err(error) => {
                    sequence.job.sender.send(Event::Failed(error.to_string()));
                }
            }
        }
    }

    /// Gives a sequence a state: what the cache knows of its tokens, or an empty one.
    fn begin(&mut self, sequence: &mut Sequence<'t, P::State>, room: usize) -> Result<()> {
        let request = &sequence.job.request;
        let prompt_len = sequence.prompt_len();
        if request.use_cache && request.prompt_logprobs.is_none() {
            let job = sequence.job.clone();
            let found = self.known_state(&job.request.prompt, &job.request.cache_salt)?;
            self.shared
                .count_lookup(prompt_len, found.as_ref().map_or(0, |(_, n)| *n));
            if let Some((state, known)) = found {
                sequence.state = Some(state);
                sequence.fed = known;
                sequence.cached = known.min(prompt_len);
                return Ok(());
            }
        }
        sequence.state = Some(self.stepper.new_state(room)?);
        sequence.fed = 0;
        Ok(())
    }

    /// A state of its own with as much of the beginning of `prompt` as memory or disk know, and how much that is.
    fn known_state(&mut self, prompt: &[u32], salt: &str) -> Result<Option<(P::State, usize)>> {
        let in_memory = {
            let stepper = &self.stepper;
            let back = |state: &P::State, kept: usize| stepper.can_truncate(state, kept);
            self.cache.find(prompt, salt, back).map_or(0, |(_, n)| n)
        };
        if let Some(found) = self.take_from_disk(prompt, salt, in_memory) {
            return Ok(Some(found));
        }
        let stepper = &mut self.stepper;
        let found = {
            let back = |state: &P::State, kept: usize| stepper.can_truncate(state, kept);
            self.cache.find(prompt, salt, back)
        };
        let Some((state, known)) = found else {
            return Ok(None);
        };
        let mut state = stepper.fork(state)?;
        stepper.truncate(&mut state, known)?;
        Ok(Some((state, known)))
    }

    /// What the coming step computes: every sequence's next token, and prompts within a budget, those that had least first.
    fn plan(&self) -> Vec<Plan> {
        let mut plans = Vec::new();
        let mut prompts = Vec::new();
        for (index, sequence) in self.running.iter().enumerate() {
            if sequence.is_decoding() {
                let guesses = sequence.guesses.len();
                plans.push(Plan {
                    index,
                    count: 1 + guesses,
                    wanted: if guesses > 0 { Wanted::All } else { Wanted::Last },
                });
            } else {
                prompts.push(index);
            }
        }
        let mut budget = self.budget(!plans.is_empty());
        prompts.sort_by_key(|index| (self.running[*index].served, *index));
        for index in prompts {
            if budget == 0 {
                break;
            }
            let plan = self.chunk_of(index);
            budget -= plan.count.min(budget);
            plans.push(plan);
        }
        plans
    }

    /// Tokens of prompts in this step: as many as take no longer than the texts that wait for their next token, and a chunk at least.
    fn budget(&self, others_wait: bool) -> usize {
        let most = self.config.prefill_tokens.max(1);
        let Pace {
            decode_step,
            prefill_token,
        } = self.pace;
        if !others_wait {
            return most;
        }
        if decode_step == 0.0 || prefill_token == 0.0 {
            return 1;
        }
        let affordable = PREFILL_SHARE * decode_step / prefill_token;
        (affordable as usize).clamp(1, most)
    }

    /// From where a sequence stands to the next multiple of the grid, or to the end of its prompt. What was generated and has to be
    /// computed again is computed as it was: token by token.
    fn chunk_of(&self, index: usize) -> Plan {
        let sequence = &self.running[index];
        let grid = GRID.min(self.stepper.chunk());
        let fed = sequence.fed;
        let end = match sequence.prompt_len() {
            prompt if fed < prompt => prompt.min((fed / grid + 1) * grid),
            _ => fed + 1,
        };
        let wanted = if sequence.wants_all() {
            Wanted::All
        } else if end == sequence.tokens.len() {
            Wanted::Last
        } else {
            Wanted::None
        };
        Plan {
            index,
            count: end - fed,
            wanted,
        }
    }

    fn goes_back(&self, state: &P::State, len: usize) -> bool {
        len == 0 || self.stepper.can_truncate(state, len - 1)
    }

    fn step(&mut self) {
        self.guess();
        let plans = self.plan();
        if plans.is_empty() {
            return;
        }
        let mut by_index: Vec<Option<&Plan>> = vec![None; self.running.len()];
        for plan in &plans {
            by_index[plan.index] = Some(plan);
        }
        self.shared.count_step(plans.iter().map(|plan| plan.count).sum());
        let start = Instant::now();
        let mut rows = Vec::with_capacity(plans.len());
        let mut order = Vec::with_capacity(plans.len());
        // A next token with its guesses lies in one piece.
        let pieces: Vec<Vec<u32>> = self
            .running
            .iter()
            .map(|s| s.tokens.iter().rev().take(1).chain(&s.guesses).copied().collect())
            .collect();
        for (index, sequence) in self.running.iter_mut().enumerate() {
            let is_next = sequence.is_decoding();
            if let (Some(plan), Some(state)) = (by_index[index], sequence.state.as_mut()) {
                rows.push(Rows {
                    tokens: match is_next {
                        true => &pieces[index],
                        false => &sequence.tokens[sequence.fed..sequence.fed + plan.count],
                    },
                    is_next,
                    state,
                    wanted: plan.wanted,
                });
                order.push((index, plan.count, plan.wanted, is_next));
            }
        }
        let results = self.stepper.step(&mut rows);
        drop(rows);
        self.measure(start.elapsed().as_secs_f64(), &order);
        let mut ended = Vec::new();
        for ((index, count, wanted, is_next), result) in order.into_iter().zip(results) {
            let outcome = match result {
                Ok(logits) if is_next => self.after_next(index, logits),
                Ok(logits) => self.after(index, count, wanted, logits),
                Err(error) => Err(error.to_string()),
            };
            match outcome {
                Ok(None) => {}
                Ok(Some(reason)) => ended.push((index, Ok(reason))),
                Err(message) => ended.push((index, Err(message))),
            }
        }
        // From behind, so that the places of the others stay.
        ended.sort_by_key(|(index, _)| std::cmp::Reverse(*index));
        for (index, end) in ended {
            let sequence = self.running.swap_remove(index);
            self.finish(sequence, end);
        }
        self.fit();
    }

    fn measure(&mut self, seconds: f64, order: &[(usize, usize, Wanted, bool)]) {
        let decoding = order.iter().filter(|(.., is_next)| *is_next).count();
        let prompts: usize = order
            .iter()
            .filter(|(.., is_next)| !is_next)
            .map(|(_, count, ..)| *count)
            .sum();
        if prompts == 0 {
            blend(&mut self.pace.decode_step, seconds);
        } else {
            let share = if decoding > 0 { self.pace.decode_step } else { 0.0 };
            blend(
                &mut self.pace.prefill_token,
                (seconds - share).max(1e-7) / prompts as f64,
            );
        }
    }

    /// Guesses what follows the last tokens, where few texts share the machine.
    fn guess(&mut self) {
        let decoding = self.running.iter().filter(|s| s.is_decoding()).count();
        let room = (MOST_NEXT / decoding.max(1))
            .min(self.stepper.chunk())
            .saturating_sub(1);
        let most = self.config.prompt_lookup.min(room);
        let drafted = match self.drafter {
            Some(_) => self.config.draft_tokens.min(room),
            None => 0,
        };
        let goes_back = !self.stepper.ends_matter();
        let mut wanted = Vec::new();
        for (index, sequence) in self.running.iter_mut().enumerate() {
            sequence.guesses.clear();
            if most.max(drafted) > 0 && goes_back && sequence.is_decoding() && sequence.luck.is_on() {
                let left = sequence.left().saturating_sub(1);
                sequence.guesses = look_back(&sequence.tokens, most.min(left)).to_vec();
                if sequence.guesses.is_empty() && drafted.min(left) > 0 {
                    wanted.push((index, drafted.min(left)));
                }
            }
        }
        self.draft(&wanted);
    }

    /// The next token of a sequence was computed, and what was guessed to follow: as many are chosen as were guessed right, and one
    /// more. Why its text has ended, where it has.
    fn after_next(
        &mut self,
        index: usize,
        mut logits: Vec<f32>,
    ) -> std::result::Result<Option<StopReason>, String> {
        let vocab = self.stepper.vocab_size();
        let (eos, stepper) = (&self.eos, &mut self.stepper);
        let sequence = &mut self.running[index];
        let guesses = std::mem::take(&mut sequence.guesses);
        let (mut right, mut end) = (0, None);
        for row in logits.chunks_exact_mut(vocab) {
            sequence.fed += 1;
            self.shared.count_generated(1);
            end = sequence.choose(row, eos)?;
            if end.is_some()
                || guesses
                    .get(right)
                    .is_none_or(|guess| Some(guess) != sequence.tokens.last())
            {
                break;
            }
            right += 1;
        }
        if !guesses.is_empty() {
            sequence.luck.count(guesses.len(), right);
            self.shared.count_guesses(guesses.len(), right);
            if let Some(state) = &mut sequence.state {
                stepper.truncate(state, sequence.fed).map_err(|e| e.to_string())?;
            }
        }
        Ok(end)
    }

    /// Rows of a sequence were computed. Why its text has ended, where it has.
    fn after(
        &mut self,
        index: usize,
        count: usize,
        wanted: Wanted,
        mut logits: Vec<f32>,
    ) -> std::result::Result<Option<StopReason>, String> {
        let vocab = self.stepper.vocab_size();
        let sequence = &mut self.running[index];
        if wanted == Wanted::All {
            sequence.take_prompt_logits(&logits, count);
        }
        sequence.fed += count;
        sequence.served += count;
        self.shared.count_prompt(count);
        self.snapshot(index);
        let sequence = &mut self.running[index];
        if sequence.fed < sequence.tokens.len() {
            return Ok(None);
        }
        if wanted == Wanted::All {
            logits.drain(..logits.len() - vocab);
        }
        if sequence.fed == sequence.prompt_len() && sequence.index() == 0 {
            sequence.announce();
            self.branch(index, &logits)?;
        }
        self.shared.count_generated(1);
        let eos = &self.eos;
        self.running[index].choose(&mut logits, eos)
    }

    /// Keeps the state of a prompt that later ones cannot go back to.
    fn snapshot(&mut self, index: usize) {
        let sequence = &self.running[index];
        // At the end of a page where it goes to disk.
        let grid = if self.disk.is_some() { PAGE.max(GRID) } else { GRID };
        let at = (sequence.prompt_len() - 1) / grid * grid;
        let Some(state) = sequence.state.as_ref() else {
            return;
        };
        let request = &sequence.job.request;
        if sequence.fed != at || at == 0 || !request.use_cache || self.goes_back(state, at) {
            return;
        }
        // A cache that has no memory for a copy goes without.
        if let Ok(copy) = self.stepper.fork(state) {
            let (bytes, tokens) = (self.stepper.bytes(&copy), sequence.known().to_vec());
            let job = sequence.job.clone();
            let salt = &job.request.cache_salt;
            self.keep_up(&tokens, salt, &copy, at);
            let back = |state: &P::State, kept: usize| self.stepper.can_truncate(state, kept);
            self.cache.insert(tokens, salt, copy, bytes, back);
        }
    }

    /// The other choices of a request, once its prompt is computed.
    fn branch(&mut self, index: usize, logits: &[f32]) -> std::result::Result<(), String> {
        let n = self.running[index].job.request.n;
        for choice in 1..n {
            let vocab = self.stepper.vocab_size();
            let first = &self.running[index];
            let Some(state) = &first.state else { return Ok(()) };
            let state = self.stepper.fork(state).map_err(|e| e.to_string())?;
            let mut sibling = first
                .sibling(choice, state, self.tokenizer, vocab)
                .map_err(|e| e.to_string())?;
            let mut logits = logits.to_vec();
            self.shared.count_generated(1);
            match sibling.choose(&mut logits, &self.eos)? {
                None => self.running.push(sibling),
                Some(reason) => self.finish(sibling, Ok(reason)),
            }
        }
        Ok(())
    }

    fn finish(&mut self, sequence: Sequence<'t, P::State>, end: std::result::Result<StopReason, String>) {
        let sender = &sequence.job.sender;
        match end {
            Ok(reason) => {
                self.shared.count_finished(&reason);
                sender.send(Event::Finished {
                    index: sequence.index(),
                    reason,
                    usage: sequence.usage(),
                });
            }
            Err(message) => {
                self.shared.count_failed();
                sender.send(Event::Failed(message));
                // What may be half computed is not kept.
                return;
            }
        }
        self.keep(sequence);
    }

    /// Puts the state of a text that nobody waits for into the cache.
    fn keep(&mut self, mut sequence: Sequence<'t, P::State>) {
        let Some(mut state) = sequence.state.take() else {
            return;
        };
        let job = sequence.job.clone();
        let request = &job.request;
        if !request.use_cache || sequence.index() > 0 {
            return;
        }
        // What lies on the grid was computed as any other prompt with this beginning would be.
        let kept = sequence.fed.min(sequence.prompt_len()) / GRID * GRID;
        if kept == 0
            || !self.stepper.can_truncate(&state, kept)
            || self.stepper.truncate(&mut state, kept).is_err()
        {
            return;
        }
        let bytes = self.stepper.bytes(&state);
        self.keep_up(&sequence.tokens, &request.cache_salt, &state, kept);
        let tokens = sequence.tokens[..kept].to_vec();
        let stepper = &self.stepper;
        let back = |state: &P::State, kept: usize| stepper.can_truncate(state, kept);
        self.cache.insert(tokens, &request.cache_salt, state, bytes, back);
        self.fit();
    }

    /// Brings memory below its limit: first the cache goes, then the newest texts wait until there is room.
    fn fit(&mut self) {
        while self.bytes() > self.config.kv_bytes {
            if self.forget_some() {
                continue;
            }
            if self.running.len() < 2 {
                return;
            }
            let newest = (0..self.running.len()).max_by_key(|i| self.running[*i].job.submitted);
            if let Some(index) = newest {
                let mut sequence = self.running.swap_remove(index);
                sequence.state = None;
                sequence.draft = None;
                sequence.fed = 0;
                self.shared.count_preemption();
                self.waiting.push_front(sequence);
            }
        }
    }

    fn report(&self) {
        self.shared
            .set_gauges(self.running.len(), self.bytes(), self.cache.len());
    }
}

#[cfg(test)]
mod tests;
