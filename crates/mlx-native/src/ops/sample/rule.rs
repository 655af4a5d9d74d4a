//! The arithmetic of sampling, for host and devices alike: equal logits, parameters, seed and counter give an equal token
//! everywhere.
//!
//! Probabilities are whole numbers, so that sums do not depend on their order; what must be computed in floating point is a
//! difference and a product, which every device rounds alike. `sample.metal` has the same text for GPUs.

use std::cmp::Ordering;

/// The weight of the likeliest token, nearly: weights are in units of 2^-40 of it.
pub const ONE: u64 = 1 << 40;

/// Orders logits as whole numbers; zeros of both signs are equal. NaN has no place in it.
#[must_use]
#[inline]
pub fn key(logit: f32) -> u32 {
    let bits = logit.to_bits();
    match bits {
        0x8000_0000 => 0x8000_0000,
        _ if bits >> 31 == 1 => !bits,
        _ => bits | 0x8000_0000,
    }
}

/// What differences of logits are multiplied by to be powers of two, at a temperature above 0.
#[must_use]
pub fn scale(temperature: f32) -> f32 {
    // Finite, so that no product is NaN: beyond, a token is either among the likeliest or out.
    (std::f64::consts::LOG2_E / f64::from(temperature)).min(1e30) as f32
}

/// `2^(-distance * scale)` in units of 2^-40, within 3e-8 of itself or a unit; 0 from a distance of 41 powers on. `distance`
/// is how much a logit lies below the largest.
#[must_use]
#[inline]
pub fn weight(distance: f32, scale: f32) -> u64 {
    let powers = distance * scale;
    // Also where it is NaN: infinity times zero.
    if powers.is_nan() || powers >= 41.0 {
        return 0;
    }
    // 26 bits behind the point; the product with a power of two is exact, and what is cut off is cut off everywhere.
    let fixed = (powers * 67_108_864.0) as u32;
    let mantissa = power(fixed << 6);
    (u64::from(mantissa) << 8) >> (fixed >> 26)
}

/// `2^(32 - fraction / 2^32)`, less 1 at most: the series of `e^-a`, `a = fraction ln 2`, from the 12th term on.
#[inline]
fn power(fraction: u32) -> u32 {
    const LN_2: u32 = 2_977_044_471;
    let a = high(fraction, LN_2);
    let mut sum = u32::MAX;
    for n in (2..=12).rev() {
        sum = u32::MAX - high(high(a, sum), u32::MAX / n);
    }
    u32::MAX - high(a, sum)
}

#[inline]
fn high(a: u32, b: u32) -> u32 {
    ((u64::from(a) * u64::from(b)) >> 32) as u32
}

/// The part `fraction / 2^32` of `total`, which is below 2^63: rounded down, exact otherwise.
#[must_use]
#[inline]
pub fn part_of(total: u64, fraction: u32) -> u64 {
    let fraction = u64::from(fraction);
    (total >> 32) * fraction + (((total & 0xFFFF_FFFF) * fraction) >> 32)
}

/// A probability below 1 as a fraction of 2^32, at least one part of it.
#[must_use]
pub fn fraction(probability: f32) -> u32 {
    (f64::from(probability) * 4_294_967_296.0).round().clamp(1.0, 4_294_967_295.0) as u32
}

/// 64 random bits: a function of seed, counter and stream alone (Philox 4x32, 10 rounds; Salmon et al., "Parallel random
/// numbers: as easy as 1, 2, 3", 2011). Draw `n` of a sequence has counter `n`; its draws of different kinds have streams.
#[must_use]
pub fn random(seed: u64, counter: u64, stream: u32) -> u64 {
    let [a, b, ..] = philox([counter as u32, (counter >> 32) as u32, stream, 0], [seed as u32, (seed >> 32) as u32]);
    u64::from(a) | u64::from(b) << 32
}

fn philox(mut x: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    const FACTORS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
    const STEPS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
    for _ in 0..10 {
        let [a, b] = [u64::from(x[0]) * u64::from(FACTORS[0]), u64::from(x[2]) * u64::from(FACTORS[1])];
        x = [(b >> 32) as u32 ^ x[1] ^ key[0], b as u32, (a >> 32) as u32 ^ x[3] ^ key[1], a as u32];
        key = [key[0].wrapping_add(STEPS[0]), key[1].wrapping_add(STEPS[1])];
    }
    x
}

