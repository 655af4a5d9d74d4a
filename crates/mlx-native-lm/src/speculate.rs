//! Speculation: a small model, or the text before, guesses the next tokens, the large one computes them together and keeps those it would have chosen.
//!
//! The large model chooses every token itself, by its own logits, its own random numbers and in its own order, so the text is the one
//! that it writes alone, at any temperature; a guess only saves it a pass over its weights. The guesses are drawn with the random
//! numbers of the tokens that they guess: where the two models agree about the likely tokens they then often agree about the draw.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use crate::detokenizer::Detokenizer;
use crate::engine::guess::{Luck, look_back};
use crate::error::{LmError, Result};
use crate::generate::{Event, FinishReason, GenerateOptions, Generation};
use crate::model::{Decoder, Rows, SequenceState, Wanted};
use crate::open::Model;
use crate::sampling::Sampler;
use crate::tokenizer::Tokenizer;

/// Rows of one pass at most: so many go through the kernels for few rows, which give a row the bits that it has alone.
const ROWS: usize = 8;
/// Tokens guessed at once at most.
pub const MAX_DRAFT_TOKENS: usize = 64;

/// What guesses for a model: a small model, or the text itself.
#[derive(Debug)]
pub struct Draft {
    /// The small model; without one, what followed before is guessed to follow again.
    model: Option<Small>,
    luck: Luck,
    /// Tokens that the next text's state is behind.
    before: Vec<u32>,
    num_draft_tokens: usize,
    guessed: usize,
    accepted: usize,
}

#[derive(Debug)]
struct Small {
    decoder: Decoder,
    state: SequenceState,
    /// Tokens that the state is behind.
    known: Vec<u32>,
}

impl Draft {
    /// Guesses by looking back in the text of `target`: good where it repeats itself or the prompt, as edits of code do.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn look_back(num_draft_tokens: usize, target: &Model) -> Result<Self> {
        Self::of(None, num_draft_tokens, target)
    }

    fn of(model: Option<Small>, num_draft_tokens: usize, target: &Model) -> Result<Self> {
        if !(1..=MAX_DRAFT_TOKENS).contains(&num_draft_tokens) {
            return Err(LmError::InvalidArgument(format!(
                "num_draft_tokens: found {num_draft_tokens}, wanted 1 to {MAX_DRAFT_TOKENS}"
            )));
        }
        if !goes_back(&target.decoder().new_state(0)?) {
            return Err(LmError::Unsupported(
                "speculation with a model whose layers are recurrent: its state cannot go back".to_owned(),
            ));
        }
        Ok(Draft {
            model,
            luck: Luck::default(),
            before: Vec::new(),
            num_draft_tokens,
            guessed: 0,
            accepted: 0,
        })
    }

    /// `draft` as the one that guesses `num_draft_tokens` at a time for `target`.
    ///
    /// # Errors
    /// [`LmError::InvalidArgument`] when the vocabularies differ or the number is not from 1 to [`MAX_DRAFT_TOKENS`];
    /// [`LmError::Unsupported`] when one of the two keeps a state that cannot go back.
    pub fn new(draft: Model, num_draft_tokens: usize, target: &Model) -> Result<Self> {
        same_vocabulary(draft.tokenizer(), target.tokenizer())?;
        let (decoder, _) = draft.into_parts();
        let state = decoder.new_state(0)?;
        if !goes_back(&state) {
            return Err(LmError::Unsupported(
                "speculation with a draft model whose layers are recurrent: its state cannot go back"
                    .to_owned(),
            ));
        }
        let known = Vec::new();
        Self::of(
            Some(Small {
                decoder,
                state,
                known,
            }),
            num_draft_tokens,
            target,
        )
    }

    /// Says which tokens the state of the next text is behind, so that what stood there can be looked back at too.
    pub fn set_before(&mut self, tokens: &[u32]) {
        if self.model.is_none() {
            self.before = tokens.to_vec();
        }
    }

    /// Tokens that were guessed, and those of them that the large model would have chosen too.
    #[must_use]
    pub fn acceptance(&self) -> (usize, usize) {
        (self.guessed, self.accepted)
    }

    /// What probably follows `tokens`, `n` of them at most, all below `vocab`.
    fn guess(&mut self, tokens: &[u32], n: usize, sampler: &Sampler, vocab: usize) -> Result<Vec<u32>> {
        if !self.luck.is_on() {
            return Ok(Vec::new());
        }
        match &mut self.model {
            Some(small) => small.guess(tokens, n, sampler, vocab),
            None => Ok(look_back(tokens, n).to_vec()),
        }
    }

    fn count(&mut self, guessed: usize, accepted: usize) {
        self.guessed += guessed;
        self.accepted += accepted;
        self.luck.count(guessed, accepted);
    }
}

