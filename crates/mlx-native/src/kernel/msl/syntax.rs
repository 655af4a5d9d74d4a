//! Brackets, attributes, and the items of a scope: as much of C++'s grammar as finding declarations needs.

use super::MslError;
use super::lexer::{Kind, Token};
use super::preprocess::Preprocessed;
use std::ops::Range;

/// Longest template parameter or argument list, in tokens: keeps every look-ahead short.
const MAX_ANGLE: usize = 1024;
const NO_MATCH: u32 = u32::MAX;

/// A preprocessed text with its brackets paired.
pub(crate) struct Syntax<'a> {
    pub tokens: Vec<Token<'a>>,
    pub files: Vec<String>,
    close: Vec<u32>,
}

/// One declaration of a scope. Ranges count tokens.
#[derive(Clone, Debug)]
pub(crate) enum Item {
    /// `namespace x {` or `extern "C" {`: its inside is a scope of its own.
    Block {
        range: Range<usize>,
        open: usize,
        close: usize,
    },
    /// `struct`, `class` or `union` with a body, up to its `;`.
    Type {
        range: Range<usize>,
        open: usize,
        close: usize,
    },
    /// A function with or without a body. `paren` opens its parameter list.
    Function {
        range: Range<usize>,
        paren: usize,
        body: Option<usize>,
        kernel: bool,
    },
    /// `template void f<float>(…);` without a template head.
    Instantiation { range: Range<usize> },
    /// `constant T x [[function_constant(n)]];`
    Constant { range: Range<usize> },
    /// Anything else up to its `;`.
    Other { range: Range<usize> },
}

impl Item {
    /// Its tokens.
    pub fn range(&self) -> Range<usize> {
        match self {
            Self::Block { range, .. }
            | Self::Type { range, .. }
            | Self::Function { range, .. }
            | Self::Instantiation { range }
            | Self::Constant { range }
            | Self::Other { range } => range.clone(),
        }
    }

    /// Index of the first token behind it.
    pub fn end(&self) -> usize {
        self.range().end
    }
}

/// One `[[name(arguments)]]`, without its namespace.
#[derive(Clone, Debug)]
pub(crate) struct Attribute {
    pub name: String,
    pub arguments: Range<usize>,
    pub line: u32,
}