/// A token that may be chosen. Greater means likelier; of equal logits, the lower id.
#[derive(Debug, Clone, Copy)]
pub struct Candidate {
    /// Its logit, neither NaN nor infinite.
    pub logit: f32,
    /// The token.
    pub id: u32,
}

impl Candidate {
    /// Its weight at temperature 1, `max` being the largest logit.
    #[must_use]
    pub fn weight(&self, max: f32) -> u64 {
        weight(max - self.logit, std::f32::consts::LOG2_E)
    }
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        key(self.logit).cmp(&key(other.logit)).then(other.id.cmp(&self.id))
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
#[must_use]
pub fn last_of_top(candidates: &[Candidate], count: usize, scratch: &mut Vec<Candidate>) -> Option<Candidate> {
    if count == 0 || count >= candidates.len() {
        return None;
    }
    scratch.clear();
    scratch.extend_from_slice(candidates);
    let (_, last, _) = scratch.select_nth_unstable_by(count - 1, |a, b| b.cmp(a));
    Some(*last)
}

/// The least [`key`] that top-p keeps: a candidate stays when those likelier than it have less than `p`, a [`fraction`], of
/// the weight. Equal logits stay or go together. `max` is the largest logit.
///
/// Linear: looks closer only at the eighth of a logit in which the threshold lies.
#[must_use]
pub fn top_p_threshold(candidates: &[Candidate], max: f32, p: u32, scratch: &mut Vec<Candidate>) -> u32 {
    const STEPS: usize = 256;
    // Rounding keeps the order, so that every candidate of a step is likelier than all of the next.
    let step = |c: &Candidate| (((max - c.logit) * 8.0) as usize).min(STEPS - 1);
    let mut sums = [0u64; STEPS];
    for c in candidates {
        sums[step(c)] += c.weight(max);
    }
    let wanted = part_of(sums.iter().sum(), p);
    // Weight of everything likelier than what is looked at; below `wanted`, so that the likeliest there stays.
    let (mut above, mut at) = (0, 0);
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
        let upper: u64 = rest[..half].iter().map(|c| c.weight(max)).sum();
        if above + upper < wanted {
            above += upper;
            rest = &mut rest[half..];
        } else {
            rest = &mut rest[..half];
        }
    }
    rest.first().map_or(0, |c| key(c.logit))
}

/// One of the candidates, which are in ascending order of ids, by its weight at a temperature given as [`scale`]; `max` is
/// their largest logit. The first whose weight, with those of all before it, is more than `random / 2^64` of the whole.
#[must_use]
pub fn draw(candidates: &[Candidate], max: f32, scale: f32, random: u64) -> Option<u32> {
    let weight_of = |c: &Candidate| weight(max - c.logit, scale);
    let total: u64 = candidates.iter().map(weight_of).sum();
    let mut target = ((u128::from(total) * u128::from(random)) >> 64) as u64;
    candidates.iter().find_map(|c| {
        let weight = weight_of(c);
        if weight > target {
            return Some(c.id);
        }
        target -= weight;
        None
    })
}

/// The largest logit and the first id that has it, or what is wrong with the logits.
///
/// # Errors
/// A logit that is NaN or infinite, or nothing but negative infinity.
pub fn argmax(logits: &[f32]) -> Result<(u32, f32), Defect> {
    let mut best = (0, f32::NEG_INFINITY);
    let mut wrong = false;
    for (id, &logit) in (0u32..).zip(logits) {
        wrong |= logit.is_nan();
        if logit > best.1 {
            best = (id, logit);
        }
    }
    if wrong {
        return Err(Defect::Nan(logits.iter().position(|l| l.is_nan()).unwrap_or_default()));
    }
    match best.1 {
        f32::NEG_INFINITY => Err(Defect::Nothing),
        f32::INFINITY => Err(Defect::Infinite(best.0 as usize)),
        _ => Ok(best),
    }
}

