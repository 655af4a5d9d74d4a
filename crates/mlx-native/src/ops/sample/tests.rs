//! Cases of `sample`. The reference sorts, and sums in f64; only the random numbers are those of `rule`.

use super::rule::{Penalties, random};
use super::{NO_TOKEN, SampleParams, SampleState, Sampling, sample};
use crate::dtype::DType;
use crate::error::Result;
use crate::ops::step::tests::{starts, words};
use crate::testing::{Case, Context, FLOATS, Outputs, Rng, Suite, Tensor, Tolerance};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Contents {
    Normal,
    /// Few values, so that many logits are equal, zeros of both signs among them.
    Ties,
    /// A sequence with NaN, one with infinity, one with nothing but negative infinity, one with a single token, in turn.
    Specials,
}

#[derive(Debug, Clone)]
struct SampleCase {
    dtype: DType,
    vocab: u32,
    /// What is wanted of each sequence; `None`: off.
    wanted: Vec<Option<Sampling>>,
    contents: Contents,
    history_len: u32,
    /// Tokens so far, and choices so far.
    counts: [u32; 2],
    /// Rows of each sequence in the next step: the second rests.
    gap: u32,
}

impl SampleCase {
    fn params(&self) -> SampleParams {
        SampleParams {
            n_seqs: self.wanted.len() as u32,
            vocab: self.vocab,
            history_len: self.history_len,
            ring_len: 3,
            n_ids: self.wanted.len() as u32 + 2,
            logits_stride: self.vocab + self.gap,
        }
    }

    fn rows(&self) -> Vec<u32> {
        (0..self.wanted.len()).map(|s| u32::from(s != 1)).collect()
    }

    fn logits(&self, rng: &mut Rng) -> Tensor {
        let p = self.params();
        let shape = [p.n_seqs as usize, p.logits_stride as usize];
        let mut values: Vec<f32> = (0..shape[0] * shape[1])
            .map(|_| match self.contents {
                Contents::Ties => rng.pick(&[0.0, -0.0, 1.0, 2.0, -3.0, f32::NEG_INFINITY]),
                _ => rng.normal() * 3.0,
            })
            .collect();
        if self.contents == Contents::Specials {
            for (s, row) in values.chunks_exact_mut(shape[1]).enumerate() {
                let last = self.vocab as usize - 1;
                match s % 4 {
                    0 => row[last] = f32::NAN,
                    1 => row[last / 2] = f32::INFINITY,
                    2 => row.fill(f32::NEG_INFINITY),
                    _ => {
                        row.fill(f32::NEG_INFINITY);
                        row[last / 3] = -5.0;
                    }
                }
            }
        }
        Tensor::from_f32(self.dtype, &shape, &values)
    }

    /// The tokens so far that the history still holds, the latest last.
    fn latest(&self, history: &[u32]) -> Vec<u32> {
        let (count, len) = (self.counts[0], self.history_len);
        (count.saturating_sub(len)..count).map(|n| history[(n % len) as usize]).collect()
    }
}

/// What a sequence gets, by sorting.
fn choice(logits: &[f32], want: &Sampling, history: &[u32], counter: u32) -> u32 {
    let mut logits = logits.to_vec();
    want.penalties.apply(&mut logits, history);
    if logits.iter().any(|l| l.is_nan() || *l == f32::INFINITY) {
        return NO_TOKEN;
    }
    let mut sorted: Vec<(f32, u32)> =
        logits.iter().zip(0u32..).map(|(l, id)| (*l, id)).filter(|c| c.0 > f32::NEG_INFINITY).collect();
    sorted.sort_by(|a, b| b.0.partial_cmp(&a.0).expect("no NaN").then(a.1.cmp(&b.1)));
    let Some(&(max, best)) = sorted.first() else { return NO_TOKEN };
    if want.temperature == 0.0 {
        return best;
    }
    let probability = |l: f32, t: f32| (f64::from(l - max) / f64::from(t)).exp();
    if want.top_p > 0.0 && want.top_p < 1.0 {
        let total: f64 = sorted.iter().map(|c| probability(c.0, 1.0)).sum();
        // What is likelier than the equals that are looked at, and those equals.
        let (mut above, mut equal, mut logit) = (0.0, 0.0, f32::INFINITY);
        sorted.retain(|c| {
            if c.0 < logit {
                (above, equal, logit) = (above + equal, 0.0, c.0);
            }
            equal += probability(c.0, 1.0);
            above < f64::from(want.top_p) * total
        });
    }
    sorted.retain(|c| probability(c.0, 1.0) >= f64::from(want.min_p));
    if want.top_k > 0 {
        sorted.truncate(want.top_k as usize);
    }
    sorted.sort_by_key(|c| c.1);
    let total: f64 = sorted.iter().map(|c| probability(c.0, want.temperature)).sum();
    let mut target = total * (random(want.seed, u64::from(counter), 0) as f64 / 2f64.powi(64));
    for (logit, id) in sorted {
        target -= probability(logit, want.temperature);
        if target < 0.0 {
            return id;
        }
    }
    unreachable!("the random number is below 1")
}

