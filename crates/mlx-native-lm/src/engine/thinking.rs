//! How long a model may think before it answers: the tokens of its thoughts are counted, and where their budget is used up the text that
//! ends them is forced.

/// How the thoughts of an answer are told from the rest, and how many tokens they may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thinking {
    /// The text that opens thoughts. An answer that begins otherwise has none.
    pub open: String,
    /// The text that closes them.
    pub close: String,
    /// Whether the prompt has opened them.
    pub is_open: bool,
    /// Tokens of thoughts at most, those that close them not counted; `None`: no limit.
    pub budget: Option<usize>,
    /// The tokens that close them when the budget is used up; one at least where there is a budget.
    pub ending: Vec<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Nothing but white space and a beginning of the mark that opens came so far.
    Start,
    Inside,
    /// The ending is forced; so many of its tokens came.
    Ending(usize),
    Behind,
}

/// Where a text is with its thoughts.
#[derive(Debug, Clone)]
pub(super) struct Thoughts {
    place: Place,
    /// The end of the text that may still become a mark.
    seen: String,
    tokens: usize,
}

impl Thoughts {
    pub fn new(thinking: Option<&Thinking>) -> Self {
        let place = match thinking {
            None => Place::Behind,
            Some(thinking) if !thinking.is_open => Place::Start,
            Some(thinking) if thinking.budget == Some(0) => Place::Ending(0),
            Some(_) => Place::Inside,
        };
        Thoughts {
            place,
            seen: String::new(),
            tokens: 0,
        }
    }

    /// Tokens of thoughts so far, those that close them included.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// The token that has to come now, where one has to.
    pub fn forced(&self, thinking: Option<&Thinking>) -> Option<u32> {
        match (self.place, thinking) {
            (Place::Ending(n), Some(thinking)) => thinking.ending.get(n).copied(),
            _ => None,
        }
    }

    /// A token was chosen, whose text is `text`.
    pub fn push(&mut self, text: &str, thinking: Option<&Thinking>) {
        let Some(thinking) = thinking else { return };
        let is_over = |tokens: usize| thinking.budget.is_some_and(|budget| tokens >= budget);
        match self.place {
            Place::Behind => {}
            Place::Start => {
                self.seen.push_str(text);
                let begun = self.seen.trim_start();
                if let Some(rest) = begun.strip_prefix(thinking.open.as_str()) {
                    self.seen = rest.to_owned();
                    self.place = if is_over(0) {
                        Place::Ending(0)
                    } else {
                        Place::Inside
                    };
                } else if !thinking.open.starts_with(begun) {
                    self.leave();
                }
            }
            Place::Inside => {
                self.tokens += 1;
                self.seen.push_str(text);
                if self.seen.contains(thinking.close.as_str()) {
                    return self.leave();
                }
                let keep = self.seen.len().saturating_sub(thinking.close.len());
                let keep = (0..=keep).rev().find(|at| self.seen.is_char_boundary(*at));
                self.seen.drain(..keep.unwrap_or(0));
                if is_over(self.tokens) {
                    self.place = Place::Ending(0);
                }
            }
            Place::Ending(n) => {
                self.tokens += 1;
                self.place = Place::Ending(n + 1);
                if n + 1 >= thinking.ending.len() {
                    self.leave();
                }
            }
        }
    }

    fn leave(&mut self) {
        self.place = Place::Behind;
        self.seen = String::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thinking(is_open: bool, budget: Option<usize>) -> Thinking {
        Thinking {
            open: "<think>".to_owned(),
            close: "</think>".to_owned(),
            is_open,
            budget,
            ending: vec![7, 8],
        }
    }

    /// What a model says, token by token, and what is forced in between, as numbers.
    fn run(thinking: &Thinking, says: &[&str]) -> (String, usize) {
        let mut thoughts = Thoughts::new(Some(thinking));
        let mut text = String::new();
        for says in says {
            while let Some(id) = thoughts.forced(Some(thinking)) {
                let forced = if id == 7 { "</thi" } else { "nk>" };
                text += forced;
                thoughts.push(forced, Some(thinking));
            }
            text += says;
            thoughts.push(says, Some(thinking));
        }
        (text, thoughts.tokens())
    }

    #[test]
    fn the_ending_is_forced_when_the_budget_is_used_up() {
        let says = ["a", "b", "c", "d"];
        let cases = [
            (Some(0), "</think>abcd", 2),
            (Some(1), "a</think>bcd", 3),
            (Some(3), "abc</think>d", 5),
            (Some(4), "abcd", 4),
            (Some(9), "abcd", 4),
            (None, "abcd", 4),
        ];
        for (budget, text, tokens) in cases {
            let found = run(&thinking(true, budget), &says);
            assert_eq!((found.0.as_str(), found.1), (text, tokens), "{budget:?}");
        }
    }

    #[test]
    fn thoughts_that_the_answer_opens_are_counted_from_there() {
        let says = ["\n<th", "ink>", "a", "b", "</", "think>", "c", "d", "e"];
        assert_eq!(
            run(&thinking(false, Some(2)), &says).0,
            "\n<think>ab</think></think>cde"
        );
        assert_eq!(
            run(&thinking(false, Some(4)), &says),
            ("\n<think>ab</think>cde".to_owned(), 4)
        );
        assert_eq!(run(&thinking(false, None), &says).1, 4);
        assert_eq!(
            run(&thinking(false, Some(0)), &says).0,
            "\n<think></think>ab</think>cde"
        );
    }

    #[test]
    fn an_answer_without_thoughts_has_none() {
        for says in [&["Hi", " <think>", "x", "y"][..], &["<thing>", "x"], &[""]] {
            let found = run(&thinking(false, Some(0)), says);
            assert_eq!(found, (says.concat(), 0));
        }
        let mut none = Thoughts::new(None);
        none.push("<think>", None);
        assert_eq!((none.forced(None), none.tokens()), (None, 0));
    }
}
