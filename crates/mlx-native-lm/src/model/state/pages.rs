//! States as pages: what a state keeps of 64 positions, as bytes that a later run of the program takes up again.
//!
//! A page has for each group of layers a byte that says whether its part is there, and the bytes of its blocks: of layers that keep
//! all positions always, of a ring while it still has them, of a recurrence where the state ends with the page.

use mlx_native::DType;

use super::{BLOCK, Group, Kind, SequenceState};
use crate::error::{LmError, Result};

/// Positions of a page.
pub(crate) const PAGE: usize = BLOCK;

/// Where the parts of a page are that was read back.
struct Parts<'a> {
    /// Of each group.
    groups: Vec<Option<&'a [u8]>>,
}

impl SequenceState {
    /// What is kept of positions `64·page` to `64·page + 63`, all of which have to be held.
    pub(crate) fn page(&self, page: usize) -> Result<Vec<u8>> {
        if (page + 1).saturating_mul(PAGE) > self.len() {
            return Err(LmError::InvalidArgument(format!(
                "page {page} of a state of {} positions",
                self.len()
            )));
        }
        let blocks = self.pool.lock();
        let mut out = Vec::new();
        for (index, group) in blocks.groups.iter().enumerate() {
            let held = &self.held[index];
            let place = match group.kind {
                Kind::Paged => Some(page),
                Kind::Rotating { ring, .. } => {
                    (page * PAGE >= held.kind.oldest(self.len())).then_some(page % ring)
                }
                Kind::Recurrent => ((page + 1) * PAGE == self.len()).then_some(0),
            };
            let Some(block) = place.and_then(|place| held.blocks.get(place)) else {
                out.push(0);
                continue;
            };
            out.push(1);
            for plane in &group.planes {
                let (bytes, from) = (plane.block_bytes(), out.len());
                out.resize(from + bytes, 0);
                let all = plane.buffer.view(0, DType::U8, vec![plane.buffer.byte_len()])?;
                all.read_into(*block as usize * bytes, &mut out[from..])?;
            }
        }
        Ok(out)
    }

    /// Fills an empty state with the first positions of a text from their pages: as many of them as make a whole state. How many
    /// pages that were; 0 leaves the state empty.
    ///
    /// # Errors
    /// When the device has no memory; the state is empty then.
    pub(crate) fn restore(&mut self, pages: &[Vec<u8>]) -> Result<usize> {
        if !self.is_empty() {
            return Err(LmError::InvalidArgument(
                "restore: the state holds something".to_owned(),
            ));
        }
        let pool = self.pool.clone();
        let n_pages;
        let firsts: Vec<usize>;
        {
            let blocks = pool.lock();
            let parts: Vec<Parts<'_>> = pages
                .iter()
                .map_while(|page| split(page, &blocks.groups))
                .collect();
            let Some((n, first)) = whole(&parts, &blocks.groups) else {
                return Ok(0);
            };
            (n_pages, firsts) = (n, first);
        }
        self.prepare(n_pages * PAGE)?;
        let written = self.write_pages(&pages[..n_pages], &firsts);
        if let Err(error) = written {
            // What was reserved is given back; nothing of it counts.
            let empty = self.empty();
            *self = empty;
            return Err(error);
        }
        self.advance(n_pages * PAGE);
        for (held, first) in self.held.iter_mut().zip(firsts) {
            held.kind.restored(first * PAGE);
        }
        Ok(n_pages)
    }

    fn write_pages(&self, pages: &[Vec<u8>], firsts: &[usize]) -> Result<()> {
        let blocks = self.pool.lock();
        for (number, page) in pages.iter().enumerate() {
            let Some(parts) = split(page, &blocks.groups) else {
                return Err(LmError::InvalidArgument("a page of another model".to_owned()));
            };
            for (index, (group, part)) in blocks.groups.iter().zip(parts.groups).enumerate() {
                let Some(part) = part.filter(|_| number >= firsts[index]) else {
                    continue;
                };
                let place = match group.kind {
                    Kind::Paged => number,
                    Kind::Rotating { ring, .. } => number % ring,
                    Kind::Recurrent => 0,
                };
                let Some(block) = self.held[index].blocks.get(place) else {
                    continue;
                };
                let mut at = 0;
                for plane in &group.planes {
                    let bytes = plane.block_bytes();
                    let mut all = plane.buffer.view(0, DType::U8, vec![plane.buffer.byte_len()])?;
                    all.write(*block as usize * bytes, &part[at..at + bytes])?;
                    at += bytes;
                }
            }
        }
        Ok(())
    }
}

/// The parts of a page; `None` where it is not one of these groups.
fn split<'a>(page: &'a [u8], groups: &[Group]) -> Option<Parts<'a>> {
    let mut rest = page;
    let mut parts = Vec::with_capacity(groups.len());
    for group in groups {
        let (flag, behind) = rest.split_first()?;
        let bytes: usize = group.planes.iter().map(super::pool::Plane::block_bytes).sum();
        rest = behind;
        parts.push(match flag {
            0 => None,
            1 => {
                let (part, behind) = rest.split_at_checked(bytes)?;
                rest = behind;
                Some(part)
            }
            _ => return None,
        });
    }
    rest.is_empty().then_some(Parts { groups: parts })
}

/// The most pages that make a whole state, and the first page of each group that is used.
fn whole(parts: &[Parts<'_>], groups: &[Group]) -> Option<(usize, Vec<usize>)> {
    (1..=parts.len()).rev().find_map(|n| {
        let firsts = groups.iter().enumerate().map(|(index, group)| {
            let has = |page: usize| parts[page].groups[index].is_some();
            match group.kind {
                Kind::Paged => (0..n).all(has).then_some(0),
                Kind::Rotating { window, ring } => {
                    // The last pages that are there without a gap have to cover the window.
                    let run = (0..n).rev().take_while(|page| has(*page)).count().min(ring);
                    let needed = (n * PAGE).min(window.saturating_sub(1)).div_ceil(PAGE);
                    (run >= needed).then_some(n - run)
                }
                Kind::Recurrent => has(n - 1).then_some(n - 1),
            }
        });
        Some((n, firsts.collect::<Option<Vec<_>>>()?))
    })
}
