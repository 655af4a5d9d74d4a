//! `str.format`: fields in braces, each with a specification.

use super::budget::Budget;
use super::calls::Given;
use super::error::{Error, Res};
use super::format_spec::{Spec, ascii, float_digits, general, number, padded, sign};
use super::interp::Interp;
use super::ops::to_float;
use super::text::{escape_html, float, repr, to_text};
use super::value::Value;

/// The method `format`, or `format_map`.
pub(crate) fn format_text(
    interp: &mut Interp<'_>,
    of: &Value,
    text: &str,
    is_map: bool,
    given: Given,
) -> Res<Value> {
    let mut given = given;
    if is_map {
        let [map] = given.bind("format_map", ["mapping"])?;
        let Some(Value::Dict(dict)) = &map else {
            return Err(Error::new("format_map: wanted a mapping"));
        };
        let named = dict
            .entries
            .iter()
            .filter_map(|(k, v)| Some((k.as_str()?.to_owned(), v.clone())));
        given = Given {
            positional: Vec::new(),
            named: named.collect(),
        };
    }
    let mut fields = Fields {
        interp,
        given,
        escapes: matches!(of, Value::Markup(_)),
        next: Some(0),
    };
    let out = fields.run(text, 3)?;
    Ok(Value::text_like(of, out))
}

struct Fields<'a, 'b> {
    interp: &'a mut Interp<'b>,
    given: Given,
    escapes: bool,
    /// Number of the next field without one; `None` once fields have numbers.
    next: Option<usize>,
}

impl Fields<'_, '_> {
    fn run(&mut self, text: &str, depth: usize) -> Res<String> {
        if depth == 0 {
            return Err(Error::new("format: max string recursion exceeded"));
        }
        let mut out = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            out.push_str(&rest[..at]);
            let brace = &rest[at..=at];
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix(brace) {
                out.push_str(brace);
                rest = after;
                continue;
            }
            if brace == "}" {
                return Err(Error::new("format: single '}' encountered in format string"));
            }
            let (field, after) = field_end(rest)?;
            rest = after;
            let (field, spec) = split_spec(field);
            let (field, conversion) = match field.rsplit_once('!') {
                Some((field, conversion)) => (field, Some(conversion)),
                None => (field, None),
            };
            let value = self.value(field)?;
            let spec = self.run(spec, depth - 1)?;
            let written = self.write(&value, conversion, &spec)?;
            self.interp.budget.charge(64 + written.len())?;
            out += &written;
        }
        out.push_str(rest);
        self.interp.budget.charge(out.len())?;
        Ok(out)
    }

    fn value(&mut self, field: &str) -> Res<Value> {
        let end = field.find(['.', '[']).unwrap_or(field.len());
        let (first, mut rest) = field.split_at(end);
        let mut value = if first.is_empty() && !rest.is_empty() {
            return Err(Error::new("format: KeyError: ''"));
        } else if first.is_empty() {
            let at = self.next.ok_or_else(|| {
                Error::new(
                    "format: cannot switch from manual field specification to automatic field numbering",
                )
            })?;
            self.next = Some(at + 1);
            self.positional(at)?
        } else if first.bytes().all(|b| b.is_ascii_digit()) {
            if self.next.is_some_and(|next| next > 0) {
                return Err(Error::new(
                    "format: cannot switch from automatic field numbering to manual field specification",
                ));
            }
            self.next = None;
            self.positional(first.parse().unwrap_or(usize::MAX))?
        } else {
            let named = self.given.named.iter().find(|(n, _)| n == first);
            named
                .map(|(_, v)| v.clone())
                .ok_or_else(|| Error::new(format!("format: KeyError: '{first}'")))?
        };
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix('[') {
                let (key, after) = after
                    .split_once(']')
                    .ok_or_else(|| Error::new("format: missing ']' in format string"))?;
                let key = match key.parse::<i128>() {
                    Ok(n) => Value::Int(n),
                    Err(_) => Value::text(key),
                };
                value = self.interp.item(&value, &key)?;
                rest = after;
            } else {
                let after = &rest[1..];
                let end = after.find(['.', '[']).unwrap_or(after.len());
                value = self.interp.attribute(&value, &after[..end])?;
                rest = &after[end..];
            }
        }
        Ok(value)
    }

    fn positional(&self, at: usize) -> Res<Value> {
        let value = self.given.positional.get(at);
        value.cloned().ok_or_else(|| {
            Error::new(format!(
                "format: replacement index {at} out of range for positional args tuple"
            ))
        })
    }

    fn write(&mut self, value: &Value, conversion: Option<&str>, spec: &str) -> Res<String> {
        let budget = &self.interp.budget;
        let mut text = String::new();
        let converted = match conversion {
            None => None,
            Some("s") => Some(to_text(value, budget)?),
            Some("r" | "a") => {
                repr(&mut text, value, budget)?;
                Some(if conversion == Some("a") {
                    ascii(&text)
                } else {
                    text
                })
            }
            Some(other) => {
                return Err(Error::new(format!(
                    "format: unknown conversion specifier {other:?}"
                )));
            }
        };
        let converted = converted.map(Value::text);
        let value = match &converted {
            Some(text) => text,
            None => value,
        };
        let written = with_spec(value, &parse_spec(spec)?, spec, budget)?;
        let marked = matches!(value, Value::Markup(_));
        Ok(if self.escapes && !marked {
            escape_html(&written)
        } else {
            written
        })
    }
}

