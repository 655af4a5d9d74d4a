//! Directives: what a preprocessor does to one already flattened text.
//!
//! Our own rather than a compiler's, because the parser must read signatures on machines without one, and because the
//! rewriter must then see exactly the same tokens.

use super::MslError;
use super::condition;
use super::lexer::{self, Kind, Token};
use super::macros::{Macro, Macros};
use std::borrow::Cow;

/// The tokens of a text after all directives and macros, and the names of the files they come from.
pub(crate) struct Preprocessed<'a> {
    pub tokens: Vec<Token<'a>>,
    /// File names by [`Token::file`]; index 0 is the text itself, named "" unless a `#line` directive says otherwise.
    pub files: Vec<String>,
}

/// Deepest nesting of `#if`.
const MAX_NESTING: usize = 256;
/// Most different file names that `#line` directives may give.
const MAX_FILES: usize = 4096;

/// Follows the directives of `source` and expands its macros.
pub(crate) fn preprocess(source: &str) -> Result<Preprocessed<'_>, MslError> {
    let tokens = lexer::lex(source)?;
    let mut run = Run {
        macros: Macros::with_predefined(),
        files: vec![String::new()],
        conditions: Vec::new(),
        line_shift: 0,
        file: 0,
        pending: Vec::new(),
        out: Vec::with_capacity(tokens.len()),
    };
    let mut at = 0;
    while at < tokens.len() {
        let end = line_end(&tokens, at);
        if tokens[at].first && tokens[at].is("#") {
            run.directive(&tokens[at..end])?;
        } else if run.active() {
            run.text(&tokens[at..end]);
        }
        at = end;
    }
    run.flush()?;
    if let Some(open) = run.conditions.last() {
        return Err(MslError::new(open.line, "#if without #endif"));
    }
    Ok(Preprocessed {
        tokens: run.out,
        files: run.files,
    })
}

/// End of the logical line that starts at `at`.
fn line_end(tokens: &[Token<'_>], at: usize) -> usize {
    tokens[at + 1..]
        .iter()
        .position(|t| t.first)
        .map_or(tokens.len(), |n| at + 1 + n)
}

/// One open `#if`.
struct Condition {
    line: u32,
    /// The enclosing text is live.
    outer: bool,
    /// This branch is live.
    live: bool,
    /// Some branch has been live.
    taken: bool,
    /// `#else` has been seen.
    closed: bool,
}

struct Run<'a> {
    macros: Macros<'a>,
    files: Vec<String>,
    conditions: Vec<Condition>,
    line_shift: i64,
    file: u32,
    /// Text since the last directive that could change its meaning: macro arguments may span lines.
    pending: Vec<Token<'a>>,
    out: Vec<Token<'a>>,
}

impl<'a> Run<'a> {
    fn active(&self) -> bool {
        self.conditions.last().is_none_or(|c| c.live)
    }

    fn line(&self, raw: u32) -> u32 {
        u32::try_from((i64::from(raw) + self.line_shift).max(0)).unwrap_or(u32::MAX)
    }

