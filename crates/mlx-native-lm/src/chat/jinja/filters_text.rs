//! Filters that make texts of texts.

use super::calls::Given;
use super::error::{Error, Res};
use super::filters::soft_text;
use super::interp::Interp;
use super::methods::{center, replace, strip, strip_tags};
use super::ops::{order, to_float, undefined_error};
use super::text::{capitalize, escape_html, is_space, lines, repr, to_html, to_text};
use super::value::{Value, iterate};

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
fn text_of<'a>(what: &str, value: &'a Value) -> Res<&'a str> {
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

fn quote(out: &mut String, text: &str, in_query: bool) {
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b'~' => out.push(char::from(byte)),
            b'/' if !in_query => out.push('/'),
            b' ' if in_query => out.push('+'),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
}

fn urlencode(interp: &Interp<'_>, value: &Value) -> Res<Value> {
    let mut out = String::new();
    let pairs = match value {
        Value::Dict(dict) => dict.entries.clone(),
        other if other.as_str().is_none() && super::value::is_iterable(other) => {
            let mut pairs = Vec::new();
            for pair in iterate(other, &interp.budget)? {
                match &iterate(&pair, &interp.budget)?[..] {
                    [key, value] => pairs.push((key.clone(), value.clone())),
                    _ => return Err(Error::new("urlencode: wanted pairs")),
                }
            }
            pairs
        }
        other => {
            let text = to_text(other, &interp.budget)?;
            interp.budget.charge(text.len() * 3)?;
            quote(&mut out, &text, false);
            return Ok(Value::text(out));
        }
    };
    for (at, (key, value)) in pairs.iter().enumerate() {
        if at > 0 {
            out.push('&');
        }
        quote(&mut out, &to_text(key, &interp.budget)?, true);
        out.push('=');
        quote(&mut out, &to_text(value, &interp.budget)?, true);
        interp.budget.charge(64)?;
    }
    interp.budget.charge(out.len())?;
    Ok(Value::text(out))
}

fn xmlattr(interp: &Interp<'_>, value: &Value, given: Given) -> Res<Value> {
    let [space] = given.bind("xmlattr", ["autospace"])?;
    let Value::Dict(dict) = value else {
        return Err(undefined_error(value).unwrap_or_else(|| {
            Error::new(format!("'{}' object has no attribute 'items'", value.type_name()))
        }));
    };
    let mut parts = Vec::new();
    for (key, value) in &dict.entries {
        if value.is_none() || value.is_undefined() {
            continue;
        }
        let name = text_of("xmlattr", key)?;
        if name.contains([' ', '\t', '\n', '\r', '\u{b}', '\u{c}', '/', '>', '=']) {
            return Err(Error::new(format!(
                "xmlattr: invalid character in attribute name: {name:?}"
            )));
        }
        parts.push(format!(
            "{}=\"{}\"",
            to_html(key, &interp.budget)?,
            to_html(value, &interp.budget)?
        ));
    }
    let mut out = parts.join(" ");
    if !out.is_empty() && space.is_none_or(|s| s.is_true()) {
        out.insert(0, ' ');
    }
    interp.budget.charge(out.len())?;
    Ok(if interp.escapes() {
        Value::markup(out)
    } else {
        Value::text(out)
    })
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

fn urlize(interp: &Interp<'_>, value: &Value, given: Given) -> Res<Value> {
    let names = ["trim_url_limit", "nofollow", "target", "rel", "extra_schemes"];
    let [limit, nofollow, target, rel, schemes] = given.bind("urlize", names)?;
    let limit = limit
        .filter(|l| !l.is_none())
        .and_then(|l| l.as_int())
        .and_then(|l| usize::try_from(l).ok());
    let mut rels: Vec<String> = match rel.as_ref().and_then(Value::as_str) {
        Some(rel) => rel
            .split(is_space)
            .filter(|r| !r.is_empty())
            .map(str::to_owned)
            .collect(),
        None => Vec::new(),
    };
    if nofollow.is_some_and(|n| n.is_true()) {
        rels.push("nofollow".to_owned());
    }
    rels.push("noopener".to_owned());
    rels.sort_unstable();
    rels.dedup();
    let mut attributes = format!(" rel=\"{}\"", escape_html(&rels.join(" ")));
    if let Some(target) = target.as_ref().and_then(Value::as_str) {
        attributes += &format!(" target=\"{}\"", escape_html(target));
    }
    let mut extra = Vec::new();
    if let Some(schemes) = schemes.filter(|s| !s.is_none()) {
        for scheme in iterate(&schemes, &interp.budget)? {
            extra.push(text_of("urlize", &scheme)?.to_owned());
        }
    }
    let text = to_html(value, &interp.budget)?;
    interp.budget.charge(text.len().saturating_mul(4))?;
    let mut out = String::new();
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let spaces = rest.len() - rest.trim_start_matches(is_space).len();
        out += &rest[..spaces];
        rest = &rest[spaces..];
        let end = rest.find(is_space).unwrap_or(rest.len());
        link(&mut out, &rest[..end], limit, &attributes, &extra);
        rest = &rest[end..];
    }
    Ok(if interp.escapes() {
        Value::markup(out)
    } else {
        Value::text(out)
    })
}

