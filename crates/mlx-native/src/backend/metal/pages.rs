//! Page arithmetic: which pages a range of memory touches, and how a range too long for one buffer is cut.

use std::ops::Range;

/// The length of the pages that `byte_len` bytes from a page's start touch; `None` on overflow.
///
/// Memory is mapped by whole pages, so that the bytes from the end of a mapped file to the end of its last page are
/// readable too.
pub(super) fn round_up(byte_len: usize, page: usize) -> Option<usize> {
    byte_len.checked_next_multiple_of(page)
}

/// Cuts `byte_len` bytes, a multiple of `page`, into ranges of at most `max` bytes at multiples of `page`. Neighbours
/// overlap by half, so that any range of at most half of `max` lies within one of them. Empty when `max` is below two
/// pages.
pub(super) fn segments(byte_len: usize, max: usize, page: usize) -> Vec<Range<usize>> {
    let stride = stride(max, page);
    if stride == 0 {
        return Vec::new();
    }
    let mut all = Vec::new();
    let mut start = 0;
    loop {
        let end = byte_len.min(start + 2 * stride);
        all.push(start..end);
        if end == byte_len {
            return all;
        }
        start += stride;
    }
}

/// Which of the [`segments`] holds `range`, if one does.
pub(super) fn find(segments: &[Range<usize>], range: &Range<usize>) -> Option<usize> {
    // The last one that starts at or before the range reaches furthest.
    let after = segments.partition_point(|s| s.start <= range.start);
    let index = after.checked_sub(1)?;
    (range.end <= segments[index].end).then_some(index)
}

fn stride(max: usize, page: usize) -> usize {
    max / 2 / page * page
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 16384;

    #[test]
    fn lengths_are_rounded_up_to_pages() {
        assert_eq!(round_up(1, PAGE), Some(PAGE));
        assert_eq!(round_up(PAGE, PAGE), Some(PAGE));
        assert_eq!(round_up(PAGE + 1, PAGE), Some(2 * PAGE));
        assert_eq!(round_up(usize::MAX - 3, PAGE), None);
    }

    #[test]
    fn what_fits_is_one_segment() {
        assert!(segments(4 * PAGE, 4 * PAGE, PAGE).iter().eq([&(0..4 * PAGE)]));
        assert!(segments(PAGE, 1 << 40, PAGE).iter().eq([&(0..PAGE)]));
        assert!(segments(PAGE, PAGE, PAGE).is_empty());
    }

    #[test]
    fn segments_cover_overlap_and_stay_below_the_limit() {
        for pages in 1..40 {
            for max in [2, 3, 5, 8, 13] {
                // Not a multiple of anything: the device's limit need not be.
                let max_bytes = max * PAGE + 77;
                let all = segments(pages * PAGE, max_bytes, PAGE);
                assert_eq!((all[0].start, all[all.len() - 1].end), (0, pages * PAGE));
                for s in &all {
                    assert!(s.len() <= max_bytes && s.start % PAGE == 0 && !s.is_empty());
                }
                let half = max / 2 * PAGE;
                for start in (0..pages * PAGE).step_by(PAGE / 4 + 1) {
                    let range = start..(start + half).min(pages * PAGE);
                    let s = &all[find(&all, &range).expect("half of the limit always fits")];
                    assert!(s.start <= range.start && range.end <= s.end);
                }
            }
        }
    }

    #[test]
    fn what_no_segment_holds_is_not_found() {
        let all = segments(10 * PAGE, 4 * PAGE, PAGE);
        assert_eq!(find(&all, &(0..4 * PAGE)), Some(0));
        assert_eq!(find(&all, &(0..4 * PAGE + 1)), None);
        assert_eq!(find(&all, &(6 * PAGE..10 * PAGE)), Some(3));
        assert_eq!(find(&all, &(9 * PAGE..11 * PAGE)), None);
    }
}
