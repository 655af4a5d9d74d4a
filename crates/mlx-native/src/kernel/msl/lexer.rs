//! Text to tokens.
//!
//! White space and comments disappear; what they meant survives as two flags of the token that follows (`first` on its
//! line, `space` before it) and as its line number. That is all a preprocessor, a signature parser and a rewriter need.

use super::MslError;
use std::borrow::Cow;

/// Texts longer than this are refused: no shader comes near it, and every later bound follows from it.
pub(crate) const MAX_SOURCE_BYTES: usize = 4 << 20;

/// What a token is, as far as anything here cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Ident,
    Number,
    /// A string literal, quotes included.
    Str,
    /// A character literal, quotes included.
    Char,
    Punct,
    /// A whole `#pragma` line that must reach the compiler (made by the preprocessor).
    Pragma,
}

/// One token. `text` borrows from the source unless macro expansion made it.
#[derive(Clone, Debug)]
pub(crate) struct Token<'a> {
    pub kind: Kind,
    pub text: Cow<'a, str>,
    /// Line, counted from 1, in `file`.
    pub line: u32,
    /// Index into the file names that `#line` directives gave.
    pub file: u32,
    /// First token of its (logical) line.
    pub first: bool,
    /// White space stood before it.
    pub space: bool,
}

impl Token<'_> {
    /// Whether the token is spelled `text`.
    pub fn is(&self, text: &str) -> bool {
        self.text == text
    }

    /// Whether the token is an identifier or a keyword.
    pub fn is_ident(&self) -> bool {
        self.kind == Kind::Ident
    }
}

/// Operators of more than one character, longest first. `>>` is one token: template closers split it where they must.
const LONG_PUNCTUATION: [&str; 25] = [
    "<<=", ">>=", "...", "->*", "::", "->", "++", "--", "<<", ">>", "<=", ">=", "==", "!=", "&&", "||", "+=",
    "-=", "*=", "/=", "%=", "&=", "|=", "^=", "##",
];

/// Splits `source` into tokens, in time linear in its length.
pub(crate) fn lex(source: &str) -> Result<Vec<Token<'_>>, MslError> {
    if source.len() > MAX_SOURCE_BYTES {
        return Err(MslError::new(
            0,
            format!(
                "the text has {} bytes, the limit is {MAX_SOURCE_BYTES}",
                source.len()
            ),
        ));
    }
    let mut lexer = Lexer {
        source,
        bytes: source.as_bytes(),
        at: 0,
        line: 1,
        first: true,
        space: false,
    };
    let mut tokens = Vec::with_capacity(source.len() / 4);
    while let Some(token) = lexer.next()? {
        tokens.push(token);
    }
    Ok(tokens)
}

struct Lexer<'a> {
    source: &'a str,
    bytes: &'a [u8],
    at: usize,
    line: u32,
    first: bool,
    space: bool,
}

impl<'a> Lexer<'a> {
    fn peek(&self, ahead: usize) -> u8 {
        self.bytes.get(self.at + ahead).copied().unwrap_or(0)
    }

    fn error<T>(&self, line: u32, message: impl Into<String>) -> Result<T, MslError> {
        Err(MslError::new(line, message))
    }

