//! Operators.

use std::cmp::Ordering;
use std::rc::Rc;

use super::ast::{Comparison, Operator};
use super::budget::Budget;
use super::error::{Error, Res};
use super::format::percent;
use super::text::{to_html, to_text};
use super::value::{Object, Seq, Value, ViewKind, iterate};

/// Most digits that a number can be made of here are 38; Python has no limit.
const TOO_LARGE: &str = "a whole number is too large";

/// The error for an undefined value in use.
pub(crate) fn undefined_error(value: &Value) -> Option<Error> {
    match value {
        Value::Undefined(undefined) => {
            let kind = if undefined.forbidden {
                "not allowed"
            } else {
                "undefined value"
            };
            Some(Error::new(format!("{kind}: {}", undefined.hint)))
        }
        _ => None,
    }
}

pub(crate) fn binary(operator: Operator, left: &Value, right: &Value, budget: &Budget) -> Res<Value> {
    budget.step()?;
    if let Some(error) = undefined_error(left).or_else(|| {
        // A text takes whatever it formats.
        let formats = operator == Operator::Modulo && left.as_str().is_some();
        undefined_error(right).filter(|_| !formats)
    }) {
        return Err(error);
    }
    let result = match operator {
        Operator::Add => add(left, right, budget)?,
        Operator::Multiply => multiply(left, right, budget)?,
        Operator::Modulo if left.as_str().is_some() => Some(percent(left, right, budget)?),
        _ => None,
    };
    if let Some(value) = result {
        return Ok(value);
    }
    match numbers(left, right)? {
        Some(Pair::Int(a, b)) => integers(operator, a, b),
        Some(Pair::Float(a, b)) => floats(operator, a, b),
        None => Err(Error::new(format!(
            "unsupported operand type(s) for {}: '{}' and '{}'",
            sign(operator),
            left.type_name(),
            right.type_name()
        ))),
    }
}

fn sign(operator: Operator) -> &'static str {
    match operator {
        Operator::Add => "+",
        Operator::Subtract => "-",
        Operator::Multiply => "*",
        Operator::Divide => "/",
        Operator::FloorDivide => "//",
        Operator::Modulo => "%",
        Operator::Power => "**",
    }
}

enum Pair {
    Int(i128, i128),
    Float(f64, f64),
}

fn numbers(left: &Value, right: &Value) -> Res<Option<Pair>> {
    if let (Some(a), Some(b)) = (left.as_int(), right.as_int()) {
        return Ok(Some(Pair::Int(a, b)));
    }
    let is_number = |v: &Value| matches!(v, Value::Float(_) | Value::BigInt(_)) || v.as_int().is_some();
    if !is_number(left) || !is_number(right) {
        return Ok(None);
    }
    if !matches!(left, Value::Float(_)) && !matches!(right, Value::Float(_)) {
        return Err(Error::new(TOO_LARGE));
    }
    match (to_float(left), to_float(right)) {
        (Some(a), Some(b)) => Ok(Some(Pair::Float(a, b))),
        _ => Ok(None),
    }
}

/// A number as a float.
pub(crate) fn to_float(value: &Value) -> Option<f64> {
    match value {
        Value::Float(f) => Some(*f),
        Value::BigInt(digits) => digits.parse().ok(),
        other => other.as_int().map(|n| n as f64),
    }
}

fn integers(operator: Operator, a: i128, b: i128) -> Res<Value> {
    let zero = || Error::new("division by zero");
    let whole = |n: Option<i128>| n.map(Value::Int).ok_or_else(|| Error::new(TOO_LARGE));
    match operator {
        Operator::Add => whole(a.checked_add(b)),
        Operator::Subtract => whole(a.checked_sub(b)),
        Operator::Multiply => whole(a.checked_mul(b)),
        Operator::Divide if b == 0 => Err(zero()),
        Operator::Divide => Ok(Value::Float(a as f64 / b as f64)),
        Operator::FloorDivide | Operator::Modulo if b == 0 => Err(zero()),
        Operator::FloorDivide => {
            let quotient = a.checked_div(b);
            whole(quotient.map(|q| {
                if a % b != 0 && (a < 0) != (b < 0) {
                    q - 1
                } else {
                    q
                }
            }))
        }
        Operator::Modulo => {
            let rest = a.checked_rem(b);
            whole(rest.map(|r| if r != 0 && (r < 0) != (b < 0) { r + b } else { r }))
        }
        Operator::Power if b < 0 && a == 0 => Err(Error::new("0.0 cannot be raised to a negative power")),
        Operator::Power if b < 0 => Ok(Value::Float((a as f64).powf(b as f64))),
        Operator::Power => match (a, u32::try_from(b)) {
            (0 | 1, Err(_)) => Ok(Value::Int(a)),
            (_, Ok(b)) => whole(a.checked_pow(b)),
            _ => whole(None),
        },
    }
}

