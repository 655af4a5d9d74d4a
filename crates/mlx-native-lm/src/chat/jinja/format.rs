//! Formatting: `%`, and the method `format`, as Python's texts have them.

use super::budget::Budget;
use super::error::{Error, Res};
use super::format_spec::{Spec, ascii, float_digits, number, padded, sign, size};
use super::ops::{to_float, undefined_error};
use super::text::{escape_html, repr, to_text};
use super::value::Value;

/// `text % values`.
pub(crate) fn percent(format: &Value, values: &Value, budget: &Budget) -> Res<Value> {
    let Some(text) = format.as_str() else {
        return Err(Error::new("% formats texts only"));
    };
    let escapes = matches!(format, Value::Markup(_));
    let all: &[Value] = match values {
        Value::Tuple(seq) => &seq.items,
        single => std::slice::from_ref(single),
    };
    let mut next = all.iter();
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        budget.charge(64 + at)?;
        let mut field = None;
        if let Some(inside) = rest.strip_prefix('(') {
            let (key, after) = closing(inside).ok_or_else(|| Error::new("incomplete format key"))?;
            let Value::Dict(dict) = values else {
                return Err(Error::new("format requires a mapping"));
            };
            let value = dict
                .get_str(key)
                .ok_or_else(|| Error::new(format!("KeyError: '{key}'")))?;
            field = Some(value.clone());
            rest = after;
        }
        let mut take = || {
            next.next()
                .cloned()
                .ok_or_else(|| Error::new("not enough arguments for format string"))
        };
        let mut spec = Spec::default();
        while let Some(flag) = rest.chars().next().filter(|c| "-+ 0#".contains(*c)) {
            match flag {
                '-' => spec.align = Some('<'),
                '+' => spec.sign = Some('+'),
                ' ' => spec.sign = spec.sign.or(Some(' ')),
                '0' => spec.zero = true,
                _ => spec.alternate = true,
            }
            rest = &rest[1..];
        }
        if let Some(after) = rest.strip_prefix('*') {
            let width = take()?.as_int().ok_or_else(|| Error::new("* wants int"))?;
            if width < 0 {
                spec.align = Some('<');
            }
            spec.width = size(width.unsigned_abs())?;
            rest = after;
        } else {
            spec.width = number(&mut rest)?.unwrap_or(0);
        }
        if let Some(after) = rest.strip_prefix('.') {
            rest = after;
            spec.precision = Some(if let Some(after) = rest.strip_prefix('*') {
                rest = after;
                size(take()?.as_int().unwrap_or(0).max(0).unsigned_abs())?
            } else {
                number(&mut rest)?.unwrap_or(0)
            });
        }
        rest = rest.trim_start_matches(['h', 'l', 'L']);
        let kind = rest
            .chars()
            .next()
            .ok_or_else(|| Error::new("incomplete format"))?;
        rest = &rest[kind.len_utf8()..];
        if kind == '%' {
            out.push('%');
            continue;
        }
        let value = match field {
            Some(value) => value,
            None => take()?,
        };
        let written = percent_value(&spec, kind, &value, escapes, budget)?;
        budget.charge(written.len())?;
        out += &written;
    }
    out.push_str(rest);
    // What can be indexed by keys counts as a mapping to Python, lists too: its values need not be used.
    let is_mapping = match values {
        Value::Object(object) => object.range_len().is_some(),
        other => matches!(other, Value::Dict(_) | Value::List(_) | Value::Undefined(_)),
    };
    if next.next().is_some() && !is_mapping {
        return Err(Error::new("not all arguments converted during string formatting"));
    }
    budget.charge(out.len())?;
    Ok(Value::text_like(format, out))
}

fn percent_value(spec: &Spec, kind: char, value: &Value, escapes: bool, budget: &Budget) -> Res<String> {
    let mut spec = spec.clone();
    match kind {
        's' | 'r' | 'a' => {
            let mut text = String::new();
            if kind == 's' {
                text = to_text(value, budget)?;
            } else {
                repr(&mut text, value, budget)?;
                if kind == 'a' {
                    text = ascii(&text);
                }
            }
            if escapes && !matches!(value, Value::Markup(_)) {
                text = escape_html(&text);
            }
            if let Some(most) = spec.precision {
                text = text.chars().take(most).collect();
            }
            spec.zero = false;
            Ok(padded(&spec, "", &text, '>'))
        }
        'd' | 'i' | 'u' | 'o' | 'x' | 'X' => {
            if let Some(error) = undefined_error(value) {
                return Err(error);
            }
            let whole = match value {
                Value::Float(f) if matches!(kind, 'd' | 'i' | 'u') => float_to_int(*f)?,
                Value::BigInt(digits) if matches!(kind, 'd' | 'i' | 'u') => {
                    return Ok(padded(&spec, "", digits, '>'));
                }
                other => other.as_int().ok_or_else(|| {
                    Error::new(format!(
                        "%{kind} format: a real number is required, not {}",
                        other.type_name()
                    ))
                })?,
            };
            let digits = match kind {
                'o' => format!("{:o}", whole.unsigned_abs()),
                'x' => format!("{:x}", whole.unsigned_abs()),
                'X' => format!("{:X}", whole.unsigned_abs()),
                _ => whole.unsigned_abs().to_string(),
            };
            let missing = spec.precision.unwrap_or(0).saturating_sub(digits.len());
            let digits = "0".repeat(missing) + &digits;
            let prefix = match kind {
                _ if !spec.alternate => "",
                'o' => "0o",
                'x' => "0x",
                'X' => "0X",
                _ => "",
            };
            Ok(padded(
                &spec,
                &format!("{}{prefix}", sign(&spec, whole < 0)),
                &digits,
                '>',
            ))
        }
        'e' | 'E' | 'f' | 'F' | 'g' | 'G' => {
            if let Some(error) = undefined_error(value) {
                return Err(error);
            }
            let f = to_float(value)
                .ok_or_else(|| Error::new(format!("must be real number, not {}", value.type_name())))?;
            let digits = float_digits(f.abs(), kind, spec.precision.unwrap_or(6), spec.alternate);
            if !f.is_finite() {
                spec.zero = false;
            }
            Ok(padded(
                &spec,
                sign(&spec, f.is_sign_negative() && !f.is_nan()),
                &digits,
                '>',
            ))
        }
        'c' => {
            let text = match value.as_str() {
                Some(text) if text.chars().count() == 1 => text.to_owned(),
                _ => {
                    let code = value
                        .as_int()
                        .and_then(|n| u32::try_from(n).ok())
                        .and_then(char::from_u32);
                    code.map(String::from)
                        .ok_or_else(|| Error::new("%c requires int or char"))?
                }
            };
            spec.zero = false;
            Ok(padded(&spec, "", &text, '>'))
        }
        other => Err(Error::new(format!("unsupported format character '{other}'"))),
    }
}

/// The text up to the parenthesis that closes what was opened before it, and what follows.
fn closing(text: &str) -> Option<(&str, &str)> {
    let mut depth = 1;
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some((&text[..at], &text[at + 1..]));
        }
    }
    None
}

fn float_to_int(f: f64) -> Res<i128> {
    if !f.is_finite() || f.abs() >= 1e38 {
        return Err(Error::new(
            "cannot convert float infinity or NaN, or one so large, to integer",
        ));
    }
    Ok(f.trunc() as i128)
}
