//! One text on its way: which tokens it has, how far it is computed, and what is chosen and shown next.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::constraint::Follow;
use super::event::{Event, EventSender, Logprobs, StopReason, Token, Usage};
use super::guess::Luck;
use super::logprobs::logprobs;
use super::release::{Release, Released};
use super::request::Request;
use super::scheduler::Draft;
use super::thinking::Thoughts;
use crate::detokenizer::Detokenizer;
use crate::error::Result;
use crate::sampling::Sampler;
use crate::tokenizer::Tokenizer;

/// A request that was taken.
#[derive(Debug)]
pub(super) struct Job {
    pub request: Request,
    pub sender: EventSender,
    pub submitted: Instant,
    /// Tokens to generate at most: what was asked for, or what the context has room for.
    pub limit: usize,
}

/// One choice of a request. Its tokens are all that is needed to compute its state again.
#[derive(Debug)]
pub(super) struct Sequence<'t, S> {
    pub job: Arc<Job>,
    index: usize,
    pub tokens: Vec<u32>,
    /// Tokens that the state is behind.
    pub fed: usize,
    pub state: Option<S>,
    /// Tokens of prompts computed for it: who had least goes first.
    pub served: usize,
    pub sampler: Sampler,
    detokenizer: Detokenizer<'t>,
    release: Release,
    follow: Option<Follow>,
    thoughts: Thoughts,
    generated: usize,
    /// Tokens of the prompt that the cache had.
    pub cached: usize,
    /// What was guessed to follow the last token; computed with it in this step.
    pub guesses: Vec<u32>,
    pub luck: Luck,
    /// The smaller model's state of the same text, where there is one.
    pub draft: Option<Draft<S>>,
    prompt_logprobs: Vec<Option<Logprobs>>,
    admitted: Option<Instant>,
    first_token: Option<Instant>,
}

impl<'t, S> Sequence<'t, S> {
    pub fn new(job: Arc<Job>, tokenizer: &'t Tokenizer, vocab_size: usize) -> Result<Self> {
        let request = &job.request;
        Ok(Sequence {
            index: 0,
            tokens: request.prompt.clone(),
            fed: 0,
            state: None,
            served: 0,
            sampler: Sampler::new(&request.sampling_of(0, vocab_size))?,
            detokenizer: Detokenizer::new(tokenizer),
            release: Release::new(request.stop.clone()),
            follow: request.constraint.as_ref().map(|c| c.start()),
            thoughts: Thoughts::new(request.thinking.as_ref()),
            generated: 0,
            cached: 0,
            guesses: Vec::new(),
            luck: Luck::default(),
            draft: None,
            prompt_logprobs: Vec::new(),
            admitted: None,
            first_token: None,
            job,
        })
    }

    /// Choice `index` of the same request, at the end of the prompt.
    pub fn sibling(
        &self,
        index: usize,
        state: S,
        tokenizer: &'t Tokenizer,
        vocab_size: usize,
    ) -> Result<Self> {
        let request = &self.job.request;
        Ok(Sequence {
            job: self.job.clone(),
            index,
            tokens: self.tokens.clone(),
            fed: self.fed,
            state: Some(state),
            served: self.served,
            sampler: Sampler::new(&request.sampling_of(index, vocab_size))?,
            detokenizer: Detokenizer::new(tokenizer),
            release: Release::new(request.stop.clone()),
            follow: self.follow.as_ref().map(Follow::fork),
            thoughts: Thoughts::new(request.thinking.as_ref()),
            generated: 0,
            cached: self.cached,
            guesses: Vec::new(),
            luck: Luck::default(),
            draft: None,
            prompt_logprobs: Vec::new(),
            admitted: self.admitted,
            first_token: None,
        })
    }

    pub fn index(&self) -> usize {
        self.index
    }

    pub fn prompt_len(&self) -> usize {
        self.job.request.prompt.len()
    }

    /// Tokens that may still be generated.
    pub fn left(&self) -> usize {
        self.job.limit - self.generated
    }

    /// Whether all that is to be computed is the last token chosen.
    pub fn is_decoding(&self) -> bool {
        self.generated > 0 && self.fed + 1 == self.tokens.len()
    }

    /// Whether the logits behind every token of the prompt are wanted.
    pub fn wants_all(&self) -> bool {
        self.job.request.prompt_logprobs.is_some() && self.generated == 0
    }

    /// Whether it was never taken up.
    pub fn is_new(&self) -> bool {
        self.admitted.is_none()
    }

    pub fn admit(&mut self) {
        self.admitted.get_or_insert_with(Instant::now);
    }

    /// Rows of logits behind `rows` tokens of the prompt from `self.fed` on, which is not moved yet.
    pub fn take_prompt_logits(&mut self, logits: &[f32], rows: usize) {
        let Some(top) = self.job.request.prompt_logprobs else {
            return;
        };
        if self.prompt_logprobs.is_empty() {
            self.prompt_logprobs.push(None);
        }
        let vocab = logits.len() / rows.max(1);
        for row in 0..rows {
            if let Some(next) = self.tokens.get(self.fed + row + 1) {
                let row = &logits[row * vocab..(row + 1) * vocab];
                self.prompt_logprobs.push(Some(logprobs(row, *next, top)));
            }
        }
    }

