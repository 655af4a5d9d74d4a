//! Methods of texts.

use super::calls::Given;
use super::error::{Error, Res};
use super::format_fields::format_text;
use super::interp::Interp;
use super::methods::{required, unsupported};
use super::ops::undefined_error;
use super::text::{capitalize, decimal, is_digit, is_letter, is_printable, is_space, lines, title, to_html};
use super::value::{Value, iterate};

pub(super) const TEXT: [&str; 51] = [
    "capitalize",
    "casefold",
    "center",
    "count",
    "encode",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "maketrans",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "translate",
    "upper",
    "zfill",
    "unescape",
    "striptags",
    "escape",
    "__html__",
];

/// The last ones are markup's only.
pub(super) const PLAIN_TEXT: usize = 47;

/// The text of an argument.
pub(super) fn text_of(what: &str, value: Option<Value>) -> Res<String> {
    let value = required(what, value)?;
    match value.as_str() {
        Some(text) => Ok(text.to_owned()),
        None => Err(Error::new(format!(
            "{what}: must be str, not {}",
            value.type_name()
        ))),
    }
}

pub(super) fn int_of(what: &str, value: Option<Value>, default: i128) -> Res<i128> {
    match value {
        None => Ok(default),
        Some(value) => {
            if let Some(error) = undefined_error(&value) {
                return Err(error);
            }
            value.as_int().ok_or_else(|| {
                Error::new(format!(
                    "{what}: '{}' object cannot be interpreted as an integer",
                    value.type_name()
                ))
            })
        }
    }
}

pub(super) fn text_method(
    interp: &mut Interp<'_>,
    of: &Value,
    text: &str,
    name: &str,
    given: Given,
) -> Res<Value> {
    interp.budget.charge(text.len())?;
    let like = |text: String| Value::text_like(of, text);
    match name {
        "upper" | "lower" | "casefold" | "swapcase" | "title" | "capitalize" | "isalnum" | "isalpha"
        | "isascii" | "isdecimal" | "isdigit" | "isidentifier" | "islower" | "isnumeric" | "isprintable"
        | "isspace" | "istitle" | "isupper" | "unescape" | "striptags" => {
            given.bind(name, [])?;
            Ok(plain_method(of, text, name))
        }
        "strip" | "lstrip" | "rstrip" => {
            let [chars] = given.bind(name, ["chars"])?;
            let chars = chars
                .filter(|c| !c.is_none())
                .map(|c| text_of(name, Some(c)))
                .transpose()?;
            Ok(like(
                strip(text, chars.as_deref(), name != "rstrip", name != "lstrip").to_owned(),
            ))
        }
        "startswith" | "endswith" => affix(text, name, given),
        "split" | "rsplit" => {
            let [separator, most] = given.bind(name, ["sep", "maxsplit"])?;
            let separator = separator
                .filter(|s| !s.is_none())
                .map(|s| text_of(name, Some(s)))
                .transpose()?;
            let most = usize::try_from(int_of(name, most, -1)?).unwrap_or(usize::MAX);
            let parts = split(text, separator.as_deref(), most, name == "rsplit")?;
            interp.budget.charge(parts.len() * 64)?;
            Value::list(parts.into_iter().map(|p| like(p.to_owned())).collect())
        }
        "splitlines" => {
            let [keep] = given.bind(name, ["keepends"])?;
            let found = lines(text, keep.is_some_and(|k| k.is_true()));
            interp.budget.charge(found.len() * 64)?;
            Value::list(found.into_iter().map(|p| like(p.to_owned())).collect())
        }
        "partition" | "rpartition" => {
            let [separator] = given.bind(name, ["sep"])?;
            let separator = text_of(name, separator)?;
            if separator.is_empty() {
                return Err(Error::new(format!("{name}: empty separator")));
            }
            let cut = if name == "partition" {
                text.split_once(separator.as_str())
            } else {
                text.rsplit_once(separator.as_str())
            };
            let parts = match cut {
                Some((before, after)) => [before, separator.as_str(), after],
                None if name == "partition" => [text, "", ""],
                None => ["", "", text],
            };
            Value::tuple(parts.into_iter().map(|p| like(p.to_owned())).collect())
        }
        "find" | "rfind" | "index" | "rindex" | "count" => search(text, name, given),
        "replace" => {
            let [old, new, count] = given.bind(name, ["old", "new", "count"])?;
            let new = required(name, new)?;
            let new = match of {
                Value::Markup(_) => to_html(&new, &interp.budget)?,
                _ => text_of(name, Some(new))?,
            };
            let count = usize::try_from(int_of(name, count, -1)?).unwrap_or(usize::MAX);
            Ok(like(replace(interp, text, &text_of(name, old)?, &new, count)?))
        }
        "removeprefix" | "removesuffix" => {
            let [affix] = given.bind(name, ["affix"])?;
            let affix = text_of(name, affix)?;
            let rest = if name == "removeprefix" {
                text.strip_prefix(&*affix)
            } else {
                text.strip_suffix(&*affix)
            };
            Ok(like(rest.unwrap_or(text).to_owned()))
        }
        "join" => {
            let [items] = given.bind(name, ["iterable"])?;
            let items = items.ok_or_else(|| Error::new("join: an argument is missing"))?;
            let mut out = String::new();
            for (at, item) in iterate(&items, &interp.budget)?.iter().enumerate() {
                if at > 0 {
                    out += text;
                }
                match (of, item.as_str()) {
                    (Value::Markup(_), _) => out += &to_html(item, &interp.budget)?,
                    (_, Some(item)) => out += item,
                    _ => {
                        return Err(Error::new(format!(
                            "sequence item {at}: expected str instance, {} found",
                            item.type_name()
                        )));
                    }
                }
                interp.budget.charge(64 + text.len())?;
                interp.budget.charge(if at % 64 == 0 { out.len() } else { 0 })?;
            }
            Ok(like(out))
        }
        "center" | "ljust" | "rjust" | "zfill" => pad(interp, of, text, name, given),
        "expandtabs" => {
            let [size] = given.bind(name, ["tabsize"])?;
            let size = usize::try_from(int_of(name, size, 8)?.max(0)).unwrap_or(usize::MAX);
            interp.budget.charge(text.len().saturating_mul(size.max(1)))?;
            Ok(like(expand_tabs(text, size)))
        }
        "format" | "format_map" => format_text(interp, of, text, name == "format_map", given),
        "escape" => {
            let [value] = given.bind(name, ["s"])?;
            Ok(Value::markup(to_html(&required(name, value)?, &interp.budget)?))
        }
        _ => unsupported(of, name),
    }
}