impl<'a> Syntax<'a> {
    /// Pairs the brackets of a text.
    pub fn new(text: Preprocessed<'a>) -> Result<Self, MslError> {
        let tokens = text.tokens;
        let mut close = vec![NO_MATCH; tokens.len()];
        let mut open: Vec<usize> = Vec::new();
        for (i, token) in tokens.iter().enumerate() {
            if token.kind != Kind::Punct {
                continue;
            }
            match token.text.as_ref() {
                "(" | "[" | "{" => open.push(i),
                closer @ (")" | "]" | "}") => {
                    let wanted = match closer {
                        ")" => "(",
                        "]" => "[",
                        _ => "{",
                    };
                    match open.pop() {
                        Some(o) if tokens[o].is(wanted) => close[o] = i as u32,
                        Some(o) => {
                            let opener = &tokens[o];
                            let message =
                                format!("`{closer}` closes the `{}` of line {}", opener.text, opener.line);
                            return Err(MslError::new(token.line, message));
                        }
                        None => return Err(MslError::new(token.line, format!("`{closer}` closes nothing"))),
                    }
                }
                _ => {}
            }
        }
        match open.last() {
            Some(&o) => Err(MslError::new(
                tokens[o].line,
                format!("`{}` is never closed", tokens[o].text),
            )),
            None => Ok(Self {
                tokens,
                files: text.files,
                close,
            }),
        }
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether token `i` exists and is spelled `text`.
    pub fn is(&self, i: usize, text: &str) -> bool {
        self.tokens.get(i).is_some_and(|t| t.is(text))
    }

    /// Line of token `i`, or of the last one.
    pub fn line(&self, i: usize) -> u32 {
        self.tokens.get(i).or(self.tokens.last()).map_or(0, |t| t.line)
    }

    /// An error at token `i`.
    pub fn error<T>(&self, i: usize, message: impl Into<String>) -> Result<T, MslError> {
        Err(MslError::new(self.line(i), message))
    }

    /// The closer of the bracket that token `i` opens.
    pub fn closer(&self, i: usize) -> Option<usize> {
        self.close.get(i).filter(|c| **c != NO_MATCH).map(|c| *c as usize)
    }

    /// Where the attribute list `[[…]]` that starts at `i` ends (exclusive).
    pub fn attribute_end(&self, i: usize) -> Option<usize> {
        if !self.is(i, "[") || !self.is(i + 1, "[") {
            return None;
        }
        let (outer, inner) = (self.closer(i)?, self.closer(i + 1)?);
        (outer == inner + 1).then_some(outer + 1)
    }

    /// Where the template list `<…>` that starts at `i` ends (exclusive), if it is one.
    pub fn angle_end(&self, i: usize) -> Option<usize> {
        let mut depth = 0i32;
        let mut at = i;
        while at < self.len() && at - i < MAX_ANGLE {
            let token = &self.tokens[at];
            match token.text.as_ref() {
                "<" if at == i || self.tokens[at - 1].is_ident() => depth += 1,
                ">" => depth -= 1,
                ">>" => depth -= 2,
                ";" | "{" | "}" | ")" | "]" => return None,
                "(" | "[" => at = self.closer(at)?,
                _ => {}
            }
            if depth <= 0 {
                return Some(at + 1);
            }
            at += 1;
        }
        None
    }

    /// Splits a range at its commas, outside brackets and template lists. Nothing for an empty range.
    pub fn split_commas(&self, range: Range<usize>) -> Vec<Range<usize>> {
        let mut parts = Vec::new();
        let (mut start, mut at) = (range.start, range.start);
        while at < range.end {
            if self.is(at, ",") {
                parts.push(start..at);
                start = at + 1;
            } else if let Some(close) = self.closer(at) {
                at = close;
            } else if self.is(at, "<")
                && at > range.start
                && self.tokens[at - 1].is_ident()
                && let Some(end) = self.angle_end(at).filter(|e| *e <= range.end)
            {
                at = end - 1;
            }
            at += 1;
        }
        if start < range.end {
            parts.push(start..range.end);
        }
        parts
    }

    /// The attributes in `range`, wherever they stand in it outside other brackets.
    pub fn attributes(&self, range: Range<usize>) -> Vec<Attribute> {
        let mut found = Vec::new();
        let mut at = range.start;
        while at < range.end {
            if let Some(end) = self.attribute_end(at) {
                for part in self.split_commas(at + 2..end - 2) {
                    let mut name = part.start;
                    if self.is(name + 1, "::") {
                        name += 2;
                    }
                    if name >= part.end {
                        continue;
                    }
                    let arguments = match self.closer(name + 1).filter(|c| *c < part.end) {
                        Some(close) => name + 2..close,
                        None => part.end..part.end,
                    };
                    let token = &self.tokens[name];
                    found.push(Attribute {
                        name: token.text.to_string(),
                        arguments,
                        line: token.line,
                    });
                }
                at = end;
            } else {
                at = self.closer(at).unwrap_or(at) + 1;
            }
        }
        found
    }

    /// The tokens of a range with its attributes left out.
    pub fn without_attributes(&self, range: Range<usize>) -> Vec<usize> {
        let mut kept = Vec::with_capacity(range.len());
        let mut at = range.start;
        while at < range.end {
            match self.attribute_end(at) {
                Some(end) => at = end,
                None => {
                    kept.push(at);
                    at += 1;
                }
            }
        }
        kept
    }

    /// The text of some tokens, one space between any two.
    pub fn text(&self, tokens: impl IntoIterator<Item = usize>) -> String {
        let words: Vec<&str> = tokens.into_iter().map(|i| self.tokens[i].text.as_ref()).collect();
        words.join(" ")
    }

    /// Where the parameter list of a template head that starts at `i` (`template <`) ends.
    pub fn template_head_end(&self, i: usize) -> Option<usize> {
        if self.is(i, "template") && self.is(i + 1, "<") {
            self.angle_end(i + 1)
        } else {
            None
        }
    }

    /// Reads the item that starts at `start`, inside a scope that ends at `end`.
    pub fn item(&self, start: usize, end: usize) -> Result<Item, MslError> {
        let mut at = start;
        while at < end {
            if let Some(e) = self.attribute_end(at).or_else(|| self.template_head_end(at)) {
                at = e;
            } else {
                break;
            }
        }
        if self.is(at, "template") {
            let semicolon = self.find_semicolon(at, end)?;
            return Ok(Item::Instantiation {
                range: start..semicolon + 1,
            });
        }
        let labels = ["public", "private", "protected"];
        if self.is(at + 1, ":") && labels.iter().any(|l| self.is(at, l)) {
            return Ok(Item::Other { range: start..at + 2 });
        }
        Head {
            syntax: self,
            start,
            at,
            end,
        }
        .scan()
    }

    fn find_semicolon(&self, from: usize, end: usize) -> Result<usize, MslError> {
        let mut at = from;
        while at < end {
            if self.is(at, ";") {
                return Ok(at);
            }
            at = self.closer(at).unwrap_or(at) + 1;
        }
        self.error(from, "the declaration does not end")
    }
}

/// The scan of one declaration from behind its template heads to its `;` or body.
struct Head<'s, 'a> {
    syntax: &'s Syntax<'a>,
    start: usize,
    at: usize,
    end: usize,
}

impl Head<'_, '_> {
    fn scan(self) -> Result<Item, MslError> {
        let s = self.syntax;
        let (mut paren, mut assigned) = (None, false);
        let mut kernel = s
            .attributes(self.start..self.at)
            .iter()
            .any(|a| a.name == "kernel");
        let mut at = self.at;
        while at < self.end {
            let token = &s.tokens[at];
            if let Some(e) = s.attribute_end(at) {
                kernel |= s.attributes(at..e).iter().any(|a| a.name == "kernel");
                at = e;
                continue;
            }
            match token.text.as_ref() {
                "kernel" => kernel = true,
                "=" if !s.is(at.wrapping_sub(1), "operator") => assigned = true,
                ";" => return Ok(self.ended(at, paren.filter(|_| !assigned), kernel)),
                "(" => {
                    if paren.is_none() && !self.is_specifier(at) {
                        paren = Some(at);
                    }
                    at = s.closer(at).unwrap_or(at);
                    // `operator()` has its name in the first pair.
                    if s.is(at.wrapping_sub(2), "operator") && s.is(at + 1, "(") {
                        paren = Some(at + 1);
                    }
                }
                "[" => at = s.closer(at).unwrap_or(at),
                "<" if at > self.at && s.tokens[at - 1].is_ident() && !s.is(at - 1, "operator") => {
                    at = s.angle_end(at).map_or(at, |e| e - 1);
                }
                ":" if paren.is_some() && !assigned => {
                    let body = self.skip_initialisers(at + 1)?;
                    return self.with_body(body, paren, kernel);
                }
                "{" if assigned => at = s.closer(at).unwrap_or(at),
                "{" => return self.with_body(at, paren, kernel),
                "}" => return s.error(at, "`}` where a declaration was expected"),
                _ => {}
            }
            at += 1;
        }
        s.error(self.start, "the declaration does not end")
    }

