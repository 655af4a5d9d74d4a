//! How well a model foretells a text.

use crate::error::{LmError, Result};
use crate::model::Decoder;

/// Logits that are taken to the host at a time, in elements.
const MOST_LOGITS: usize = 1 << 24;

/// What [`perplexity`] found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Perplexity {
    /// The exponential of the mean of `-ln p` over all foretold tokens.
    pub perplexity: f64,
    /// Its standard error.
    pub standard_error: f64,
    /// Windows of the text.
    pub samples: usize,
    /// Tokens that were foretold.
    pub tokens: usize,
}

/// The perplexity of `tokens`, cut into windows of `sequence_length` as mlx-lm's `eval_ppl` does: each window on its own,
/// each of its tokens but the first foretold by those before it; what is left behind the last whole window is not used.
/// `samples` windows at most. `progress` is told how many windows of how many are done.
///
/// # Errors
/// [`LmError::InvalidArgument`] when there is no whole window, or a window foretells nothing; else as [`Decoder::forward`].
pub fn perplexity(
    decoder: &mut Decoder,
    tokens: &[u32],
    sequence_length: usize,
    samples: Option<usize>,
    mut progress: impl FnMut(usize, usize),
) -> Result<Perplexity> {
    if sequence_length < 2 || tokens.len() < sequence_length {
        return Err(LmError::InvalidArgument(format!(
            "perplexity: {} tokens in windows of {sequence_length}; windows have at least 2 tokens, the text at least one window",
            tokens.len()
        )));
    }
    let windows = tokens.len() / sequence_length;
    let windows = samples.map_or(windows, |n| n.clamp(1, windows));
    let mut losses = Vec::with_capacity(windows * (sequence_length - 1));
    for (i, window) in tokens.chunks_exact(sequence_length).take(windows).enumerate() {
        losses_of(decoder, window, &mut losses)?;
        progress(i + 1, windows);
    }
    let n = losses.len() as f64;
    let mean = losses.iter().sum::<f64>() / n;
    let squares: f64 = losses.iter().map(|l| (l - mean).powi(2)).sum();
    let perplexity = mean.exp();
    if !perplexity.is_finite() {
        return Err(LmError::Logits(format!("perplexity: the mean loss is {mean}")));
    }
    Ok(Perplexity {
        perplexity,
        standard_error: perplexity * (squares / (n - 1.0).max(1.0)).sqrt() / n.sqrt(),
        samples: windows,
        tokens: losses.len(),
    })
}

/// `-ln p` of each token of a window but the first.
fn losses_of(decoder: &mut Decoder, window: &[u32], losses: &mut Vec<f64>) -> Result<()> {
    let vocab = decoder.spec().vocab_size;
    let piece = decoder.chunk().min((MOST_LOGITS / vocab).max(1));
    let (inputs, targets) = (&window[..window.len() - 1], &window[1..]);
    let mut state = decoder.new_state(inputs.len())?;
    for (inputs, targets) in inputs.chunks(piece).zip(targets.chunks(piece)) {
        let logits = decoder.forward_all(inputs, &mut state)?;
        for (row, target) in logits.chunks_exact(vocab).zip(targets) {
            let Some(chosen) = row.get(*target as usize) else {
                return Err(LmError::InvalidArgument(format!(
                    "token id {target} is outside a vocabulary of {vocab}"
                )));
            };
            let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = row.iter().map(|l| f64::from(l - most).exp()).sum();
            losses.push(sum.ln() + f64::from(most) - f64::from(*chosen));
        }
    }
    Ok(())
}
