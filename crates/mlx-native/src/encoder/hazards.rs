//! Which byte ranges the unfenced dispatches read and wrote.

use crate::buffer::MemRange;

/// The reads and writes since the last barrier. A dispatch that reads what was written, or writes what was read or
/// written, conflicts.
#[derive(Debug, Default, Clone)]
pub(crate) struct HazardTracker {
    reads: RangeSet,
    writes: RangeSet,
}

impl HazardTracker {
    pub(crate) fn conflicts(&self, reads: &[MemRange], writes: &[MemRange]) -> bool {
        reads.iter().any(|r| self.writes.overlaps(*r))
            || writes
                .iter()
                .any(|w| self.writes.overlaps(*w) || self.reads.overlaps(*w))
    }

    pub(crate) fn add(&mut self, reads: &[MemRange], writes: &[MemRange]) {
        for r in reads {
            self.reads.insert(*r);
        }
        for w in writes {
            self.writes.insert(*w);
        }
    }

    pub(crate) fn clear(&mut self) {
        self.reads.ranges.clear();
        self.writes.ranges.clear();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.reads.ranges.is_empty() && self.writes.ranges.is_empty()
    }
}

/// Disjoint half-open ranges in ascending order.
#[derive(Debug, Default, Clone)]
struct RangeSet {
    ranges: Vec<MemRange>,
}

impl RangeSet {
    fn overlaps(&self, (start, end): MemRange) -> bool {
        let i = self.ranges.partition_point(|r| r.1 <= start);
        start < end && self.ranges.get(i).is_some_and(|r| r.0 < end)
    }

    fn insert(&mut self, (start, end): MemRange) {
        if start >= end {
            return;
        }
        // Everything from `first` to before `last` touches the new range and is merged into it.
        let first = self.ranges.partition_point(|r| r.1 < start);
        let mut last = first;
        let (mut start, mut end) = (start, end);
        while let Some(r) = self.ranges.get(last).filter(|r| r.0 <= end) {
            start = start.min(r.0);
            end = end.max(r.1);
            last += 1;
        }
        match last - first {
            0 => self.ranges.insert(first, (start, end)),
            1 => self.ranges[first] = (start, end),
            _ => {
                self.ranges[first] = (start, end);
                self.ranges.drain(first + 1..last);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn read_read_never_conflicts_and_neighbours_do_not() {
        let mut t = HazardTracker::default();
        t.add(&[(0, 16)], &[(16, 32)]);
        assert!(!t.conflicts(&[(0, 16)], &[]));
        assert!(!t.conflicts(&[(32, 48)], &[(32, 48)]));
        assert!(t.conflicts(&[(31, 33)], &[]), "read after write");
        assert!(t.conflicts(&[], &[(15, 16)]), "write after read");
        assert!(t.conflicts(&[], &[(16, 17)]), "write after write");
        t.clear();
        assert!(t.is_empty() && !t.conflicts(&[], &[(0, 64)]));
    }

    proptest! {
        #[test]
        fn agrees_with_a_bitmap(ranges in prop::collection::vec((0usize..64, 0usize..12), 0..20), probe in (0usize..70, 0usize..12)) {
            let mut set = RangeSet::default();
            let mut bits = [false; 96];
            for (start, len) in ranges {
                set.insert((start, start + len));
                bits[start..start + len].fill(true);
                prop_assert!(set.ranges.windows(2).all(|w| w[0].1 < w[1].0), "{:?}", set.ranges);
            }
            let (start, len) = probe;
            prop_assert_eq!(set.overlaps((start, start + len)), bits[start..start + len].contains(&true));
        }
    }
}