    fn next(&mut self) -> Result<Option<Token<'a>>, MslError> {
        self.skip_blank()?;
        if self.at >= self.bytes.len() {
            return Ok(None);
        }
        let (start, line) = (self.at, self.line);
        let c = self.bytes[start];
        let kind = if c.is_ascii_alphabetic() || c == b'_' || c == b'$' {
            self.take_while(|c| c.is_ascii_alphanumeric() || c == b'_' || c == b'$');
            Kind::Ident
        } else if c.is_ascii_digit() || (c == b'.' && self.peek(1).is_ascii_digit()) {
            self.number();
            Kind::Number
        } else if c == b'"' || c == b'\'' {
            self.quoted(c)?;
            if c == b'"' { Kind::Str } else { Kind::Char }
        } else if c.is_ascii_punctuation() && c != b'`' && c != b'@' {
            let rest = &self.bytes[start..];
            let long = LONG_PUNCTUATION.iter().find(|p| rest.starts_with(p.as_bytes()));
            self.at += long.map_or(1, |p| p.len());
            Kind::Punct
        } else {
            let found = self.source[start..].chars().next().unwrap_or('\u{fffd}');
            return self.error(line, format!("unexpected character {found:?}"));
        };
        let token = Token {
            kind,
            text: Cow::Borrowed(&self.source[start..self.at]),
            line,
            file: 0,
            first: self.first,
            space: self.space,
        };
        (self.first, self.space) = (false, false);
        Ok(Some(token))
    }

    fn take_while(&mut self, keep: impl Fn(u8) -> bool) {
        while self.at < self.bytes.len() && keep(self.bytes[self.at]) {
            self.at += 1;
        }
    }

    /// A preprocessing number: generous, as in C.
    fn number(&mut self) {
        while self.at < self.bytes.len() {
            let c = self.bytes[self.at];
            if matches!(c, b'e' | b'E' | b'p' | b'P') && matches!(self.peek(1), b'+' | b'-') {
                self.at += 2;
            } else if c.is_ascii_alphanumeric() || c == b'_' || c == b'.' {
                self.at += 1;
            } else {
                break;
            }
        }
    }

    fn quoted(&mut self, quote: u8) -> Result<(), MslError> {
        let line = self.line;
        self.at += 1;
        loop {
            match self.bytes.get(self.at) {
                None | Some(b'\n') => return self.error(line, "a quoted literal does not end on its line"),
                Some(b'\\') => self.at += 2,
                Some(&c) => {
                    self.at += 1;
                    if c == quote {
                        break;
                    }
                }
            }
        }
        // A backslash before a multi-byte character may have stepped into its middle; the quote that ended the loop is
        // ASCII, so the end is a character boundary, unless the loop ran past the text.
        if self.at > self.bytes.len() {
            return self.error(line, "a quoted literal does not end on its line");
        }
        Ok(())
    }

    fn skip_blank(&mut self) -> Result<(), MslError> {
        while self.at < self.bytes.len() {
            match self.bytes[self.at] {
                b'\n' => {
                    self.at += 1;
                    self.line += 1;
                    (self.first, self.space) = (true, true);
                }
                b'\\' if self.peek(1) == b'\n' => self.splice(2),
                b'\\' if self.peek(1) == b'\r' && self.peek(2) == b'\n' => self.splice(3),
                b'/' if self.peek(1) == b'/' => self.line_comment(),
                b'/' if self.peek(1) == b'*' => self.block_comment()?,
                c if c.is_ascii_whitespace() || c == 0x0b => {
                    self.at += 1;
                    self.space = true;
                }
                _ => break,
            }
        }
        Ok(())
    }

    /// A backslash at the end of a line joins it with the next one.
    fn splice(&mut self, bytes: usize) {
        self.at += bytes;
        self.line += 1;
        self.space = true;
    }

    fn line_comment(&mut self) {
        while self.at < self.bytes.len() && self.bytes[self.at] != b'\n' {
            if self.bytes[self.at] == b'\\' && self.peek(1) == b'\n' {
                self.splice(2);
            } else {
                self.at += 1;
            }
        }
        self.space = true;
    }

    fn block_comment(&mut self) -> Result<(), MslError> {
        let line = self.line;
        self.at += 2;
        loop {
            if self.at + 1 >= self.bytes.len() {
                return self.error(line, "a comment does not end");
            }
            if self.bytes[self.at] == b'*' && self.bytes[self.at + 1] == b'/' {
                break;
            }
            self.line += u32::from(self.bytes[self.at] == b'\n');
            self.at += 1;
        }
        self.at += 2;
        self.space = true;
        Ok(())
    }
}
