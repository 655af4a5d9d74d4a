//! Many sequences at once: each added when it comes, fed its prompt in chunks beside the others' decoding, removed when it
//! has ended.
//!
//! Tokens are chosen on the device where the device can; the host then reads them one step behind, while the next step is
//! computed already.

use std::collections::VecDeque;

use mlx_native::ops::sample::Sampling;

use crate::error::{LmError, Result};
use crate::model::{Choice, Chooser, Decoder, InFlight, Rows, SequenceState, Wanted, Wish};
use crate::sampling::Sampler;

/// A sequence of a [`Batch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceId(u64);

/// What a step gives for a sequence.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// The token that the device chose. It is part of the sequence already.
    Token(u32),
    /// Logits for the next token, which the host is to choose and to [`push`](Batch::push).
    Logits(Vec<f32>),
}

/// A sequence as it is added.
#[derive(Debug)]
pub struct NewSequence {
    /// What is kept of it: of the decoder that steps are for.
    pub state: SequenceState,
    /// Tokens that the state is behind, for penalties; only the latest matter.
    pub history: Vec<u32>,
    /// The device's part in choosing: [`Sampler::on_device`]. `None` = the host gets logits.
    pub sampling: Option<Sampling>,
    /// Tokens to choose at most. The device does not run ahead beyond them.
    pub max_tokens: usize,
}

#[derive(Debug)]
struct Sequence {
    id: SequenceId,
    state: SequenceState,
    /// History, prompt and what was chosen.
    tokens: Vec<u32>,
    /// How many of them the state is behind, work in flight not counted.
    fed: usize,
    sampling: Option<Sampling>,
    chosen: u64,
    max_tokens: u64,
}

/// A step that the device has.
#[derive(Debug)]
struct Flight {
    work: InFlight,
    choice: Option<Choice>,
    /// Whose logits there are, in order, and how many tokens each was fed.
    members: Vec<(SequenceId, usize)>,
    /// Sequences that were fed without logits.
    others: Vec<(SequenceId, usize)>,
}

/// Sequences that are computed together.
///
/// ```no_run
/// # use mlx_native_lm::{Batch, Decoder, NewSequence, Output, Sampler, SamplingParams};
/// # fn run(decoder: &mut Decoder, prompts: &[Vec<u32>]) -> mlx_native_lm::Result<()> {
/// let mut batch = Batch::new(decoder)?;
/// for prompt in prompts {
///     let sampling = Sampler::new(&SamplingParams::default())?.on_device();
///     let new = NewSequence { state: decoder.new_state(0)?, history: vec![], sampling, max_tokens: 100 };
///     let id = batch.add(decoder, new)?;
///     batch.append(id, prompt)?;
/// }
/// while batch.has_work() {
///     for (id, output) in batch.step(decoder)? {
///         if output == Output::Token(2) {
///             batch.remove(id)?;
///         }
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Batch {
    sequences: Vec<Sequence>,
    chooser: Chooser,
    flights: VecDeque<Flight>,
    next_id: u64,
}

impl Batch {
    /// No sequences.
    ///
    /// # Errors
    /// When the device has no memory for the small buffers.
    pub fn new(decoder: &Decoder) -> Result<Self> {
        Ok(Batch {
            sequences: Vec::new(),
            chooser: Chooser::new(decoder)?,
            flights: VecDeque::new(),
            next_id: 0,
        })
    }

