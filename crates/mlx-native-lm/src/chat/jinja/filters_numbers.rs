//! Filters of numbers: `abs`, `int`, `float`, `round`, `sum`, `random`.

use super::calls::Given;
use super::error::{Error, Res};
use super::filters::{along, path};
use super::interp::Interp;
use super::ops::{self, to_float, undefined_error};
use super::text::{decimal, is_space};
use super::value::{Value, iterate};

pub(super) fn absolute(value: &Value, given: Given) -> Res<Value> {
    given.bind("abs", [])?;
    match value {
        Value::Float(f) => Ok(Value::Float(f.abs())),
        Value::BigInt(digits) => Ok(Value::BigInt(digits.trim_start_matches('-').into())),
        other => match (other.as_int(), undefined_error(other)) {
            (Some(n), _) => Ok(Value::Int(n.abs())),
            (None, Some(error)) => Err(error),
            (None, None) => Err(Error::new(format!(
                "bad operand type for abs(): '{}'",
                other.type_name()
            ))),
        },
    }
}

pub(super) fn sum(interp: &mut Interp<'_>, value: &Value, given: Given) -> Res<Value> {
    let [attribute, start] = given.bind("sum", ["attribute", "start"])?;
    let path = path(&attribute.unwrap_or(Value::None));
    let mut total = start.unwrap_or(Value::Int(0));
    if total.as_str().is_some() {
        return Err(Error::new("sum() can't sum strings [use ''.join(seq) instead]"));
    }
    for item in iterate(value, &interp.budget)? {
        let item = along(interp, &item, &path, None)?;
        total = ops::binary(super::ast::Operator::Add, &total, &item, &interp.budget)?;
    }
    Ok(total)
}

pub(super) fn random(value: &Value, given: Given) -> Res<Value> {
    use std::hash::{BuildHasher, Hasher};
    given.bind("random", [])?;
    let len = value
        .len()
        .ok_or_else(|| Error::new(format!("object of type '{}' has no len()", value.type_name())))?;
    let Some(random) = std::hash::RandomState::new()
        .build_hasher()
        .finish()
        .checked_rem(len as u64)
    else {
        return Ok(Value::undefined("No random item, sequence was empty."));
    };
    match value {
        Value::List(seq) | Value::Tuple(seq) => Ok(seq.items[random as usize].clone()),
        Value::Str(text) | Value::Markup(text) => {
            let c = text.chars().nth(random as usize).map(String::from);
            Ok(Value::text_like(value, c.unwrap_or_default()))
        }
        other => Err(Error::new(format!(
            "'{}' object is not subscriptable",
            other.type_name()
        ))),
    }
}

/// What Python's `float` makes of a value; `None` where it makes none.
pub(super) fn float_of(value: &Value) -> Res<Option<f64>> {
    if let Some(error) = undefined_error(value) {
        return Err(error);
    }
    Ok(match value.as_str() {
        Some(text) => parse_float(text),
        None => to_float(value),
    })
}

/// The number that a text is, with white space around it and underscores between its digits.
fn parse_float(text: &str) -> Option<f64> {
    let digits = plain_digits(text)?;
    let body = digits.trim_start_matches(['+', '-']).to_ascii_lowercase();
    let word = matches!(body.as_str(), "inf" | "infinity" | "nan");
    let starts = body.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    if !word && !starts {
        return None;
    }
    digits.parse().ok()
}

/// A number's text in ASCII; `None` where an underscore is not between two digits.
fn plain_digits(text: &str) -> Option<String> {
    let text = text.trim_matches(is_space);
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    for (at, c) in chars.iter().enumerate() {
        if *c == '_' {
            let digit = |at: Option<&char>| at.is_some_and(|c| decimal(*c).is_some());
            if !digit(at.checked_sub(1).and_then(|b| chars.get(b))) || !digit(chars.get(at + 1)) {
                return None;
            }
            continue;
        }
        match decimal(*c) {
            Some(value) => out.push(char::from_digit(value, 10)?),
            None => out.push(*c),
        }
    }
    Some(out)
}