/// Methods without arguments.
pub(super) fn plain_method(of: &Value, text: &str, name: &str) -> Value {
    let all = |test: fn(char) -> bool| Value::Bool(!text.is_empty() && text.chars().all(test));
    let cased = |c: char| c.is_lowercase() || c.is_uppercase();
    match name {
        "upper" => Value::text_like(of, text.to_uppercase()),
        "lower" => Value::text_like(of, text.to_lowercase()),
        "casefold" => Value::text_like(of, text.to_lowercase().replace('ß', "ss").replace('ς', "σ")),
        "swapcase" => {
            let mut out = String::with_capacity(text.len());
            for c in text.chars() {
                if c.is_uppercase() {
                    out.extend(c.to_lowercase());
                } else {
                    out.extend(c.to_uppercase());
                }
            }
            Value::text_like(of, out)
        }
        "title" => Value::text_like(of, title(text)),
        "capitalize" => Value::text_like(of, capitalize(text)),
        "isalnum" => all(|c| is_letter(c) || c.is_numeric()),
        "isalpha" => all(is_letter),
        "isascii" => Value::Bool(text.is_ascii()),
        "isdecimal" => all(|c| decimal(c).is_some()),
        "isdigit" => all(is_digit),
        "isnumeric" => all(char::is_numeric),
        "isprintable" => Value::Bool(text.chars().all(is_printable)),
        "isspace" => all(is_space),
        "isidentifier" => {
            let mut chars = text.chars();
            let first = chars.next().is_some_and(|c| c == '_' || c.is_alphabetic());
            Value::Bool(first && chars.all(|c| c == '_' || c.is_alphanumeric()))
        }
        "islower" => Value::Bool(text.chars().any(cased) && !text.chars().any(char::is_uppercase)),
        "isupper" => Value::Bool(text.chars().any(cased) && !text.chars().any(char::is_lowercase)),
        "istitle" => Value::Bool(text.chars().any(cased) && title(text) == text),
        "unescape" => Value::text(unescape_html(text)),
        "striptags" => Value::text(strip_tags(text)),
        _ => Value::None,
    }
}

/// A text without the characters of `chars`, or white space, at its ends.
pub(crate) fn strip<'a>(text: &'a str, chars: Option<&str>, left: bool, right: bool) -> &'a str {
    let goes = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    let text = if left { text.trim_start_matches(goes) } else { text };
    if right { text.trim_end_matches(goes) } else { text }
}

