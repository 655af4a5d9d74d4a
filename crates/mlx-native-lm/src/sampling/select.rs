//! Selection among candidates in linear time.

use std::cmp::Ordering;

/// A token that may be chosen. Greater means likelier; of equal logits, the lower id.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    pub logit: f32,
    pub id: u32,
}

impl Candidate {
    /// Probability, up to a factor that all share.
    pub fn weight(&self, max: f32) -> f64 {
        f64::from(exp(self.logit - max))
    }
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        self.logit.total_cmp(&other.logit).then(other.id.cmp(&self.id))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Candidate {}

/// e^x for x ≤ 0, within 3e-7 of the value; 0 below -87, where single precision ends. Without calls and branches, so that
/// compilers make it several at a time, and the same on every machine.
pub(super) fn exp(x: f32) -> f32 {
    // Adding this rounds to a whole number, which the lowest bits of the sum then hold.
    const ROUND: f32 = 12_582_912.0;
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    // ln 2 in two parts, the first with so few digits that its product with n is exact.
    let f = (x - n * 0.693_359_4) + n * 2.121_944_4e-4;
    let series = 1.0 / 720.0 * f + 1.0 / 120.0;
    let series = ((((series * f + 1.0 / 24.0) * f + 1.0 / 6.0) * f + 0.5) * f + 1.0) * f + 1.0;
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
    if x < -87.0 {
        0.0
    } else {
        series * f32::from_bits(exponent)
    }
}

/// The least of the `count` greatest; `None` when there are no more than that, so that all are among them.
pub(super) fn last_of_top(
    candidates: &[Candidate],
    count: usize,
    scratch: &mut Vec<Candidate>,
) -> Option<Candidate> {
    if count == 0 || count >= candidates.len() {
        return None;
    }
    scratch.clear();
    scratch.extend_from_slice(candidates);
    let (_, last, _) = scratch.select_nth_unstable_by(count - 1, |a, b| b.cmp(a));
    Some(*last)
}

/// The least logit that top-p keeps: a candidate stays when those likelier than it have less than `p` of the probability.
/// Equal logits stay or go together. `max` is the largest logit.
///
/// Sums the probability by distance from the largest logit, in steps of an eighth, and looks closer only at the step in
/// which the threshold lies: linear, and one exponential per candidate.
pub(super) fn top_p_threshold(
    candidates: &[Candidate],
    max: f32,
    p: f32,
    scratch: &mut Vec<Candidate>,
) -> f32 {
    const STEPS: usize = 256;
    // Rounding keeps the order, so that every candidate of a step is likelier than all of the next.
    let step = |c: &Candidate| (((max - c.logit) * 8.0) as usize).min(STEPS - 1);
    let mut sums = [0.0f64; STEPS];
    for c in candidates {
        sums[step(c)] += c.weight(max);
    }
    let wanted = f64::from(p) * sums.iter().sum::<f64>();
    // Weight of everything likelier than what is looked at; below `wanted`, so that the likeliest there stays.
    let mut above = 0.0;
    let mut at = 0;
    while at + 1 < STEPS && above + sums[at] < wanted {
        above += sums[at];
        at += 1;
    }
    scratch.clear();
    scratch.extend(candidates.iter().filter(|c| step(c) == at));
    let mut rest = scratch.as_mut_slice();
    while rest.len() > 1 {
        let half = rest.len() / 2;
        rest.select_nth_unstable_by(half, |a, b| b.cmp(a));
        let upper: f64 = rest[..half].iter().map(|c| c.weight(max)).sum();
        if above + upper < wanted {
            above += upper;
            rest = &mut rest[half..];
        } else {
            rest = &mut rest[..half];
        }
    }
    rest.first().map_or(f32::NEG_INFINITY, |c| c.logit)
}