/// What is wrong with logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Defect {
    /// The logit of this token is NaN.
    Nan(usize),
    /// The logit of this token is infinite.
    Infinite(usize),
    /// All are negative infinity.
    Nothing,
}

/// The penalties for tokens that have occurred.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Penalties {
    /// Divides logits, multiplies negative ones; 1 changes nothing.
    pub repetition: f32,
    /// How many tokens back that looks.
    pub repetition_context: u32,
    /// Subtracted once; 0 changes nothing.
    pub presence: f32,
    /// How many tokens back that looks.
    pub presence_context: u32,
    /// Subtracted as often as the token occurred; 0 changes nothing.
    pub frequency: f32,
    /// How many tokens back that looks.
    pub frequency_context: u32,
}

impl Penalties {
    /// None at all.
    pub const NONE: Penalties = Penalties {
        repetition: 1.0,
        repetition_context: 0,
        presence: 0.0,
        presence_context: 0,
        frequency: 0.0,
        frequency_context: 0,
    };

    /// The tokens back that any of them looks.
    #[must_use]
    pub fn context(&self) -> u32 {
        let of = |is_on: bool, context| if is_on { context } else { 0 };
        of(self.repetition != 1.0, self.repetition_context)
            .max(of(self.presence != 0.0, self.presence_context))
            .max(of(self.frequency != 0.0, self.frequency_context))
    }

    /// Changes the logits of the tokens of `history`, which ends with the latest. Ids beyond the logits are passed over.
    pub fn apply(&self, logits: &mut [f32], history: &[u32]) {
        let recent = |context: u32| &history[history.len().saturating_sub(context as usize)..];
        let distinct = |ids: &[u32]| {
            let mut ids = ids.to_vec();
            ids.sort_unstable();
            ids.dedup();
            ids
        };
        let mut change = |ids: &[u32], by: &dyn Fn(f32) -> f32| {
            for id in ids {
                if let Some(logit) = logits.get_mut(*id as usize) {
                    *logit = by(*logit);
                }
            }
        };
        if self.repetition != 1.0 {
            let by = |l: f32| if l < 0.0 { l * self.repetition } else { l / self.repetition };
            change(&distinct(recent(self.repetition_context)), &by);
        }
        if self.presence != 0.0 {
            change(&distinct(recent(self.presence_context)), &|l| l - self.presence);
        }
        if self.frequency != 0.0 {
            change(recent(self.frequency_context), &|l| l - self.frequency);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_published_numbers() {
        // The known answers of Random123, `philox4x32 10`.
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let pi = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        assert_eq!(
            philox(pi, [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn weights_are_near_and_fall() {
        let mut last = u64::MAX;
        for i in 0..200_000 {
            let distance = i as f32 * 1.5e-4;
            let found = weight(distance, 1.3);
            let wanted = ONE as f64 * (-f64::from(distance * 1.3)).exp2();
            assert!((found as f64 - wanted).abs() <= wanted * 3e-8 + 1.0, "{distance}: {found}, {wanted}");
            assert!(found <= last);
            last = found;
        }
        assert_eq!((weight(0.0, 1.0), weight(41.0, 1.0), weight(f32::INFINITY, 1.0)), (ONE - 256, 0, 0));
        assert_eq!(weight(f32::INFINITY, 0.0), 0);
        assert_eq!(weight(1e-3, scale(1e-45)), 0);
    }

    #[test]
    fn keys_keep_the_order() {
        let rising = [f32::NEG_INFINITY, -3.5, -1e-40, 0.0, 1e-45, 2.0, f32::INFINITY];
        assert!(rising.windows(2).all(|w| key(w[0]) < key(w[1])));
        assert_eq!(key(-0.0), key(0.0));
    }

    #[test]
    fn parts_are_exact() {
        for (total, p) in [(ONE, 1), (u64::MAX >> 1, u32::MAX), (12_345_678_901_234_567, 0x8000_0001), (5, 7)] {
            assert_eq!(u128::from(part_of(total, p)), (u128::from(total) * u128::from(p)) >> 32);
        }
        assert_eq!((fraction(0.5), fraction(1e-30), fraction(0.999_999_94)), (1 << 31, 1, 4_294_967_040));
    }
}
