//! Guesses by looking back: what followed the last tokens where they stood before will often follow again, in edits and in code.

/// Tokens of a run that are looked for at most, and at least.
const LONGEST: usize = 8;
const SHORTEST: usize = 2;
/// Tokens that are looked back at most.
const REACH: usize = 1 << 16;

/// What followed the longest run of tokens that ends `tokens` and stands in it before, the latest of several: `n` tokens at most.
pub(crate) fn look_back(tokens: &[u32], n: usize) -> &[u32] {
    let tokens = &tokens[tokens.len().saturating_sub(REACH)..];
    let Some(last) = tokens.last() else { return &[] };
    let mut best = (SHORTEST - 1, 0);
    for end in (1..tokens.len()).rev() {
        if tokens[end - 1] != *last {
            continue;
        }
        let before = tokens[..end].iter().rev();
        let run = before
            .zip(tokens.iter().rev())
            .take(LONGEST)
            .take_while(|(a, b)| a == b)
            .count();
        if run > best.0 {
            best = (run, end);
            if run == LONGEST {
                break;
            }
        }
    }
    match best.1 {
        0 => &[],
        end => &tokens[end..(end + n).min(tokens.len())],
    }
}

/// Whether guesses pay for one text: they are left out for a while where few were right.
#[derive(Debug, Clone, Default)]
pub(crate) struct Luck {
    guessed: usize,
    accepted: usize,
    rest: usize,
}

impl Luck {
    /// Guesses of which so many are judged together.
    const TRIAL: usize = 24;
    /// Steps that are taken without guesses behind a bad trial.
    const REST: usize = 24;

    /// Whether to guess in this step.
    pub fn is_on(&mut self) -> bool {
        self.rest = self.rest.saturating_sub(1);
        self.rest == 0
    }

    pub fn count(&mut self, guessed: usize, accepted: usize) {
        self.guessed += guessed;
        self.accepted += accepted;
        if self.guessed >= Self::TRIAL {
            // A row more costs a third of a step or less where weights are read once for all.
            if self.accepted * 3 < self.guessed {
                self.rest = Self::REST;
            }
            (self.guessed, self.accepted) = (0, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_run_is_found_and_the_latest_of_equals() {
        assert!(look_back(&[], 3).is_empty());
        assert!(look_back(&[1], 3).is_empty());
        assert!(look_back(&[1, 2, 3], 3).is_empty());
        assert!(
            look_back(&[1, 2, 9, 2], 3).is_empty(),
            "one token says too little"
        );
        assert_eq!(look_back(&[1, 2, 3, 4, 1, 2], 2), [3, 4]);
        assert_eq!(look_back(&[1, 2, 3, 1, 2, 4, 1, 2], 1), [4]);
        assert_eq!(look_back(&[7, 1, 2, 3, 8, 1, 2, 4, 7, 1, 2], 1), [3]);
        assert_eq!(look_back(&[5, 5, 5, 5], 9), [5], "a repetition guesses itself");
    }

    #[test]
    fn bad_guesses_are_left_out_for_a_while() {
        let mut luck = Luck::default();
        luck.count(30, 20);
        assert!(luck.is_on());
        luck.count(30, 2);
        assert_eq!((0..Luck::REST + 1).filter(|_| luck.is_on()).count(), 2);
    }
}