fn floats(operator: Operator, a: f64, b: f64) -> Res<Value> {
    let division = matches!(
        operator,
        Operator::Divide | Operator::FloorDivide | Operator::Modulo
    );
    if division && b == 0.0 {
        return Err(Error::new("float division by zero"));
    }
    // Python's rest has the sign of the divisor.
    let modulo = || {
        let rest = a % b;
        if rest != 0.0 && (rest < 0.0) != (b < 0.0) {
            rest + b
        } else if rest == 0.0 {
            rest.abs().copysign(b)
        } else {
            rest
        }
    };
    Ok(Value::Float(match operator {
        Operator::Add => a + b,
        Operator::Subtract => a - b,
        Operator::Multiply => a * b,
        Operator::Divide => a / b,
        Operator::FloorDivide => ((a - modulo()) / b).round(),
        Operator::Modulo => modulo(),
        Operator::Power => {
            let power = a.powf(b);
            if a == 0.0 && b < 0.0 {
                return Err(Error::new("0.0 cannot be raised to a negative power"));
            }
            if power.is_nan() && !a.is_nan() && !b.is_nan() {
                return Err(Error::new("a power of a negative number is complex"));
            }
            if power.is_infinite() && a.is_finite() && b.is_finite() {
                return Err(Error::new("a power is too large"));
            }
            power
        }
    }))
}

fn add(left: &Value, right: &Value, budget: &Budget) -> Res<Option<Value>> {
    Ok(Some(match (left, right) {
        (Value::Str(a), Value::Str(b)) => {
            budget.charge(a.len() + b.len())?;
            Value::text(format!("{}{}", &***a, &***b))
        }
        (Value::Markup(_), other) | (other, Value::Markup(_)) => {
            if other.as_str().is_none() {
                return Ok(None);
            }
            let (a, b) = (to_html(left, budget)?, to_html(right, budget)?);
            budget.charge(a.len() + b.len())?;
            Value::markup(a + &b)
        }
        (Value::List(a), Value::List(b)) => Value::list(joined(a, b, budget)?)?,
        (Value::Tuple(a), Value::Tuple(b)) => Value::tuple(joined(a, b, budget)?)?,
        _ => return Ok(None),
    }))
}

fn joined(a: &Rc<Seq>, b: &Rc<Seq>, budget: &Budget) -> Res<Vec<Value>> {
    budget.charge((a.items.len() + b.items.len()) * size_of::<Value>())?;
    Ok(a.items.iter().chain(&b.items).cloned().collect())
}

fn multiply(left: &Value, right: &Value, budget: &Budget) -> Res<Option<Value>> {
    let (value, count) = match (left.as_int(), right.as_int()) {
        (None, Some(count)) => (left, count),
        (Some(count), None) => (right, count),
        _ => return Ok(None),
    };
    if !matches!(
        value,
        Value::Str(_) | Value::Markup(_) | Value::List(_) | Value::Tuple(_)
    ) {
        return Ok(None);
    }
    // Python counts no further than a machine's word, even what is empty.
    let count = isize::try_from(count.max(0))
        .map_err(|_| Error::new(TOO_LARGE))?
        .unsigned_abs();
    let repeated = |items: &[Value]| {
        budget.charge(
            items
                .len()
                .saturating_mul(count)
                .saturating_mul(size_of::<Value>()),
        )?;
        let count = if items.is_empty() { 0 } else { count };
        Ok((0..count)
            .flat_map(|_| items.iter().cloned())
            .collect::<Vec<Value>>())
    };
    Ok(Some(match value {
        Value::Str(text) | Value::Markup(text) => {
            budget.charge(text.len().saturating_mul(count))?;
            Value::text_like(value, text.repeat(count))
        }
        Value::List(seq) => Value::list(repeated(&seq.items)?)?,
        Value::Tuple(seq) => Value::tuple(repeated(&seq.items)?)?,
        _ => return Ok(None),
    }))
}

