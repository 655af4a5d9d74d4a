//! Cuts a list of work into command buffers.

use std::ops::Range;

use crate::profile::CommandBounds;
use crate::backend::{Arg, Command, Work};

/// One command, as far as cutting is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// A dispatch that is bound to so many bytes.
    Dispatch { bytes: u64 },
    Barrier,
}

/// Where to cut `work`: ranges of its commands, one for each command buffer, in order.
pub(super) fn parts(work: &Work, bounds: &CommandBounds) -> Vec<Range<usize>> {
    let steps = work.commands.iter().map(|command| match command {
        Command::Barrier => Step::Barrier,
        Command::Copy(copy) => Step::Dispatch {
            bytes: 2 * copy.to.byte_len as u64,
        },
        Command::Fill(fill) => Step::Dispatch {
            bytes: fill.to.byte_len as u64,
        },
        Command::Dispatch(dispatch) => {
            let bytes = work.bindings(dispatch).iter().map(|b| match &b.arg {
                Arg::Buffer { byte_len, .. } => *byte_len as u64,
                Arg::Bytes { .. } => 0,
            });
            Step::Dispatch {
                bytes: bytes.fold(0, u64::saturating_add),
            }
        }
    });
    cut(steps, bounds)
}

/// Cuts at the first barrier at or after the bound, or at twice the bound where none comes. No part is without a
/// dispatch: barriers at the ends of a part are left out, since a command buffer waits for the one before anyhow.
fn cut(steps: impl Iterator<Item = Step>, bounds: &CommandBounds) -> Vec<Range<usize>> {
    let mut parts: Vec<Range<usize>> = Vec::new();
    // Range of the part being filled, up to its last dispatch; empty when it has none.
    let mut part = 0..0;
    let (mut dispatches, mut bytes) = (0u32, 0u64);
    for (i, step) in steps.enumerate() {
        let most = if parts.is_empty() {
            bounds.first_dispatches
        } else {
            bounds.dispatches
        };
        let over = |by: u32| {
            dispatches >= most.saturating_mul(by) || bytes >= bounds.bytes.saturating_mul(u64::from(by))
        };
        let full = match step {
            Step::Barrier => over(1),
            Step::Dispatch { .. } => over(2),
        };
        if full && !part.is_empty() {
            parts.push(part);
            part = 0..0;
            (dispatches, bytes) = (0, 0);
        }
        if let Step::Dispatch { bytes: more } = step {
            if part.is_empty() {
                part.start = i;
            }
            part.end = i + 1;
            dispatches += 1;
            bytes = bytes.saturating_add(more);
        }
    }
    if !part.is_empty() {
        parts.push(part);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: CommandBounds = CommandBounds {
        first_dispatches: 2,
        dispatches: 4,
        bytes: 100,
        in_flight: 2,
    };

    /// `b` is a barrier, a digit a dispatch of that many tens of bytes.
    fn cut_text(text: &str) -> Vec<Range<usize>> {
        let steps = text.chars().map(|c| match c.to_digit(36) {
            Some(11) => Step::Barrier,
            n => Step::Dispatch {
                bytes: u64::from(n.unwrap()) * 10,
            },
        });
        cut(steps, &BOUNDS)
    }

    #[test]
    fn nothing_needs_no_command_buffer() {
        assert!(cut_text("").is_empty());
        assert!(cut_text("bbb").is_empty());
    }

    #[test]
    fn the_first_part_is_short_and_cuts_fall_on_barriers() {
        assert_eq!(cut_text("0b0b0b0b0b0b0"), [0..3, 4..11, 12..13]);
    }

    #[test]
    fn without_barriers_twice_the_bound_cuts() {
        assert_eq!(cut_text("0000000000000"), [0..4, 4..12, 12..13]);
    }

    #[test]
    fn bytes_count_as_dispatches_do() {
        assert_eq!(cut_text("9b9b9"), [0..3, 4..5]);
        assert_eq!(cut_text("999999"), [0..3, 3..6]);
        assert!(cut_text("b9b").iter().eq([&(1..2)]));
    }

    #[test]
    fn every_dispatch_is_in_one_part_in_order() {
        let mut rng = crate::testing::Rng::new(3);
        for _ in 0..300 {
            let text: String = (0..rng.range(0, 59)).map(|_| "b0123456789".as_bytes()[rng.range(0, 10)] as char).collect();
            let parts = cut_text(&text);
            let covered: Vec<usize> = parts.iter().cloned().flatten().filter(|i| &text[*i..=*i] != "b").collect();
            let all: Vec<usize> = (0..text.len()).filter(|i| &text[*i..=*i] != "b").collect();
            assert_eq!(covered, all, "{text}");
            for (i, part) in parts.iter().enumerate() {
                assert!(&text[part.start..=part.start] != "b" && &text[part.end - 1..part.end] != "b");
                let dispatches = text[part.clone()].chars().filter(|c| *c != 'b').count();
                assert!(dispatches <= if i == 0 { 4 } else { 8 }, "{text}: {parts:?}");
            }
        }
    }
}
