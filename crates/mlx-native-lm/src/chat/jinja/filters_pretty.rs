//! The filter `pprint`: Python's `pprint`, which breaks long values into lines.

use super::error::Res;
use super::interp::Interp;
use super::ops::order;
use super::text::{is_space, lines, repr};
use super::value::Value;

/// Widest line of the filter `pprint`.
const PRETTY_WIDTH: usize = 80;

/// What Python's `pformat` makes: `repr` with sorted keys, in several lines where it is long.
pub(super) fn pretty(interp: &Interp<'_>, value: &Value) -> Res<Value> {
    let mut out = String::new();
    pretty_into(interp, &mut out, value, 0, 0, 1)?;
    Ok(Value::text(out))
}

fn sorted_entries(interp: &Interp<'_>, entries: &[(Value, Value)]) -> Vec<(Value, Value)> {
    let mut sorted = entries.to_vec();
    sorted.sort_by(|(a, _), (b, _)| match order(a, b, "<", &interp.budget) {
        Ok(order) => order.unwrap_or(std::cmp::Ordering::Equal),
        // What has no order is in that of its types' names.
        Err(_) => a.type_name().cmp(b.type_name()),
    });
    sorted
}

/// `repr` with the keys of dictionaries sorted.
fn sorted_repr(interp: &Interp<'_>, value: &Value) -> Res<String> {
    let mut out = String::new();
    match value {
        Value::Dict(dict) => {
            out.push('{');
            for (at, (key, value)) in sorted_entries(interp, &dict.entries).iter().enumerate() {
                out += if at > 0 { ", " } else { "" };
                out += &format!("{}: {}", sorted_repr(interp, key)?, sorted_repr(interp, value)?);
            }
            out.push('}');
        }
        Value::List(seq) | Value::Tuple(seq) => {
            let parts = seq
                .items
                .iter()
                .map(|item| sorted_repr(interp, item))
                .collect::<Res<Vec<_>>>()?;
            out = match value {
                Value::List(_) => format!("[{}]", parts.join(", ")),
                _ if parts.len() == 1 => format!("({},)", parts[0]),
                _ => format!("({})", parts.join(", ")),
            };
        }
        other => repr(&mut out, other, &interp.budget)?,
    }
    interp.budget.charge(out.len())?;
    Ok(out)
}

fn pretty_into(
    interp: &Interp<'_>,
    out: &mut String,
    value: &Value,
    indent: usize,
    allowance: usize,
    level: usize,
) -> Res<()> {
    interp.budget.step()?;
    let whole = sorted_repr(interp, value)?;
    if whole.chars().count() <= PRETTY_WIDTH.saturating_sub(indent + allowance) {
        out.push_str(&whole);
        return Ok(());
    }
    let new_line = |out: &mut String, indent: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n(' ', indent));
    };
    match value {
        Value::Dict(dict) => {
            out.push('{');
            let entries = sorted_entries(interp, &dict.entries);
            for (at, (key, value)) in entries.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                    new_line(out, indent + 1);
                }
                let key = sorted_repr(interp, key)?;
                out.push_str(&key);
                out.push_str(": ");
                let last = at + 1 == entries.len();
                let allowance = if last { allowance + 1 } else { 1 };
                pretty_into(
                    interp,
                    out,
                    value,
                    indent + 1 + key.chars().count() + 2,
                    allowance,
                    level + 1,
                )?;
            }
            out.push('}');
        }
        Value::List(seq) | Value::Tuple(seq) => {
            let is_list = matches!(value, Value::List(_));
            let close = if is_list {
                "]"
            } else if seq.items.len() == 1 {
                ",)"
            } else {
                ")"
            };
            out.push(if is_list { '[' } else { '(' });
            for (at, item) in seq.items.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                    new_line(out, indent + 1);
                }
                let last = at + 1 == seq.items.len();
                let allowance = if last { allowance + close.len() } else { 1 };
                pretty_into(interp, out, item, indent + 1, allowance, level + 1)?;
            }
            out.push_str(close);
        }
        Value::Str(text) => pretty_text(interp, out, text, indent, allowance, level)?,
        _ => out.push_str(&whole),
    }
    Ok(())
}

fn pretty_text(
    interp: &Interp<'_>,
    out: &mut String,
    text: &str,
    indent: usize,
    allowance: usize,
    level: usize,
) -> Res<()> {
    let top = usize::from(level == 1);
    let (indent, allowance) = (indent + top, allowance + top);
    let shown = |text: &str| {
        let mut out = String::new();
        super::text::repr_text(&mut out, text);
        out
    };
    let width = PRETTY_WIDTH.saturating_sub(indent);
    let all = lines(text, true);
    let mut parts = Vec::new();
    for (at, line) in all.iter().enumerate() {
        let last_line = at + 1 == all.len();
        let whole = shown(line);
        let room = if last_line {
            width.saturating_sub(allowance)
        } else {
            width
        };
        if whole.chars().count() <= room {
            parts.push(whole);
            continue;
        }
        let mut words = Vec::new();
        let mut rest = *line;
        while !rest.is_empty() {
            let word = rest.find(is_space).unwrap_or(rest.len());
            let spaces = rest[word..].len() - rest[word..].trim_start_matches(is_space).len();
            words.push(&rest[..word + spaces]);
            rest = &rest[word + spaces..];
        }
        let mut current = String::new();
        for (n, word) in words.iter().enumerate() {
            let candidate = format!("{current}{word}");
            let room = if last_line && n + 1 == words.len() {
                width.saturating_sub(allowance)
            } else {
                width
            };
            interp.budget.charge(candidate.len())?;
            if shown(&candidate).chars().count() > room {
                if !current.is_empty() {
                    parts.push(shown(&current));
                }
                current = (*word).to_owned();
            } else {
                current = candidate;
            }
        }
        if !current.is_empty() {
            parts.push(shown(&current));
        }
    }
    if let [only] = parts.as_slice() {
        out.push_str(only);
        return Ok(());
    }
    if top == 1 {
        out.push('(');
    }
    for (at, part) in parts.iter().enumerate() {
        if at > 0 {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent));
        }
        out.push_str(part);
    }
    if top == 1 {
        out.push(')');
    }
    Ok(())
}
