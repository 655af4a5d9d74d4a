//! Values as text, and questions about characters, as Python answers them.

use std::fmt::Write as _;

use super::budget::Budget;
use super::error::{Error, Res};
use super::value::{Object, Value};

/// White space to Python: Unicode's, and four separators of ASCII.
pub(crate) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

pub(crate) fn trim_end(text: &str) -> &str {
    text.trim_end_matches(is_space)
}

/// Digits 0 of the decimal systems; nine more follow each.
const ZEROS: [u32; 65] = [
    0x30, 0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66, 0xde6, 0xe50,
    0xed0, 0xf20, 0x1040, 0x1090, 0x17e0, 0x1810, 0x1946, 0x19d0, 0x1a80, 0x1a90, 0x1b50, 0x1bb0, 0x1c40,
    0x1c50, 0xa620, 0xa8d0, 0xa900, 0xa9d0, 0xa9f0, 0xaa50, 0xabf0, 0xff10, 0x104a0, 0x10d30, 0x11066,
    0x110f0, 0x11136, 0x111d0, 0x112f0, 0x11450, 0x114d0, 0x11650, 0x116c0, 0x11730, 0x118e0, 0x11950,
    0x11c50, 0x11d50, 0x11da0, 0x16a60, 0x16ac0, 0x16b50, 0x1d7ce, 0x1d7d8, 0x1d7e2, 0x1d7ec, 0x1d7f6,
    0x1e140, 0x1e2f0, 0x1e950,
];

/// The value of a decimal digit of any script.
pub(crate) fn decimal(c: char) -> Option<u32> {
    let code = u32::from(c);
    let zero = ZEROS.iter().rev().find(|zero| **zero <= code)?;
    Some(code - zero).filter(|value| *value < 10)
}

/// Python's `isdigit`: decimal digits, and those above and below the line or in circles.
pub(crate) fn is_digit(c: char) -> bool {
    decimal(c).is_some()
        || matches!(c, '²' | '³' | '¹' | '⁰' | '⁴'..='⁹' | '₀'..='₉' | '①'..='⑨' | '⑴'..='⑼' | '⒈'..='⒐' | '⓪' | '⓵'..='⓽'
            | '⓿' | '❶'..='❾' | '➀'..='➈' | '➊'..='➒' | '\u{1369}'..='\u{1371}' | '\u{19da}')
}

/// Python's `isalpha`: letters. Marks that are part of a letter's writing are none.
pub(crate) fn is_letter(c: char) -> bool {
    c.is_alphabetic() && !c.is_numeric() && !is_mark(c)
}

/// The commonest combining marks that Unicode counts to its alphabetic characters.
fn is_mark(c: char) -> bool {
    matches!(u32::from(c),
        0x300..=0x36f | 0x483..=0x489 | 0x591..=0x5bd | 0x610..=0x61a | 0x64b..=0x65f | 0x670 | 0x6d6..=0x6ed
        | 0x900..=0x903 | 0x93a..=0x93c | 0x93e..=0x94f | 0x955..=0x957 | 0x962..=0x963 | 0x981..=0x983 | 0x9bc
        | 0x9be..=0x9cd | 0xa01..=0xa03 | 0xa3c..=0xa4d | 0xa81..=0xa83 | 0xabc | 0xabe..=0xacd | 0xb01..=0xb03
        | 0xb3c | 0xb3e..=0xb4d | 0xb82 | 0xbbe..=0xbcd | 0xc00..=0xc04 | 0xc3e..=0xc4d | 0xc81..=0xc83
        | 0xcbe..=0xccd | 0xd00..=0xd03 | 0xd3e..=0xd4d | 0xe31 | 0xe34..=0xe3a | 0xe47..=0xe4e | 0xeb1
        | 0xeb4..=0xebc | 0xf71..=0xf84 | 0x102b..=0x103e | 0x17b4..=0x17d3 | 0x24b6..=0x24e9)
}

/// Python's `isprintable` for one character.
pub(crate) fn is_printable(c: char) -> bool {
    if c == ' ' || matches!(c, '\'' | '"' | '\\') {
        return true;
    }
    // The standard library escapes what Python does. Behind another character a mark stays as it is.
    let pair: String = ['a', c].iter().collect();
    let mut escaped = pair.escape_debug().skip(1);
    escaped.next() == Some(c) && escaped.next().is_none()
}

/// `str(value)`.
pub(crate) fn to_text(value: &Value, budget: &Budget) -> Res<String> {
    match value {
        Value::Undefined(_) => Ok(String::new()),
        Value::Str(text) | Value::Markup(text) => {
            budget.charge(text.len())?;
            Ok(text.to_string())
        }
        other => {
            let mut out = String::new();
            repr(&mut out, other, budget)?;
            Ok(out)
        }
    }
}

/// Adds `repr(value)`.
pub(crate) fn repr(out: &mut String, value: &Value, budget: &Budget) -> Res<()> {
    budget.enter()?;
    let before = out.len();
    match value {
        Value::Undefined(_) => out.push_str("Undefined"),
        Value::None => out.push_str("None"),
        Value::Bool(true) => out.push_str("True"),
        Value::Bool(false) => out.push_str("False"),
        Value::Int(n) => write!(out, "{n}").unwrap_or_default(),
        Value::BigInt(digits) => out.push_str(digits),
        Value::Float(f) => float(out, *f),
        Value::Str(text) => repr_text(out, text),
        Value::Markup(text) => {
            out.push_str("Markup(");
            repr_text(out, text);
            out.push(')');
        }
        Value::List(seq) => {
            out.push('[');
            repr_items(out, &seq.items, budget)?;
            out.push(']');
        }
        Value::Tuple(seq) => {
            out.push('(');
            repr_items(out, &seq.items, budget)?;
            out.push_str(if seq.items.len() == 1 { ",)" } else { ")" });
        }
        Value::Dict(dict) => repr_pairs(out, dict.entries.iter().map(|(k, v)| (k, v)), budget)?,
        Value::Object(object) => repr_object(out, object, value, budget)?,
    }
    budget.charge(out.len() - before)?;
    budget.leave();
    Ok(())
}

