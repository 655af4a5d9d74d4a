//! What mlx-lm computed, and a model held against it.

use std::ops::ControlFlow;
use std::path::Path;

use mlx_native::DType;
use mlx_native_lm::{GenerateOptions, Generation, Model, ModelOptions, SamplingParams, generate};
use serde::Deserialize;
use serde_json::{Map, Value};

#[derive(Deserialize)]
pub struct Golden {
    pub cases: Vec<Case>,
}

#[derive(Deserialize)]
pub struct Case {
    pub prompt: Option<String>,
    pub prompt_ids: Vec<u32>,
    /// Negative log-likelihood of each token of the prompt but the first.
    #[serde(default)]
    pub prompt_nll: Vec<f64>,
    /// All logits behind the prompt.
    #[serde(default)]
    pub logits: Vec<f32>,
    /// The largest ones.
    #[serde(default)]
    pub top_ids: Vec<usize>,
    #[serde(default)]
    pub top_logits: Vec<f32>,
    pub greedy_ids: Vec<u32>,
    /// Distance of the best logit from the second, at each greedy token.
    pub greedy_margins: Vec<f32>,
    pub greedy_text: Option<String>,
    /// The chat that the prompt was made of, where it was.
    #[serde(default)]
    pub messages: Vec<Map<String, Value>>,
    /// Whether its last message is the beginning of the answer.
    #[serde(default)]
    pub prefill: bool,
    /// Where the first end token stands in the greedy tokens, and the text before it.
    #[serde(default)]
    pub eos_at: Option<usize>,
    #[serde(default)]
    pub text: Option<String>,
}

pub fn golden(path: &Path) -> Golden {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

pub fn options() -> ModelOptions {
    ModelOptions {
        dtype: Some(DType::F32),
        ..ModelOptions::default()
    }
}

/// The reference prints five digits after the point; the rest is for sums in another order.
pub const LOGITS: f32 = 2e-3;

/// The log-likelihoods of the prompt, and the logits behind it.
pub fn logits(model: &mut Model, case: &Case, name: &str) {
    let mut cache = model.decoder().new_state(case.prompt_ids.len()).unwrap();
    let vocab = model.decoder().spec().vocab_size;
    let all = model
        .decoder_mut()
        .forward_all(&case.prompt_ids, &mut cache)
        .unwrap();
    let rows: Vec<&[f32]> = all.chunks(vocab).collect();
    for (i, nll) in case.prompt_nll.iter().enumerate() {
        let row = rows[i];
        let max = row.iter().copied().fold(f32::MIN, f32::max);
        let sum: f64 = row.iter().map(|v| f64::from(v - max).exp()).sum();
        let ours = sum.ln() - f64::from(row[case.prompt_ids[i + 1] as usize] - max);
        assert!((ours - nll).abs() < 2e-3, "{name}: token {i}: {ours} and {nll}");
    }
    let last = rows[rows.len() - 1];
    for (id, want) in case
        .logits
        .iter()
        .enumerate()
        .chain(case.top_ids.iter().copied().zip(&case.top_logits))
    {
        assert!(
            (last[id] - want).abs() < LOGITS,
            "{name}: logit {id}: {} and {want}",
            last[id]
        );
    }
}

/// The first `tokens` greedy tokens.
pub fn greedy(model: &mut Model, case: &Case, name: &str, tokens: usize) -> Generation {
    let mut cache = model.decoder().new_state(case.prompt_ids.len()).unwrap();
    let options = GenerateOptions {
        max_tokens: tokens,
        sampling: SamplingParams {
            temperature: 0.0,
            ..SamplingParams::default()
        },
        stop_ids: Default::default(),
    };
    let (decoder, tokenizer) = model.parts();
    let result = generate(decoder, tokenizer, &mut cache, &case.prompt_ids, &options, |_| {
        ControlFlow::Continue(())
    })
    .unwrap();
    // Where the reference itself hesitates by less than the tolerance, either token is right, and what follows differs.
    let sure = case
        .greedy_margins
        .iter()
        .position(|m| *m < 2.0 * LOGITS)
        .unwrap_or(case.greedy_ids.len())
        .min(tokens);
    assert_eq!(result.token_ids[..sure], case.greedy_ids[..sure], "{name}");
    assert!(sure > 0, "{name}: a case that says nothing");
    if let Some(text) = case
        .greedy_text
        .as_ref()
        .filter(|_| sure == case.greedy_ids.len())
    {
        assert_eq!(&result.text, text, "{name}");
    }
    result
}
