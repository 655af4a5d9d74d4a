//! Text as an iterator: the pleasant way to generate.

use std::collections::HashSet;

use crate::batch::Line;
use crate::config::GenerationConfig;
use crate::detokenizer::Detokenizer;
use crate::error::{LmError, Result};
use crate::generate::FinishReason;
use crate::model::Decoder;
use crate::open::Model;
use crate::sampling::{Sampler, SamplingParams};

/// What is asked for beyond a prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct PromptOptions {
    /// Tokens to generate at most.
    pub max_tokens: usize,
    /// How tokens are chosen; `None`: as the folder's `generation_config.json` recommends, and the likeliest always where it
    /// recommends nothing.
    pub sampling: Option<SamplingParams>,
    /// Texts of tokens that end the text beside those the model names.
    pub extra_eos_tokens: Vec<String>,
}

impl Default for PromptOptions {
    fn default() -> Self {
        PromptOptions {
            max_tokens: 256,
            sampling: None,
            extra_eos_tokens: Vec::new(),
        }
    }
}

/// A token and the text that became complete with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The token.
    pub id: u32,
    /// New text, whole characters only; empty while a character is incomplete.
    pub text: String,
}

/// The pieces of a text, each computed when it is asked for.
#[derive(Debug)]
pub struct Pieces<'m> {
    decoder: &'m mut Decoder,
    detokenizer: Detokenizer<'m>,
    line: Line,
    stop_ids: HashSet<u32>,
    /// The token behind the prompt, until it is asked for.
    first: Option<u32>,
    last: u32,
    left: usize,
    finish_reason: Option<FinishReason>,
}

impl SamplingParams {
    /// What a model's makers recommend.
    #[must_use]
    pub fn recommended(config: &GenerationConfig) -> Self {
        let plain = SamplingParams::default();
        // `do_sample` false, or a temperature that is nowhere said, is the likeliest token always.
        let temperature = match config.do_sample {
            Some(false) => 0.0,
            Some(true) => config.temperature.unwrap_or(1.0),
            None => config.temperature.unwrap_or(0.0),
        };
        SamplingParams {
            temperature,
            top_p: config.top_p.unwrap_or(plain.top_p),
            min_p: config.min_p.unwrap_or(plain.min_p),
            top_k: config.top_k.map_or(plain.top_k, |k| k as usize),
            repetition_penalty: config.repetition_penalty,
            ..plain
        }
    }
}

impl Model {
    /// Continues `prompt`, piece by piece, with the folder's `generation_config.json` applied.
    ///
    /// # Errors
    /// As [`generate_with`](Self::generate_with).
    pub fn generate(&mut self, prompt: &str) -> Result<Pieces<'_>> {
        self.generate_with(prompt, &PromptOptions::default())
    }

    /// Continues `prompt` as `options` say. The prompt is computed here, each token when it is asked for.
    ///
    /// # Errors
    /// [`LmError::InvalidArgument`] for a prompt without tokens, or options out of their domain; what tokenizer and device
    /// report.
    pub fn generate_with(&mut self, prompt: &str, options: &PromptOptions) -> Result<Pieces<'_>> {
        let history = self.tokenizer().encode(prompt)?;
        if history.is_empty() {
            return Err(LmError::InvalidArgument("the prompt has no tokens".to_owned()));
        }
        let stop_ids = self.stop_ids(&options.extra_eos_tokens)?;
        let recommended = || SamplingParams::recommended(self.generation_config());
        let sampler = Sampler::new(&options.sampling.clone().unwrap_or_else(recommended))?;
        let (decoder, tokenizer) = self.parts();
        let room = history.len().saturating_add(options.max_tokens.min(4096));
        let state = decoder.new_state(room)?;
        let mut line = Line::new(decoder, state, &history, sampler, options.max_tokens)?;
        let mut first = None;
        while first.is_none() && line.pending() > 0 {
            first = line.step(decoder)?;
        }
        Ok(Pieces {
            detokenizer: Detokenizer::new(tokenizer),
            decoder,
            line,
            stop_ids,
            first,
            last: 0,
            left: options.max_tokens,
            finish_reason: None,
        })
    }
}

impl Pieces<'_> {
    /// Why the text ended; `None` while it goes on.
    #[must_use]
    pub fn finish_reason(&self) -> Option<FinishReason> {
        self.finish_reason
    }

    fn step(&mut self) -> Result<Option<Piece>> {
        if self.left == 0 {
            return self.end(FinishReason::Length);
        }
        let id = match self.first.take() {
            Some(id) => Some(id),
            None => self.line.step(self.decoder)?,
        };
        let Some(id) = id else {
            return self.end(FinishReason::Length);
        };
        if self.stop_ids.contains(&id) {
            return self.end(FinishReason::Stop);
        }
        self.left -= 1;
        self.last = id;
        let text = self.detokenizer.push(id)?;
        Ok(Some(Piece { id, text }))
    }

    /// The text has ended; what was held back of it comes as a last piece.
    fn end(&mut self, reason: FinishReason) -> Result<Option<Piece>> {
        self.finish_reason = Some(reason);
        let text = self.detokenizer.finish()?;
        Ok((!text.is_empty()).then(|| Piece { id: self.last, text }))
    }
}

impl Iterator for Pieces<'_> {
    type Item = Result<Piece>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.finish_reason.is_some() {
            return None;
        }
        let piece = self.step();
        if piece.is_err() {
            self.finish_reason = Some(FinishReason::Cancelled);
        }
        piece.transpose()
    }
}
