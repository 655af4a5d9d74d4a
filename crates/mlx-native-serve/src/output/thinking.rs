//! What a model thinks before it answers, apart from what it answers.

use super::{Delta, open_end, push};
use crate::chat::family::Thinking;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Nothing but white space came so far.
    Start,
    /// The mark that opens came; white space behind it is not part of what is thought.
    Opened,
    Inside,
    /// The mark that closes came; white space behind it is not part of the answer.
    Closed,
    Answer,
}

/// Splits a text at the marks around what is thought, which comes first or not at all.
#[derive(Debug, Clone)]
pub(super) struct Split {
    marks: Thinking,
    place: Place,
    held: String,
}

impl Split {
    pub fn new(marks: Thinking, open: bool) -> Self {
        Split {
            marks,
            place: if open { Place::Opened } else { Place::Start },
            held: String::new(),
        }
    }

    pub fn push(&mut self, text: &str, out: &mut Vec<Delta>) {
        self.held.push_str(text);
        while self.advance(out) {}
    }

    /// Whether there may be more to do.
    fn advance(&mut self, out: &mut Vec<Delta>) -> bool {
        let Thinking { open, close, .. } = self.marks;
        match self.place {
            Place::Start => {
                let begun = self.held.trim_start();
                if begun.starts_with(open) {
                    let at = self.held.len() - begun.len() + open.len();
                    self.held.drain(..at);
                    self.place = Place::Opened;
                    return true;
                }
                if open.starts_with(begun) {
                    return false;
                }
                self.place = Place::Answer;
                true
            }
            Place::Opened | Place::Closed => {
                let blank = self.held.len() - self.held.trim_start().len();
                self.held.drain(..blank);
                if self.held.is_empty() {
                    return false;
                }
                self.place = if self.place == Place::Opened {
                    Place::Inside
                } else {
                    Place::Answer
                };
                true
            }
            Place::Inside => {
                if let Some(at) = self.held.find(close) {
                    let thought = self.held[..at].trim_end().to_owned();
                    push(out, Delta::Reasoning(thought));
                    self.held.drain(..at + close.len());
                    self.place = Place::Closed;
                    return true;
                }
                // White space at the end goes with the mark, if that comes.
                let sure = self.held.len() - open_end(&self.held, [close]);
                let sure = self.held[..sure].trim_end().len();
                let thought: String = self.held.drain(..sure).collect();
                push(out, Delta::Reasoning(thought));
                false
            }
            Place::Answer => {
                push(out, Delta::Content(std::mem::take(&mut self.held)));
                false
            }
        }
    }

    pub fn finish(&mut self, out: &mut Vec<Delta>) {
        let rest = std::mem::take(&mut self.held);
        match self.place {
            Place::Start | Place::Answer => push(out, Delta::Content(rest)),
            Place::Inside => push(out, Delta::Reasoning(rest)),
            Place::Opened | Place::Closed => {}
        }
    }
}
