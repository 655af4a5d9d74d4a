//! One variant of one case: opened, fed, compared.

use std::fmt;

use mlx_native::{DType, MlxDevice};
use mlx_native_lm::{Decoder, ModelOptions, SequenceState, open_decoder};

use crate::gguf;
use crate::golden::{Golden, Variant};
use crate::weights::write_folder;

/// Largest errors in parts of the tolerance, and the greedy tokens that were right.
pub struct Outcome {
    whole: f64,
    earlier: f64,
    greedy: (usize, usize),
    after: f64,
    chunked: Option<f64>,
}

impl Outcome {
    pub fn is_right(&self) -> bool {
        let errors = [self.whole, self.earlier, self.after, self.chunked.unwrap_or(0.0)];
        // NaN is not within.
        errors.iter().all(|e| *e <= 1.0) && self.greedy.0 == self.greedy.1
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let greedy = format!("{} of {}", self.greedy.0, self.greedy.1);
        let chunked = self.chunked.map_or("-".to_owned(), |e| format!("{e:.3}"));
        write!(
            f,
            "{:9.3} {:9.3} {greedy:>9} {:9.3} {chunked:>9}",
            self.whole, self.earlier, self.after
        )?;
        if self.is_right() {
            Ok(())
        } else {
            f.write_str("  WRONG")
        }
    }
}

pub fn run(device: &MlxDevice, case: &Golden, variant: &Variant) -> Result<Outcome, String> {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    write_folder(folder.path(), case, variant)?;
    let options = ModelOptions {
        dtype: Some(DType::F32),
        prefill_step: 256,
    };
    let text = |e: mlx_native_lm::LmError| e.to_string();
    let mut decoder = open_decoder(device, folder.path(), &options).map_err(text)?;
    compare(&mut decoder, case, variant).map_err(text)
}

/// The case as a GGUF file, held against the same model as a folder; `None` where GGUF has no such model.
pub fn run_gguf(device: &MlxDevice, case: &Golden, variant: &Variant) -> Result<Option<Outcome>, String> {
    let Some(config) = gguf::config(case) else {
        return Ok(None);
    };
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    write_folder(folder.path(), case, variant)?;
    std::fs::write(folder.path().join("config.json"), config.to_string()).map_err(|e| e.to_string())?;
    let options = ModelOptions {
        dtype: Some(DType::F32),
        prefill_step: 256,
    };
    let text = |e: mlx_native_lm::LmError| e.to_string();
    let mut wanted = open_decoder(device, folder.path(), &options).map_err(text)?;
    let path = gguf::write(folder.path(), case, &config)?;
    let mut decoder = open_decoder(device, path, &options).map_err(text)?;
    let wanted = outputs(&mut wanted, case, variant).map_err(text)?;
    compare(&mut decoder, case, &wanted).map(Some).map_err(text)
}

/// What a decoder says of a case, with the tolerance of `variant`.
fn outputs(decoder: &mut Decoder, case: &Golden, variant: &Variant) -> mlx_native_lm::Result<Variant> {
    let vocab = decoder.spec().vocab_size;
    let mut state = decoder.new_state(1)?;
    let all = feed(decoder, &case.prompt_ids, &mut state, case.fed_singly())?;
    let rows: Vec<&[f32]> = all.chunks(vocab).collect();
    let positions = variant.logits_positions.keys().filter_map(|p| {
        let position: usize = p.parse().ok()?;
        Some((p.clone(), rows.get(position)?.to_vec()))
    });
    let last = rows.last().map_or(Vec::new(), |row| row.to_vec());
    let (mut greedy_ids, mut logits) = (Vec::new(), last.clone());
    for _ in &variant.greedy_ids {
        let best = (0..vocab).max_by(|a, b| logits[*a].total_cmp(&logits[*b]));
        let best = best.unwrap_or(0) as u32;
        greedy_ids.push(best);
        logits = decoder.forward(&[best], &mut state)?;
    }
    Ok(Variant {
        logits_last: last,
        logits_positions: positions.collect(),
        greedy_ids,
        logits_after: logits,
        chunked: None,
        sensitivity: variant.sensitivity,
        scale: variant.scale,
        quantization: None,
        packed: Vec::new(),
    })
}

fn compare(decoder: &mut Decoder, case: &Golden, variant: &Variant) -> mlx_native_lm::Result<Outcome> {
    let tolerance = (2e-5 * variant.scale).max(4.0 * variant.sensitivity);
    let error = |got: &[f32], want: &[f32]| {
        if got.len() != want.len() {
            return f64::INFINITY;
        }
        let errors = got
            .iter()
            .zip(want)
            .map(|(g, w)| (f64::from(*g) - f64::from(*w)).abs() / tolerance);
        // `max` would drop NaN.
        errors.fold(0.0, |worst, e| if e > worst || e.is_nan() { e } else { worst })
    };
    let vocab = decoder.spec().vocab_size;
    let mut state = decoder.new_state(1)?;
    let all = feed(decoder, &case.prompt_ids, &mut state, case.fed_singly())?;
    let row = |i: usize| &all[i * vocab..(i + 1) * vocab];
    let mut earlier = 0.0f64;
    for (position, want) in &variant.logits_positions {
        let position: usize = position.parse().unwrap_or(usize::MAX);
        if position >= case.prompt_ids.len() {
            earlier = f64::INFINITY;
            continue;
        }
        let e = error(row(position), want);
        earlier = if e.is_nan() { e } else { earlier.max(e) };
    }
    let mut logits = row(case.prompt_ids.len() - 1).to_vec();
    let whole = error(&logits, &variant.logits_last);
    let mut right = 0;
    for want in &variant.greedy_ids {
        let best = (0..vocab)
            .max_by(|a, b| logits[*a].total_cmp(&logits[*b]))
            .unwrap_or(0);
        if best as u32 == *want {
            right += 1;
        }
        // Fed what mlx-lm chose, so that one error is counted once.
        logits = decoder.forward(&[*want], &mut state)?;
    }
    let after = error(&logits, &variant.logits_after);
    let chunked = match &variant.chunked {
        None => None,
        Some(chunked) => {
            let mut state = decoder.new_state(1)?;
            let (mut start, mut logits) = (0, Vec::new());
            for len in &chunked.split {
                let all = feed(
                    decoder,
                    &case.prompt_ids[start..start + len],
                    &mut state,
                    case.fed_singly(),
                )?;
                logits = all[all.len() - vocab..].to_vec();
                start += len;
            }
            Some(error(&logits, &chunked.logits_last))
        }
    };
    Ok(Outcome {
        whole,
        earlier,
        greedy: (right, variant.greedy_ids.len()),
        after,
        chunked,
    })
}

/// Logits behind every token.
fn feed(
    decoder: &mut Decoder,
    tokens: &[u32],
    state: &mut SequenceState,
    singly: bool,
) -> mlx_native_lm::Result<Vec<f32>> {
    if !singly {
        return decoder.forward_all(tokens, state);
    }
    let mut all = Vec::new();
    for token in tokens {
        all.extend(decoder.forward(&[*token], state)?);
    }
    Ok(all)
}