    /// Sequences.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sequences.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sequences.is_empty()
    }

    /// Adds a sequence.
    ///
    /// # Errors
    /// [`LmError::InvalidArgument`] for sampling parameters out of their domain, or a token outside the vocabulary.
    pub fn add(&mut self, decoder: &Decoder, new: NewSequence) -> Result<SequenceId> {
        let vocab = decoder.spec().vocab_size;
        if let Some(id) = new.history.iter().find(|id| **id as usize >= vocab) {
            return Err(LmError::InvalidArgument(format!(
                "history: token id {id} is outside a vocabulary of {vocab}"
            )));
        }
        if let Some(sampling) = &new.sampling {
            sampling.words()?;
        }
        let id = SequenceId(self.next_id);
        self.next_id += 1;
        self.sequences.push(Sequence {
            id,
            state: new.state,
            fed: new.history.len(),
            tokens: new.history,
            // What the device cannot do, the host does: with the same tokens.
            sampling: new.sampling.filter(|s| Chooser::can(s, vocab)),
            chosen: 0,
            max_tokens: new.max_tokens as u64,
        });
        Ok(id)
    }

    /// Whether the device chooses the tokens of a sequence.
    #[must_use]
    pub fn is_on_device(&self, id: SequenceId) -> bool {
        self.get(id).is_some_and(|s| s.sampling.is_some())
    }

    /// Tokens that come next in a sequence: its prompt, or a part of it.
    ///
    /// # Errors
    /// [`LmError::InvalidArgument`] when there is no such sequence, or the device is at work on it.
    pub fn append(&mut self, id: SequenceId, tokens: &[u32]) -> Result<()> {
        if self.is_in_flight(id) {
            return Err(LmError::InvalidArgument(
                "append: the device is at work on this sequence; step until it has given a token".to_owned(),
            ));
        }
        self.get_mut(id)?.tokens.extend_from_slice(tokens);
        Ok(())
    }

    /// The token that the host chose by the logits of a step.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub fn push(&mut self, id: SequenceId, token: u32) -> Result<()> {
        self.append(id, &[token])?;
        self.get_mut(id)?.chosen += 1;
        Ok(())
    }

    /// Tokens of a sequence: history, prompt, and those chosen.
    #[must_use]
    pub fn tokens(&self, id: SequenceId) -> &[u32] {
        self.get(id).map_or(&[], |s| &s.tokens)
    }

    /// Tokens that are still to be fed.
    #[must_use]
    pub fn pending(&self, id: SequenceId) -> usize {
        self.get(id).map_or(0, |s| s.tokens.len() - s.fed)
    }

    /// Takes a sequence out. Its state is behind all tokens but those still [`pending`](Self::pending), among them the last
    /// one chosen.
    ///
    /// # Errors
    /// [`LmError::InvalidArgument`] when there is no such sequence, or its state has gone ahead and cannot go back.
    pub fn remove(&mut self, id: SequenceId) -> Result<SequenceState> {
        let at = self.sequences.iter().position(|s| s.id == id);
        let mut sequence = match at {
            Some(at) => self.sequences.remove(at),
            None => return Err(unknown()),
        };
        // What the device computes ahead is forgotten: work that comes after it in the queue may use its blocks.
        let ahead: usize = self
            .flights
            .iter()
            .flat_map(Flight::all)
            .filter(|(i, _)| *i == id)
            .map(|(_, n)| n)
            .sum();
        let len = sequence.state.len();
        sequence.state.truncate(len - ahead)?;
        Ok(sequence.state)
    }

    /// Computes the next tokens of every sequence that has some: one token of those that decode, and of prompts as many as
    /// a pass of the decoder takes. Gives what came out: nothing for a prompt that is not through, and nothing
    /// where there is no work.
    ///
    /// # Errors
    /// As [`Decoder::step`]; [`LmError::Logits`] when the device found logits that are NaN or infinite.
    pub fn step(&mut self, decoder: &mut Decoder) -> Result<Vec<(SequenceId, Output)>> {
        // Work whose sequences have all been removed is of no interest.
        let sequences = &self.sequences;
        self.flights
            .retain(|f| f.all().any(|(id, _)| sequences.iter().any(|s| s.id == id)));
        if self.flights.is_empty() {
            let plan = self.plan(decoder);
            if plan.is_empty() {
                return Ok(Vec::new());
            }
            self.submit(decoder, &plan)?;
        }
        if self.flights.len() == 1 && self.can_run_ahead(decoder) {
            self.run_ahead(decoder)?;
        }
        let result = self.land(decoder);
        if result.is_err() {
            self.forget_flights();
        }
        result
    }

    /// What is in flight counts for nothing: states go back to what they held, where they can.
    fn forget_flights(&mut self) {
        for flight in std::mem::take(&mut self.flights) {
            for (id, n) in flight.all() {
                if let Ok(s) = self.get_mut(id) {
                    let len = s.state.len();
                    let _ = s.state.truncate(len.saturating_sub(n));
                }
            }
        }
    }

    /// Whether a step would do something.
    #[must_use]
    pub fn has_work(&self) -> bool {
        !self.flights.is_empty()
            || self
                .sequences
                .iter()
                .any(|s| s.fed < s.tokens.len() && !s.has_ended())
    }

    fn get(&self, id: SequenceId) -> Option<&Sequence> {
        self.sequences.iter().find(|s| s.id == id)
    }

    fn get_mut(&mut self, id: SequenceId) -> Result<&mut Sequence> {
        self.sequences.iter_mut().find(|s| s.id == id).ok_or_else(unknown)
    }

    fn is_in_flight(&self, id: SequenceId) -> bool {
        self.flights.iter().flat_map(Flight::all).any(|(i, _)| i == id)
    }

    /// Which sequences are fed how many tokens: those with one token first, so that nobody who decodes waits for a prompt.
    fn plan(&self, decoder: &Decoder) -> Vec<(usize, usize)> {
        let mut room = decoder.chunk();
        let mut plan = Vec::new();
        let waiting = |s: &Sequence| s.tokens.len() - s.fed;
        let mut order: Vec<usize> = (0..self.sequences.len()).collect();
        order.retain(|i| waiting(&self.sequences[*i]) > 0 && !self.sequences[*i].has_ended());
        order.sort_by_key(|i| waiting(&self.sequences[*i]) > 1);
        for i in order {
            let n = waiting(&self.sequences[i]).min(room);
            // Models that are no batch's take one at a time.
            if n == 0 || (!decoder.is_batched() && !plan.is_empty()) {
                break;
            }
            room -= n;
            plan.push((i, n));
        }
        plan
    }

    fn submit(&mut self, decoder: &mut Decoder, plan: &[(usize, usize)]) -> Result<()> {
        // Sequences in the order of the plan.
        let mut order = vec![None; self.sequences.len()];
        plan.iter()
            .enumerate()
            .for_each(|(at, (i, n))| order[*i] = Some((at, *n)));
        let mut rows: Vec<(usize, Rows<'_>)> = Vec::new();
        let (mut members, mut others) = (vec![None; plan.len()], Vec::new());
        let mut wishes = vec![None; plan.len()];
        let mut is_any_on_device = false;
        for (s, place) in self.sequences.iter_mut().zip(order) {
            let Some((at, n)) = place else { continue };
            let is_last = s.fed + n == s.tokens.len();
            let tokens = &s.tokens[s.fed..s.fed + n];
            let wanted = if is_last { Wanted::Last } else { Wanted::None };
            rows.push((
                at,
                Rows {
                    tokens,
                    state: &mut s.state,
                    wanted,
                },
            ));
            if is_last {
                members[at] = Some((s.id, n));
                is_any_on_device |= s.sampling.is_some();
                wishes[at] = Some((s.sampling, s.tokens.as_slice(), s.chosen));
            } else {
                others.push((s.id, n));
            }
        }
        rows.sort_by_key(|(at, _)| *at);
        let mut rows: Vec<Rows<'_>> = rows.into_iter().map(|(_, row)| row).collect();
        let work = decoder.submit(&mut rows, false)?;
        let members: Vec<_> = members.into_iter().flatten().collect();
        let mut choice = None;
        if is_any_on_device {
            let wishes: Vec<Wish<'_>> = (wishes.into_iter().flatten())
                .map(|(sampling, history, count)| Wish {
                    sampling,
                    history,
                    count,
                })
                .collect();
            self.chooser.set(&wishes)?;
            choice = Some(self.chooser.choose(decoder, members.len())?);
        }
        self.flights.push_back(Flight {
            work,
            choice,
            members,
            others,
        });
        Ok(())
    }

    /// Whether the step after the one in flight is known already, but for its ids: the same sequences, one token each.
    fn can_run_ahead(&self, decoder: &Decoder) -> bool {
        let Some(flight) = self.flights.front() else {
            return false;
        };
        let goes_on = |(s, (id, _)): (&Sequence, &(SequenceId, usize))| {
            s.id == *id && s.sampling.is_some() && s.chosen + 1 < s.max_tokens
        };
        let same = flight.members.len() == self.sequences.len() && flight.others.is_empty();
        let fits = flight.members.len() <= decoder.chunk();
        same && fits
            && decoder.can_run_ahead()
            && self
                .in_order(flight)
                .into_iter()
                .zip(&flight.members)
                .all(goes_on)
    }

    /// The sequences in the order of a flight.
    fn in_order(&self, flight: &Flight) -> Vec<&Sequence> {
        flight
            .members
            .iter()
            .filter_map(|(id, _)| self.get(*id))
            .collect()
    }

    fn run_ahead(&mut self, decoder: &mut Decoder) -> Result<()> {
        let Some(flight) = self.flights.front() else {
            return Ok(());
        };
        let members: Vec<_> = flight.members.iter().map(|(id, _)| (*id, 1)).collect();
        let place = |id: SequenceId| members.iter().position(|(i, _)| *i == id);
        let mut rows: Vec<(Option<usize>, Rows<'_>)> = (self.sequences.iter_mut())
            .map(|s| {
                (
                    place(s.id),
                    Rows {
                        tokens: &[0],
                        state: &mut s.state,
                        wanted: Wanted::Last,
                    },
                )
            })
            .collect();
        rows.sort_by_key(|(at, _)| *at);
        let mut rows: Vec<Rows<'_>> = rows.into_iter().map(|(_, row)| row).collect();
        let work = decoder.submit(&mut rows, true)?;
        let choice = Some(self.chooser.choose(decoder, members.len())?);
        self.flights.push_back(Flight {
            work,
            choice,
            members,
            others: Vec::new(),
        });
        Ok(())
    }

    /// What came out of the oldest step.
    fn land(&mut self, decoder: &Decoder) -> Result<Vec<(SequenceId, Output)>> {
        let Some(flight) = self.flights.pop_front() else {
            return Ok(Vec::new());
        };
        let tokens = match &flight.choice {
            Some(choice) => self.chooser.read(choice, flight.members.len())?,
            None => {
                flight.work.wait()?;
                Vec::new()
            }
        };
        for (id, n) in flight.all() {
            // It may have been removed.
            if let Ok(s) = self.get_mut(id) {
                s.fed += n;
            }
        }
        let mut outputs = Vec::new();
        for (i, (id, _)) in flight.members.iter().enumerate() {
            let Ok(s) = self.get_mut(*id) else { continue };
            let output = match (s.sampling, tokens.get(i)) {
                (Some(_), Some(token)) => {
                    s.tokens.push(*token);
                    s.chosen += 1;
                    Output::Token(*token)
                }
                _ => Output::Logits(decoder.read_logits(i, 1)?),
            };
            outputs.push((*id, output));
        }
        Ok(outputs)
    }
}

impl Sequence {
    fn has_ended(&self) -> bool {
        self.chosen >= self.max_tokens && self.max_tokens > 0
    }
}

impl Flight {
    /// All sequences, and how many tokens each was fed.
    fn all(&self) -> impl Iterator<Item = (SequenceId, usize)> + '_ {
        self.members.iter().chain(&self.others).copied()
    }
}

