//! Choosing the next token: the processors and filters of mlx-lm 0.32.2, in its order.
//!
//! 1. Logits: `logit_bias`, then the penalties for repetition, presence and frequency.
//! 2. Temperature 0: the largest logit, the first of equal ones.
//! 3. Else the filters top-p, min-p, XTC, top-k, each on what the one before left, on probabilities before temperature.
//! 4. A draw from what is left, with temperature.
//!
//! Every filter costs time linear in the vocabulary; nothing sorts it. Probabilities are whole numbers and random numbers a
//! function of seed and number of draws: the arithmetic is that of [`mlx_native::ops::sample`], which devices share, so
//! that equal logits and an equal seed give an equal token on every machine, chosen by the host or by the device.

use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

use mlx_native::ops::sample::Sampling;
use mlx_native::ops::sample::rule::{self, Candidate, Defect, Penalties};

use crate::error::{LmError, Result};

/// Streams of random numbers: for the draw, as on devices, and for whether XTC applies.
const DRAW: u32 = 0;
const XTC: u32 = 1;

/// How the next token is chosen. The defaults take the likeliest token and change nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// Logits are divided by this before the draw; 0 takes the likeliest token, and no filter matters.
    pub temperature: f32,
    /// Keeps the likeliest tokens that together have this probability; 0 and 1 keep all.
    pub top_p: f32,
    /// Keeps tokens that are at least this fraction as likely as the likeliest; 0 keeps all.
    pub min_p: f32,
    /// `min_p` keeps at least this many.
    pub min_tokens_to_keep: usize,
    /// Keeps this many of the likeliest tokens; 0 keeps all.
    pub top_k: usize,
    /// Probability, per token, that XTC is applied (exclude top choices).
    pub xtc_probability: f32,
    /// XTC drops all tokens above this probability but the least likely of them; from 0 to 0.5.
    pub xtc_threshold: f32,
    /// Tokens that XTC never drops: those that end the text, and line ends.
    pub xtc_special_tokens: Vec<u32>,
    /// Seed of the draws; `None`: another one each time.
    pub seed: Option<u64>,
    /// Divides the logits of recent tokens, multiplies negative ones; `None`, 0 and 1 change nothing.
    pub repetition_penalty: Option<f32>,
    /// How many tokens are recent for `repetition_penalty`.
    pub repetition_context_size: usize,
    /// Subtracted from the logits of recent tokens, once for each.
    pub presence_penalty: Option<f32>,
    /// How many tokens are recent for `presence_penalty`.
    pub presence_context_size: usize,
    /// Subtracted from the logits of recent tokens, as often as they occur.
    pub frequency_penalty: Option<f32>,
    /// How many tokens are recent for `frequency_penalty`.
    pub frequency_context_size: usize,
    /// Added to the logits of tokens; negative infinity forbids one.
    pub logit_bias: BTreeMap<u32, f32>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        SamplingParams {
            temperature: 0.0,
            top_p: 0.0,
            min_p: 0.0,
            min_tokens_to_keep: 1,
            top_k: 0,
            xtc_probability: 0.0,
            xtc_threshold: 0.0,
            xtc_special_tokens: Vec::new(),
            seed: None,
            repetition_penalty: None,
            repetition_context_size: 20,
            presence_penalty: None,
            presence_context_size: 20,
            frequency_penalty: None,
            frequency_context_size: 20,
            logit_bias: BTreeMap::new(),
        }
    }
}

