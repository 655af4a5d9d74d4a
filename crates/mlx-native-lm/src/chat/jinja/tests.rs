//! The tests of Jinja: what follows `is`.

use super::ast::Comparison;
use super::calls::Given;
use super::error::{Error, Res};
use super::filters;
use super::interp::Interp;
use super::ops::{compare, contains};
use super::text::to_text;
use super::value::{Object, Value, is_iterable};

const NAMES: [&str; 39] = [
    "!=",
    "<",
    "<=",
    "==",
    ">",
    ">=",
    "boolean",
    "callable",
    "defined",
    "divisibleby",
    "eq",
    "equalto",
    "escaped",
    "even",
    "false",
    "filter",
    "float",
    "ge",
    "greaterthan",
    "gt",
    "in",
    "integer",
    "iterable",
    "le",
    "lessthan",
    "lower",
    "lt",
    "mapping",
    "ne",
    "none",
    "number",
    "odd",
    "sameas",
    "sequence",
    "string",
    "test",
    "true",
    "undefined",
    "upper",
];

/// Whether there is a test of this name.
pub(crate) fn is_test(name: &str) -> bool {
    NAMES.contains(&name)
}

/// Whether a test holds of a value.
pub(crate) fn check(interp: &mut Interp<'_>, name: &str, value: &Value, given: Given) -> Res<bool> {
    interp.budget.step()?;
    let comparison = match name {
        "==" | "eq" | "equalto" => Some(Comparison::Equal),
        "!=" | "ne" => Some(Comparison::NotEqual),
        "<" | "lt" | "lessthan" => Some(Comparison::Less),
        "<=" | "le" => Some(Comparison::LessEqual),
        ">" | "gt" | "greaterthan" => Some(Comparison::Greater),
        ">=" | "ge" => Some(Comparison::GreaterEqual),
        _ => None,
    };
    let one = |given: Given| {
        let [other] = given.bind(name, ["other"])?;
        other.ok_or_else(|| Error::new(format!("the test '{name}' needs an argument")))
    };
    if let Some(comparison) = comparison {
        return compare(comparison, value, &one(given)?, &interp.budget);
    }
    match name {
        "in" => return contains(&one(given)?, value, &interp.budget),
        "sameas" => return Ok(value.is_same(&one(given)?)),
        "divisibleby" => {
            let by = one(given)?;
            return Ok(remainder(interp, value, &by)?.as_int() == Some(0));
        }
        _ => {}
    }
    given.bind(name, [])?;
    Ok(match name {
        "odd" => remainder(interp, value, &Value::Int(2))?.as_int() == Some(1),
        "even" => remainder(interp, value, &Value::Int(2))?.as_int() == Some(0),
        "defined" => !value.is_undefined(),
        "undefined" => value.is_undefined(),
        "none" => value.is_none(),
        "boolean" => matches!(value, Value::Bool(_)),
        "true" => matches!(value, Value::Bool(true)),
        "false" => matches!(value, Value::Bool(false)),
        "integer" => matches!(value, Value::Int(_) | Value::BigInt(_)),
        "float" => matches!(value, Value::Float(_)),
        "number" => matches!(
            value,
            Value::Int(_) | Value::BigInt(_) | Value::Float(_) | Value::Bool(_)
        ),
        "string" => value.as_str().is_some(),
        "mapping" => matches!(value, Value::Dict(_)),
        "sequence" => match value {
            Value::Undefined(_) | Value::Str(_) | Value::Markup(_) => true,
            Value::List(_) | Value::Tuple(_) | Value::Dict(_) => true,
            Value::Object(object) => matches!(**object, Object::Range { .. }),
            _ => false,
        },
        "iterable" => is_iterable(value),
        "callable" => match value {
            // Python finds a method there, which only fails when it is called.
            Value::Undefined(_) => true,
            Value::Object(object) => matches!(
                **object,
                Object::Method { .. }
                    | Object::Function(_)
                    | Object::Macro(_)
                    | Object::Joiner { .. }
                    | Object::Loop(_)
                    | Object::Block(_)
                    | Object::DictType
            ),
            _ => false,
        },
        "escaped" => matches!(value, Value::Markup(_)),
        "lower" => {
            let text = to_text(value, &interp.budget)?;
            text.chars().any(char::is_lowercase) && !text.chars().any(char::is_uppercase)
        }
        "upper" => {
            let text = to_text(value, &interp.budget)?;
            text.chars().any(char::is_uppercase) && !text.chars().any(char::is_lowercase)
        }
        "filter" | "test" => {
            // Names are looked up in a dictionary, which takes no lists.
            value.key(&interp.budget)?;
            let known = if name == "filter" {
                filters::is_filter
            } else {
                is_test
            };
            value.as_str().is_some_and(known)
        }
        other => return Err(Error::new(format!("no test named '{other}'"))),
    })
}

fn remainder(interp: &Interp<'_>, value: &Value, by: &Value) -> Res<Value> {
    let rest = super::ops::binary(super::ast::Operator::Modulo, value, by, &interp.budget)?;
    Ok(match rest {
        // 4.0 is even.
        Value::Float(f) if f.fract() == 0.0 => Value::Int(f as i128),
        other => other,
    })
}