fn affix(text: &str, name: &str, given: Given) -> Res<Value> {
    let [wanted, start, stop] = given.bind(name, ["prefix", "start", "end"])?;
    let wanted = required(name, wanted)?;
    let Some(text) = part(text, &start, &stop, name)?.map(|(text, _)| text) else {
        return Ok(Value::Bool(false));
    };
    let has = |affix: &Value| match affix.as_str() {
        Some(affix) if name == "startswith" => Ok(text.starts_with(affix)),
        Some(affix) => Ok(text.ends_with(affix)),
        None => Err(Error::new(format!(
            "{name} first arg must be str or a tuple of str, not {}",
            affix.type_name()
        ))),
    };
    match &wanted {
        Value::Tuple(seq) => {
            for affix in &seq.items {
                if has(affix)? {
                    return Ok(Value::Bool(true));
                }
            }
            Ok(Value::Bool(false))
        }
        affix => Ok(Value::Bool(has(affix)?)),
    }
}

/// The part of a text between two bounds in characters, and the characters before it; `None` where it begins behind the
/// text's end.
fn part<'a>(
    text: &'a str,
    start: &Option<Value>,
    stop: &Option<Value>,
    what: &str,
) -> Res<Option<(&'a str, usize)>> {
    let given = |v: &Option<Value>| v.clone().filter(|v| !v.is_none());
    let (start, stop) = (given(start), given(stop));
    if start.is_none() && stop.is_none() {
        return Ok(Some((text, 0)));
    }
    let len = text.chars().count() as i128;
    let place = |at: i128| if at < 0 { (at + len).max(0) } else { at };
    let start = place(int_of(what, start, 0)?);
    let stop = place(int_of(what, stop, len)?).min(len);
    if start > len || start > stop {
        return Ok(None);
    }
    let byte = |at: i128| {
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        text.char_indices().nth(at).map_or(text.len(), |(byte, _)| byte)
    };
    Ok(Some((
        &text[byte(start)..byte(stop)],
        usize::try_from(start).unwrap_or(0),
    )))
}

fn search(text: &str, name: &str, given: Given) -> Res<Value> {
    let [wanted, start, stop] = given.bind(name, ["sub", "start", "end"])?;
    let wanted = text_of(name, wanted)?;
    let within = part(text, &start, &stop, name)?;
    if name == "count" {
        let count = within.map_or(0, |(text, _)| match wanted.is_empty() {
            true => text.chars().count() + 1,
            false => text.matches(wanted.as_str()).count(),
        });
        return Ok(Value::Int(count as i128));
    }
    let found = within.and_then(|(text, before)| {
        let at = if name.starts_with('r') {
            text.rfind(wanted.as_str())
        } else {
            text.find(wanted.as_str())
        };
        at.map(|at| before + text[..at].chars().count())
    });
    match found {
        Some(at) => Ok(Value::Int(at as i128)),
        None if name.ends_with("index") => Err(Error::new("substring not found")),
        None => Ok(Value::Int(-1)),
    }
}

/// A text with a part replaced, at most so often.
pub(crate) fn replace(interp: &Interp<'_>, text: &str, old: &str, new: &str, count: usize) -> Res<String> {
    let places = if old.is_empty() {
        text.chars().count() + 1
    } else {
        text.matches(old).count()
    };
    let places = places.min(count);
    interp
        .budget
        .charge(text.len() + places.saturating_mul(new.len()))?;
    if old.is_empty() {
        // Python puts it before every character, and at the end; as Rust does.
        return Ok(text.replacen(old, new, places));
    }
    Ok(text.replacen(old, new, count))
}

fn split<'a>(text: &'a str, separator: Option<&str>, most: usize, from_end: bool) -> Res<Vec<&'a str>> {
    let mut parts = Vec::new();
    match separator {
        Some("") => return Err(Error::new("split: empty separator")),
        Some(separator) => {
            let mut rest = text;
            while parts.len() < most {
                let cut = if from_end {
                    rest.rsplit_once(separator)
                } else {
                    rest.split_once(separator)
                };
                match (cut, from_end) {
                    (Some((before, after)), false) => {
                        parts.push(before);
                        rest = after;
                    }
                    (Some((before, after)), true) => {
                        parts.push(after);
                        rest = before;
                    }
                    (None, _) => break,
                }
            }
            parts.push(rest);
        }
        None => {
            let trim = |t: &'a str| {
                if from_end {
                    t.trim_end_matches(is_space)
                } else {
                    t.trim_start_matches(is_space)
                }
            };
            let mut rest = trim(text);
            while !rest.is_empty() {
                if parts.len() == most {
                    // Python trims the side that it works from only.
                    parts.push(rest);
                    break;
                }
                let cut = if from_end {
                    rest.rfind(is_space)
                } else {
                    rest.find(is_space)
                };
                let Some(at) = cut else {
                    parts.push(rest);
                    break;
                };
                if from_end {
                    let len = rest[at..].chars().next().map_or(1, char::len_utf8);
                    parts.push(&rest[at + len..]);
                    rest = trim(&rest[..at]);
                } else {
                    parts.push(&rest[..at]);
                    rest = trim(&rest[at..]);
                }
            }
        }
    }
    if from_end {
        parts.reverse();
    }
    Ok(parts)
}

