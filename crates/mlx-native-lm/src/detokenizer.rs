//! Tokens to text, piece by piece, never half a character.
//!
//! The pieces of a [`Detokenizer`] together are what [`Tokenizer::decode`] makes of all ids at once. The decoders of today's
//! models are run token by token ([`chain`]); bytes are kept until they are whole characters, and what can never become one
//! is replaced at once. Any other decoder is the library's: each token is decoded together with the last one shown, and what
//! that one makes by itself is taken off. What ends in U+FFFD is not certain yet, and waits for what follows.
//!
//! Either way the cost of a token does not depend on how many came before.

pub(crate) mod chain;

use crate::error::Result;
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
    Chain(chain::ChainState),
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

/// The byte of `<0x..>`: one that the vocabulary has no other token for.
fn is_byte_token(token: &str) -> Option<u8> {
    let hex = token.strip_prefix("<0x")?.strip_suffix('>')?;
    let digits = hex.len() == 2 && hex.bytes().all(|b| b.is_ascii_hexdigit());
    digits.then(|| u8::from_str_radix(hex, 16).ok()).flatten()
}

/// The bytes of a token of a byte-level vocabulary. A token with a character outside the table, such as an added one with
/// a space, stands for itself.
fn push_bytes(token: &str, out: &mut Vec<u8>) {
    let start = out.len();
    for c in token.chars() {
        match byte_of(c) {
            Some(byte) => out.push(byte),
            None => {
                out.truncate(start);
                out.extend_from_slice(token.as_bytes());
                return;
            }
        }
    }
}

/// The byte that a character of a byte-level vocabulary stands for. Bytes that are visible characters of Latin-1 stand
/// for themselves; the others were moved, in order, to the characters from 256 on.
fn byte_of(c: char) -> Option<u8> {
    match u32::from(c) {
        code @ (0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF) => u8::try_from(code).ok(),
        // 0x00..=0x20, then 0x7F..=0xA0, then 0xAD.
        code @ 0x100..=0x120 => u8::try_from(code - 0x100).ok(),
        code @ 0x121..=0x142 => u8::try_from(code - 0x121 + 0x7F).ok(),
        0x143 => Some(0xAD),
        _ => None,
    }
}

/// Takes the text off the front of `bytes`, leaving a character that is not whole unless this is the end. What is no
/// character becomes U+FFFD: one for each byte, or for as many as could have begun one.
fn take_text(bytes: &mut Vec<u8>, end: bool, each: bool) -> String {
    let mut text = String::new();
    let mut done = 0;
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        done += chunk.valid().len();
        let invalid = chunk.invalid();
        if invalid.is_empty() {
            continue;
        }
        // Only at the very end can what is invalid so far still become a character.
        let last = done + invalid.len() == bytes.len();
        let open = std::str::from_utf8(invalid).is_err_and(|e| e.error_len().is_none());
        if last && open && !end {
            break;
        }
        let count = if each { invalid.len() } else { 1 };
        text.extend(std::iter::repeat_n(char::REPLACEMENT_CHARACTER, count));
        done += invalid.len();
    }
    bytes.drain(..done);
    text
}

#[cfg(test)]
mod tests;