impl Small {
    /// Brings the state to what it has in common with `tokens`.
    fn go_back(&mut self, tokens: &[u32]) -> Result<()> {
        let same = self.known.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        let kept = if self.state.can_truncate(same).is_ok() {
            same
        } else {
            0
        };
        self.state.truncate(kept)?;
        self.known.truncate(kept);
        Ok(())
    }

    fn feed(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        let mut logits = Vec::new();
        for chunk in tokens.chunks(self.decoder.chunk()) {
            logits = pass(&mut self.decoder, &mut self.state, chunk, Wanted::Last)?;
            self.known.extend_from_slice(chunk);
        }
        Ok(logits)
    }

    /// What probably follows `tokens`, `n` of them at most, all below `vocab`.
    fn guess(&mut self, tokens: &[u32], n: usize, sampler: &Sampler, vocab: usize) -> Result<Vec<u32>> {
        let (mut sampler, mut text) = (sampler.clone(), tokens.to_vec());
        self.go_back(tokens)?;
        let mut logits = self.feed(&tokens[self.known.len()..])?;
        let mut guesses = Vec::new();
        while guesses.len() < n && !logits.is_empty() {
            logits.truncate(vocab);
            let id = sampler.sample(&mut logits, &text)?;
            guesses.push(id);
            text.push(id);
            if guesses.len() < n {
                logits = self.feed(&[id])?;
            }
        }
        Ok(guesses)
    }
}

/// Whether a state can forget its last positions.
fn goes_back(state: &SequenceState) -> bool {
    state.layers().all(|layer| layer.can_truncate(2, 1).is_ok())
}

/// Checks that every id stands for the same token in both.
pub(crate) fn same_vocabulary(a: &Tokenizer, b: &Tokenizer) -> Result<()> {
    let (n, m) = (a.vocab_size(), b.vocab_size());
    let differs = (0..n.max(m) as u32).find(|id| a.token(*id) != b.token(*id));
    match differs {
        None => Ok(()),
        Some(id) => Err(LmError::InvalidArgument(format!(
            "the draft model's vocabulary of {n} tokens is not the model's of {m}: token {id} is {:?} and {:?}",
            a.token(id).unwrap_or_default(),
            b.token(id).unwrap_or_default()
        ))),
    }
}

/// One pass; the logits that are wanted.
fn pass(
    decoder: &mut Decoder,
    state: &mut SequenceState,
    tokens: &[u32],
    wanted: Wanted,
) -> Result<Vec<f32>> {
    let rows = Rows {
        tokens,
        state,
        wanted,
    };
    Ok(decoder.step(&mut [rows])?.pop().unwrap_or_default())
}

/// As [`generate`](crate::generate()), with the help of a draft model: the same text, sooner where the guesses are good.
///
/// # Errors
/// As [`generate`](crate::generate()).
pub fn generate_with_draft(
    decoder: &mut Decoder,
    draft: &mut Draft,
    tokenizer: &Tokenizer,
    cache: &mut SequenceState,
    prompt: &[u32],
    options: &GenerateOptions,
    mut on_event: impl FnMut(Event<'_>) -> ControlFlow<()>,
) -> Result<Generation> {
    if prompt.is_empty() {
        return Err(LmError::InvalidArgument("the prompt has no tokens".to_owned()));
    }
    let start = Instant::now();
    let mut run = Run {
        decoder,
        sampler: Sampler::new(&options.sampling)?,
        detokenizer: Detokenizer::new(tokenizer),
        options,
        base: cache.len(),
        // What came before is the draft's to know: the same as the state's, where it took part.
        tokens: match &draft.model {
            Some(small) => small.known.get(..cache.len()).unwrap_or_default().to_vec(),
            None => draft.before.get(..cache.len()).unwrap_or_default().to_vec(),
        },
        before: 0,
        generation: Generation {
            token_ids: Vec::new(),
            text: String::new(),
            finish_reason: FinishReason::Length,
            prompt_time: Duration::ZERO,
            generation_time: Duration::ZERO,
            prompt_tokens: prompt.len(),
            chosen_tokens: 0,
        },
    };
    run.before = run.tokens.len();
    run.tokens.extend_from_slice(prompt);
    let logits = run.prompt(cache, prompt, &mut on_event)?;
    run.generation.prompt_time = start.elapsed();
    let Some(mut logits) = logits else {
        return Ok(run.generation);
    };
    let decode = Instant::now();
    let result = run.go(draft, cache, &mut logits, &mut on_event);
    // All tokens chosen were fed but the last.
    let fed = prompt.len() + run.generation.chosen_tokens.saturating_sub(1);
    let cut = cache.truncate(run.base + fed);
    result?;
    cut?;
    run.generation.generation_time = decode.elapsed();
    let rest = run.detokenizer.finish()?;
    if !rest.is_empty() {
        run.generation.text.push_str(&rest);
        if let Some(id) = run.generation.token_ids.last() {
            let _ = on_event(Event::Token { id: *id, text: &rest });
        }
    }
    Ok(run.generation)
}

struct Run<'a> {
    decoder: &'a mut Decoder,
    sampler: Sampler,
    detokenizer: Detokenizer<'a>,
    options: &'a GenerateOptions,
    /// Positions that the state held before.
    base: usize,
    /// What is known of the text before the prompt, the prompt, and what was chosen.
    tokens: Vec<u32>,
    /// How many of those are before the prompt: penalties do not count them, as without a draft.
    before: usize,
    generation: Generation,
}

