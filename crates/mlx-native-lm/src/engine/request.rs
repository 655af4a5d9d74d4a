//! What is asked of the engine.

use super::EngineError;
use super::constraint::Constraint;
use super::thinking::Thinking;
use crate::sampling::SamplingParams;

/// Alternatives per token that may be asked for at most.
pub const MAX_TOP_LOGPROBS: usize = 20;
/// Choices of one request at most.
pub const MAX_CHOICES: usize = 32;
/// Stop strings of one request at most, and bytes of each.
const MAX_STOPS: usize = 64;
const MAX_STOP_BYTES: usize = 4096;

/// A prompt to continue, and how. [`Request::new`] asks for the likeliest text until the model ends it.
#[derive(Debug, Clone)]
pub struct Request {
    /// Ids of the prompt, one at least.
    pub prompt: Vec<u32>,
    /// Tokens to generate at most; `None`: as many as the context has room for.
    pub max_tokens: Option<usize>,
    /// Tokens that are generated before one may end the text.
    pub min_tokens: usize,
    /// How tokens are chosen. Choice `i > 0` of several draws with another seed, made of this one and `i`.
    pub sampling: SamplingParams,
    /// How many texts are wanted; the prompt is computed once for all of them.
    pub n: usize,
    /// Texts that end the answer and are not part of it, wherever tokens begin and end.
    pub stop: Vec<String>,
    /// Tokens that end the answer beside those of the model.
    pub stop_token_ids: Vec<u32>,
    /// Whether the model's own tokens for the end of a text are generated like others.
    pub ignore_eos: bool,
    /// Only these tokens may be generated, where there are any.
    pub allowed_token_ids: Option<Vec<u32>>,
    /// Logarithms of the probability of each generated token and of so many of the likeliest ones.
    pub logprobs: Option<usize>,
    /// The same for the tokens of the prompt.
    pub prompt_logprobs: Option<usize>,
    /// A grammar that the text has to follow.
    pub constraint: Option<Constraint>,
    /// How what the model thinks before it answers is told from the answer, and how long it may be.
    pub thinking: Option<Thinking>,
    /// Whether the prompt may be taken from the cache, and put there.
    pub use_cache: bool,
    /// Requests with different salts share nothing in the cache.
    pub cache_salt: String,
}

impl Request {
    /// The likeliest text behind `prompt`.
    #[must_use]
    pub fn new(prompt: Vec<u32>) -> Self {
        Request {
            prompt,
            max_tokens: None,
            min_tokens: 0,
            sampling: SamplingParams::default(),
            n: 1,
            stop: Vec::new(),
            stop_token_ids: Vec::new(),
            ignore_eos: false,
            allowed_token_ids: None,
            logprobs: None,
            prompt_logprobs: None,
            constraint: None,
            thinking: None,
            use_cache: true,
            cache_salt: String::new(),
        }
    }

    /// Checks what can be checked without the model's state.
    pub(super) fn validate(&self, vocab_size: usize) -> Result<(), EngineError> {
        let refuse = |param: &'static str, message: String| Err(EngineError::Invalid { param, message });
        if self.prompt.is_empty() {
            return refuse("prompt", "the prompt has no tokens".to_owned());
        }
        if self.n == 0 || self.n > MAX_CHOICES {
            return refuse("n", format!("found {}, wanted 1 to {MAX_CHOICES}", self.n));
        }
        for (param, wanted) in [
            ("logprobs", self.logprobs),
            ("prompt_logprobs", self.prompt_logprobs),
        ] {
            if let Some(n) = wanted.filter(|n| *n > MAX_TOP_LOGPROBS) {
                return refuse(param, format!("found {n}, wanted 0 to {MAX_TOP_LOGPROBS}"));
            }
        }
        if self.stop.len() > MAX_STOPS || self.stop.iter().any(|s| s.is_empty() || s.len() > MAX_STOP_BYTES) {
            return refuse(
                "stop",
                format!("wanted at most {MAX_STOPS} strings of 1 to {MAX_STOP_BYTES} bytes"),
            );
        }
        let allowed = self.allowed_token_ids.as_deref().unwrap_or_default();
        if self.allowed_token_ids.is_some() && allowed.is_empty() {
            return refuse("allowed_token_ids", "found none, wanted one at least".to_owned());
        }
        let ending = self.thinking.as_ref().map_or(&[][..], |t| &t.ending);
        if ending.is_empty() && self.thinking.as_ref().is_some_and(|t| t.budget.is_some()) {
            return refuse("thinking", "a budget needs tokens that end thoughts".to_owned());
        }
        let ids = [
            ("thinking", ending),
            ("prompt", self.prompt.as_slice()),
            ("stop_token_ids", &self.stop_token_ids),
            ("allowed_token_ids", allowed),
        ];
        for (param, ids) in ids {
            if let Some(id) = ids.iter().find(|id| **id as usize >= vocab_size) {
                return refuse(
                    param,
                    format!("token id {id} is outside a vocabulary of {vocab_size}"),
                );
            }
        }
        if let Some(id) = (self.sampling.logit_bias.keys()).find(|id| **id as usize >= vocab_size) {
            return refuse(
                "logit_bias",
                format!("token id {id} is outside a vocabulary of {vocab_size}"),
            );
        }
        self.sampling.validate().map_err(|error| {
            let text = error.to_string();
            let param = SAMPLING.iter().find(|name| text.starts_with(**name));
            EngineError::Invalid {
                param: param.copied().unwrap_or("sampling"),
                message: text,
            }
        })
    }

    /// The parameters of choice `index`.
    pub(super) fn sampling_of(&self, index: usize, vocab_size: usize) -> SamplingParams {
        let mut params = self.sampling.clone();
        // The sampler wants fewer than all; all is what no limit is.
        if params.top_k >= vocab_size {
            params.top_k = 0;
        }
        if let (Some(seed), true) = (params.seed, index > 0) {
            // An odd multiplier gives every choice a seed of its own.
            params.seed = Some(seed.wrapping_add((index as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)));
        }
        params
    }
}

/// Names that an error of [`SamplingParams::validate`] may begin with.
const SAMPLING: [&str; 12] = [
    "temperature",
    "top_p",
    "min_p",
    "min_tokens_to_keep",
    "xtc_probability",
    "xtc_threshold",
    "repetition_penalty",
    "repetition_context_size",
    "presence_penalty",
    "presence_context_size",
    "frequency_penalty",
    "frequency_context_size",
];