/// Adds a word of HTML, as a link where it is an address.
fn link(out: &mut String, word: &str, limit: Option<usize>, attributes: &str, schemes: &[String]) {
    let mut middle = word;
    while let Some(rest) = ["(", "<", "&lt;"]
        .iter()
        .find_map(|open| middle.strip_prefix(open))
    {
        middle = rest;
    }
    let head = &word[..word.len() - middle.len()];
    let mut end = middle.len();
    while let Some(rest) = [")", ">", ".", ",", "\n", "&gt;"]
        .iter()
        .find_map(|c| middle[..end].strip_suffix(c))
    {
        end = rest.len();
    }
    // What was opened in the middle is closed there.
    for (open, close) in [("(", ")"), ("<", ">"), ("&lt;", "&gt;")] {
        let opened = middle[..end].matches(open).count();
        if opened <= middle[..end].matches(close).count() {
            continue;
        }
        for _ in 0..opened.min(middle[end..].matches(close).count()) {
            if let Some(at) = middle[end..].find(close) {
                end += at + close.len();
            }
        }
    }
    let (middle, tail) = middle.split_at(end);
    let shown = match limit.filter(|limit| middle.chars().count() > *limit) {
        Some(limit) => middle.chars().take(limit).collect::<String>() + "...",
        None => middle.to_owned(),
    };
    out.push_str(head);
    if is_url(middle) {
        let scheme = if middle.starts_with("https://") || middle.starts_with("http://") {
            ""
        } else {
            "https://"
        };
        *out += &format!("<a href=\"{scheme}{middle}\"{attributes}>{shown}</a>");
    } else if let Some(address) = middle.strip_prefix("mailto:").filter(|a| is_email(a)) {
        *out += &format!("<a href=\"{middle}\">{address}</a>");
    } else if !middle.starts_with("www.")
        && !middle.starts_with('@')
        && !middle.contains(':')
        && is_email(middle)
    {
        *out += &format!("<a href=\"mailto:{middle}\">{middle}</a>");
    } else if schemes
        .iter()
        .any(|s| middle != s && middle.starts_with(s.as_str()))
    {
        *out += &format!("<a href=\"{middle}\"{attributes}>{middle}</a>");
    } else {
        out.push_str(middle);
    }
    out.push_str(tail);
}

fn is_url(text: &str) -> bool {
    let lower = text.to_lowercase();
    let (rest, scheme) = match lower
        .strip_prefix("https://")
        .or_else(|| lower.strip_prefix("http://"))
    {
        Some(rest) => (rest, true),
        None => (lower.as_str(), false),
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let host = &rest[..end];
    let host = match host.rsplit_once(':') {
        Some((name, port)) if (1..=5).contains(&port.len()) && port.bytes().all(|b| b.is_ascii_digit()) => {
            name
        }
        _ => host,
    };
    let is_label =
        |label: &str| !label.is_empty() && label.chars().all(|c| c.is_alphanumeric() || "_%-".contains(c));
    let is_top = |label: &str| {
        (2..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_lowercase())
            || label
                .strip_prefix("xn--")
                .is_some_and(|rest| (2..=59).contains(&rest.len()) && is_label(rest))
    };
    let labels = |host: &str| host.split('.').map(str::to_owned).collect::<Vec<_>>();
    let named = |host: &str| {
        let labels = labels(host);
        labels
            .split_last()
            .is_some_and(|(top, before)| is_top(top) && before.iter().all(|l| is_label(l)))
    };
    if scheme {
        let parts = labels(host);
        let is_v4 = parts.len() == 4
            && parts
                .iter()
                .all(|p| (1..=3).contains(&p.len()) && p.bytes().all(|b| b.is_ascii_digit()));
        let inside = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let is_v6 = inside.is_some_and(|h| {
            h.matches(':').count() >= 2 && h.chars().all(|c| c == ':' || c.is_ascii_hexdigit())
        });
        return named(host) || is_v4 || is_v6;
    }
    if let Some(host) = host.strip_prefix("www.")
        && named(host)
    {
        return true;
    }
    let labels = labels(host);
    labels.split_last().is_some_and(|(top, before)| {
        let known = ["com", "net", "int", "edu", "gov", "org", "info", "mil"].contains(&top.as_str());
        known
            && !before.is_empty()
            && before
                .iter()
                .all(|l| is_label(l) && (2..=63).contains(&l.chars().count()))
    })
}

fn is_email(text: &str) -> bool {
    let Some((name, domain)) = text.rsplit_once('@') else {
        return false;
    };
    let is_word = |c: char| c == '_' || c.is_alphanumeric();
    let Some((before, top)) = domain.rsplit_once('.') else {
        return false;
    };
    !name.is_empty()
        && before.starts_with(is_word)
        && before.chars().all(|c| is_word(c) || ".-".contains(c))
        && !top.is_empty()
        && top.chars().all(is_word)
}

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
