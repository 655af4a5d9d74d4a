//! The decoder of a `tokenizer.json`, run token by token.
//!
//! A decoder is a chain of steps. Those before the tokens are put together change each token by itself, then bytes become
//! characters, and what follows changes the text as it comes. A chain with a step that cannot be run so is left to the
//! library, which decodes a window of tokens at a time.

use serde_json::Value;

/// What changes one token.
#[derive(Debug, Clone, PartialEq, Eq)]
enum TokenStep {
    Replace {
        from: String,
        to: String,
    },
    /// A space before every token but the first: what is done where there is no decoder.
    Spaces,
    Metaspace {
        replacement: char,
        first_too: bool,
    },
    WordPiece {
        prefix: String,
        cleanup: bool,
    },
    Strip {
        content: char,
        start: usize,
        stop: usize,
    },
}

/// What changes the text.
#[derive(Debug, Clone, PartialEq, Eq)]
enum TextStep {
    Replace {
        from: char,
        to: String,
    },
    Strip {
        content: char,
        start: usize,
        stop: usize,
    },
}

/// Where bytes come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bytes {
    /// Tokens are text.
    Nowhere,
    /// Tokens such as `<0xE2>`.
    Fallback,
    /// All tokens, by a table of characters.
    Level,
}

/// A decoder that can be run token by token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chain {
    /// What is a space at the end of every token but the last one of a text.
    suffix: Option<String>,
    tokens: Vec<TokenStep>,
    bytes: Bytes,
    text: Vec<TextStep>,
}

/// How far a [`Chain`] is in a text.
#[derive(Debug, Clone, Default)]
pub(crate) struct ChainState {
    begun: bool,
    /// Bytes that are no whole character yet.
    pub(crate) pending: Vec<u8>,
    /// The last token, where it matters whether it is the last one.
    last: Option<String>,
    strips: Vec<StripState>,
}

#[derive(Debug, Clone, Default)]
struct StripState {
    /// Characters taken off the beginning; `None` once something else came.
    taken: usize,
    begun: bool,
    /// Characters at the end that may have to go.
    held: usize,
}

impl Chain {
    /// The chain of a decoder, given as its JSON; `None` where it has to be left to the library.
    pub(crate) fn new(decoder: &Value) -> Option<Self> {
        let mut chain = Chain {
            suffix: None,
            tokens: Vec::new(),
            bytes: Bytes::Nowhere,
            text: Vec::new(),
        };
        if decoder.is_null() {
            chain.tokens.push(TokenStep::Spaces);
            return Some(chain);
        }
        let mut steps = Vec::new();
        flatten(decoder, &mut steps)?;
        let mut fused = false;
        for step in steps {
            chain.add(step, &mut fused)?;
        }
        Some(chain)
    }

    fn add(&mut self, step: &Value, fused: &mut bool) -> Option<()> {
        let text = |key: &str| step.get(key)?.as_str();
        let char = |key: &str| single(text(key)?);
        let count = |key: &str| usize::try_from(step.get(key)?.as_u64()?).ok();
        let apart = !*fused && self.bytes == Bytes::Nowhere;
        match text("type")? {
            "Fuse" => *fused = true,
            "ByteLevel" if apart => {
                self.bytes = Bytes::Level;
                *fused = true;
            }
            "ByteFallback" if apart => self.bytes = Bytes::Fallback,
            "Replace" => {
                let from = step.get("pattern")?.get("String")?.as_str()?.to_owned();
                let to = text("content")?.to_owned();
                if apart && !from.is_empty() {
                    self.tokens.push(TokenStep::Replace { from, to });
                } else {
                    // A longer pattern could be cut.
                    let from = single(&from)?;
                    self.text.push(TextStep::Replace { from, to });
                }
            }
            "Strip" => {
                let (content, start, stop) = (char("content")?, count("start")?, count("stop")?);
                if *fused {
                    self.text.push(TextStep::Strip { content, start, stop });
                } else if apart {
                    self.tokens.push(TokenStep::Strip { content, start, stop });
                } else {
                    return None;
                }
            }
            "BPEDecoder" if apart && self.tokens.is_empty() && self.suffix.is_none() => {
                self.suffix = Some(text("suffix")?.to_owned());
            }
            "Metaspace" if apart => self.tokens.push(TokenStep::Metaspace {
                replacement: char("replacement")?,
                first_too: text("prepend_scheme") == Some("never"),
            }),
            "WordPiece" if apart => self.tokens.push(TokenStep::WordPiece {
                prefix: text("prefix")?.to_owned(),
                cleanup: step.get("cleanup")?.as_bool()?,
            }),
            _ => return None,
        }
        Some(())
    }

    /// The state at the beginning of a text.
    pub(crate) fn start(&self) -> ChainState {
        let strips = self.text.iter().filter(|s| matches!(s, TextStep::Strip { .. }));
        ChainState {
            begun: false,
            pending: Vec::new(),
            last: None,
            strips: vec![StripState::default(); strips.count()],
        }
    }

    /// The text that a further token makes certain.
    pub(crate) fn push(&self, state: &mut ChainState, token: String) -> String {
        let Some(suffix) = &self.suffix else {
            return self.take(state, token);
        };
        match state.last.replace(token) {
            Some(before) => self.take(state, before.replace(suffix, " ")),
            None => String::new(),
        }
    }

