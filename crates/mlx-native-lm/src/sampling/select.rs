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
        f64::from(libm::expf(self.logit - max))
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
/// Equal logits stay or go together.
///
/// Halves the part of the list in which the threshold lies, by selection, and sums the likelier half: linear in all.
pub(super) fn top_p_threshold(
    candidates: &[Candidate],
    max: f32,
    p: f32,
    scratch: &mut Vec<Candidate>,
) -> f32 {
    scratch.clear();
    scratch.extend_from_slice(candidates);
    let wanted = f64::from(p) * candidates.iter().map(|c| c.weight(max)).sum::<f64>();
    let mut rest = scratch.as_mut_slice();
    // Weight of everything likelier than `rest`; below `wanted`, so that the likeliest of `rest` stays.
    let mut above = 0.0;
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
