//! Casts in the style of C that take a pointer from one address space to another.
//!
//! A compiler that knows the spaces as attributes lets `(threadgroup float*)p` pass whatever `p` is. The rule here is by
//! token: the space of every pointer that a declaration names is noted, and a cast of such a name to another space is
//! reported. Names are scoped by their braces.

use super::MslError;
use super::lexer::Token;
use super::preprocess;
use super::syntax::Syntax;

/// A cast between spaces.
pub(crate) struct Cast {
    /// As a `#line` directive names it, or empty.
    pub file: String,
    pub line: u32,
    pub message: String,
}

const SPACES: [&str; 3] = ["device", "constant", "threadgroup"];

/// Finds the casts of a text.
pub(crate) fn between_spaces(source: &str) -> Result<Vec<Cast>, MslError> {
    let syntax = Syntax::new(preprocess::preprocess(source)?)?;
    let mut found = Vec::new();
    // (name, space) of the declarations in force, and how many there were before each open brace.
    let mut names: Vec<(&str, &str)> = Vec::new();
    let mut scopes: Vec<usize> = Vec::new();
    for (i, token) in syntax.tokens.iter().enumerate() {
        match token.text.as_ref() {
            "{" => scopes.push(names.len()),
            "}" => names.truncate(scopes.pop().unwrap_or(0)),
            text if SPACES.contains(&text) => {
                if let Some((name, space)) = declared(&syntax, i) {
                    names.push((name, space));
                }
            }
            "(" => {
                if let Some((space, name)) = cast(&syntax, i) {
                    let known = names.iter().rev().find(|(n, _)| *n == name);
                    if let Some((_, from)) = known.filter(|(_, from)| *from != space) {
                        let message =
                            format!("`{name}`, a pointer to {from} memory, is cast to one to {space} memory");
                        let file = syntax.files.get(token.file as usize).cloned().unwrap_or_default();
                        found.push(Cast {
                            file,
                            line: token.line,
                            message,
                        });
                    }
                }
            }
            _ => {}
        }
    }
    Ok(found)
}

/// `device const T* name`, `threadgroup T name[…]`: the name, and its space, where the space keyword is token `at`.
fn declared<'s>(s: &'s Syntax<'_>, at: usize) -> Option<(&'s str, &'s str)> {
    let mut i = at + 1;
    let mut last: Option<&Token<'_>> = None;
    while i < s.len() && i - at < 64 {
        let token = &s.tokens[i];
        match token.text.as_ref() {
            "<" => i = s.angle_end(i)? - 1,
            "*" | "&" | "::" => last = None,
            "[" | "," | ")" | ";" | "=" => break,
            _ if token.is_ident() => last = Some(token),
            _ => return None,
        }
        i += 1;
    }
    let name = last.filter(|t| !["const", "volatile", "restrict"].iter().any(|w| t.is(w)))?;
    Some((&name.text, &s.tokens[at].text))
}

/// `(device T*)name`, `(device T*)(name + …)`, `(device T*)&name[…]`: the space and the name.
fn cast<'s>(s: &'s Syntax<'_>, open: usize) -> Option<(&'s str, &'s str)> {
    let close = s.closer(open)?;
    // A parameter list is longer, or has commas and names; a cast ends in `*`.
    if !s.is(close.checked_sub(1)?, "*")
        || (open + 1..close).any(|i| s.is(i, ",") && !inside_angle(s, open, i))
    {
        return None;
    }
    let space = (open + 1..close).find(|i| SPACES.iter().any(|w| s.is(*i, w)))?;
    let mut at = close + 1;
    while s.is(at, "(") || s.is(at, "&") {
        at += 1;
    }
    let name = s.tokens.get(at).filter(|t| t.is_ident())?;
    Some((&s.tokens[space].text, &name.text))
}

fn inside_angle(s: &Syntax<'_>, from: usize, at: usize) -> bool {
    let opens = (from..at).filter(|i| s.is(*i, "<")).count();
    let closes = (from..at).filter(|i| s.is(*i, ">")).count();
    opens > closes
}