impl Case for SampleCase {
    fn inputs(&self, rng: &mut Rng) -> Vec<Tensor> {
        let of = |w: &Option<Sampling>| w.map_or(Sampling::OFF, |w| w.words().expect("valid"));
        let wanted: Vec<u32> = self.wanted.iter().flat_map(of).collect();
        vec![self.logits(rng), words(&wanted), words(&starts(&self.rows()))]
    }

    fn outputs(&self) -> Outputs {
        let p = self.params();
        let shapes = [vec![p.n_seqs, p.history_len], vec![p.n_seqs, 2], vec![p.n_ids], vec![p.n_seqs, p.ring_len]];
        shapes.into_iter().map(|s| (DType::U32, s.into_iter().map(|n| n as usize).collect())).collect()
    }

    fn before(&self, rng: &mut Rng) -> Option<Vec<Tensor>> {
        let p = self.params();
        // Some ids are none of the vocabulary's.
        let history: Vec<u32> = (0..p.n_seqs * p.history_len).map(|_| rng.bits() % (p.vocab + 2)).collect();
        let counts: Vec<u32> = (0..p.n_seqs).flat_map(|_| self.counts).collect();
        Some(vec![words(&history), words(&counts), words(&vec![7; p.n_ids as usize]), words(&vec![9; (p.n_seqs * 3) as usize])])
    }

    fn reference(&self, inputs: &[Tensor]) -> Vec<Vec<f64>> {
        let p = self.params();
        let logits: Vec<f32> = inputs[0].to_f64().iter().map(|l| *l as f32).collect();
        let [mut history, mut counts, mut ids, mut ring] = [3, 4, 5, 6].map(|i| inputs[i].to_u32());
        let (len, rows) = (p.history_len as usize, starts(&self.rows()));
        for (s, want) in self.wanted.iter().enumerate() {
            let Some(want) = want else { continue };
            let mine = &mut history[s * len..(s + 1) * len];
            let row = &logits[s * p.logits_stride as usize..][..p.vocab as usize];
            let id = choice(row, want, &self.latest(mine), self.counts[1]);
            ring[s * 3 + self.counts[1] as usize % 3] = id;
            counts[2 * s + 1] += 1;
            if id != NO_TOKEN {
                mine[self.counts[0] as usize % len] = id;
                counts[2 * s] += 1;
            }
            if rows[s + 1] > rows[s] {
                ids[rows[s] as usize] = if id == NO_TOKEN { 0 } else { id };
            }
        }
        [history, counts, ids, ring].map(|words| words.into_iter().map(f64::from).collect()).to_vec()
    }

    fn encode(&self, c: &mut Context<'_>) -> Result<()> {
        let (o, i) = (c.outputs, c.inputs);
        let state =
            SampleState { wanted: &i[1], seq_starts: &i[2], history: &o[0], counts: &o[1], ids: &o[2], ring: &o[3] };
        sample(c.encoder, c.registry, c.device, &i[0], &state, &self.params())
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::EXACT
    }

    fn is_small(&self) -> bool {
        self.vocab * self.wanted.len() as u32 <= 4000
    }

    fn cost(&self) -> Option<(f64, f64)> {
        let n = f64::from(self.vocab) * self.wanted.len() as f64;
        (!self.is_small()).then_some((n * self.dtype.size_of() as f64, 30.0 * n))
    }
}

/// One of each: greedy, plain, top-p, min-p, top-k, all together, off.
fn wanted(seed: u64) -> Vec<Option<Sampling>> {
    let plain = Sampling { temperature: 0.8, seed, ..Sampling::GREEDY };
    let penalties = Penalties {
        repetition: 1.3,
        repetition_context: 5,
        presence: 0.5,
        presence_context: 9,
        frequency: 0.25,
        frequency_context: 20,
    };
    vec![
        Some(Sampling::GREEDY),
        Some(plain),
        None,
        Some(Sampling { top_p: 0.7, ..plain }),
        Some(Sampling { min_p: 0.1, temperature: 2.0, ..plain }),
        Some(Sampling { top_k: 7, ..plain }),
        Some(Sampling { top_k: 1, ..plain }),
        Some(Sampling { top_p: 0.9, min_p: 0.02, top_k: 5, temperature: 1.5, penalties, ..plain }),
        Some(Sampling { penalties, ..Sampling::GREEDY }),
        Some(Sampling { penalties: Penalties { repetition: 0.5, ..Penalties::NONE }, temperature: 30.0, ..plain }),
    ]
}