/// Whether two values are equal, as Python's `==` has it.
pub(crate) fn equal(left: &Value, right: &Value, budget: &Budget) -> Res<bool> {
    budget.enter()?;
    let result = match (left, right) {
        (Value::Undefined(_), Value::Undefined(_)) | (Value::None, Value::None) => true,
        (Value::BigInt(a), Value::BigInt(b)) => a == b,
        (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => {
            let mut equal_items = a.items.len() == b.items.len();
            let mut pairs = a.items.iter().zip(&b.items);
            while equal_items && let Some((a, b)) = pairs.next() {
                equal_items = a.is_same(b) || equal(a, b, budget)?;
            }
            equal_items
        }
        (Value::Dict(a), Value::Dict(b)) => {
            let mut equal_items = a.entries.len() == b.entries.len();
            let mut entries = a.entries.iter();
            while equal_items && let Some((key, value)) = entries.next() {
                equal_items = match b.get(key, budget)? {
                    Some(other) => value.is_same(other) || equal(value, other, budget)?,
                    None => false,
                };
            }
            equal_items
        }
        (Value::Object(a), Value::Object(b)) => Rc::ptr_eq(a, b) || equal_objects(a, b, budget)?,
        _ => match (left.as_str(), right.as_str()) {
            (Some(a), Some(b)) => {
                budget.charge(a.len().min(b.len()))?;
                a == b
            }
            (None, None) => match (left.as_int(), right.as_int()) {
                (Some(a), Some(b)) => a == b,
                _ => match (to_float(left), to_float(right)) {
                    (Some(a), Some(b)) => a == b,
                    _ => false,
                },
            },
            _ => false,
        },
    };
    budget.leave();
    Ok(result)
}

fn equal_objects(a: &Object, b: &Object, budget: &Budget) -> Res<bool> {
    match (a, b) {
        (Object::Range { .. }, Object::Range { .. }) => {
            let (Some(n), Some(m)) = (a.range_len(), b.range_len()) else {
                return Ok(false);
            };
            let ends = |o: &Object| match o {
                Object::Range { start, step, .. } => (*start, *step),
                _ => (0, 0),
            };
            let ((start_a, step_a), (start_b, step_b)) = (ends(a), ends(b));
            Ok(n == m && (n == 0 || (start_a == start_b && (n == 1 || step_a == step_b))))
        }
        (Object::View { kind: k, dict: d }, Object::View { kind: l, dict: e }) => {
            // Keys and items are sets, values are only themselves.
            if *k == ViewKind::Values || *l == ViewKind::Values || d.entries.len() != e.entries.len() {
                return Ok(false);
            }
            for item in k.items(d)? {
                let mut found = false;
                for other in l.items(e)? {
                    found = found || equal(&item, &other, budget)?;
                }
                if !found {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// The order of two values; `None` where one is NaN.
pub(crate) fn order(left: &Value, right: &Value, sign: &str, budget: &Budget) -> Res<Option<Ordering>> {
    budget.enter()?;
    if let Some(error) = undefined_error(left).or_else(|| undefined_error(right)) {
        return Err(error);
    }
    let result = match (left, right) {
        (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => {
            order_items(&a.items, &b.items, sign, budget)?
        }
        _ => match (left.as_str(), right.as_str()) {
            (Some(a), Some(b)) => {
                budget.charge(a.len().min(b.len()))?;
                // Bytes of UTF-8 are in the order of their characters.
                Some(a.cmp(b))
            }
            _ => match (left.as_int(), right.as_int()) {
                (Some(a), Some(b)) => Some(a.cmp(&b)),
                _ => match (to_float(left), to_float(right)) {
                    (Some(a), Some(b)) => a.partial_cmp(&b),
                    _ => {
                        return Err(Error::new(format!(
                            "'{sign}' not supported between instances of '{}' and '{}'",
                            left.type_name(),
                            right.type_name()
                        )));
                    }
                },
            },
        },
    };
    budget.leave();
    Ok(result)
}

fn order_items(a: &[Value], b: &[Value], sign: &str, budget: &Budget) -> Res<Option<Ordering>> {
    for (a, b) in a.iter().zip(b) {
        if !(a.is_same(b) || equal(a, b, budget)?) {
            return order(a, b, sign, budget);
        }
    }
    Ok(Some(a.len().cmp(&b.len())))
}

pub(crate) fn compare(comparison: Comparison, left: &Value, right: &Value, budget: &Budget) -> Res<bool> {
    let ordered =
        |sign: &str, holds: fn(Ordering) -> bool| Ok(order(left, right, sign, budget)?.is_some_and(holds));
    match comparison {
        Comparison::Equal => equal(left, right, budget),
        Comparison::NotEqual => Ok(!equal(left, right, budget)?),
        Comparison::Less => ordered("<", Ordering::is_lt),
        Comparison::LessEqual => ordered("<=", Ordering::is_le),
        Comparison::Greater => ordered(">", Ordering::is_gt),
        Comparison::GreaterEqual => ordered(">=", Ordering::is_ge),
        Comparison::In => contains(right, left, budget),
        Comparison::NotIn => Ok(!contains(right, left, budget)?),
    }
}

/// Whether a value is in a container.
pub(crate) fn contains(container: &Value, value: &Value, budget: &Budget) -> Res<bool> {
    budget.step()?;
    let any = |items: &[Value]| {
        for item in items {
            if item.is_same(value) || equal(item, value, budget)? {
                return Ok(true);
            }
        }
        Ok(false)
    };
    match container {
        Value::Str(text) | Value::Markup(text) => match value.as_str() {
            Some(wanted) => {
                budget.charge(text.len())?;
                Ok(text.contains(wanted))
            }
            None => Err(Error::new(format!(
                "'in <string>' requires string as left operand, not {}",
                value.type_name()
            ))),
        },
        Value::List(seq) | Value::Tuple(seq) => any(&seq.items),
        Value::Dict(dict) => match value.as_str() {
            Some(key) => Ok(dict.get_str(key).is_some()),
            None => Ok(dict.get(value, budget)?.is_some()),
        },
        Value::Object(object) => match &**object {
            Object::View {
                kind: ViewKind::Keys,
                dict,
            } => Ok(dict.get(value, budget)?.is_some()),
            Object::Iterator(iter) => {
                // Up to the first that is equal: what follows stays.
                while let Some(item) = iter.next()? {
                    if equal(&item, value, budget)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            _ => any(&iterate(container, budget)?),
        },
        Value::Undefined(_) => Ok(false),
        other => Err(Error::new(format!(
            "argument of type '{}' is not iterable",
            other.type_name()
        ))),
    }
}

pub(crate) fn negate(value: &Value, plus: bool) -> Res<Value> {
    if let Some(error) = undefined_error(value) {
        return Err(error);
    }
    match value {
        Value::Float(f) => Ok(Value::Float(if plus { *f } else { -f })),
        Value::BigInt(_) if plus => Ok(value.clone()),
        Value::BigInt(digits) => Ok(Value::BigInt(match digits.strip_prefix('-') {
            Some(digits) => digits.into(),
            None => format!("-{digits}").into(),
        })),
        other => match other.as_int() {
            Some(n) => Ok(Value::Int(if plus { n } else { -n })),
            None => Err(Error::new(format!(
                "bad operand type for unary {}: '{}'",
                if plus { '+' } else { '-' },
                other.type_name()
            ))),
        },
    }
}

/// The values in order; of equal ones the first stays first. `keys` are what is compared, one for each.
pub(crate) fn sorted(keyed: Vec<(Value, Value)>, reverse: bool, budget: &Budget) -> Res<Vec<Value>> {
    let mut keyed = keyed;
    let mut error = None;
    keyed.sort_by(|(a, _), (b, _)| {
        if error.is_some() {
            return Ordering::Equal;
        }
        let (a, b) = if reverse { (b, a) } else { (a, b) };
        match order(a, b, "<", budget) {
            Ok(order) => order.unwrap_or(Ordering::Equal),
            Err(e) => {
                error = Some(e);
                Ordering::Equal
            }
        }
    });
    match error {
        Some(error) => Err(error),
        None => Ok(keyed.into_iter().map(|(_, value)| value).collect()),
    }
}

/// Text of several values in a row: what `~` makes.
pub(crate) fn concat(values: &[Value], budget: &Budget) -> Res<Value> {
    let mut out = String::new();
    for value in values {
        let text = to_text(value, budget)?;
        budget.charge(text.len())?;
        out += &text;
    }
    Ok(Value::text(out))
}