/// The inside of a field up to its brace, and what follows.
fn field_end(text: &str) -> Res<(&str, &str)> {
    let mut depth = 1;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Ok((&text[..at], &text[at + 1..]));
        }
    }
    Err(Error::new("format: expected '}' before end of string"))
}

/// A field and its format, which stands behind a colon outside of brackets.
fn split_spec(field: &str) -> (&str, &str) {
    let mut in_brackets = false;
    for (at, c) in field.char_indices() {
        match c {
            '[' => in_brackets = true,
            ']' => in_brackets = false,
            ':' if !in_brackets => return (&field[..at], &field[at + 1..]),
            _ => {}
        }
    }
    (field, "")
}

fn parse_spec(text: &str) -> Res<Spec> {
    let mut spec = Spec::default();
    let mut rest = text;
    let mut chars = text.chars();
    let (first, second) = (chars.next(), chars.next());
    let is_align = |c: char| "<>=^".contains(c);
    if let (Some(fill), Some(align)) = (first, second.filter(|c| is_align(*c))) {
        spec.fill = Some(fill);
        spec.align = Some(align);
        rest = &rest[fill.len_utf8() + 1..];
    } else if let Some(align) = first.filter(|c| is_align(*c)) {
        spec.align = Some(align);
        rest = &rest[1..];
    }
    let mut take = |set: &str| {
        let found = rest.chars().next().filter(|c| set.contains(*c));
        if found.is_some() {
            rest = &rest[1..];
        }
        found
    };
    spec.sign = take("+- ");
    take("z");
    spec.alternate = take("#").is_some();
    spec.zero = take("0").is_some();
    spec.width = number(&mut rest)?.unwrap_or(0);
    let mut take = |set: &str| {
        let found = rest.chars().next().filter(|c| set.contains(*c));
        if found.is_some() {
            rest = &rest[1..];
        }
        found
    };
    spec.grouping = take(",_");
    if take(".").is_some() {
        spec.precision =
            Some(number(&mut rest)?.ok_or_else(|| Error::new("format: format specifier missing precision"))?);
    }
    let mut chars = rest.chars();
    spec.kind = chars.next();
    if chars.next().is_some() {
        return Err(Error::new(format!("format: invalid format specifier '{text}'")));
    }
    Ok(spec)
}

