//! Where intermediate values lie: offsets in one block of scratch memory, from the lifetimes of the values.
//!
//! Values that are never alive at once may share bytes. The largest are placed first, each at the lowest offset that is
//! free during its life: within a few percent of the least possible for the programs of decoders.

/// A value's need of memory: bytes, and the first and last step that touches it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lifetime {
    pub bytes: usize,
    pub first: usize,
    pub last: usize,
}

/// Offsets of values, and the bytes of all together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    pub offsets: Vec<usize>,
    pub bytes: usize,
}

impl Lifetime {
    fn meets(&self, other: &Lifetime) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// Places `values`; every offset is a multiple of `align`.
pub(super) fn plan(values: &[Lifetime], align: usize) -> Plan {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by_key(|i| (std::cmp::Reverse(values[*i].bytes), values[*i].first));
    let mut offsets = vec![0; values.len()];
    let mut placed: Vec<usize> = Vec::new();
    let mut bytes = 0;
    for i in order {
        let mut taken: Vec<(usize, usize)> = placed
            .iter()
            .filter(|j| values[**j].meets(&values[i]))
            .map(|j| (offsets[*j], offsets[*j] + values[*j].bytes))
            .collect();
        taken.sort_unstable();
        let mut offset = 0usize;
        for (start, end) in taken {
            if offset + values[i].bytes <= start {
                break;
            }
            offset = offset.max(end.next_multiple_of(align));
        }
        offsets[i] = offset;
        bytes = bytes.max((offset + values[i].bytes).next_multiple_of(align));
        placed.push(i);
    }
    Plan { offsets, bytes }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(bytes: usize, first: usize, last: usize) -> Lifetime {
        Lifetime { bytes, first, last }
    }

    /// No two values that live at once share a byte.
    fn check(values: &[Lifetime], align: usize) -> Plan {
        let plan = plan(values, align);
        for (i, a) in values.iter().enumerate() {
            assert_eq!(plan.offsets[i] % align, 0);
            assert!(plan.offsets[i] + a.bytes <= plan.bytes);
            for (j, b) in values.iter().enumerate().skip(i + 1) {
                let apart = plan.offsets[i] + a.bytes <= plan.offsets[j]
                    || plan.offsets[j] + b.bytes <= plan.offsets[i];
                assert!(
                    apart || !a.meets(b),
                    "{i} {a:?} and {j} {b:?}: {:?}",
                    plan.offsets
                );
            }
        }
        plan
    }

    #[test]
    fn values_that_never_meet_share_memory() {
        assert_eq!(
            check(&[value(64, 0, 1), value(64, 2, 3), value(64, 4, 9)], 16).bytes,
            64
        );
        assert_eq!(
            check(&[value(64, 0, 2), value(64, 2, 3)], 16).bytes,
            128,
            "one is read while the other is written"
        );
        assert_eq!(check(&[], 16).bytes, 0);
    }

    #[test]
    fn a_gap_between_two_is_used() {
        let plan = check(
            &[
                value(100, 0, 9),
                value(50, 0, 1),
                value(40, 0, 9),
                value(48, 2, 9),
            ],
            1,
        );
        assert_eq!(plan.bytes, 190);
        assert_eq!(plan.offsets[3], plan.offsets[1], "where the value was that died");
    }

    #[test]
    fn random_programs_keep_their_values_apart_and_stay_near_the_least() {
        let mut state = 7u64;
        let mut next = |n: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) % n) as usize
        };
        for _ in 0..200 {
            let n = next(40) + 1;
            let values: Vec<Lifetime> = (0..n)
                .map(|_| {
                    let first = next(60);
                    value(next(500) + 1, first, first + next(6))
                })
                .collect();
            let plan = check(&values, 16);
            let least = (0..70)
                .map(|t| {
                    let alive = values.iter().filter(|v| v.first <= t && t <= v.last);
                    alive.map(|v| v.bytes.next_multiple_of(16)).sum::<usize>()
                })
                .max()
                .unwrap_or(0);
            assert!(
                plan.bytes >= least && plan.bytes <= least * 2,
                "{} of {least}",
                plan.bytes
            );
        }
    }
}
