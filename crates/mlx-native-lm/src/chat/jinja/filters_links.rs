//! Filters that write HTML and addresses: `urlencode`, `urlize`, `xmlattr`.

use super::calls::Given;
use super::error::{Error, Res};
use super::filters_text::text_of;
use super::interp::Interp;
use super::ops::undefined_error;
use super::text::{escape_html, is_space, to_html, to_text};
use super::value::{Value, iterate};

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

pub(super) fn urlencode(interp: &Interp<'_>, value: &Value) -> Res<Value> {
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

pub(super) fn xmlattr(interp: &Interp<'_>, value: &Value, given: Given) -> Res<Value> {
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

pub(super) fn urlize(interp: &Interp<'_>, value: &Value, given: Given) -> Res<Value> {
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