impl Run<'_> {
    /// The logits behind the prompt; `None` when nothing is to be chosen, or the caller has enough.
    fn prompt(
        &mut self,
        cache: &mut SequenceState,
        prompt: &[u32],
        on_event: &mut impl FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Option<Vec<f32>>> {
        let total = prompt.len();
        let mut logits = Vec::new();
        let mut done = 0;
        for chunk in prompt.chunks(self.decoder.chunk()) {
            if on_event(Event::Prefill { done, total }).is_break() {
                self.generation.finish_reason = FinishReason::Cancelled;
                return Ok(None);
            }
            done += chunk.len();
            let wanted = if done == total { Wanted::Last } else { Wanted::None };
            logits = pass(self.decoder, cache, chunk, wanted)?;
        }
        let _ = on_event(Event::Prefill { done: total, total });
        Ok((self.options.max_tokens > 0).then_some(logits))
    }

    fn go(
        &mut self,
        draft: &mut Draft,
        cache: &mut SequenceState,
        logits: &mut [f32],
        on_event: &mut impl FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<()> {
        let vocab = logits.len();
        if self.choose(logits, on_event)?.is_none() {
            return Ok(());
        }
        loop {
            let left = self.options.max_tokens - self.generation.chosen_tokens;
            let n = draft.num_draft_tokens.min(left - 1);
            let guesses = match n {
                0 => Vec::new(),
                n => draft.guess(&self.tokens, n, &self.sampler, vocab)?,
            };
            let Some(last) = self.tokens.last() else {
                return Ok(());
            };
            let rows: Vec<u32> = std::iter::once(*last).chain(guesses.iter().copied()).collect();
            let fed = cache.len();
            let mut agreed = 0;
            let mut ended = false;
            'passes: for part in rows.chunks(ROWS.min(self.decoder.chunk())) {
                let mut logits = pass(self.decoder, cache, part, Wanted::All)?;
                for row in logits.chunks_exact_mut(vocab) {
                    let Some(id) = self.choose(row, on_event)? else {
                        ended = true;
                        break 'passes;
                    };
                    if guesses.get(agreed) != Some(&id) {
                        break 'passes;
                    }
                    agreed += 1;
                }
            }
            draft.count(guesses.len(), agreed);
            if ended {
                return Ok(());
            }
            cache.truncate(fed + agreed + 1)?;
        }
    }

    /// Chooses a token; `None` when the text has ended with it.
    fn choose(
        &mut self,
        logits: &mut [f32],
        on_event: &mut impl FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Option<u32>> {
        let id = self.sampler.sample(logits, &self.tokens[self.before..])?;
        let g = &mut self.generation;
        g.chosen_tokens += 1;
        if self.options.stop_ids.contains(&id) {
            g.finish_reason = FinishReason::Stop;
            return Ok(None);
        }
        g.token_ids.push(id);
        self.tokens.push(id);
        let text = self.detokenizer.push(id)?;
        g.text.push_str(&text);
        if on_event(Event::Token { id, text: &text }).is_break() {
            g.finish_reason = FinishReason::Cancelled;
            return Ok(None);
        }
        Ok((g.chosen_tokens < self.options.max_tokens).then_some(id))
    }
}