fn unknown() -> LmError {
    LmError::InvalidArgument("there is no such sequence in the batch".to_owned())
}

/// One sequence that is continued token by token: the device's choice, or that of `sampler`.
#[derive(Debug)]
pub(crate) struct Line {
    batch: Batch,
    id: SequenceId,
    sampler: Sampler,
}

impl Line {
    /// `prompt` behind what `state` holds.
    pub fn new(
        decoder: &Decoder,
        state: SequenceState,
        prompt: &[u32],
        sampler: Sampler,
        max_tokens: usize,
    ) -> Result<Self> {
        let mut batch = Batch::new(decoder)?;
        let new = NewSequence {
            state,
            history: Vec::new(),
            sampling: sampler.on_device(),
            max_tokens,
        };
        let id = batch.add(decoder, new)?;
        batch.append(id, prompt)?;
        Ok(Line { batch, id, sampler })
    }

    /// Tokens of the prompt that are still to be fed.
    pub fn pending(&self) -> usize {
        self.batch.pending(self.id)
    }

    /// The next chunk of the prompt, or the next token.
    pub fn step(&mut self, decoder: &mut Decoder) -> Result<Option<u32>> {
        match self.batch.step(decoder)?.pop() {
            None => Ok(None),
            Some((_, Output::Token(token))) => Ok(Some(token)),
            Some((_, Output::Logits(mut logits))) => {
                let token = self.sampler.sample(&mut logits, self.batch.tokens(self.id))?;
                self.batch.push(self.id, token)?;
                Ok(Some(token))
            }
        }
    }

    /// The state, behind everything but the last token chosen.
    pub fn finish(mut self) -> Result<SequenceState> {
        self.batch.remove(self.id)
    }
}