fn with_spec(value: &Value, spec: &Spec, text: &str, budget: &Budget) -> Res<String> {
    if text.is_empty() {
        return to_text(value, budget);
    }
    let unknown = |kind: char| {
        Error::new(format!(
            "format: unknown format code '{kind}' for object of type '{}'",
            value.type_name()
        ))
    };
    if let Some(body) = value.as_str() {
        if let Some(kind) = spec.kind.filter(|k| *k != 's') {
            return Err(unknown(kind));
        }
        if spec.align == Some('=') || spec.sign.is_some() {
            return Err(Error::new(
                "format: '=' alignment and signs are not allowed for a string",
            ));
        }
        let body: String = body.chars().take(spec.precision.unwrap_or(usize::MAX)).collect();
        let mut spec = spec.clone();
        if spec.zero {
            spec.fill = spec.fill.or(Some('0'));
            spec.zero = false;
        }
        return Ok(padded(&spec, "", &body, '<'));
    }
    let float_kind = spec.kind.filter(|k| "eEfFgG%".contains(*k));
    match value {
        Value::Float(_) => {}
        _ if value.as_int().is_some() || matches!(value, Value::BigInt(_)) => {
            if float_kind.is_none() {
                return whole(value, spec, unknown);
            }
        }
        other => {
            return Err(Error::new(format!(
                "format: unsupported format string passed to {}.__format__",
                other.type_name()
            )));
        }
    }
    let f = to_float(value).unwrap_or(f64::NAN);
    let mut digits = match (spec.kind, spec.precision) {
        (Some('%'), precision) => format!("{:.*}%", precision.unwrap_or(6).min(1000), f.abs() * 100.0),
        (None, None) => {
            let mut out = String::new();
            float(&mut out, f.abs());
            out
        }
        (None, Some(precision)) => {
            let text = general(f.abs(), precision.max(1), false);
            if f.is_finite() && !text.contains(['.', 'e']) && text.len() < precision {
                text + ".0"
            } else {
                text
            }
        }
        (Some(kind), precision) if float_kind.is_some() => {
            float_digits(f.abs(), kind, precision.unwrap_or(6), spec.alternate)
        }
        (Some(kind), _) => return Err(unknown(kind)),
    };
    if let Some(separator) = spec.grouping {
        digits = grouped(&digits, separator, 3);
    }
    Ok(padded(
        spec,
        sign(spec, f.is_sign_negative() && !f.is_nan()),
        &digits,
        '>',
    ))
}

fn whole(value: &Value, spec: &Spec, unknown: impl Fn(char) -> Error) -> Res<String> {
    if spec.precision.is_some() {
        return Err(Error::new(
            "format: precision not allowed in integer format specifier",
        ));
    }
    let (negative, size) = match value {
        Value::BigInt(digits) => (digits.starts_with('-'), digits.trim_start_matches('-').to_owned()),
        other => {
            let n = other.as_int().unwrap_or(0);
            let size = n.unsigned_abs();
            let digits = match spec.kind {
                None | Some('d' | 'n') => size.to_string(),
                Some('x') => format!("{size:x}"),
                Some('X') => format!("{size:X}"),
                Some('o') => format!("{size:o}"),
                Some('b') => format!("{size:b}"),
                Some('c') => {
                    let c = u32::try_from(n).ok().and_then(char::from_u32);
                    let c = c.ok_or_else(|| Error::new("format: %c arg not in range(0x110000)"))?;
                    return Ok(padded(spec, "", &c.to_string(), '<'));
                }
                Some(kind) => return Err(unknown(kind)),
            };
            // Without a format true and false are words.
            if spec.kind.is_none()
                && matches!(other, Value::Bool(_))
                && spec.width == 0
                && spec.sign.is_none()
            {
                return Ok(digits);
            }
            (n < 0, digits)
        }
    };
    let digits = match spec.grouping {
        Some(separator) => grouped(
            &size,
            separator,
            if matches!(spec.kind, None | Some('d' | 'n')) {
                3
            } else {
                4
            },
        ),
        None => size,
    };
    let prefix = match spec.kind.filter(|_| spec.alternate) {
        Some('x') => "0x",
        Some('X') => "0X",
        Some('o') => "0o",
        Some('b') => "0b",
        _ => "",
    };
    Ok(padded(
        spec,
        &format!("{}{prefix}", sign(spec, negative)),
        &digits,
        '>',
    ))
}

/// The digits before the point in groups.
fn grouped(digits: &str, separator: char, size: usize) -> String {
    let end = digits
        .find(|c: char| !c.is_ascii_alphanumeric() || c == 'e' && digits.contains('.'))
        .unwrap_or(digits.len());
    let (whole, rest) = digits.split_at(end);
    let mut out = String::new();
    for (at, c) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at) % size == 0 {
            out.push(separator);
        }
        out.push(c);
    }
    out + rest
}