    /// A parenthesis that belongs to a specifier and not to a parameter list.
    fn is_specifier(&self, paren: usize) -> bool {
        let names = [
            "alignas",
            "decltype",
            "__attribute__",
            "__declspec",
            "noexcept",
            "explicit",
            "static_assert",
        ];
        paren > self.at && names.iter().any(|n| self.syntax.is(paren - 1, n))
    }

    fn ended(&self, semicolon: usize, paren: Option<usize>, kernel: bool) -> Item {
        let s = self.syntax;
        let range = self.start..semicolon + 1;
        let plain = ["using", "typedef", "static_assert", "friend"]
            .iter()
            .any(|k| s.is(self.at, k));
        match paren {
            Some(paren) if !plain => Item::Function {
                range,
                paren,
                body: None,
                kernel,
            },
            _ if !plain
                && s.attributes(self.start..semicolon)
                    .iter()
                    .any(|a| a.name == "function_constant") =>
            {
                Item::Constant { range }
            }
            _ => Item::Other { range },
        }
    }

    fn with_body(&self, open: usize, paren: Option<usize>, kernel: bool) -> Result<Item, MslError> {
        let s = self.syntax;
        let close = s.closer(open).unwrap_or(open);
        let mut word = self.at;
        while ["typedef", "inline", "static", "constant", "const", "constexpr"]
            .iter()
            .any(|k| s.is(word, k))
        {
            word += 1;
        }
        let is = |names: &[&str]| names.iter().any(|n| s.is(word, n));
        if is(&["namespace"]) || (is(&["extern"]) && open == word + 2) {
            return Ok(Item::Block {
                range: self.start..close + 1,
                open,
                close,
            });
        }
        if let Some(paren) = paren {
            let range = self.start..close + 1;
            return Ok(Item::Function {
                range,
                paren,
                body: Some(open),
                kernel,
            });
        }
        let semicolon = s.find_semicolon(close, self.end)?;
        let range = self.start..semicolon + 1;
        if is(&["struct", "class", "union"]) {
            return Ok(Item::Type { range, open, close });
        }
        Ok(Item::Other { range })
    }

    /// Steps over `a(x), b{y}` of a constructor; returns where its body opens.
    fn skip_initialisers(&self, from: usize) -> Result<usize, MslError> {
        let s = self.syntax;
        let mut at = from;
        while at < self.end {
            if s.is(at, "<") {
                at = s.angle_end(at).unwrap_or(at + 1);
                continue;
            }
            if let Some(close) = s.closer(at) {
                if !s.is(close + 1, ",") {
                    // The last initialiser (or the body itself, where there is none).
                    return if s.is(close + 1, "{") {
                        Ok(close + 1)
                    } else {
                        Ok(at)
                    };
                }
                at = close;
            } else if s.is(at, ";") {
                break;
            }
            at += 1;
        }
        s.error(from, "a constructor without a body")
    }
}