    fn text(&mut self, tokens: &[Token<'a>]) {
        for token in tokens {
            let mut token = token.clone();
            token.line = self.line(token.line);
            token.file = self.file;
            self.pending.push(token);
        }
    }

    /// Expands the collected text. Must happen before the set of macros changes.
    fn flush(&mut self) -> Result<(), MslError> {
        let pending = std::mem::take(&mut self.pending);
        self.macros.expand(pending, &mut self.out)
    }

    fn directive(&mut self, tokens: &[Token<'a>]) -> Result<(), MslError> {
        let line = self.line(tokens[0].line);
        let Some(name) = tokens.get(1) else { return Ok(()) };
        let rest = &tokens[2..];
        match name.text.as_ref() {
            "if" | "ifdef" | "ifndef" => return self.open(name.text.as_ref(), rest, line),
            "elif" | "else" | "endif" => return self.branch(name.text.as_ref(), rest, line),
            _ if !self.active() => return Ok(()),
            _ => {}
        }
        match name.text.as_ref() {
            "define" => {
                self.flush()?;
                self.macros.define(Macro::parse(rest, line)?);
            }
            "undef" => {
                self.flush()?;
                if let Some(t) = rest.first() {
                    self.macros.undefine(&t.text);
                }
            }
            "line" => self.set_line(rest, tokens[0].line, line)?,
            "pragma" => self.pragma(tokens, line),
            "include" | "import" => {
                if let Some(t) = rest.first().filter(|t| t.kind == Kind::Str) {
                    return Err(MslError::new(
                        line,
                        format!("#include {}: headers must be flattened first", t.text),
                    ));
                }
            }
            "error" => {
                let words: Vec<&str> = rest.iter().map(|t| t.text.as_ref()).collect();
                return Err(MslError::new(line, format!("#error {}", words.join(" "))));
            }
            "warning" | "ident" => {}
            _ if name.kind == Kind::Number => self.set_line(&tokens[1..], tokens[0].line, line)?,
            other => return Err(MslError::new(line, format!("unknown directive #{other}"))),
        }
        Ok(())
    }

    fn open(&mut self, kind: &str, rest: &[Token<'a>], line: u32) -> Result<(), MslError> {
        if self.conditions.len() >= MAX_NESTING {
            return Err(MslError::new(line, "#if is nested too deeply"));
        }
        let outer = self.active();
        let live = outer
            && match kind {
                "if" => condition::evaluate(rest, &mut self.macros, line)?,
                _ => {
                    let Some(name) = rest.first().filter(|t| t.is_ident()) else {
                        return Err(MslError::new(line, format!("#{kind} needs a name")));
                    };
                    self.macros.is_defined(&name.text) == (kind == "ifdef")
                }
            };
        self.conditions.push(Condition {
            line,
            outer,
            live,
            taken: live,
            closed: false,
        });
        Ok(())
    }

    fn branch(&mut self, kind: &str, rest: &[Token<'a>], line: u32) -> Result<(), MslError> {
        let Some(mut condition) = self.conditions.pop() else {
            return Err(MslError::new(line, format!("#{kind} without #if")));
        };
        if kind == "endif" {
            return Ok(());
        }
        if condition.closed {
            return Err(MslError::new(line, format!("#{kind} after #else")));
        }
        let wanted = condition.outer && !condition.taken;
        condition.live = wanted && (kind == "else" || condition::evaluate(rest, &mut self.macros, line)?);
        condition.taken |= condition.live;
        condition.closed = kind == "else";
        self.conditions.push(condition);
        Ok(())
    }

    /// `#line 12 "file"`, also in the form compilers write: `# 12 "file" 1`.
    fn set_line(&mut self, rest: &[Token<'a>], raw: u32, line: u32) -> Result<(), MslError> {
        let number = rest.first().and_then(|t| t.text.parse::<u32>().ok());
        let Some(number) = number else {
            return Err(MslError::new(line, "#line needs a line number"));
        };
        self.line_shift = i64::from(number) - i64::from(raw) - 1;
        if let Some(name) = rest.get(1).filter(|t| t.kind == Kind::Str) {
            let name = name.text.trim_matches('"');
            let known = self.files.iter().position(|f| f == name);
            if known.is_none() && self.files.len() >= MAX_FILES {
                return Err(MslError::new(line, "too many file names in #line directives"));
            }
            self.file = known.unwrap_or_else(|| {
                self.files.push(name.to_owned());
                self.files.len() - 1
            }) as u32;
        }
        Ok(())
    }

    /// Loop hints go on to the compiler; the rest speaks to Apple's.
    fn pragma(&mut self, tokens: &[Token<'a>], line: u32) {
        let Some(topic) = tokens.get(2) else { return };
        let loop_hint = topic.is("unroll")
            || topic.is("nounroll")
            || topic.is("clang") && tokens.get(3).is_some_and(|t| t.is("loop"));
        if loop_hint {
            let words: Vec<&str> = tokens[1..].iter().map(|t| t.text.as_ref()).collect();
            let text = Cow::Owned(format!("#{}", words.join(" ")));
            self.pending.push(Token {
                kind: Kind::Pragma,
                text,
                line,
                file: self.file,
                first: true,
                space: true,
            });
        }
    }
}
