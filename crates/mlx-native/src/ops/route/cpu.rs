//! Bodies of `route` for the CPU: tokens are shared among the parts.

use super::{HAS_CORRECTION, MAX_EXPERTS, MAX_GROUPS, MAX_TOP_K, RouteParams};
use crate::backend::cpu::math::{exp, sigmoid};
use crate::vector::Vectorised;
use crate::backend::cpu::{Element, Launch, part_range};

pub(super) fn route<T: Element>(launch: &Launch<'_>, part: usize, parts: usize) {
    let p: RouteParams = launch.params(4);
    let (n, k) = (p.n_experts as usize, p.top_k as usize);
    let logits = launch.input::<T>(0);
    let correction = launch.flag(HAS_CORRECTION).then(|| launch.input::<f32>(1));
    let (ids, weights) = (launch.output::<u32>(2), launch.output::<T>(3));
    let (mut scores, mut keys) = ([0.0f32; MAX_EXPERTS as usize], [0.0f32; MAX_EXPERTS as usize]);
    let mut picked = [0.0f32; MAX_TOP_K as usize];
    for row in part_range(p.rows as usize, 4, part, parts) {
        let (scores, keys, picked) = (&mut scores[..n], &mut keys[..n], &mut picked[..k]);
        T::widen(&logits[row * n..][..n], scores);
        launch.isa().run(ToScores { kind: p.score, scores });
        keys.copy_from_slice(scores);
        if let Some(correction) = correction {
            keys.iter_mut().zip(correction).for_each(|(key, c)| *key += c);
        }
        keys.iter_mut().filter(|key| key.is_nan()).for_each(|key| *key = f32::NEG_INFINITY);
        if p.n_groups > 1 {
            limit_groups(keys, &p);
        }
        // SAFETY: this row is this part's alone.
        let ids = unsafe { ids.slice_mut(row * k..(row + 1) * k) };
        for (id, picked) in ids.iter_mut().zip(&mut *picked) {
            let mut best: Option<usize> = None;
            for (e, key) in keys.iter().enumerate() {
                if !key.is_nan() && best.is_none_or(|b| *key > keys[b]) {
                    best = Some(e);
                }
            }
            let best = best.unwrap_or(0);
            (*id, *picked) = (best as u32, scores[best]);
            if p.score == 4 {
                *picked = 1.0 / within(keys, keys[best], p.jitter);
            }
            keys[best] = f32::NAN;
        }
        finish(picked, &p);
        // SAFETY: as above.
        unsafe { weights.store(row * k, picked) };
    }
}

/// Logits to scores.
struct ToScores<'a> {
    kind: u32,
    scores: &'a mut [f32],
}

impl Vectorised for ToScores<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        match self.kind {
            0 => {
                let largest = self.scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                self.scores.iter_mut().for_each(|s| *s = exp(*s - largest));
                let total: f32 = self.scores.iter().sum();
                self.scores.iter_mut().for_each(|s| *s /= total);
            }
            2 => self.scores.iter_mut().for_each(|s| *s = sigmoid(*s)),
            3 => self.scores.iter_mut().for_each(|s| *s = (s.max(0.0) + exp(-s.abs()).ln_1p()).sqrt()),
            _ => {}
        }
    }
}

/// The sum of the softmax of those that are left and near enough to `top`.
fn within(keys: &[f32], top: f32, jitter: f32) -> f32 {
    let near = |v: &&f32| **v > f32::NEG_INFINITY && !matches_far(**v, top, jitter);
    keys.iter().filter(near).map(|v| exp(*v - top)).sum()
}

/// Whether `v` is too far below `top`; a quotient that is no number is not.
fn matches_far(v: f32, top: f32, jitter: f32) -> bool {
    (top - v) / v.abs().max(top) > 2.0 * jitter
}

/// Takes all but the best groups out of the choice.
fn limit_groups(keys: &mut [f32], p: &RouteParams) {
    let size = keys.len() / p.n_groups as usize;
    let mut groups = [0.0f32; MAX_GROUPS as usize];
    let groups = &mut groups[..p.n_groups as usize];
    for (score, members) in groups.iter_mut().zip(keys.chunks(size)) {
        let (mut first, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
        for v in members {
            if *v > first {
                (first, second) = (*v, first);
            } else {
                second = second.max(*v);
            }
        }
        *score = if p.best_of == 2 && size > 1 { first + second } else { first };
    }
    let others = if p.others == 0 { 0.0 } else { f32::NEG_INFINITY };
    for (g, members) in keys.chunks_mut(size).enumerate() {
        let is_better = |(i, s): (usize, &f32)| *s > groups[g] || (*s == groups[g] && i < g);
        let better = groups.iter().enumerate().filter(|pair| is_better(*pair)).count();
        if better >= p.top_groups as usize {
            members.fill(others);
        }
    }
}

/// Scores of the chosen to weights.
fn finish(picked: &mut [f32], p: &RouteParams) {
    if p.score == 1 {
        let high = picked.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        picked.iter_mut().for_each(|w| *w = exp(*w - high));
        let sum: f32 = picked.iter().sum();
        picked.iter_mut().for_each(|w| *w /= sum);
    }
    let sum = picked.iter().fold(p.sum_eps, |sum, w| sum + w);
    for w in picked {
        *w = if p.normalise != 0 { *w / sum } else { *w } * p.factor;
    }
}
