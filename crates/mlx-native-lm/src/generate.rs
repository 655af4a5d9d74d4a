//! From a prompt to text: chunked prefill, decode, stop conditions, statistics.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use crate::batch::Line;
use crate::detokenizer::Detokenizer;
use crate::error::{LmError, Result};
use crate::model::{Decoder, SequenceState};
use crate::sampling::{Sampler, SamplingParams};
use crate::tokenizer::Tokenizer;

/// What to generate, and when to stop.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateOptions {
    /// Tokens to generate at most.
    pub max_tokens: usize,
    /// How the next token is chosen.
    pub sampling: SamplingParams,
    /// Token ids that end the text; they are not part of it.
    pub stop_ids: HashSet<u32>,
}

/// What happens while generating, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Event<'a> {
    /// `done` of `total` tokens of the prompt are processed.
    Prefill {
        /// Tokens processed.
        done: usize,
        /// Tokens of the prompt.
        total: usize,
    },
    /// A token was chosen; `text` is what can be shown of the text so far and was not shown yet, whole characters only.
    Token {
        /// The token.
        id: u32,
        /// New text; empty while a character is incomplete.
        text: &'a str,
    },
}

/// Why generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// A token that ends the text was chosen.
    Stop,
    /// `max_tokens` were generated.
    Length,
    /// The caller asked for it.
    Cancelled,
}

impl FinishReason {
    /// The name that servers use: `stop`, `length`, `cancelled`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
            FinishReason::Cancelled => "cancelled",
        }
    }
}

/// What was generated.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    /// The tokens, without the one that ended the text.
    pub token_ids: Vec<u32>,
    /// Their text.
    pub text: String,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// From the start to the first token chosen.
    pub prompt_time: Duration,
    /// From there to the end.
    pub generation_time: Duration,
    /// Tokens of the prompt that were processed (those the cache held already do not count).
    pub prompt_tokens: usize,
    /// Tokens chosen, the one that ended the text included.
    pub chosen_tokens: usize,
}

impl Generation {
    /// Tokens of the prompt per second.
    #[must_use]
    pub fn prompt_tps(&self) -> f64 {
        rate(self.prompt_tokens, self.prompt_time)
    }

    /// Tokens chosen per second, the first not counted: it belongs to the prompt's time.
    #[must_use]
    pub fn generation_tps(&self) -> f64 {
        rate(self.chosen_tokens.saturating_sub(1), self.generation_time)
    }
}

fn rate(tokens: usize, time: Duration) -> f64 {
    if tokens == 0 {
        0.0
    } else {
        tokens as f64 / time.as_secs_f64().max(1e-9)
    }
}

/// Continues `prompt` behind what `cache` holds. `on_event` hears of everything and may break to stop.
///
/// On return the cache holds the prompt and every token that was fed back: all chosen ones but the last.
///
/// # Errors
/// [`LmError::InvalidArgument`] for an empty prompt or parameters out of their domain; [`LmError`] of the model, the sampler or
/// the tokenizer otherwise.
pub fn generate(
    decoder: &mut Decoder,
    tokenizer: &Tokenizer,
    cache: &mut SequenceState,
    prompt: &[u32],
    options: &GenerateOptions,
    mut on_event: impl FnMut(Event<'_>) -> ControlFlow<()>,
) -> Result<Generation> {
    if prompt.is_empty() {
        return Err(LmError::InvalidArgument("the prompt has no tokens".to_owned()));
    }
    let sampler = Sampler::new(&options.sampling)?;
    let room = cache
        .len()
        .checked_add(prompt.len())
        .and_then(|n| n.checked_add(options.max_tokens));
    let Some(room) = room else {
        return Err(LmError::InvalidArgument(format!(
            "max_tokens {} is too large",
            options.max_tokens
        )));
    };
    // Memory is only touched where it is used, so that asking for all of it now saves moving it later.
    cache.reserve(room.min(cache.len() + prompt.len() + 4096))?;
    let start = Instant::now();
    let empty = cache.empty();
    let state = std::mem::replace(cache, empty);
    let mut line = Line::new(decoder, state, prompt, sampler, options.max_tokens)?;
    let mut generation = Generation {
        token_ids: Vec::new(),
        text: String::new(),
        finish_reason: FinishReason::Length,
        prompt_time: Duration::ZERO,
        generation_time: Duration::ZERO,
        prompt_tokens: prompt.len(),
        chosen_tokens: 0,
    };
    let mut detokenizer = Detokenizer::new(tokenizer);
    let mut run = Run {
        options,
        start,
        prompt: prompt.len(),
    };
    let result = run.go(
        decoder,
        &mut line,
        &mut detokenizer,
        &mut generation,
        &mut on_event,
    );
    // Whatever happened, the caller keeps what was computed.
    let state = line.finish().map(|state| *cache = state);
    result.and(state)?;
    Ok(generation)
}

/// What stays the same while generating.
struct Run<'a> {
    options: &'a GenerateOptions,
    start: Instant,
    /// Tokens of the prompt.
    prompt: usize,
}

impl Run<'_> {
    fn go(
        &mut self,
        decoder: &mut Decoder,
        line: &mut Line,
        detokenizer: &mut Detokenizer<'_>,
        generation: &mut Generation,
        on_event: &mut impl FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<()> {
        let total = self.prompt;
        let mut first = loop {
            let done = total - line.pending();
            if on_event(Event::Prefill { done, total }).is_break() {
                generation.finish_reason = FinishReason::Cancelled;
                return Ok(());
            }
            if let Some(id) = line.step(decoder)? {
                let _ = on_event(Event::Prefill { done: total, total });
                break Some(id);
            }
            if line.pending() == 0 {
                // Nothing was to be chosen.
                break None;
            }
        };
        generation.prompt_time = self.start.elapsed();
        let decode_start = Instant::now();
        while generation.chosen_tokens < self.options.max_tokens {
            let next = match first.take() {
                Some(id) => Some(id),
                None => line.step(decoder)?,
            };
            let Some(id) = next else { break };
            generation.chosen_tokens += 1;
            if self.options.stop_ids.contains(&id) {
                generation.finish_reason = FinishReason::Stop;
                break;
            }
            generation.token_ids.push(id);
            let text = detokenizer.push(id)?;
            generation.text.push_str(&text);
            if on_event(Event::Token { id, text: &text }).is_break() {
                generation.finish_reason = FinishReason::Cancelled;
                break;
            }
        }
        if generation.chosen_tokens > 0 {
            generation.generation_time = decode_start.elapsed();
        }
        let rest = detokenizer.finish()?;
        if !rest.is_empty() {
            generation.text.push_str(&rest);
            if let Some(id) = generation.token_ids.last() {
                let _ = on_event(Event::Token { id: *id, text: &rest });
            }
        }
        Ok(())
    }
}
