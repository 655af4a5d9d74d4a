//! Tokens to text, piece by piece, never half a character.
//!
//! The pieces of a [`Detokenizer`] together are what [`Tokenizer::decode`] makes of all ids at once. The decoders of today's
//! models are run token by token ([`token_text`](crate::token_text)); bytes are kept until they are whole characters, and what can never become one
//! is replaced at once. Any other decoder is the library's: each token is decoded together with the last one shown, and what
//! that one makes by itself is taken off. What ends in U+FFFD is not certain yet, and waits for what follows.
//!
//! Either way the cost of a token does not depend on how many came before.

use crate::error::Result;
use crate::token_text::ChainState;
use crate::tokenizer::Tokenizer;

/// Turns the tokens of one text into pieces that can be shown as they come. Special tokens are shown too.
///
/// ```
/// use mlx_native_lm::{Detokenizer, ModelFolder};
///
/// let tokenizer = ModelFolder::from_files(mlx_native_demo::files())?.tokenizer()?;
/// let mut detokenizer = Detokenizer::new(&tokenizer);
/// let mut text = String::new();
/// for id in tokenizer.encode("naïve 🦀")? {
///     text += &detokenizer.push(id)?;
/// }
/// text += &detokenizer.finish()?;
/// assert_eq!(text, "naïve 🦀");
/// # Ok::<(), mlx_native_lm::LmError>(())
/// ```
#[derive(Debug)]
pub struct Detokenizer<'a> {
    tokenizer: &'a Tokenizer,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Of the tokenizer's chain.
    Chain(ChainState),
    /// Ids of which the first `shown` are there for context only.
    Window { ids: Vec<u32>, shown: usize },
}

/// Tokens that are kept back at most until their text is certain.
const MAX_HELD: usize = 64;

impl<'a> Detokenizer<'a> {
    /// For a new text.
    #[must_use]
    pub fn new(tokenizer: &'a Tokenizer) -> Self {
        let state = match tokenizer.chain() {
            Some(chain) => State::Chain(chain.start()),
            None => State::Window {
                ids: Vec::new(),
                shown: 0,
            },
        };
        Detokenizer { tokenizer, state }
    }

    /// The text that a further token makes certain; empty while a character is incomplete. An id outside the vocabulary
    /// makes none.
    ///
    /// # Errors
    /// [`LmError::Tokenizer`](crate::LmError::Tokenizer) when the decoder fails.
    pub fn push(&mut self, id: u32) -> Result<String> {
        let Some(token) = self.tokenizer.token(id) else {
            return Ok(String::new());
        };
        match (&mut self.state, self.tokenizer.chain()) {
            (State::Chain(state), Some(chain)) => Ok(chain.push(state, token)),
            (State::Window { ids, .. }, _) => {
                ids.push(id);
                self.show(false)
            }
            (State::Chain(_), None) => Ok(String::new()),
        }
    }

    /// The rest of the text, at its end: incomplete characters become U+FFFD. A new text may follow.
    ///
    /// # Errors
    /// [`LmError::Tokenizer`](crate::LmError::Tokenizer) when the decoder fails.
    pub fn finish(&mut self) -> Result<String> {
        match (&mut self.state, self.tokenizer.chain()) {
            (State::Chain(state), Some(chain)) => Ok(chain.finish(state)),
            _ => self.show(true),
        }
    }

    /// The text of the window's ids that were not shown, once it is certain; the last id is kept as context.
    fn show(&mut self, end: bool) -> Result<String> {
        let State::Window { ids, shown } = &mut self.state else {
            return Ok(String::new());
        };
        let context = self.tokenizer.decode_with_library(&ids[..*shown], false)?;
        let text = self.tokenizer.decode_with_library(ids, false)?;
        let wait = !end && ids.len() - *shown < MAX_HELD;
        let new = match text.strip_prefix(context.as_str()) {
            Some(new) if wait && new.ends_with(char::REPLACEMENT_CHARACTER) => return Ok(String::new()),
            Some(new) => new,
            None if wait => return Ok(String::new()),
            // What was shown cannot be taken back.
            None => &text[common_prefix(&context, &text)..],
        };
        let new = new.to_owned();
        let keep = usize::from(!end).min(ids.len());
        ids.drain(..ids.len() - keep);
        *shown = keep;
        Ok(new)
    }
}

/// Bytes that two texts have in common at the beginning, in whole characters.
fn common_prefix(a: &str, b: &str) -> usize {
    let equal = a.chars().zip(b.chars()).take_while(|(a, b)| a == b);
    equal.map(|(c, _)| c.len_utf8()).sum()
}

#[cfg(test)]
mod tests;
