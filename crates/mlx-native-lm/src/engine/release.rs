//! Which text may be shown: not what may still begin a stop text, and nothing from a stop text on.

use std::collections::VecDeque;

use super::event::Token;

/// Holds text back until it is certain.
#[derive(Debug)]
pub(super) struct Release {
    stops: Vec<String>,
    /// Text that was not shown.
    held: String,
    /// Tokens that were not shown, each with where its text ends, counted from the beginning of `held`.
    tokens: VecDeque<(usize, Token)>,
}

/// What may be shown now.
#[derive(Debug, PartialEq)]
pub(super) struct Released {
    pub text: String,
    pub tokens: Vec<Token>,
    /// The stop text that ended it.
    pub stop: Option<String>,
}

impl Release {
    pub fn new(stops: Vec<String>) -> Self {
        Release {
            stops,
            held: String::new(),
            tokens: VecDeque::new(),
        }
    }

    /// Another token and its text. With `may_stop` false no stop text is looked for yet.
    pub fn push(&mut self, token: Token, may_stop: bool) -> Released {
        self.held.push_str(&token.text);
        self.tokens.push_back((self.held.len(), token));
        if !may_stop {
            // What was generated so far cannot be part of a stop text that counts.
            return self.take(self.held.len(), None);
        }
        self.look(false)
    }

    /// The last text, which belongs to the last token.
    pub fn finish(&mut self, rest: &str, may_stop: bool) -> Released {
        self.held.push_str(rest);
        if let Some((end, token)) = self.tokens.back_mut() {
            token.text.push_str(rest);
            *end = self.held.len();
        }
        if may_stop {
            self.look(true)
        } else {
            self.take(self.held.len(), None)
        }
    }

    /// The stop text that is complete first ends the text, the longest where several are: so it does not matter how the text
    /// was cut into tokens.
    fn look(&mut self, end: bool) -> Released {
        let found = (self.stops.iter())
            .filter_map(|stop| {
                self.held
                    .find(stop.as_str())
                    .map(|at| (at + stop.len(), at, stop))
            })
            .min_by_key(|(end, at, _)| (*end, *at));
        if let Some((_, at, stop)) = found {
            let stop = stop.clone();
            return self.take(at, Some(stop));
        }
        let keep = if end { 0 } else { self.open() };
        self.take(self.held.len() - keep, None)
    }

    /// Bytes at the end of what is held that may begin a stop text.
    fn open(&self) -> usize {
        let open = |stop: &String| {
            let most = stop.len().saturating_sub(1).min(self.held.len());
            let is_open = |n: &usize| {
                self.held.is_char_boundary(self.held.len() - n)
                    && stop
                        .as_bytes()
                        .starts_with(&self.held.as_bytes()[self.held.len() - n..])
            };
            (1..=most).rev().find(is_open).unwrap_or(0)
        };
        self.stops.iter().map(open).max().unwrap_or(0)
    }

    fn take(&mut self, upto: usize, stop: Option<String>) -> Released {
        let rest = self.held.split_off(upto);
        let text = std::mem::replace(&mut self.held, rest);
        let mut tokens = Vec::new();
        while self.tokens.front().is_some_and(|(end, _)| *end <= upto) {
            tokens.extend(self.tokens.pop_front().map(|(_, token)| token));
        }
        for (end, _) in &mut self.tokens {
            *end -= upto;
        }
        Released { text, tokens, stop }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (String, Option<String>, usize) {
        let mut release = Release::new(stops.iter().map(|s| (*s).to_owned()).collect());
        let (mut text, mut tokens) = (String::new(), 0);
        for (id, piece) in (0u32..).zip(pieces) {
            let token = Token {
                id,
                text: (*piece).to_owned(),
                logprobs: None,
            };
            let released = release.push(token, true);
            text += &released.text;
            tokens += released.tokens.len();
            if released.stop.is_some() {
                return (text, released.stop, tokens);
            }
        }
        let released = release.finish("", true);
        (
            text + &released.text,
            released.stop,
            tokens + released.tokens.len(),
        )
    }

    #[test]
    fn every_split_gives_the_same_text_and_stop() {
        let cases: &[(&[&str], &str, &str, Option<&str>)] = &[
            (&["STOP"], "go on STOP here", "go on ", Some("STOP")),
            (&["abcd", "bc"], "xabcdy", "xa", Some("bc")),
            (&["aab"], "aaaaab!", "aaa", Some("aab")),
            (&["\n\n", "\n"], "a\n\nb", "a", Some("\n")),
            (&["é!"], "caféé!x", "café", Some("é!")),
            (&["never"], "nevenevene", "nevenevene", None),
            (&["b", "ab"], "ab", "", Some("ab")),
        ];
        for (stops, whole, text, stop) in cases {
            let bounds: Vec<usize> = whole.char_indices().map(|(i, _)| i).skip(1).collect();
            for mask in 0u32..(1 << bounds.len().min(12)) {
                let mut pieces = Vec::new();
                let mut from = 0;
                for (bit, at) in bounds.iter().enumerate() {
                    if bit < 12 && mask >> bit & 1 == 1 {
                        pieces.push(&whole[from..*at]);
                        from = *at;
                    }
                }
                pieces.push(&whole[from..]);
                let found = run(stops, &pieces);
                assert_eq!(
                    (found.0.as_str(), found.1.as_deref()),
                    (*text, *stop),
                    "{pieces:?}"
                );
            }
        }
    }

    #[test]
    fn tokens_wait_for_their_text() {
        let (text, stop, tokens) = run(&["END"], &["a", "", "b E", "N", "x"]);
        assert_eq!((text.as_str(), stop, tokens), ("ab ENx", None, 5));
        let (text, _, tokens) = run(&["END"], &["a", "bE", "ND"]);
        assert_eq!((text.as_str(), tokens), ("ab", 1));
    }
}