impl SamplingParams {
    /// Checks every parameter.
    ///
    /// # Errors
    /// [`LmError::InvalidArgument`], naming the parameter, what was found and what was wanted.
    pub fn validate(&self) -> Result<()> {
        let within = |name: &str, value: f32, most: f32| {
            if (0.0..=most).contains(&value) {
                Ok(())
            } else {
                refuse(name, value, &format!("a number from 0 to {most}"))
            }
        };
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            return refuse("temperature", self.temperature, "a finite number, 0 or more");
        }
        within("top_p", self.top_p, 1.0)?;
        within("min_p", self.min_p, 1.0)?;
        within("xtc_probability", self.xtc_probability, 1.0)?;
        within("xtc_threshold", self.xtc_threshold, 0.5)?;
        let penalty = self.repetition_penalty.unwrap_or(1.0);
        if !(penalty.is_finite() && penalty >= 0.0) {
            return refuse("repetition_penalty", penalty, "a finite number, 0 or more");
        }
        for (name, value) in [
            ("presence_penalty", self.presence_penalty),
            ("frequency_penalty", self.frequency_penalty),
        ] {
            if let Some(value) = value.filter(|v| !v.is_finite()) {
                return refuse(name, value, "a finite number");
            }
        }
        for (name, value) in [
            ("min_tokens_to_keep", self.min_tokens_to_keep),
            ("repetition_context_size", self.repetition_context_size),
            ("presence_context_size", self.presence_context_size),
            ("frequency_context_size", self.frequency_context_size),
        ] {
            if value == 0 {
                return refuse(name, value, "1 or more");
            }
        }
        match self
            .logit_bias
            .iter()
            .find(|(_, bias)| bias.is_nan() || **bias == f32::INFINITY)
        {
            Some((id, bias)) => refuse(
                &format!("logit_bias of token {id}"),
                bias,
                "a number below infinity",
            ),
            None => Ok(()),
        }
    }
}

impl SamplingParams {
    fn penalties(&self) -> Penalties {
        let context = |size: usize| u32::try_from(size).unwrap_or(u32::MAX);
        Penalties {
            repetition: self.repetition_penalty.filter(|v| *v != 0.0).unwrap_or(1.0),
            repetition_context: context(self.repetition_context_size),
            presence: self.presence_penalty.unwrap_or(0.0),
            presence_context: context(self.presence_context_size),
            frequency: self.frequency_penalty.unwrap_or(0.0),
            frequency_context: context(self.frequency_context_size),
        }
    }
}

fn refuse<T>(name: &str, found: impl std::fmt::Display, wanted: &str) -> Result<T> {
    Err(LmError::InvalidArgument(format!(
        "{name}: found {found}, wanted {wanted}"
    )))
}

/// Chooses tokens, one after the other.
///
/// ```
/// use mlx_native_lm::{Sampler, SamplingParams};
///
/// let params = SamplingParams { temperature: 0.8, top_p: 0.9, seed: Some(7), ..SamplingParams::default() };
/// let mut sampler = Sampler::new(&params)?;
/// let mut logits = [0.0, 9.0, -1.0];
/// assert_eq!(sampler.sample(&mut logits, &[])?, 1);
/// # Ok::<(), mlx_native_lm::LmError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Sampler {
    params: SamplingParams,
    seed: u64,
    /// Tokens chosen so far.
    count: u64,
    /// What is left of the vocabulary, by rising id.
    candidates: Vec<Candidate>,
    scratch: Vec<Candidate>,
}

impl Sampler {
    /// A sampler at the beginning of its seed's draws.
    ///
    /// # Errors
    /// As [`SamplingParams::validate`].
    pub fn new(params: &SamplingParams) -> Result<Self> {
        params.validate()?;
        // The standard library's hasher is keyed by the system's randomness.
        let seed = params
            .seed
            .unwrap_or_else(|| RandomState::new().build_hasher().finish());
        Ok(Sampler {
            params: params.clone(),
            seed,
            count: 0,
            candidates: Vec::new(),
            scratch: Vec::new(),
        })
    }

    /// The same for a device to do, from the first token on; `None` where the host must: for XTC, `logit_bias`, and
    /// `min_tokens_to_keep` beyond 1. A device gives the same tokens.
    #[must_use]
    pub fn on_device(&self) -> Option<Sampling> {
        let p = &self.params;
        let is_possible = p.xtc_probability == 0.0 && p.logit_bias.is_empty() && p.min_tokens_to_keep == 1;
        is_possible.then(|| Sampling {
            temperature: p.temperature,
            top_p: p.top_p,
            min_p: p.min_p,
            top_k: u32::try_from(p.top_k).unwrap_or(0),
            penalties: p.penalties(),
            seed: self.seed,
        })
    }

