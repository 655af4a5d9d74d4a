//! Body of `sample` for the CPU: parts take sequences. The choice itself is `rule`'s.

use super::rule::{Candidate, Penalties, argmax, draw, key, last_of_top, random, top_p_threshold};
use super::{NO_TOKEN, SampleParams, WORDS, Wanted};
use crate::backend::cpu::{Element, Launch};

pub(super) fn sample<T: Element>(launch: &Launch<'_>, _part: usize, _parts: usize) {
    let p: SampleParams = launch.params(8);
    if p.history_len == 0 || p.ring_len == 0 {
        return;
    }
    let (n_seqs, vocab) = (p.n_seqs as usize, p.vocab as usize);
    let (history_len, ring_len) = (p.history_len as usize, p.ring_len as usize);
    let logits = launch.input::<T>(0);
    let (wanted, starts) = (launch.input::<u32>(2), launch.input::<u32>(3));
    let (values, history, counts) = (launch.output::<f32>(1), launch.output::<u32>(4), launch.output::<u32>(5));
    let (ids, ring) = (launch.output::<u32>(6), launch.output::<u32>(7));
    let (mut candidates, mut scratch) = (Vec::new(), Vec::new());
    while let Some(claim) = launch.next_chunk(n_seqs, 1) {
        let s = claim.start;
        let words: [u32; WORDS] = std::array::from_fn(|i| wanted[s * WORDS + i]);
        let want: Wanted = bytemuck::cast(words);
        if want.is_on == 0 {
            continue;
        }
        // SAFETY: this part has claimed the sequence, and with it these rows.
        let (values, history, counts, ring) = unsafe {
            (
                values.slice_mut(s * vocab..(s + 1) * vocab),
                history.slice_mut(s * history_len..(s + 1) * history_len),
                counts.slice_mut(2 * s..2 * s + 2),
                ring.slice_mut(s * ring_len..(s + 1) * ring_len),
            )
        };
        T::widen(&logits[s * p.logits_stride as usize..][..vocab], values);
        penalties(&want).apply(values, &latest(history, counts[0]));
        let id = choose(values, &want, counts[1], &mut candidates, &mut scratch);
        ring[counts[1] as usize % ring_len] = id;
        counts[1] = counts[1].wrapping_add(1);
        if id != NO_TOKEN {
            history[counts[0] as usize % history_len] = id;
            counts[0] = counts[0].wrapping_add(1);
        }
        // Ranges that are not ascending may name a row twice: the first sequence that does has it.
        let row = starts[s];
        let names_it = |other: usize| starts[other] == row && starts[other + 1] > row;
        if names_it(s) && row < p.n_ids && !(0..s).any(names_it) {
            // SAFETY: of all sequences only this one writes the word, as just seen, and this part has claimed it.
            unsafe { ids.slice_mut(row as usize..row as usize + 1)[0] = if id == NO_TOKEN { 0 } else { id } };
        }
    }
}

fn penalties(want: &Wanted) -> Penalties {
    Penalties {
        repetition: want.repetition,
        repetition_context: want.repetition_context,
        presence: want.presence,
        presence_context: want.presence_context,
        frequency: want.frequency,
        frequency_context: want.frequency_context,
    }
}

/// The tokens that a ring holds, the latest last.
fn latest(ring: &[u32], count: u32) -> Vec<u32> {
    let held = (count as usize).min(ring.len());
    (0..held).rev().map(|back| ring[(count as usize - 1 - back) % ring.len()]).collect()
}

fn choose(
    values: &[f32],
    want: &Wanted,
    counter: u32,
    candidates: &mut Vec<Candidate>,
    scratch: &mut Vec<Candidate>,
) -> u32 {
    let Ok((best, max)) = argmax(values) else { return NO_TOKEN };
    if want.scale == 0.0 {
        return best;
    }
    candidates.clear();
    let possible = |(id, &logit): (u32, &f32)| (logit > f32::NEG_INFINITY).then_some(Candidate { logit, id });
    candidates.extend((0u32..).zip(values).filter_map(possible));
    if want.top_p != 0 {
        let least = top_p_threshold(candidates, max, want.top_p, scratch);
        candidates.retain(|c| key(c.logit) >= least);
    }
    let least = max + want.min_p;
    candidates.retain(|c| c.logit >= least);
    if let Some(last) = last_of_top(candidates, want.top_k as usize, scratch) {
        candidates.retain(|c| *c >= last);
    }
    let seed = u64::from(want.seed_low) | u64::from(want.seed_high) << 32;
    draw(candidates, max, want.scale, random(seed, u64::from(counter), 0)).unwrap_or(best)
}
