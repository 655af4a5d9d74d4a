//! Whole numbers in a row: `range`, and the places that a slice takes.

use super::calls::Given;
use super::error::{Error, Res};
use super::ops::undefined_error;
use super::value::{Object, Value};

/// Longest range, as Jinja's sandbox has it.
const MAX_RANGE: i128 = 100_000;

pub(super) fn range(given: Given) -> Res<Value> {
    if !given.named.is_empty() {
        return Err(Error::new("range: takes no keyword arguments"));
    }
    let mut whole = Vec::new();
    for value in &given.positional {
        if let Some(error) = undefined_error(value) {
            return Err(error);
        }
        whole.push(value.as_int().ok_or_else(|| {
            Error::new(format!(
                "'{}' object cannot be interpreted as an integer",
                value.type_name()
            ))
        })?);
    }
    let (start, stop, step) = match whole[..] {
        [stop] => (0, stop, 1),
        [start, stop] => (start, stop, 1),
        [start, stop, step] => (start, stop, step),
        _ => return Err(Error::new("range: wanted one to three arguments")),
    };
    if step == 0 {
        return Err(Error::new("range: the step is zero"));
    }
    let limit = i128::from(i64::MAX);
    if [start, stop, step].iter().any(|n| n.abs() > limit) {
        return Err(Error::new("range: a number is too large"));
    }
    let range = Object::Range { start, stop, step };
    if range.range_len().is_none_or(|len| len as i128 > MAX_RANGE) {
        return Err(Error::new(format!("range: has more than {MAX_RANGE} items")));
    }
    Ok(Value::object(range))
}

/// Start, stop and step of a slice within a length.
pub(super) fn slice_bounds(len: i128, [start, stop, step]: [Option<i128>; 3]) -> (i128, i128, i128) {
    let step = step.unwrap_or(1);
    let place = |at: i128| if at < 0 { at.saturating_add(len) } else { at };
    if step > 0 {
        let start = start.map_or(0, |s| place(s).clamp(0, len));
        let stop = stop.map_or(len, |s| place(s).clamp(0, len));
        (start, stop, step)
    } else {
        let start = start.map_or(len - 1, |s| place(s).clamp(-1, len - 1));
        let stop = stop.map_or(-1, |s| place(s).clamp(-1, len - 1));
        (start, stop, step)
    }
}

pub(super) fn slice_indices(len: i128, parts: [Option<i128>; 3]) -> Vec<usize> {
    let (mut at, stop, step) = slice_bounds(len, parts);
    let mut indices = Vec::new();
    while (step > 0 && at < stop) || (step < 0 && at > stop) {
        indices.extend(usize::try_from(at).ok());
        at = at.saturating_add(step);
    }
    indices
}