    /// Says that the prompt is computed.
    pub fn announce(&mut self) {
        let logprobs = match self.job.request.prompt_logprobs {
            // A prompt of one token has no rows.
            Some(_) if self.prompt_logprobs.is_empty() => vec![None],
            _ => std::mem::take(&mut self.prompt_logprobs),
        };
        self.job.sender.send(Event::Prompt {
            cached_tokens: self.cached,
            logprobs,
        });
    }

    /// Chooses the next token by the logits behind the last one, and says what is certain of the text. The reason when the text
    /// has ended.
    ///
    /// # Errors
    /// A message for the client.
    pub fn choose(
        &mut self,
        logits: &mut [f32],
        eos: &[u32],
    ) -> std::result::Result<Option<StopReason>, String> {
        if self.left() == 0 {
            return Ok(Some(StopReason::Length));
        }
        let forced = self.thoughts.forced(self.job.request.thinking.as_ref());
        match forced {
            Some(id) => self.force(logits, id),
            None => self.forbid(logits, eos)?,
        }
        let id = self
            .sampler
            .sample(logits, &self.tokens)
            .map_err(|e| e.to_string())?;
        self.generated += 1;
        self.first_token.get_or_insert_with(Instant::now);
        let request = &self.job.request;
        if request.stop_token_ids.contains(&id) && forced.is_none() {
            return self.end(StopReason::StopToken(id));
        }
        if eos.contains(&id) && !request.ignore_eos && forced.is_none() {
            return self.end(StopReason::EndOfText(id));
        }
        let probabilities = request.logprobs.map(|top| logprobs(logits, id, top));
        self.tokens.push(id);
        // A token for the end of a text has no place in it.
        let text = if eos.contains(&id) {
            String::new()
        } else {
            self.detokenizer.push(id).map_err(|e| e.to_string())?
        };
        self.thoughts.push(&text, request.thinking.as_ref());
        let grammar_ended = match &mut self.follow {
            Some(follow) => follow.push(id, &text)?,
            None => false,
        };
        let token = Token {
            id,
            text,
            logprobs: probabilities,
        };
        let may_stop = self.may_stop();
        let released = self.release.push(token, may_stop);
        if let Some(stop) = self.say(released) {
            return Ok(Some(StopReason::StopText(stop)));
        }
        if grammar_ended {
            return self.end(StopReason::Grammar);
        }
        if self.left() == 0 {
            return self.end(StopReason::Length);
        }
        Ok(None)
    }

    fn may_stop(&self) -> bool {
        self.generated >= self.job.request.min_tokens
    }

    /// Leaves one token, which ends the thoughts.
    fn force(&mut self, logits: &mut [f32], id: u32) {
        logits.fill(f32::NEG_INFINITY);
        if let Some(logit) = logits.get_mut(id as usize) {
            *logit = 0.0;
        }
        // A call that was begun in thoughts is none.
        if let Some(follow) = &mut self.follow {
            follow.rest();
        }
    }

    /// Takes out what may not come now.
    fn forbid(&mut self, logits: &mut [f32], eos: &[u32]) -> std::result::Result<(), String> {
        let request = &self.job.request;
        if let Some(allowed) = &request.allowed_token_ids {
            let kept: Vec<(u32, f32)> = allowed.iter().map(|id| (*id, logits[*id as usize])).collect();
            logits.fill(f32::NEG_INFINITY);
            for (id, logit) in kept {
                logits[id as usize] = logit;
            }
        }
        if self.generated < request.min_tokens {
            for id in eos.iter().chain(&request.stop_token_ids) {
                if let Some(logit) = logits.get_mut(*id as usize) {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
        match &mut self.follow {
            Some(follow) => follow.mask(logits, eos),
            None => Ok(()),
        }
    }

    /// The text has ended: what was held back of it comes.
    fn end(&mut self, reason: StopReason) -> std::result::Result<Option<StopReason>, String> {
        let rest = self.detokenizer.finish().map_err(|e| e.to_string())?;
        let may_stop = self.may_stop();
        let released = self.release.finish(&rest, may_stop);
        Ok(Some(match self.say(released) {
            Some(stop) => StopReason::StopText(stop),
            None => reason,
        }))
    }

    fn say(&mut self, released: Released) -> Option<String> {
        let Released { text, tokens, stop } = released;
        if !text.is_empty() || !tokens.is_empty() {
            self.job.sender.send(Event::Text {
                index: self.index,
                text,
                tokens,
            });
        }
        stop
    }

    pub fn usage(&self) -> Usage {
        let since = |from: Option<Instant>, to: Option<Instant>| match (from, to) {
            (Some(from), Some(to)) => to.saturating_duration_since(from),
            _ => Duration::ZERO,
        };
        let now = Some(Instant::now());
        let first = self.first_token.or(now);
        Usage {
            prompt_tokens: self.prompt_len(),
            cached_tokens: self.cached,
            completion_tokens: self.generated,
            reasoning_tokens: self.thoughts.tokens(),
            queued: since(Some(self.job.submitted), self.admitted.or(now)),
            prefill: since(self.admitted, first),
            decode: since(self.first_token, now),
        }
    }

    /// The tokens that the state is behind.
    pub fn known(&self) -> &[u32] {
        &self.tokens[..self.fed]
    }
}
