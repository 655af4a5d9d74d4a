//! What a conversion is told, and numbers written as it says.

use super::error::{Error, Res};
use super::text::{escape_code, is_printable};

/// How one value is written.
#[derive(Debug, Clone, Default)]
pub(super) struct Spec {
    pub(super) fill: Option<char>,
    pub(super) align: Option<char>,
    pub(super) sign: Option<char>,
    pub(super) alternate: bool,
    pub(super) zero: bool,
    pub(super) width: usize,
    pub(super) grouping: Option<char>,
    pub(super) precision: Option<usize>,
    pub(super) kind: Option<char>,
}

pub(super) fn size(n: u128) -> Res<usize> {
    let size = usize::try_from(n).ok().filter(|n| *n <= MAX_WIDTH);
    size.ok_or_else(|| Error::new(format!("found a width of {n}, wanted at most {MAX_WIDTH}")))
}

/// The number at the front of a text.
pub(super) fn number(rest: &mut &str) -> Res<Option<usize>> {
    let len = rest.bytes().take_while(u8::is_ascii_digit).count();
    if len == 0 {
        return Ok(None);
    }
    let digits = &rest[..len];
    *rest = &rest[len..];
    size(digits.parse::<u128>().unwrap_or(u128::MAX)).map(Some)
}

pub(super) fn sign(spec: &Spec, negative: bool) -> &'static str {
    match spec.sign {
        _ if negative => "-",
        Some('+') => "+",
        Some(' ') => " ",
        _ => "",
    }
}

/// The digits of a number without its sign, by a kind of format.
pub(super) fn float_digits(f: f64, kind: char, precision: usize, alternate: bool) -> String {
    let precision = precision.min(1000);
    let text = if f.is_nan() {
        "nan".to_owned()
    } else if f.is_infinite() {
        "inf".to_owned()
    } else {
        match kind.to_ascii_lowercase() {
            'f' => format!("{f:.precision$}"),
            'e' => exponent(&format!("{f:.precision$e}")),
            _ => general(f, precision.max(1), alternate),
        }
    };
    if kind.is_ascii_uppercase() {
        text.to_uppercase()
    } else {
        text
    }
}

/// `1.5e3` as `1.5e+03`.
fn exponent(text: &str) -> String {
    let (digits, exponent) = text.split_once('e').unwrap_or((text, "0"));
    let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |e| ('-', e));
    format!("{digits}e{sign}{exponent:0>2}")
}

pub(super) fn general(f: f64, precision: usize, alternate: bool) -> String {
    let rounded = format!("{f:.*e}", precision - 1);
    let power: i32 = rounded
        .split_once('e')
        .and_then(|(_, e)| e.parse().ok())
        .unwrap_or(0);
    let text = if power < -4 || power >= precision as i32 {
        exponent(&rounded)
    } else {
        format!("{f:.*}", (precision as i32 - 1 - power).max(0) as usize)
    };
    if alternate || !text.contains('.') {
        return text;
    }
    let (mantissa, rest) = match text.split_once('e') {
        Some((mantissa, exponent)) => (mantissa.to_owned(), format!("e{exponent}")),
        None => (text, String::new()),
    };
    let mantissa = mantissa.trim_end_matches('0').trim_end_matches('.');
    format!("{mantissa}{rest}")
}

/// A field of its width: sign and prefix stay in front of zeros.
pub(super) fn padded(spec: &Spec, prefix: &str, body: &str, default_align: char) -> String {
    let len = prefix.chars().count() + body.chars().count();
    let missing = spec.width.saturating_sub(len);
    if missing == 0 {
        return format!("{prefix}{body}");
    }
    let fill = spec.fill.unwrap_or(if spec.zero && spec.align.is_none() {
        '0'
    } else {
        ' '
    });
    let align = spec.align.unwrap_or(if spec.zero { '=' } else { default_align });
    let filled = |n: usize| fill.to_string().repeat(n);
    match align {
        '<' => format!("{prefix}{body}{}", filled(missing)),
        '^' => format!(
            "{}{prefix}{body}{}",
            filled(missing / 2),
            filled(missing - missing / 2)
        ),
        '=' => format!("{prefix}{}{body}", filled(missing)),
        _ => format!("{}{prefix}{body}", filled(missing)),
    }
}

/// A text with all but ASCII escaped.
pub(super) fn ascii(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if c.is_ascii() && is_printable(c) {
            out.push(c);
        } else {
            escape_code(&mut out, c);
        }
    }
    out
}

/// Widest field and most digits.
const MAX_WIDTH: usize = 1 << 20;
