//! The expressions of `#if` and `#elif`.

use super::MslError;
use super::lexer::{Kind, Token};
use super::macros::Macros;
use std::borrow::Cow;

/// Deepest nesting of parentheses and unary operators.
const MAX_DEPTH: u32 = 64;

/// Whether the expression is not zero.
pub(crate) fn evaluate<'a>(
    tokens: &[Token<'a>],
    macros: &mut Macros<'a>,
    line: u32,
) -> Result<bool, MslError> {
    let mut plain = Vec::with_capacity(tokens.len());
    let mut at = 0;
    while at < tokens.len() {
        let token = &tokens[at];
        at += 1;
        if token.is("defined") {
            let parenthesised = tokens.get(at).is_some_and(|t| t.is("("));
            let name = tokens
                .get(at + usize::from(parenthesised))
                .filter(|t| t.is_ident());
            let Some(name) = name else {
                return Err(MslError::new(line, "`defined` needs a name"));
            };
            at += if parenthesised { 3 } else { 1 };
            plain.push(number(token, macros.is_defined(&name.text)));
        } else if token.is("__has_include") {
            // Every standard header of MSL is built in.
            at += tokens[at..]
                .iter()
                .position(|t| t.is(")"))
                .map_or(tokens.len() - at, |n| n + 1);
            plain.push(number(token, true));
        } else if matches!(
            token.text.as_ref(),
            "__has_feature" | "__has_extension" | "__has_builtin" | "__has_attribute"
        ) {
            at += tokens[at..]
                .iter()
                .position(|t| t.is(")"))
                .map_or(tokens.len() - at, |n| n + 1);
            plain.push(number(token, false));
        } else {
            plain.push(token.clone());
        }
    }
    let mut expanded = Vec::new();
    macros.expand(plain, &mut expanded)?;
    let mut parser = Expression {
        tokens: &expanded,
        at: 0,
        line,
    };
    let value = parser.ternary(0)?;
    if parser.at < expanded.len() {
        return Err(MslError::new(
            line,
            format!("unexpected `{}` in #if", expanded[parser.at].text),
        ));
    }
    Ok(value != 0)
}

/// The value of an expression without names.
#[cfg(any(test, all(feature = "testing", feature = "emulator")))]
pub(super) fn value(tokens: &[Token<'_>]) -> Option<i64> {
    let mut parser = Expression {
        tokens,
        at: 0,
        line: 0,
    };
    let value = parser.ternary(0).ok()?;
    (parser.at == tokens.len()).then_some(value)
}

fn number<'a>(at: &Token<'a>, value: bool) -> Token<'a> {
    Token {
        kind: Kind::Number,
        text: Cow::Borrowed(if value { "1" } else { "0" }),
        ..at.clone()
    }
}

/// The value of an integer literal.
pub(crate) fn integer(text: &str) -> Option<i64> {
    let digits = text.trim_end_matches(['u', 'U', 'l', 'L']).replace('\'', "");
    let lower = digits.to_ascii_lowercase();
    if let Some(hex) = lower.strip_prefix("0x") {
        i64::from_str_radix(hex, 16).ok()
    } else if let Some(binary) = lower.strip_prefix("0b") {
        i64::from_str_radix(binary, 2).ok()
    } else if lower.len() > 1 && lower.starts_with('0') {
        i64::from_str_radix(&lower, 8).ok()
    } else {
        lower.parse().ok()
    }
}

/// Binary operators by rising precedence.
const LEVELS: [&[&str]; 10] = [
    &["||"],
    &["&&"],
    &["|"],
    &["^"],
    &["&"],
    &["==", "!="],
    &["<", ">", "<=", ">="],
    &["<<", ">>"],
    &["+", "-"],
    &["*", "/", "%"],
];

struct Expression<'t, 'a> {
    tokens: &'t [Token<'a>],
    at: usize,
    line: u32,
}

impl Expression<'_, '_> {
    fn error<T>(&self, message: &str) -> Result<T, MslError> {
        Err(MslError::new(self.line, format!("#if: {message}")))
    }

    fn take(&mut self, text: &str) -> bool {
        let found = self.tokens.get(self.at).is_some_and(|t| t.is(text));
        self.at += usize::from(found);
        found
    }

    fn ternary(&mut self, depth: u32) -> Result<i64, MslError> {
        let condition = self.binary(0, depth)?;
        if !self.take("?") {
            return Ok(condition);
        }
        if depth >= MAX_DEPTH {
            return self.error("the expression is nested too deeply");
        }
        let yes = self.ternary(depth + 1)?;
        if !self.take(":") {
            return self.error("`?` without `:`");
        }
        let no = self.ternary(depth + 1)?;
        Ok(if condition != 0 { yes } else { no })
    }

    fn binary(&mut self, level: usize, depth: u32) -> Result<i64, MslError> {
        let Some(operators) = LEVELS.get(level) else {
            return self.unary(depth);
        };
        let mut left = self.binary(level + 1, depth)?;
        while let Some(op) = operators.iter().find(|op| self.take(op)) {
            let right = self.binary(level + 1, depth)?;
            left = self.apply(op, left, right)?;
        }
        Ok(left)
    }

    fn apply(&self, op: &str, a: i64, b: i64) -> Result<i64, MslError> {
        Ok(match op {
            "||" => i64::from(a != 0 || b != 0),
            "&&" => i64::from(a != 0 && b != 0),
            "|" => a | b,
            "^" => a ^ b,
            "&" => a & b,
            "==" => i64::from(a == b),
            "!=" => i64::from(a != b),
            "<" => i64::from(a < b),
            ">" => i64::from(a > b),
            "<=" => i64::from(a <= b),
            ">=" => i64::from(a >= b),
            "<<" => a.wrapping_shl((b & 63) as u32),
            ">>" => a.wrapping_shr((b & 63) as u32),
            "+" => a.wrapping_add(b),
            "-" => a.wrapping_sub(b),
            "*" => a.wrapping_mul(b),
            _ if b == 0 => return self.error("division by zero"),
            "/" => a.wrapping_div(b),
            _ => a.wrapping_rem(b),
        })
    }

    fn unary(&mut self, depth: u32) -> Result<i64, MslError> {
        if depth >= MAX_DEPTH {
            return self.error("the expression is nested too deeply");
        }
        if self.take("!") {
            return Ok(i64::from(self.unary(depth + 1)? == 0));
        }
        if self.take("-") {
            return Ok(self.unary(depth + 1)?.wrapping_neg());
        }
        if self.take("+") {
            return self.unary(depth + 1);
        }
        if self.take("~") {
            return Ok(!self.unary(depth + 1)?);
        }
        if self.take("(") {
            let value = self.ternary(depth + 1)?;
            return if self.take(")") {
                Ok(value)
            } else {
                self.error("`)` is missing")
            };
        }
        let Some(token) = self.tokens.get(self.at) else {
            return self.error("the expression ends too early");
        };
        self.at += 1;
        match token.kind {
            Kind::Number => match integer(&token.text) {
                Some(value) => Ok(value),
                None => self.error(&format!("`{}` is not an integer", token.text)),
            },
            Kind::Ident => Ok(i64::from(token.is("true"))),
            _ => self.error(&format!("unexpected `{}`", token.text)),
        }
    }
}