pub(crate) fn suite() -> Suite {
    let base = SampleCase {
        dtype: DType::F32,
        vocab: 33,
        wanted: wanted(1),
        contents: Contents::Normal,
        history_len: 24,
        counts: [7, 0],
        gap: 0,
    };
    let mut cases = Vec::new();
    for &dtype in FLOATS {
        cases.push(SampleCase { dtype, ..base.clone() });
        cases.push(SampleCase { dtype, vocab: 300, gap: 3, counts: [100, 17], wanted: wanted(u64::MAX - 5), ..base.clone() });
        cases.push(SampleCase { dtype, contents: Contents::Ties, vocab: 130, counts: [24, 5], ..base.clone() });
    }
    for vocab in [1, 7, 65] {
        cases.push(SampleCase { vocab, history_len: 1, counts: [0, 0], ..base.clone() });
    }
    cases.push(SampleCase { contents: Contents::Specials, vocab: 40, ..base.clone() });
    cases.push(SampleCase { vocab: 151_936, dtype: DType::BF16, counts: [1000, 900], ..base.clone() });
    cases.push(SampleCase { vocab: 32_003, contents: Contents::Ties, ..base });
    Suite {
        op: &super::OP,
        cases: cases.into_iter().map(|c| Box::new(c) as Box<dyn Case>).collect(),
        random: |rng| {
            let probability = |rng: &mut Rng| rng.pick(&[0.0, 0.05, 0.5, 0.93, 1.0]);
            let one = |rng: &mut Rng| Sampling {
                temperature: rng.pick(&[0.0, 0.3, 1.0, 1.7]),
                top_p: probability(rng),
                min_p: probability(rng),
                top_k: rng.range(0, 12) as u32,
                penalties: Penalties { frequency: rng.signed(), frequency_context: 6, ..Penalties::NONE },
                seed: u64::from(rng.bits()),
            };
            Box::new(SampleCase {
                dtype: rng.pick(FLOATS),
                vocab: rng.range(1, 400) as u32,
                wanted: (0..3).map(|_| Some(one(rng))).collect(),
                contents: rng.pick(&[Contents::Normal, Contents::Ties]),
                history_len: 8,
                counts: [rng.range(0, 30) as u32, rng.range(0, 30) as u32],
                gap: rng.range(0, 2) as u32,
            })
        },
    }
}

#[cfg(test)]
mod refusals {
    use super::*;
    use crate::testing::{Bench, assert_invalid};

    #[test]
    fn each_names_the_parameter() {
        let mut b = Bench::new();
        let logits = b.buffer(DType::F32, &[2, 5]);
        let [wanted, seq_starts, history, counts, ids, ring] = [32, 3, 8, 4, 2, 6].map(|n| b.buffer(DType::U32, &[n]));
        let ok = SampleParams { n_seqs: 2, vocab: 5, history_len: 4, ring_len: 3, n_ids: 2, logits_stride: 0 };
        let all = SampleState {
            wanted: &wanted,
            seq_starts: &seq_starts,
            history: &history,
            counts: &counts,
            ids: &ids,
            ring: &ring,
        };
        let mut run = |s: &SampleState<'_>, p| sample(&mut b.encoder, &mut b.registry, &b.device, &logits, s, &p);
        assert!(run(&all, ok).is_ok());
        assert_invalid(run(&all, SampleParams { vocab: 0, ..ok }), &["vocab is 0"]);
        assert_invalid(run(&all, SampleParams { history_len: 0, ..ok }), &["history_len"]);
        assert_invalid(run(&all, SampleParams { logits_stride: 4, ..ok }), &["logits_stride is 4"]);
        assert_invalid(run(&all, SampleParams { vocab: 6, ..ok }), &["logits holds 40 bytes"]);
        assert_invalid(run(&all, SampleParams { ring_len: 4, ..ok }), &["ring holds 24 bytes"]);
        assert_invalid(run(&SampleState { ids: &logits, ..all }, ok), &["ids", "f32"]);
        assert_invalid(run(&SampleState { ids: &counts, ..all }, ok), &["ids", "counts", "share"]);
        assert_invalid(run(&SampleState { history: &wanted, ..all }, ok), &["history", "wanted", "share"]);
    }

    #[test]
    fn what_cannot_be_wanted_is_named() {
        let words = |change: &dyn Fn(&mut Sampling)| {
            let mut s = Sampling::GREEDY;
            change(&mut s);
            s.words()
        };
        assert_invalid(words(&|s| s.top_p = 1.1), &["top_p is 1.1"]);
        assert_invalid(words(&|s| s.min_p = f32::NAN), &["min_p"]);
        assert_invalid(words(&|s| s.temperature = -1.0), &["temperature"]);
        assert_invalid(words(&|s| s.penalties.repetition = f32::INFINITY), &["repetition"]);
        assert_invalid(words(&|s| s.penalties.presence = f32::NAN), &["presence"]);
        assert!(words(&|s| s.temperature = 1e-45).is_ok());
    }
}
