//! Copies and fills of a list, done in parts like everything else.

use std::ops::Range;
use std::ptr::NonNull;

use super::launch::{Claims, host_range, part_range};
use crate::backend::{CopyBytes, FillBytes};

/// Parts of a transfer begin at multiples of this: below it, more threads cost more than they move.
const GRANULE: usize = 64 << 10;

/// A copy or a fill, resolved to addresses.
pub(super) struct Transfer {
    pub(super) claims: Claims,
    to: NonNull<u8>,
    byte_len: usize,
    source: Source,
}

enum Source {
    Bytes(NonNull<u8>),
    Value(u8),
}

// SAFETY: the addresses point into memory that the job keeps alive; who writes what when is the encoder's order.
unsafe impl Send for Transfer {}
// SAFETY: as above.
unsafe impl Sync for Transfer {}

impl Transfer {
    pub(super) fn copy(copy: &CopyBytes, parts: usize) -> Result<Self, String> {
        let from = host_range(&copy.from.allocation, copy.from.offset)?;
        let to = host_range(&copy.to.allocation, copy.to.offset)?;
        Ok(Self::new(to, copy.to.byte_len, Source::Bytes(from), parts))
    }

    pub(super) fn fill(fill: &FillBytes, parts: usize) -> Result<Self, String> {
        let to = host_range(&fill.to.allocation, fill.to.offset)?;
        Ok(Self::new(to, fill.to.byte_len, Source::Value(fill.value), parts))
    }

    fn new(to: NonNull<u8>, byte_len: usize, source: Source, parts: usize) -> Self {
        Transfer {
            claims: Claims::new(byte_len.div_ceil(GRANULE).clamp(1, parts)),
            to,
            byte_len,
            source,
        }
    }

    pub(super) fn run(&self, part: usize) {
        let Range { start, end } = part_range(self.byte_len, GRANULE, part, self.claims.parts());
        // SAFETY: the ranges are inside their allocations and do not overlap, as the encoder has checked; parts are
        // disjoint, and hazards with other steps are fenced.
        unsafe {
            let to = self.to.as_ptr().add(start);
            match self.source {
                Source::Bytes(from) => {
                    std::ptr::copy_nonoverlapping(from.as_ptr().add(start), to, end - start);
                }
                Source::Value(value) => std::ptr::write_bytes(to, value, end - start),
            }
        }
    }
}
