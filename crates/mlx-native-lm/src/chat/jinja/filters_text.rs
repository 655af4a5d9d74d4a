//! Filters that make texts of texts.

use super::calls::Given;
use super::error::{Error, Res};
use super::filters::soft_text;
use super::filters_links::{urlencode, urlize, xmlattr};
use super::interp::Interp;
use super::methods_text::{center, replace, strip, strip_tags};
use super::ops::{to_float, undefined_error};
use super::text::{capitalize, escape_html, is_space, lines, to_html, to_text};
use super::value::Value;

/// Applies a filter.
pub(super) fn apply(interp: &mut Interp<'_>, name: &str, value: Value, given: Given) -> Res<Value> {
    match name {
        "e" | "escape" => {
            given.bind(name, [])?;
            Ok(Value::markup(to_html(&value, &interp.budget)?))
        }
        "forceescape" => {
            given.bind(name, [])?;
            Ok(Value::markup(escape_html(&to_text(&value, &interp.budget)?)))
        }
        "striptags" => {
            given.bind(name, [])?;
            Ok(Value::text(strip_tags(&to_text(&value, &interp.budget)?)))
        }
        "urlencode" => {
            given.bind(name, [])?;
            urlencode(interp, &value)
        }
        "xmlattr" => xmlattr(interp, &value, given),
        "filesizeformat" => file_size(&value, given),
        "replace" => {
            let [old, new, count] = given.bind(name, ["old", "new", "count"])?;
            let missing = || Error::new("replace: an argument is missing");
            let (old, new) = (old.ok_or_else(missing)?, new.ok_or_else(missing)?);
            let count = match count.filter(|c| !c.is_none()) {
                None => usize::MAX,
                Some(count) => {
                    let count = count
                        .as_int()
                        .ok_or_else(|| Error::new("replace: count must be a whole number"))?;
                    usize::try_from(count).unwrap_or(usize::MAX)
                }
            };
            let text = to_text(&value, &interp.budget)?;
            let (old, new) = (to_text(&old, &interp.budget)?, to_text(&new, &interp.budget)?);
            Ok(Value::text(replace(interp, &text, &old, &new, count)?))
        }
        "indent" => indent(interp, &value, given),
        "truncate" => truncate(&value, given),
        "wordwrap" => wordwrap(interp, &value, given),
        "urlize" => urlize(interp, &value, given),
        _ => {
            let soft = soft_text(interp, &value)?;
            let text = soft.as_str().unwrap_or_default();
            interp.budget.charge(text.len())?;
            simple(interp, name, &soft, text, given)
        }
    }
}

fn simple(interp: &Interp<'_>, name: &str, soft: &Value, text: &str, given: Given) -> Res<Value> {
    let like = |text: String| Ok(Value::text_like(soft, text));
    match name {
        "center" => {
            let [width] = given.bind(name, ["width"])?;
            let width = width.unwrap_or(Value::Int(80));
            let width = width
                .as_int()
                .ok_or_else(|| Error::new("center: width must be a whole number"))?;
            let width = usize::try_from(width.max(0)).unwrap_or(usize::MAX);
            interp.budget.charge(width)?;
            return like(center(text, width, ' '));
        }
        "trim" => {
            let [chars] = given.bind(name, ["chars"])?;
            let chars = chars.filter(|c| !c.is_none());
            let set = match &chars {
                None => None,
                Some(chars) => Some(
                    chars
                        .as_str()
                        .ok_or_else(|| Error::new("strip arg must be None or str"))?,
                ),
            };
            return like(strip(text, set, true, true).to_owned());
        }
        _ => {}
    }
    given.bind(name, [])?;
    match name {
        "upper" => like(text.to_uppercase()),
        "lower" => like(text.to_lowercase()),
        "capitalize" => like(capitalize(text)),
        "title" => {
            let mut out = String::with_capacity(text.len());
            let mut begins = true;
            for c in text.chars() {
                if c == '-' || is_space(c) || "({[<".contains(c) {
                    out.push(c);
                    begins = true;
                } else if begins {
                    out.extend(c.to_uppercase());
                    begins = false;
                } else {
                    out.extend(c.to_lowercase());
                }
            }
            Ok(Value::text(out))
        }
        "wordcount" => {
            let words = text.split(|c: char| !(c == '_' || c.is_alphanumeric()));
            Ok(Value::Int(words.filter(|w| !w.is_empty()).count() as i128))
        }
        other => Err(Error::new(format!("no filter named '{other}'"))),
    }
}

/// The text that a filter needs: Python's methods of texts do not take other values.
pub(super) fn text_of<'a>(what: &str, value: &'a Value) -> Res<&'a str> {
    value.as_str().ok_or_else(|| {
        undefined_error(value)
            .unwrap_or_else(|| Error::new(format!("{what}: wanted a text, found '{}'", value.type_name())))
    })
}