    /// Chooses a token by its logits, one for each id. `history` is all tokens before it, those of the prompt included.
    /// The logits are left as the processors made them.
    ///
    /// # Errors
    /// [`LmError::Logits`] when a logit is NaN or infinite, or all are negative infinity;
    /// [`LmError::InvalidArgument`] when an id of `history` or `logit_bias` is outside the vocabulary, or `top_k` is not
    /// below its size.
    pub fn sample(&mut self, logits: &mut [f32], history: &[u32]) -> Result<u32> {
        let counter = self.count;
        self.count += 1;
        self.process(logits, history)?;
        let (best, max) = argmax(logits)?;
        if self.params.temperature == 0.0 {
            return Ok(best);
        }
        self.candidates.clear();
        // Negative infinity means that a token is out, in the logits as in every filter.
        let possible =
            |(id, &logit): (u32, &f32)| (logit > f32::NEG_INFINITY).then_some(Candidate { logit, id });
        self.candidates
            .extend((0u32..).zip(logits.iter()).filter_map(possible));
        self.filter(max, logits.len(), counter)?;
        let max = self
            .candidates
            .iter()
            .map(|c| c.logit)
            .fold(f32::NEG_INFINITY, f32::max);
        let random = rule::random(self.seed, counter, DRAW);
        Ok(rule::draw(
            &self.candidates,
            max,
            rule::scale(self.params.temperature),
            random,
        )
        .unwrap_or(best))
    }

    fn process(&self, logits: &mut [f32], history: &[u32]) -> Result<()> {
        let p = &self.params;
        let vocab = logits.len();
        let mut at = |what: &str, id: u32, change: &mut dyn FnMut(&mut f32)| match logits.get_mut(id as usize)
        {
            Some(logit) => {
                change(logit);
                Ok(())
            }
            None => refuse(
                &format!("{what}: token"),
                id,
                &format!("one below the vocabulary's size {vocab}"),
            ),
        };
        for (id, bias) in &p.logit_bias {
            at("logit_bias", *id, &mut |logit| *logit += bias)?;
        }
        let penalties = p.penalties();
        let recent = &history[history.len().saturating_sub(penalties.context() as usize)..];
        for id in recent {
            at("history", *id, &mut |_| {})?;
        }
        penalties.apply(logits, recent);
        Ok(())
    }

    /// Leaves the candidates that pass. `max` is the largest logit, which every filter but XTC keeps.
    fn filter(&mut self, max: f32, vocab: usize, counter: u64) -> Result<()> {
        let p = &self.params;
        let (candidates, scratch) = (&mut self.candidates, &mut self.scratch);
        if p.top_p > 0.0 && p.top_p < 1.0 {
            let least = rule::top_p_threshold(candidates, max, rule::fraction(p.top_p), scratch);
            candidates.retain(|c| rule::key(c.logit) >= least);
        }
        if p.min_p > 0.0 {
            let least = max + libm::logf(p.min_p);
            let kept = rule::last_of_top(candidates, p.min_tokens_to_keep, scratch);
            candidates.retain(|c| c.logit >= least || kept.is_some_and(|k| *c >= k));
        }
        let applies = || unit(rule::random(self.seed, counter, XTC)) <= f64::from(p.xtc_probability);
        if p.xtc_probability > 0.0 && applies() {
            let total = candidates.iter().map(|c| c.weight(max)).sum::<u64>() as f64;
            let above = |c: &&Candidate| c.weight(max) as f64 > f64::from(p.xtc_threshold) * total;
            let least = candidates.iter().filter(above).map(|c| c.logit).reduce(f32::min);
            let least = least.unwrap_or(f32::INFINITY);
            candidates.retain(|c| c.logit <= least || p.xtc_special_tokens.contains(&c.id));
        }
        if p.top_k > 0 {
            if p.top_k >= vocab {
                return refuse(
                    "top_k",
                    p.top_k,
                    &format!("a number below the vocabulary's size {vocab}"),
                );
            }
            if let Some(last) = rule::last_of_top(candidates, p.top_k, scratch) {
                candidates.retain(|c| *c >= last);
            }
        }
        Ok(())
    }
}

/// The largest logit and the first id that has it.
fn argmax(logits: &[f32]) -> Result<(u32, f32)> {
    rule::argmax(logits).map_err(|defect| {
        LmError::Logits(match defect {
            Defect::Nan(id) => format!("the one of token {id} is NaN: the weights are damaged, or overflow"),
            Defect::Infinite(id) => format!("the one of token {id} is infinite"),
            Defect::Nothing => format!("all {} are negative infinity", logits.len()),
        })
    })
}

/// A number from 0 to below 1, of 53 random bits.
fn unit(random: u64) -> f64 {
    (random >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

#[cfg(test)]
mod tests;