    /// The bytes that a token inside a text stands for, whole characters or not.
    pub(crate) fn bytes_of(&self, token: String) -> Vec<u8> {
        let mut token = match &self.suffix {
            Some(suffix) => token.replace(suffix, " "),
            None => token,
        };
        for step in &self.tokens {
            token = step.apply(token, false);
        }
        match self.bytes {
            Bytes::Nowhere => token.into_bytes(),
            Bytes::Level => {
                let mut bytes = Vec::new();
                push_bytes(&token, &mut bytes);
                bytes
            }
            Bytes::Fallback => match is_byte_token(&token) {
                Some(byte) => vec![byte],
                None => token.into_bytes(),
            },
        }
    }

    fn take(&self, state: &mut ChainState, token: String) -> String {
        let mut token = token;
        for step in &self.tokens {
            token = step.apply(token, !state.begun);
        }
        state.begun = true;
        let text = match self.bytes {
            Bytes::Nowhere => token,
            Bytes::Level => {
                push_bytes(&token, &mut state.pending);
                take_text(&mut state.pending, false, false)
            }
            Bytes::Fallback => match is_byte_token(&token) {
                Some(byte) => {
                    state.pending.push(byte);
                    take_text(&mut state.pending, false, true)
                }
                None => take_text(&mut state.pending, true, true) + &token,
            },
        };
        self.change(state, text, false)
    }

    /// The rest of the text; the state is then that of a beginning.
    pub(crate) fn finish(&self, state: &mut ChainState) -> String {
        let mut text = String::new();
        if let (Some(last), Some(suffix)) = (state.last.take(), &self.suffix) {
            text = self.take(state, last.replace(suffix, ""));
        }
        let rest = take_text(&mut state.pending, true, self.bytes == Bytes::Fallback);
        let rest = self.change(state, rest, true);
        *state = self.start();
        text + &rest
    }

    fn change(&self, state: &mut ChainState, mut text: String, end: bool) -> String {
        let mut strips = state.strips.iter_mut();
        for step in &self.text {
            match step {
                TextStep::Replace { from, to } => text = text.replace(*from, to),
                TextStep::Strip { content, start, stop } => {
                    if let Some(strip) = strips.next() {
                        text = strip.apply(&text, *content, *start, *stop, end);
                    }
                }
            }
        }
        text
    }
}

impl StripState {
    fn apply(&mut self, text: &str, content: char, start: usize, stop: usize, end: bool) -> String {
        let mut out = String::with_capacity(text.len());
        for c in text.chars() {
            if c == content {
                if !self.begun && self.taken < start {
                    self.taken += 1;
                } else if self.held < stop {
                    self.held += 1;
                } else {
                    // One of those held is certain now.
                    out.push(c);
                }
            } else {
                self.begun = true;
                out.extend(std::iter::repeat_n(content, self.held));
                self.held = 0;
                out.push(c);
            }
        }
        if end {
            self.held = 0;
        }
        out
    }
}

impl TokenStep {
    fn apply(&self, token: String, first: bool) -> String {
        match self {
            TokenStep::Replace { from, to } => token.replace(from, to),
            TokenStep::Spaces if first => token,
            TokenStep::Spaces => format!(" {token}"),
            TokenStep::Metaspace {
                replacement,
                first_too,
            } => {
                if first && !first_too {
                    token.replace(*replacement, "")
                } else {
                    token.replace(*replacement, " ")
                }
            }
            TokenStep::WordPiece { prefix, cleanup } => {
                let token = match token.strip_prefix(prefix.as_str()) {
                    _ if first => token,
                    Some(rest) => rest.to_owned(),
                    None => format!(" {token}"),
                };
                if *cleanup { clean_up(token) } else { token }
            }
            TokenStep::Strip { content, start, stop } => {
                let mut rest = token.as_str();
                for _ in 0..*start {
                    let Some(shorter) = rest.strip_prefix(*content) else {
                        break;
                    };
                    rest = shorter;
                }
                for _ in 0..*stop {
                    let Some(shorter) = rest.strip_suffix(*content) else {
                        break;
                    };
                    rest = shorter;
                }
                rest.to_owned()
            }
        }
    }
}

/// The steps of a chain in a row; nested sequences are as their parts.
fn flatten<'a>(decoder: &'a Value, out: &mut Vec<&'a Value>) -> Option<()> {
    if decoder.get("type")?.as_str()? != "Sequence" {
        out.push(decoder);
        return Some(());
    }
    decoder
        .get("decoders")?
        .as_array()?
        .iter()
        .try_for_each(|inner| flatten(inner, out))
}

fn single(text: &str) -> Option<char> {
    let mut chars = text.chars();
    chars.next().filter(|_| chars.next().is_none())
}

/// English as it is written, of tokens with spaces between.
fn clean_up(mut token: String) -> String {
    const PAIRS: [(&str, &str); 11] = [
        (" .", "."),
        (" ?", "?"),
        (" !", "!"),
        (" ,", ","),
        (" ' ", "'"),
        (" n't", "n't"),
        (" 'm", "'m"),
        (" do not", " don't"),
        (" 's", "'s"),
        (" 've", "'ve"),
        (" 're", "'re"),
    ];
    for (from, to) in PAIRS {
        if token.contains(from) {
            token = token.replace(from, to);
        }
    }
    token
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
pub(crate) fn byte_of(c: char) -> Option<u8> {
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