fn repr_items(out: &mut String, items: &[Value], budget: &Budget) -> Res<()> {
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            out.push_str(", ");
        }
        repr(out, item, budget)?;
    }
    Ok(())
}

fn repr_pairs<'a>(
    out: &mut String,
    pairs: impl Iterator<Item = (&'a Value, &'a Value)>,
    budget: &Budget,
) -> Res<()> {
    out.push('{');
    for (i, (key, value)) in pairs.enumerate() {
        if i > 0 {
            out.push_str(", ");
        }
        repr(out, key, budget)?;
        out.push_str(": ");
        repr(out, value, budget)?;
    }
    out.push('}');
    Ok(())
}

fn repr_object(out: &mut String, object: &Object, value: &Value, budget: &Budget) -> Res<()> {
    match object {
        Object::Range { start, stop, step } => {
            let _ = write!(out, "range({start}, {stop}");
            if *step != 1 {
                let _ = write!(out, ", {step}");
            }
            out.push(')');
        }
        Object::View { kind, dict } => {
            let _ = write!(out, "{}([", kind.type_name());
            repr_items(out, &kind.items(dict)?, budget)?;
            out.push_str("])");
        }
        Object::Namespace(attributes) => {
            out.push_str("<Namespace ");
            let attributes = attributes.borrow().clone();
            let keys: Vec<Value> = attributes.iter().map(|(k, _)| Value::text(&**k)).collect();
            repr_pairs(out, keys.iter().zip(attributes.iter().map(|(_, v)| v)), budget)?;
            out.push('>');
        }
        Object::Macro(callee) => match &callee.def.name {
            Some(name) => {
                out.push_str("<Macro ");
                repr_text(out, name);
                out.push('>');
            }
            None => out.push_str("<Macro anonymous>"),
        },
        Object::Loop(state) => {
            let _ = write!(out, "<LoopContext {}/{}>", state.index(), state.len());
        }
        Object::Blocks => out.push_str("<TemplateReference None>"),
        // Python shows an address: nothing that a model could have learnt.
        _ => return Err(Error::new(format!("a {} has no text", value.type_name()))),
    }
    Ok(())
}

/// A text as Python's `repr` writes it.
pub(crate) fn repr_text(out: &mut String, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_ascii_graphic() || is_printable(c) => out.push(c),
            c => escape_code(out, c),
        }
    }
    out.push(quote);
}

/// `\x07`, `\u2028` or `\U0001f600`.
pub(crate) fn escape_code(out: &mut String, c: char) {
    let code = u32::from(c);
    let _ = match code {
        0..=0xFF => write!(out, "\\x{code:02x}"),
        0x100..=0xFFFF => write!(out, "\\u{code:04x}"),
        _ => write!(out, "\\U{code:08x}"),
    };
}

/// A float as Python's `repr` writes it: the shortest digits, with an exponent below 1e-4 and from 1e16.
pub(crate) fn float(out: &mut String, value: f64) {
    let size = value.abs();
    let _ = if value.is_nan() {
        out.write_str("nan")
    } else if value.is_infinite() {
        out.write_str(if value < 0.0 { "-inf" } else { "inf" })
    } else if size != 0.0 && !(1e-4..1e16).contains(&size) {
        let text = format!("{value:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = exponent.strip_prefix('-').map_or(("+", exponent), |e| ("-", e));
        write!(out, "{digits}e{sign}{exponent:0>2}")
    } else {
        write!(out, "{value:?}")
    };
}

/// A text with what HTML gives a meaning escaped.
pub(crate) fn escape_html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// `str(value)`, escaped unless it is markup.
pub(crate) fn to_html(value: &Value, budget: &Budget) -> Res<String> {
    match value {
        Value::Markup(text) => Ok(text.to_string()),
        other => {
            let text = to_text(other, budget)?;
            budget.charge(text.len() * 5)?;
            Ok(escape_html(&text))
        }
    }
}

/// A text with each word's first letter large: words are runs of letters.
pub(crate) fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for c in text.chars() {
        let cased =
            c.is_lowercase() || c.is_uppercase() || (c.is_alphabetic() && c.to_lowercase().next() != Some(c));
        if inside {
            out.extend(c.to_lowercase());
        } else {
            out.extend(c.to_uppercase());
        }
        inside = cased;
    }
    out
}

/// The first letter large, all others small.
pub(crate) fn capitalize(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next();
    let mut out: String = first.into_iter().flat_map(char::to_uppercase).collect();
    out += &chars.as_str().to_lowercase();
    out
}

/// Ends of lines to Python's `splitlines`.
fn is_line_end(c: char) -> bool {
    matches!(
        c,
        '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}' | '\u{1d}' | '\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}'
    )
}

/// The lines of a text, as `splitlines` has them.
pub(crate) fn lines(text: &str, keep_ends: bool) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let Some(at) = rest.find(is_line_end) else {
            lines.push(rest);
            break;
        };
        let len = if rest[at..].starts_with("\r\n") {
            2
        } else {
            rest[at..].chars().next().map_or(1, char::len_utf8)
        };
        let (line, after) = rest.split_at(at + len);
        lines.push(if keep_ends { line } else { &line[..at] });
        rest = after;
    }
    lines
}