/// The whole number that a text is in a base; 0 reads the base from the text.
fn parse_int(text: &str, base: u32) -> Option<Value> {
    let digits = text.trim_matches(is_space);
    let (negative, digits) = match digits.strip_prefix(['-', '+']) {
        Some(rest) => (digits.starts_with('-'), rest),
        None => (false, digits),
    };
    let lower = digits.to_ascii_lowercase();
    let prefixes = [("0x", 16), ("0o", 8), ("0b", 2)];
    let prefix = prefixes
        .iter()
        .find(|(p, b)| lower.starts_with(p) && (base == 0 || base == *b));
    let (digits, base) = match prefix {
        Some((_, of)) => (digits[2..].strip_prefix('_').unwrap_or(&digits[2..]), *of),
        None if base == 0 => (digits, 10),
        None => (digits, base),
    };
    if digits.is_empty() || digits.starts_with('_') || digits.ends_with('_') || digits.contains("__") {
        return None;
    }
    let plain: Option<String> = digits
        .chars()
        .filter(|c| *c != '_')
        .map(|c| match decimal(c) {
            Some(value) => char::from_digit(value, 10),
            None => c.is_ascii_alphabetic().then_some(c),
        })
        .collect();
    let plain = plain?;
    if !(2..=36).contains(&base) || !plain.chars().all(|c| c.is_digit(base)) {
        return None;
    }
    match i128::from_str_radix(&plain, base) {
        Ok(n) => Some(Value::Int(if negative { -n } else { n })),
        Err(_) if base == 10 => {
            let digits = plain.trim_start_matches('0');
            Some(Value::BigInt(
                format!("{}{digits}", if negative { "-" } else { "" }).into(),
            ))
        }
        Err(_) => None,
    }
}

pub(super) fn int(value: &Value, given: Given) -> Res<Value> {
    let [default, base] = given.bind("int", ["default", "base"])?;
    let default = default.unwrap_or(Value::Int(0));
    let base = match base {
        None => 10,
        Some(base) => base
            .as_int()
            .and_then(|b| u32::try_from(b).ok())
            .ok_or_else(|| Error::new("int: a base must be a whole number"))?,
    };
    if let Some(error) = undefined_error(value) {
        return Err(error);
    }
    let whole = |f: f64| (f.is_finite() && f.abs() < 1e38).then(|| Value::Int(f.trunc() as i128));
    Ok(match value {
        Value::Str(text) | Value::Markup(text) => match parse_int(text, base) {
            Some(n) => n,
            // "42.23" is 42.
            None => parse_float(text).and_then(whole).unwrap_or(default),
        },
        Value::Float(f) if f.is_infinite() => {
            return Err(Error::new("cannot convert float infinity to integer"));
        }
        Value::Float(f) => whole(*f).unwrap_or(default),
        Value::BigInt(_) => value.clone(),
        other => other.as_int().map_or(default, Value::Int),
    })
}

pub(super) fn round(value: &Value, given: Given) -> Res<Value> {
    let [precision, method] = given.bind("round", ["precision", "method"])?;
    let precision = match precision {
        None => 0,
        Some(p) => p
            .as_int()
            .and_then(|p| i32::try_from(p).ok())
            .ok_or_else(|| Error::new("round: a precision must be a whole number"))?,
    };
    let method = match method.as_ref().map(|m| m.as_str()) {
        None => "common",
        Some(Some(m @ ("common" | "ceil" | "floor"))) => m,
        _ => return Err(Error::new("round: method must be common, ceil or floor")),
    };
    if let Some(error) = undefined_error(value) {
        return Err(error);
    }
    let number = to_float(value).ok_or_else(|| {
        Error::new(format!(
            "type {} doesn't define __round__ method",
            value.type_name()
        ))
    })?;
    if method == "common" {
        return match (value, value.as_int()) {
            // Python rounds whole numbers to whole numbers.
            (_, Some(n)) => Ok(Value::Int(round_int(n, precision))),
            (Value::BigInt(_), _) => Ok(value.clone()),
            _ => Ok(Value::Float(round_float(number, precision))),
        };
    }
    let scale = 10f64.powi(precision);
    let scaled = number * scale;
    let rounded = if method == "ceil" {
        scaled.ceil()
    } else {
        scaled.floor()
    };
    Ok(Value::Float(rounded / scale))
}

fn round_int(n: i128, precision: i32) -> i128 {
    let Some(unit) = u32::try_from(-i64::from(precision)).ok().filter(|d| *d > 0) else {
        return n;
    };
    let Some(unit) = 10i128.checked_pow(unit) else {
        return 0;
    };
    let (low, rest) = (n.div_euclid(unit), n.rem_euclid(unit));
    // Halves go to the even one.
    let up = rest * 2 > unit || (rest * 2 == unit && low % 2 != 0);
    (low + i128::from(up)) * unit
}

/// The nearest number with so many digits behind the point; halves, as the number has them exactly, go to the even one.
fn round_float(f: f64, precision: i32) -> f64 {
    if !f.is_finite() || precision > 300 {
        return f;
    }
    if precision >= 0 {
        return format!("{f:.*}", precision as usize).parse().unwrap_or(f);
    }
    if precision < -308 {
        return 0.0f64.copysign(f);
    }
    let scale = 10f64.powi(-precision);
    (f / scale).round_ties_even() * scale
}
