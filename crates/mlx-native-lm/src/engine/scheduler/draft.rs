//! Guesses by a smaller model, which writes ahead what the large one then computes in one pass.
//!
//! A guess is right where the large model chooses the same token by its own logits and its own random numbers, so what is written does
//! not depend on the small model at all.

use super::super::stepper::{MOST_NEXT, Rows, Stepper, Wanted};
use super::Scheduler;
use crate::error::Result;
use crate::sampling::Sampler;

/// Tokens of prompts that the small model reads in a step at most: it follows behind the large one, and nobody waits for it.
const CATCH_UP: usize = 128;

/// Where the small model is with a text.
#[derive(Debug)]
pub(in super::super) struct Draft<S> {
    pub state: S,
    /// Tokens of the text that the state is behind.
    fed: usize,
    /// What was guessed to follow them, and fed as well.
    ahead: Vec<u32>,
}

impl<S> Draft<S> {
    /// Forgets the guesses that did not become part of the text; how many tokens of the text the state is behind then.
    fn agree(&mut self, tokens: &[u32]) -> usize {
        let behind = tokens.get(self.fed..).unwrap_or_default();
        let right = self.ahead.iter().zip(behind).take_while(|(a, b)| a == b).count();
        self.ahead.clear();
        self.fed += right;
        self.fed
    }
}

/// A text for which guesses are wanted.
struct Turn {
    index: usize,
    /// Guesses at most.
    most: usize,
    /// What the small model gets next.
    feed: Vec<u32>,
    /// Draws as the text's own will: where both models agree the guess is right, however tokens are chosen.
    sampler: Sampler,
    text: Vec<u32>,
}

impl<P: Stepper> Scheduler<'_, P> {
    /// Guesses up to `most` tokens for each text that wants some: its index and how many it can use.
    pub(super) fn draft(&mut self, wanted: &[(usize, usize)]) {
        let Some(mut drafter) = self.drafter.take() else {
            return;
        };
        match self.write_ahead(&mut drafter, wanted) {
            Ok(()) => self.drafter = Some(drafter),
            Err(error) => {
                tracing::warn!("the draft model is left out from now on: {error}");
                for sequence in &mut self.running {
                    sequence.draft = None;
                    sequence.guesses.clear();
                }
            }
        }
    }

    fn write_ahead(&mut self, drafter: &mut P, wanted: &[(usize, usize)]) -> Result<()> {
        let mut turns = Vec::new();
        let mut budget = CATCH_UP;
        for (index, most) in wanted {
            let turn = self.follow(drafter, *index, *most, &mut budget)?;
            turns.extend(turn);
        }
        let vocab = self.stepper.vocab_size();
        while !turns.is_empty() {
            let logits = self.feed(drafter, &turns)?;
            let mut next = Vec::with_capacity(turns.len());
            for (mut turn, mut logits) in turns.into_iter().zip(logits) {
                let sequence = &mut self.running[turn.index];
                logits.truncate(vocab);
                // Logits that are no numbers are no guess.
                let Ok(guess) = turn.sampler.sample(&mut logits, &turn.text) else {
                    continue;
                };
                sequence.guesses.push(guess);
                turn.text.push(guess);
                turn.feed = vec![guess];
                if sequence.guesses.len() < turn.most {
                    next.push(turn);
                }
            }
            turns = next;
        }
        Ok(())
    }

    /// Brings the small model's state to the end of a text, but for its last tokens; those are what it gets next. `None` while it is
    /// further behind than a step may cost.
    fn follow(
        &mut self,
        drafter: &mut P,
        index: usize,
        most: usize,
        budget: &mut usize,
    ) -> Result<Option<Turn>> {
        let needed = drafter.state_bytes(self.running[index].tokens.len() + MOST_NEXT);
        let has_room = self.bytes().saturating_add(needed) <= self.config.kv_bytes;
        let sequence = &mut self.running[index];
        let draft = match &mut sequence.draft {
            Some(draft) => draft,
            // Without memory for it there are no guesses.
            None if !has_room => return Ok(None),
            None => sequence.draft.insert(Draft {
                state: drafter.new_state(sequence.tokens.len())?,
                fed: 0,
                ahead: Vec::new(),
            }),
        };
        let at = draft.agree(&sequence.tokens);
        drafter.truncate(&mut draft.state, at)?;
        while sequence.tokens.len() - draft.fed > MOST_NEXT {
            let count = (sequence.tokens.len() - draft.fed - 1)
                .min(drafter.chunk())
                .min(*budget);
            if count == 0 {
                return Ok(None);
            }
            let mut rows = [Rows {
                tokens: &sequence.tokens[draft.fed..draft.fed + count],
                is_next: false,
                state: &mut draft.state,
                wanted: Wanted::None,
            }];
            drafter.step(&mut rows).into_iter().collect::<Result<Vec<_>>>()?;
            draft.fed += count;
            *budget -= count;
        }
        Ok((most > 0).then(|| Turn {
            index,
            most,
            feed: sequence.tokens[draft.fed..].to_vec(),
            sampler: sequence.sampler.clone(),
            text: sequence.tokens.clone(),
        }))
    }

    /// The small model's logits behind what each text feeds it.
    fn feed(&mut self, drafter: &mut P, turns: &[Turn]) -> Result<Vec<Vec<f32>>> {
        let mut rows = Vec::with_capacity(turns.len());
        let mut turns = turns.iter().peekable();
        for (index, sequence) in self.running.iter_mut().enumerate() {
            let (Some(turn), Some(draft)) = (turns.next_if(|t| t.index == index), &mut sequence.draft) else {
                continue;
            };
            // The end of the text counts as fed; what was guessed may have to be taken back.
            match sequence.guesses.is_empty() {
                true => draft.fed += turn.feed.len(),
                false => draft.ahead.extend(&turn.feed),
            }
            rows.push(Rows {
                tokens: &turn.feed,
                is_next: true,
                state: &mut draft.state,
                wanted: Wanted::Last,
            });
        }
        drafter.step(&mut rows).into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guesses_that_did_not_come_are_forgotten() {
        let draft = |ahead: &[u32]| Draft {
            state: (),
            fed: 2,
            ahead: ahead.to_vec(),
        };
        let cases: [(&[u32], &[u32], usize); 5] = [
            (&[5, 6], &[1, 2, 5, 6, 7], 4),
            (&[5, 6], &[1, 2, 5, 9], 3),
            (&[5, 6], &[1, 2, 9], 2),
            (&[5, 6], &[1, 2], 2),
            (&[], &[1, 2, 3], 2),
        ];
        for (ahead, tokens, at) in cases {
            let mut draft = draft(ahead);
            assert_eq!(
                (draft.agree(tokens), draft.ahead.len()),
                (at, 0),
                "{ahead:?} {tokens:?}"
            );
        }
    }
}