fn indent(interp: &Interp<'_>, value: &Value, given: Given) -> Res<Value> {
    let [width, first, blank] = given.bind("indent", ["width", "first", "blank"])?;
    let text = text_of("indent", value)?;
    let by = match width {
        None => " ".repeat(4),
        Some(width) => match (width.as_str(), width.as_int()) {
            (Some(text), _) => text.to_owned(),
            (None, Some(n)) => {
                let n = usize::try_from(n.max(0)).unwrap_or(usize::MAX);
                interp.budget.charge(n)?;
                " ".repeat(n)
            }
            _ => return Err(Error::new("indent: wanted a number of spaces or a text")),
        },
    };
    let (first, blank) = (
        first.is_some_and(|f| f.is_true()),
        blank.is_some_and(|b| b.is_true()),
    );
    // A line break at the end begins one more line, which is empty.
    let whole = format!("{text}\n");
    let all = lines(&whole, false);
    interp
        .budget
        .charge(text.len() + all.len().saturating_mul(by.len()))?;
    let mut out = String::new();
    for (at, line) in all.iter().enumerate() {
        if at > 0 {
            out.push('\n');
        }
        let indents = if at == 0 { first } else { blank || !line.is_empty() };
        if indents {
            out += &by;
        }
        out += line;
    }
    Ok(Value::text_like(value, out))
}

fn truncate(value: &Value, given: Given) -> Res<Value> {
    let [length, kill, end, leeway] = given.bind("truncate", ["length", "killwords", "end", "leeway"])?;
    let number = |value: Option<Value>, default: usize| match value.filter(|v| !v.is_none()) {
        None => Ok(default),
        Some(v) => {
            let n = v.as_int().and_then(|n| usize::try_from(n).ok());
            n.ok_or_else(|| Error::new("truncate: wanted a whole number, 0 or more"))
        }
    };
    let (length, leeway) = (number(length, 255)?, number(leeway, 5)?);
    let end = end.unwrap_or_else(|| Value::text("..."));
    let end = text_of("truncate", &end)?;
    let end_len = end.chars().count();
    if length < end_len {
        return Err(Error::new(format!(
            "truncate: expected length >= {end_len}, got {length}"
        )));
    }
    if value
        .len()
        .is_some_and(|len| len <= length.saturating_add(leeway))
    {
        return Ok(value.clone());
    }
    let text = text_of("truncate", value)?;
    let cut: String = text.chars().take(length - end_len).collect();
    let kept = if kill.is_some_and(|k| k.is_true()) {
        cut.as_str()
    } else {
        cut.rsplit_once(' ').map_or(cut.as_str(), |(before, _)| before)
    };
    Ok(Value::text_like(value, format!("{kept}{end}")))
}

fn wordwrap(interp: &Interp<'_>, value: &Value, given: Given) -> Res<Value> {
    let names = ["width", "break_long_words", "wrapstring", "break_on_hyphens"];
    let [width, long, between, hyphens] = given.bind("wordwrap", names)?;
    let width = width.map_or(Ok(79), |w| {
        w.as_int()
            .ok_or_else(|| Error::new("wordwrap: width must be a whole number"))
    })?;
    let width = usize::try_from(width).ok().filter(|w| *w > 0);
    let width = width.ok_or_else(|| Error::new("wordwrap: invalid width (must be > 0)"))?;
    let long = long.is_none_or(|l| l.is_true());
    let hyphens = hyphens.is_none_or(|h| h.is_true());
    let between = match between.filter(|b| !b.is_none()) {
        Some(text) => text_of("wordwrap", &text)?.to_owned(),
        None => "\n".to_owned(),
    };
    let text = text_of("wordwrap", value)?;
    interp
        .budget
        .charge(text.len().saturating_mul(2 + between.len()))?;
    let wrapped: Vec<String> = lines(text, false)
        .into_iter()
        .map(|line| wrap(&chunks(line, hyphens), width, long, hyphens).join(&between))
        .collect();
    Ok(Value::text_like(value, wrapped.join(&between)))
}

fn is_blank(chunk: &[char]) -> bool {
    chunk.iter().all(|c| is_space(*c))
}

