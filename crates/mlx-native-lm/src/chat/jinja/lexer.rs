//! A template's text, cut into tokens as Jinja cuts it with `trim_blocks` and `lstrip_blocks`.

use super::error::{Error, Res};
use super::text::{is_space, trim_end};

/// A token and its line.
#[derive(Debug, Clone)]
pub(crate) struct Token {
    pub(crate) line: u32,
    pub(crate) kind: Kind,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Kind {
    /// Text outside tags.
    Data(String),
    BlockBegin,
    BlockEnd,
    PrintBegin,
    PrintEnd,
    Name(String),
    Text(String),
    Int(i128),
    BigInt(String),
    Float(f64),
    /// An operator or bracket.
    Sign(&'static str),
    End,
}

/// Operators and brackets, longer ones first.
const SIGNS: [&str; 26] = [
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<",
    "=", ".", ":", "|", ",", ";",
];

/// The tokens of a template; the last one is [`Kind::End`].
pub(crate) fn tokens(source: &str) -> Res<Vec<Token>> {
    let mut text = source.replace("\r\n", "\n").replace('\r', "\n");
    // One line break at the very end is the editor's, not the template's.
    if text.ends_with('\n') {
        text.pop();
    }
    let mut lexer = Lexer {
        rest: &text,
        line: 1,
        line_starts: true,
        tokens: Vec::new(),
    };
    lexer.run()?;
    let line = lexer.line;
    let mut tokens = lexer.tokens;
    tokens.push(Token {
        line,
        kind: Kind::End,
    });
    Ok(tokens)
}

struct Lexer<'a> {
    rest: &'a str,
    line: u32,
    /// Whether what was read last ends a line.
    line_starts: bool,
    tokens: Vec<Token>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Tag {
    Print,
    Block,
    Comment,
}

impl<'a> Lexer<'a> {
    fn run(&mut self) -> Res<()> {
        while !self.rest.is_empty() {
            let Some((at, tag)) = next_tag(self.rest) else {
                let data = self.rest;
                self.skip(data.len());
                self.data(data);
                break;
            };
            let text = &self.rest[..at];
            let sign = self.rest[at + 2..].chars().next();
            let sign = sign.filter(|c| matches!(c, '-' | '+'));
            let kept = self.text_before(text, sign, tag != Tag::Print);
            self.data(kept);
            self.skip(at);
            if tag == Tag::Block
                && let Some(len) = raw_begin(self.rest)
            {
                self.skip(len);
                self.raw()?;
                continue;
            }
            self.skip(2 + usize::from(sign.is_some()));
            match tag {
                Tag::Comment => self.comment()?,
                Tag::Print => self.tag(Kind::PrintBegin, Kind::PrintEnd)?,
                Tag::Block => self.tag(Kind::BlockBegin, Kind::BlockEnd)?,
            }
        }
        Ok(())
    }

    /// What is kept of the text before a tag.
    fn text_before(&self, text: &'a str, sign: Option<char>, strips: bool) -> &'a str {
        match sign {
            Some('-') => trim_end(text),
            None if strips => {
                let line = text.rfind('\n').map_or(0, |at| at + 1);
                let alone = (line > 0 || self.line_starts) && text[line..].chars().all(is_space);
                if alone { &text[..line] } else { text }
            }
            _ => text,
        }
    }

    fn push(&mut self, kind: Kind) {
        self.tokens.push(Token {
            line: self.line,
            kind,
        });
    }

    fn data(&mut self, text: &str) {
        if !text.is_empty() {
            self.push(Kind::Data(text.to_owned()));
        }
    }

    fn skip(&mut self, len: usize) {
        let (gone, rest) = self.rest.split_at(len);
        self.line += gone.bytes().filter(|b| *b == b'\n').count() as u32;
        if len > 0 {
            self.line_starts = gone.ends_with('\n');
        }
        self.rest = rest;
    }

    fn fail<T>(&self, text: impl Into<String>) -> Res<T> {
        Err(Error::new(format!("syntax error: {}", text.into())).at(self.line))
    }

    /// Length of the end of a tag at the front of the rest, with the white space that goes with it.
    fn end_len(&self, end: &str, trims: bool) -> Option<usize> {
        let plain = self.rest.strip_prefix(end);
        if let Some(after) = plain {
            return Some(end.len() + usize::from(trims && after.starts_with('\n')));
        }
        if let Some(after) = self.rest.strip_prefix('-').and_then(|r| r.strip_prefix(end)) {
            let spaces = after.len() - after.trim_start_matches(is_space).len();
            return Some(1 + end.len() + spaces);
        }
        let kept = trims && self.rest.starts_with('+') && self.rest[1..].starts_with(end);
        kept.then_some(1 + end.len())
    }

    fn comment(&mut self) -> Res<()> {
        let Some(found) = self.rest.find("#}") else {
            return self.fail("a comment has no end");
        };
        let sign = self.rest[..found].ends_with(['-', '+']);
        self.skip(found - usize::from(sign));
        let len = self.end_len("#}", true).unwrap_or_default();
        self.skip(len);
        Ok(())
    }

    fn raw(&mut self) -> Res<()> {
        let mut from = 0;
        while let Some(found) = self.rest[from..].find("{%") {
            let at = from + found;
            let inside = &self.rest[at + 2..];
            let sign = inside.chars().next().filter(|c| matches!(c, '-' | '+'));
            let inside = &inside[usize::from(sign.is_some())..];
            let word = inside.trim_start_matches(is_space);
            let end = word
                .strip_prefix("endraw")
                .map(|r| r.trim_start_matches(is_space));
            if let Some(end) = end {
                let before = self.rest.len() - end.len();
                let text = &self.rest[..at];
                let probe = Lexer {
                    rest: end,
                    line: 0,
                    line_starts: false,
                    tokens: Vec::new(),
                };
                if let Some(len) = probe.end_len("%}", true) {
                    let kept = self.text_before(text, sign, true);
                    self.data(kept);
                    self.skip(before + len);
                    return Ok(());
                }
            }
            from = at + 2;
        }
        self.fail("a raw block has no end")
    }

    /// The inside of a tag, up to its end.
    fn tag(&mut self, begin: Kind, end: Kind) -> Res<()> {
        let is_block = begin == Kind::BlockBegin;
        let close = if is_block { "%}" } else { "}}" };
        self.push(begin);
        let mut open: Vec<char> = Vec::new();
        loop {
            if open.is_empty()
                && let Some(len) = self.end_len(close, is_block)
            {
                self.push(end);
                self.skip(len);
                return Ok(());
            }
            let Some(first) = self.rest.chars().next() else {
                // The parser says what is missing.
                return Ok(());
            };
            if is_space(first) {
                let spaces = self.rest.len() - self.rest.trim_start_matches(is_space).len();
                self.skip(spaces);
            } else if first.is_ascii_digit() {
                self.number()?;
            } else if first == '_' || first.is_alphanumeric() {
                let len = self.rest.len() - self.rest.trim_start_matches(is_word).len();
                let name = self.rest[..len].to_owned();
                if first.is_numeric() {
                    return self.fail("found an invalid character in a name");
                }
                self.push(Kind::Name(name));
                self.skip(len);
            } else if matches!(first, '\'' | '"') {
                self.string(first)?;
            } else {
                self.sign(first, &mut open)?;
            }
        }
    }

    fn sign(&mut self, first: char, open: &mut Vec<char>) -> Res<()> {
        let Some(sign) = SIGNS.iter().find(|sign| self.rest.starts_with(**sign)) else {
            return self.fail(format!("unexpected character {first:?}"));
        };
        match *sign {
            "{" => open.push('}'),
            "(" => open.push(')'),
            "[" => open.push(']'),
            "}" | ")" | "]" => match open.pop() {
                Some(wanted) if sign.starts_with(wanted) => {}
                Some(wanted) => return self.fail(format!("unexpected '{sign}', expected '{wanted}'")),
                None => return self.fail(format!("unexpected '{sign}'")),
            },
            _ => {}
        }
        self.push(Kind::Sign(sign));
        self.skip(sign.len());
        Ok(())
    }

    fn number(&mut self) -> Res<()> {
        let (mut len, mut is_float) = number_len(self.rest);
        if is_float && self.tokens.last().is_some_and(|t| t.kind == Kind::Sign(".")) {
            // Behind a point it is an index, and another one may follow.
            len = self.rest.bytes().take_while(u8::is_ascii_digit).count();
            is_float = false;
        }
        let digits: String = self.rest[..len].chars().filter(|c| *c != '_').collect();
        let kind = if is_float {
            Kind::Float(digits.parse().unwrap_or(f64::NAN))
        } else {
            let (radix, body) = match digits.get(..2) {
                Some("0x" | "0X") => (16, &digits[2..]),
                Some("0o" | "0O") => (8, &digits[2..]),
                Some("0b" | "0B") => (2, &digits[2..]),
                _ => (10, digits.as_str()),
            };
            match i128::from_str_radix(body, radix) {
                Ok(n) => Kind::Int(n),
                Err(_) if radix == 10 => Kind::BigInt(digits),
                Err(_) => return self.fail("a number is too large"),
            }
        };
        self.push(kind);
        self.skip(len);
        Ok(())
    }

    fn string(&mut self, quote: char) -> Res<()> {
        let mut chars = self.rest.char_indices().skip(1);
        let end = loop {
            match chars.next() {
                Some((at, c)) if c == quote => break at,
                Some((_, '\\')) => {
                    chars.next();
                }
                Some(_) => {}
                None => return self.fail(format!("unexpected character {quote:?}: a string has no end")),
            }
        };
        let text = super::escapes::unescape(&self.rest[1..end]);
        let text = text.or_else(|e| self.fail(e))?;
        self.push(Kind::Text(text));
        self.skip(end + 1);
        Ok(())
    }
}

fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

/// Where the next tag begins, and which it is.
fn next_tag(text: &str) -> Option<(usize, Tag)> {
    let mut from = 0;
    while let Some(found) = text[from..].find('{') {
        let at = from + found;
        match text.as_bytes().get(at + 1) {
            Some(b'{') => return Some((at, Tag::Print)),
            Some(b'%') => return Some((at, Tag::Block)),
            Some(b'#') => return Some((at, Tag::Comment)),
            _ => from = at + 1,
        }
    }
    None
}

/// Length of a `raw` tag at the front of a text. The line break behind it stays, unless the tag says otherwise.
fn raw_begin(text: &str) -> Option<usize> {
    let inside = text.strip_prefix("{%")?;
    let inside = inside.strip_prefix(['-', '+']).unwrap_or(inside);
    let word = inside.trim_start_matches(is_space).strip_prefix("raw")?;
    let end = word.trim_start_matches(is_space);
    let after = match end.strip_prefix("-%}") {
        Some(after) => after.trim_start_matches(is_space),
        None => end.strip_prefix("%}")?,
    };
    Some(text.len() - after.len())
}

/// Length of the number at the front of a text, and whether it is a float.
fn number_len(text: &str) -> (usize, bool) {
    let bytes = text.as_bytes();
    let run = |from: usize, accepts: fn(u8) -> bool| {
        let mut at = from;
        while let Some(byte) = bytes.get(at) {
            let joined = *byte == b'_' && at > from && bytes.get(at + 1).copied().is_some_and(accepts);
            if !accepts(*byte) && !joined {
                break;
            }
            at += 1;
        }
        at
    };
    let digit = |b: u8| b.is_ascii_digit();
    let radix: Option<fn(u8) -> bool> = match bytes.get(..2) {
        Some(b"0x" | b"0X") => Some(|b| b.is_ascii_hexdigit()),
        Some(b"0o" | b"0O") => Some(|b| (b'0'..=b'7').contains(&b)),
        Some(b"0b" | b"0B") => Some(|b| matches!(b, b'0' | b'1')),
        _ => None,
    };
    if let Some(accepts) = radix {
        let end = run(2, accepts);
        if end > 2 {
            return (end, false);
        }
    }
    let whole = run(0, digit);
    let mut end = whole;
    if bytes.get(end) == Some(&b'.') && bytes.get(end + 1).copied().is_some_and(digit) {
        end = run(end + 1, digit);
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        let exponent = end + 1 + sign;
        if bytes.get(exponent).copied().is_some_and(digit) {
            end = run(exponent, digit);
        }
    }
    if end > whole {
        return (end, true);
    }
    // A number does not begin with 0, but for 0 itself.
    let zeros = text.len() - text.trim_start_matches(['0', '_']).len();
    if bytes[0] == b'0' && zeros < whole {
        return (zeros.max(1), false);
    }
    (whole, false)
}
