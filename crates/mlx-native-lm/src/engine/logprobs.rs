//! Logarithms of probabilities, exactly: sums in f64.

use super::event::{Logprobs, Ranked};

/// The logprob of `chosen` and of the `top` likeliest tokens by `logits`.
pub(super) fn logprobs(logits: &[f32], chosen: u32, top: usize) -> Logprobs {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits
        .iter()
        .map(|l| (f64::from(*l) - f64::from(max)).exp())
        .sum();
    let total = f64::from(max) + sum.ln();
    let of = |logit: f32| {
        // JSON has no infinity; what cannot come is as far down as a number goes.
        ((f64::from(logit) - total) as f32).max(f32::MIN)
    };
    let mut best: Vec<Ranked> = Vec::with_capacity(top + 1);
    if top > 0 {
        for (id, logit) in (0u32..).zip(logits) {
            if best.len() == top && best.last().is_some_and(|last| *logit <= last.logprob) {
                continue;
            }
            // Equal ones stay in the order of their ids.
            let at = best.partition_point(|other| other.logprob >= *logit);
            best.insert(at, Ranked { id, logprob: *logit });
            best.truncate(top);
        }
        for ranked in &mut best {
            ranked.logprob = of(ranked.logprob);
        }
    }
    Logprobs {
        logprob: logits.get(chosen as usize).map_or(f32::MIN, |l| of(*l)),
        top: best,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_those_of_a_softmax() {
        let logits = [1.0f32, 3.0, f32::NEG_INFINITY, 3.0, -2.0];
        let found = logprobs(&logits, 0, 3);
        let sum: f64 = logits.iter().map(|l| f64::from(*l).exp()).sum();
        assert!((f64::from(found.logprob) - (1.0 - sum.ln())).abs() < 1e-6);
        let ids: Vec<u32> = found.top.iter().map(|r| r.id).collect();
        assert_eq!(ids, [1, 3, 0]);
        assert!((f64::from(found.top[0].logprob) - (3.0 - sum.ln())).abs() < 1e-6);
        assert!(logprobs(&logits, 2, 0).logprob.is_finite());
    }
}
