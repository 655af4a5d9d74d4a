//! The threadgroup memory that a kernel declares, out of its text: what a pipeline tells on a Mac, for tests elsewhere.

use super::lexer::{Kind, Token};
use super::reach::{Arguments, Index};
use super::syntax::Syntax;
use super::{MslError, condition, preprocess};
use std::borrow::Cow;
use std::ops::Range;

/// Bytes of the threadgroup variables of the kernel of the host name `name`, and of the functions that it calls; `None`
/// where an extent cannot be worked out.
pub(crate) fn threadgroup_bytes(source: &str, name: &str) -> Result<Option<u64>, MslError> {
    let s = Syntax::new(preprocess::preprocess(source)?)?;
    let index = Index::new(&s)?;
    let reach = index.reach(&s, name)?;
    let each = reach.items.iter().map(|i| index.items[*i].range());
    let each = each.map(|range| declared_bytes(&s, range, &reach.arguments, &index));
    Ok(each.sum())
}

/// Bytes of the `threadgroup T name[n]…;` declared in `range`.
fn declared_bytes(s: &Syntax<'_>, range: Range<usize>, arguments: &Arguments, index: &Index) -> Option<u64> {
    let mut total = 0u64;
    for at in range.clone().filter(|i| s.is(*i, "threadgroup")) {
        // A declaration of a variable starts a statement; pointers to threadgroup memory hold none.
        let starts = at == range.start || ["{", "}", ";"].iter().any(|t| s.is(at - 1, t));
        let end = (at..range.end).find(|i| s.is(*i, ";")).unwrap_or(range.end);
        if !starts || (at..end).any(|i| ["*", "&"].iter().any(|t| s.is(i, t)) && !in_brackets(s, at, i)) {
            continue;
        }
        let environment = Environment {
            s,
            arguments,
            index,
            scope: range.start..at,
        };
        total = total.saturating_add(environment.variable(at + 1..end)?);
    }
    Some(total)
}

/// Whether token `i` stands inside a `[…]` that opens between `from` and it.
fn in_brackets(s: &Syntax<'_>, from: usize, i: usize) -> bool {
    (from..i).any(|open| s.is(open, "[") && s.closer(open).is_some_and(|close| close > i))
}

/// What names stand for at a declaration.
struct Environment<'s, 'a> {
    s: &'s Syntax<'a>,
    arguments: &'s Arguments,
    index: &'s Index,
    /// The function's tokens before the declaration.
    scope: Range<usize>,
}

/// Deepest chain of constants defined by constants.
const MAX_DEPTH: u32 = 16;

impl Environment<'_, '_> {
    /// Bytes of `T a[n][m], b`, without the `;`.
    fn variable(&self, range: Range<usize>) -> Option<u64> {
        let first = self.s.split_commas(range.clone());
        if first.len() != 1 {
            return None;
        }
        let open = range.clone().find(|i| self.s.is(*i, "[")).unwrap_or(range.end);
        // `T name`: all but the last word are the type.
        let ty = self.s.text(range.start..open.checked_sub(1)?);
        let mut bytes = self.type_bytes(&ty)?;
        let mut at = open;
        while at < range.end && self.s.is(at, "[") {
            let close = self.s.closer(at)?;
            bytes = bytes.checked_mul(u64::try_from(self.value(at + 1..close, 0)?).ok()?)?;
            at = close + 1;
        }
        (at == range.end).then_some(bytes)
    }

    fn type_bytes(&self, ty: &str) -> Option<u64> {
        let ty = self.arguments.get(ty).map_or(ty, String::as_str);
        let scalar = ty.trim_end_matches(|c: char| c.is_ascii_digit());
        let lanes = match &ty[scalar.len()..] {
            "" => 1,
            "2" => 2,
            "3" | "4" => 4,
            _ => return None,
        };
        let bytes = match scalar {
            "bool" | "char" | "uchar" => 1,
            "short" | "ushort" | "half" | "bfloat" => 2,
            "int" | "uint" | "float" | "atomic_uint" | "atomic_int" => 4,
            "long" | "ulong" => 8,
            _ => return None,
        };
        Some(bytes * lanes)
    }

    /// The value of an expression of literals, template arguments, constants and `sizeof`.
    fn value(&self, range: Range<usize>, depth: u32) -> Option<i64> {
        let mut tokens = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let token = &self.s.tokens[at];
            at += 1;
            let number = match token.text.as_ref() {
                _ if !token.is_ident() => {
                    tokens.push(token.clone());
                    continue;
                }
                "sizeof" => {
                    let close = self.s.closer(at)?;
                    let ty = self.s.text(at + 1..close);
                    at = close + 1;
                    i64::try_from(self.type_bytes(&ty)?).ok()?
                }
                // A cast like `uint(4)` leaves the parentheses.
                "uint" | "int" | "ushort" | "short" | "ulong" | "long" | "size_t" => continue,
                name => self.named(name, depth)?,
            };
            tokens.push(Token {
                kind: Kind::Number,
                text: Cow::Owned(number.to_string()),
                ..token.clone()
            });
        }
        condition::value(&tokens)
    }

    /// The value of a template argument, or of a constant of the function or the text.
    fn named(&self, name: &str, depth: u32) -> Option<i64> {
        if depth >= MAX_DEPTH {
            return None;
        }
        if let Some(argument) = self.arguments.get(name) {
            return condition::integer(argument);
        }
        let s = self.s;
        let local = self
            .scope
            .clone()
            .rev()
            .find(|i| s.is(*i, name) && s.is(i + 1, "="));
        if let Some(at) = local {
            let end = (at..s.len()).find(|i| s.is(*i, ";"))?;
            return self.value(at + 2..end, depth + 1);
        }
        let [only] = self.index.by_name.get(name)?[..] else {
            return None;
        };
        let range = self.index.items[only].range();
        let equals = range.clone().find(|i| s.is(*i, "="))?;
        self.value(equals + 1..range.end - 1, depth + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::super::reach::tests::TEXT;
    use super::*;

    #[test]
    fn threadgroup_variables_are_added_up() {
        assert_eq!(
            threadgroup_bytes(TEXT, "f_f32").unwrap(),
            Some(4 * 2 * 16 * 13 + 16 + 64)
        );
        assert_eq!(
            threadgroup_bytes(TEXT, "f_bf16").unwrap(),
            Some(2 * 2 * 16 * 12 + 16 + 64)
        );
        assert_eq!(threadgroup_bytes(TEXT, "g").unwrap(), Some(0));
        assert_eq!(threadgroup_bytes(TEXT, "h").unwrap(), None);
    }
}
