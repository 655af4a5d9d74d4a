//! Tokens to text, piece by piece, never half a character.
//!
//! The pieces of a [`Detokenizer`] together are what [`Tokenizer::decode`] makes of all ids at once. Two ways lead there:
//!
//! - Byte-level vocabularies: a token is bytes. Bytes are kept until they are whole characters; what can never become
//!   one is replaced at once, as decoding everything would.
//! - All others: the text of a token depends on the one before it (a space, or none), so each is decoded together with
//!   the last one shown, and what that one makes by itself is taken off. Tokens that are single bytes (`<0xE2>`) are kept
//!   until a token of another kind follows, since the decoder reads such a run as a whole: one bad byte spoils all of it.
//!
//! Either way the cost of a token does not depend on how many came before.

use crate::error::{LmError, Result};
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
    /// Bytes that are not a whole character yet: at most three.
    Bytes(Vec<u8>),
    /// Ids of which the first `shown` are there for context only.
    Window { ids: Vec<u32>, shown: usize },
}

impl<'a> Detokenizer<'a> {
    /// For a new text.
    #[must_use]
    pub fn new(tokenizer: &'a Tokenizer) -> Self {
        let state = if tokenizer.is_byte_level() {
            State::Bytes(Vec::new())
        } else {
            State::Window {
                ids: Vec::new(),
                shown: 0,
            }
        };
        Detokenizer { tokenizer, state }
    }

    /// The text that a further token makes certain; empty while a character is incomplete. An id outside the vocabulary
    /// makes none.
    ///
    /// # Errors
    /// [`LmError::Tokenizer`] when the decoder fails.
    pub fn push(&mut self, id: u32) -> Result<String> {
        let Some(token) = self.tokenizer.token(id) else {
            return Ok(String::new());
        };
        match &mut self.state {
            State::Bytes(pending) => {
                push_bytes(&token, pending);
                Ok(take_text(pending, false))
            }
            State::Window { ids, .. } => {
                ids.push(id);
                if is_byte_token(&token) {
                    Ok(String::new())
                } else {
                    self.show(1)
                }
            }
        }
    }

    /// The rest of the text, at its end: incomplete characters become U+FFFD. A new text may follow.
    ///
    /// # Errors
    /// [`LmError::Tokenizer`] when the decoder fails.
    pub fn finish(&mut self) -> Result<String> {
        match &mut self.state {
            State::Bytes(pending) => Ok(take_text(pending, true)),
            State::Window { .. } => self.show(0),
        }
    }

    /// The text of the window's ids that were not shown; keeps the last `keep` as context.
    fn show(&mut self, keep: usize) -> Result<String> {
        let State::Window { ids, shown } = &mut self.state else {
            return Ok(String::new());
        };
        let context = self.tokenizer.decode(&ids[..*shown], false)?;
        let text = self.tokenizer.decode(ids, false)?;
        let Some(new) = text.strip_prefix(context.as_str()) else {
            return Err(LmError::Tokenizer(format!(
                "tokens {ids:?} decode to {text:?}, which does not begin with the {context:?} of the first {shown}"
            )));
        };
        let new = new.to_string();
        ids.drain(..ids.len() - keep);
        *shown = keep;
        Ok(new)
    }
}

/// `<0x..>`: a byte that the vocabulary has no other token for.
fn is_byte_token(token: &str) -> bool {
    token
        .strip_prefix("<0x")
        .and_then(|t| t.strip_suffix('>'))
        .is_some_and(|hex| hex.len() == 2 && u8::from_str_radix(hex, 16).is_ok())
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

/// Takes the text off the front of `bytes`, leaving a character that is not whole unless this is the end.
fn take_text(bytes: &mut Vec<u8>, end: bool) -> String {
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
        text.push(char::REPLACEMENT_CHARACTER);
        done += invalid.len();
    }
    bytes.drain(..done);
    text
}

#[cfg(test)]
mod tests;