/// A line cut where it may be broken: between white space and words, behind hyphens within words, and around dashes.
fn chunks(line: &str, hyphens: bool) -> Vec<Vec<char>> {
    let chars: Vec<char> = line.chars().collect();
    let blank = |c: &char| matches!(c, '\t' | '\n' | '\u{b}' | '\u{c}' | '\r' | ' ');
    let letter = |at: Option<usize>| {
        let c = at.and_then(|at| chars.get(at));
        c.is_some_and(|c| *c == '_' || c.is_alphabetic())
    };
    let word = |at: usize| chars.get(at).is_some_and(|c| *c == '_' || c.is_alphanumeric());
    let punct = |at: Option<usize>| {
        at.and_then(|at| chars.get(at))
            .is_some_and(|c| *c == '_' || c.is_alphanumeric() || "!\"'&.,?".contains(*c))
    };
    let dashes = |at: usize| {
        let run = chars[at..].iter().take_while(|c| **c == '-').count();
        (run >= 2 && word(at + run)).then_some(run)
    };
    let mut out: Vec<Vec<char>> = Vec::new();
    let mut start = 0;
    let mut at = 0;
    while at < chars.len() {
        if blank(&chars[at]) {
            let run = chars[at..].iter().take_while(|c| blank(c)).count();
            if start < at {
                out.push(chars[start..at].to_vec());
            }
            out.push(chars[at..at + run].to_vec());
            at += run;
            start = at;
            continue;
        }
        let before = |n: usize| at.checked_sub(n);
        if hyphens && chars[at] == '-' {
            if let Some(run) = dashes(at).filter(|_| punct(before(1))) {
                if start < at {
                    out.push(chars[start..at].to_vec());
                }
                out.push(chars[at..at + run].to_vec());
                at += run;
                start = at;
                continue;
            }
            let two = letter(before(1)) && letter(before(2));
            let three = punct(before(1)) && before(2).is_some_and(|b| chars[b] == '-') && letter(before(3));
            let next = at + 1;
            let follows = letter(Some(next))
                && (letter(Some(next + 1)) || (chars.get(next + 1) == Some(&'-') && letter(Some(next + 2))));
            if (two || three) && follows && at > start {
                out.push(chars[start..=at].to_vec());
                start = at + 1;
            }
        }
        at += 1;
    }
    if start < chars.len() {
        out.push(chars[start..].to_vec());
    }
    out
}

/// Lines of at most `width` characters.
fn wrap(chunks: &[Vec<char>], width: usize, long: bool, hyphens: bool) -> Vec<String> {
    let mut rest: std::collections::VecDeque<Vec<char>> = chunks.iter().cloned().collect();
    let mut out: Vec<String> = Vec::new();
    while !rest.is_empty() {
        if !out.is_empty() && rest.front().is_some_and(|c| is_blank(c)) {
            rest.pop_front();
        }
        let mut line: Vec<Vec<char>> = Vec::new();
        let mut len = 0;
        while let Some(chunk) = rest.front().filter(|c| len + c.len() <= width) {
            len += chunk.len();
            line.extend(rest.pop_front());
        }
        if let Some(chunk) = rest.front_mut().filter(|c| c.len() > width) {
            if long {
                let left = width - len;
                let hyphen = chunk[..left.min(chunk.len())].iter().rposition(|c| *c == '-');
                let hyphen = hyphen.filter(|at| hyphens && *at > 0 && chunk[..*at].iter().any(|c| *c != '-'));
                let end = hyphen.map_or(left, |at| at + 1);
                let kept = chunk.split_off(end.min(chunk.len()));
                line.push(std::mem::replace(chunk, kept));
            } else if line.is_empty() {
                line.extend(rest.pop_front());
            }
        }
        if line.last().is_some_and(|c| is_blank(c)) {
            line.pop();
        }
        if !line.is_empty() {
            out.push(line.concat().into_iter().collect());
        }
    }
    out
}

fn file_size(value: &Value, given: Given) -> Res<Value> {
    let [binary] = given.bind("filesizeformat", ["binary"])?;
    let binary = binary.is_some_and(|b| b.is_true());
    if let Some(error) = undefined_error(value) {
        return Err(error);
    }
    let bytes = match value.as_str() {
        Some(text) => text.trim_matches(is_space).parse().ok(),
        None => to_float(value),
    };
    let bytes = bytes.ok_or_else(|| Error::new("filesizeformat: wanted a number"))?;
    let base: f64 = if binary { 1024.0 } else { 1000.0 };
    if bytes == 1.0 {
        return Ok(Value::text("1 Byte"));
    }
    if bytes < base {
        return Ok(Value::text(format!("{} Bytes", bytes.trunc() as i64)));
    }
    let prefixes = ["k", "M", "G", "T", "P", "E", "Z", "Y"];
    let mut text = String::new();
    for (at, prefix) in prefixes.into_iter().enumerate() {
        let unit = base.powi(at as i32 + 2);
        let suffix = if binary {
            format!("{}iB", prefix.to_uppercase())
        } else {
            format!("{prefix}B")
        };
        text = format!("{:.1} {suffix}", base * bytes / unit);
        if bytes < unit {
            break;
        }
    }
    Ok(Value::text(text))
}