fn pad(interp: &Interp<'_>, of: &Value, text: &str, name: &str, given: Given) -> Res<Value> {
    let [width, fill] = given.bind(name, ["width", "fillchar"])?;
    let width = width.ok_or_else(|| Error::new(format!("{name}: an argument is missing")))?;
    let width = usize::try_from(int_of(name, Some(width), 0)?.max(0)).unwrap_or(usize::MAX);
    let fill = match fill {
        None => ' ',
        Some(fill) => {
            let fill = text_of(name, Some(fill))?;
            let mut chars = fill.chars();
            match (chars.next(), chars.next()) {
                (Some(c), None) => c,
                _ => {
                    return Err(Error::new(format!(
                        "{name}: the fill character must be exactly one character long"
                    )));
                }
            }
        }
    };
    let len = text.chars().count();
    interp
        .budget
        .charge(text.len().saturating_add(width.saturating_mul(fill.len_utf8())))?;
    let missing = width.saturating_sub(len);
    let filled = |n: usize| fill.to_string().repeat(n);
    let out = match name {
        "ljust" => format!("{text}{}", filled(missing)),
        "rjust" => format!("{}{text}", filled(missing)),
        "zfill" => {
            let (sign, digits) = match text.strip_prefix(['+', '-']) {
                Some(digits) => (&text[..1], digits),
                None => ("", text),
            };
            format!("{sign}{}{digits}", "0".repeat(missing))
        }
        _ => center(text, width, fill),
    };
    Ok(Value::text_like(of, out))
}

/// A text in the middle of so many characters; an odd one goes where Python puts it.
pub(crate) fn center(text: &str, width: usize, fill: char) -> String {
    let missing = width.saturating_sub(text.chars().count());
    let left = missing / 2 + (missing & width & 1);
    let filled = |n: usize| fill.to_string().repeat(n);
    format!("{}{text}{}", filled(left), filled(missing - left))
}

fn expand_tabs(text: &str, size: usize) -> String {
    let mut out = String::with_capacity(text.len());
    let mut column = 0usize;
    for c in text.chars() {
        match c {
            '\t' => {
                if let Some(past) = column.checked_rem(size) {
                    let spaces = size - past;
                    out.extend(std::iter::repeat_n(' ', spaces));
                    column += spaces;
                }
            }
            '\n' | '\r' => {
                out.push(c);
                column = 0;
            }
            c => {
                out.push(c);
                column += 1;
            }
        }
    }
    out
}

/// A text of HTML without its comments and tags, and with single spaces.
pub(crate) fn strip_tags(text: &str) -> String {
    let mut plain = text.to_owned();
    for (open, close) in [("<!--", "-->"), ("<", ">")] {
        let mut from = 0;
        while let Some(start) = plain[from..].find(open).map(|at| from + at) {
            let Some(end) = plain[start..].find(close) else {
                break;
            };
            plain.replace_range(start..start + end + close.len(), "");
            from = start;
        }
    }
    let words: Vec<&str> = plain.split(is_space).filter(|w| !w.is_empty()).collect();
    unescape_html(&words.join(" "))
}

/// A text with the commonest entities of HTML as the characters that they stand for.
pub(crate) fn unescape_html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let end = rest.find(';').filter(|end| *end < 12);
        let entity = end.map_or("", |end| &rest[1..end]);
        let number = entity
            .strip_prefix('#')
            .and_then(|n| match n.strip_prefix(['x', 'X']) {
                Some(hex) => u32::from_str_radix(hex, 16).ok(),
                None => n.parse().ok(),
            });
        let known = match entity {
            "amp" => Some('&'),
            "lt" => Some('<'),
            "gt" => Some('>'),
            "quot" => Some('"'),
            "apos" => Some('\''),
            "nbsp" => Some('\u{A0}'),
            _ => number.and_then(char::from_u32),
        };
        match (known, end) {
            (Some(c), Some(end)) => {
                out.push(c);
                rest = &rest[end + 1..];
            }
            _ => {
                out.push('&');
                rest = &rest[1..];
            }
        }
    }
    out.push_str(rest);
    out
}
