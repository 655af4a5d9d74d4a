//! Escapes of strings, as Python's `unicode-escape` reads them.

/// Names that `\N{…}` is used with; the whole table of Unicode is some thirty thousand.
const NAMES: &[(&str, char)] = &[
    ("AMPERSAND", '&'),
    ("APOSTROPHE", '\''),
    ("ASTERISK", '*'),
    ("BALLOT BOX", '☐'),
    ("BALLOT BOX WITH CHECK", '☑'),
    ("BALLOT X", '✗'),
    ("BLACK CIRCLE", '●'),
    ("BLACK SQUARE", '■'),
    ("BLACK STAR", '★'),
    ("BROKEN BAR", '¦'),
    ("BULLET", '•'),
    ("BYTE ORDER MARK", '\u{FEFF}'),
    ("CARRIAGE RETURN", '\r'),
    ("CENT SIGN", '¢'),
    ("CHECK MARK", '✓'),
    ("COLON", ':'),
    ("COMMA", ','),
    ("COMMERCIAL AT", '@'),
    ("COPYRIGHT SIGN", '©'),
    ("CROSS MARK", '❌'),
    ("DEGREE SIGN", '°'),
    ("DIVISION SIGN", '÷'),
    ("DOLLAR SIGN", '$'),
    ("DOUBLE DAGGER", '‡'),
    ("DAGGER", '†'),
    ("DOWNWARDS ARROW", '↓'),
    ("EM DASH", '—'),
    ("EM SPACE", '\u{2003}'),
    ("EN DASH", '–'),
    ("EN SPACE", '\u{2002}'),
    ("EQUALS SIGN", '='),
    ("EURO SIGN", '€'),
    ("EXCLAMATION MARK", '!'),
    ("FULL STOP", '.'),
    ("GREATER-THAN SIGN", '>'),
    ("GREATER-THAN OR EQUAL TO", '≥'),
    ("HEAVY CHECK MARK", '✔'),
    ("HORIZONTAL ELLIPSIS", '…'),
    ("HYPHEN", '\u{2010}'),
    ("HYPHEN-MINUS", '-'),
    ("IDEOGRAPHIC SPACE", '\u{3000}'),
    ("INFINITY", '∞'),
    ("INVERTED EXCLAMATION MARK", '¡'),
    ("INVERTED QUESTION MARK", '¿'),
    ("LEFT CURLY BRACKET", '{'),
    ("LEFT DOUBLE QUOTATION MARK", '“'),
    ("LEFT PARENTHESIS", '('),
    ("LEFT SINGLE QUOTATION MARK", '‘'),
    ("LEFT SQUARE BRACKET", '['),
    ("LEFT-POINTING DOUBLE ANGLE QUOTATION MARK", '«'),
    ("LEFTWARDS ARROW", '←'),
    ("LESS-THAN SIGN", '<'),
    ("LESS-THAN OR EQUAL TO", '≤'),
    ("LINE FEED", '\n'),
    ("LINE SEPARATOR", '\u{2028}'),
    ("LOW LINE", '_'),
    ("MIDDLE DOT", '·'),
    ("MINUS SIGN", '−'),
    ("MULTIPLICATION SIGN", '×'),
    ("NEW LINE", '\n'),
    ("NO-BREAK SPACE", '\u{A0}'),
    ("NOT EQUAL TO", '≠'),
    ("NULL", '\0'),
    ("NUMBER SIGN", '#'),
    ("PARAGRAPH SEPARATOR", '\u{2029}'),
    ("PER MILLE SIGN", '‰'),
    ("PERCENT SIGN", '%'),
    ("PILCROW SIGN", '¶'),
    ("PLUS SIGN", '+'),
    ("PLUS-MINUS SIGN", '±'),
    ("POUND SIGN", '£'),
    ("QUESTION MARK", '?'),
    ("QUOTATION MARK", '"'),
    ("REGISTERED SIGN", '®'),
    ("REPLACEMENT CHARACTER", '\u{FFFD}'),
    ("REVERSE SOLIDUS", '\\'),
    ("RIGHT CURLY BRACKET", '}'),
    ("RIGHT DOUBLE QUOTATION MARK", '”'),
    ("RIGHT PARENTHESIS", ')'),
    ("RIGHT SINGLE QUOTATION MARK", '’'),
    ("RIGHT SQUARE BRACKET", ']'),
    ("RIGHT-POINTING DOUBLE ANGLE QUOTATION MARK", '»'),
    ("RIGHTWARDS ARROW", '→'),
    ("RIGHTWARDS DOUBLE ARROW", '⇒'),
    ("SECTION SIGN", '§'),
    ("SEMICOLON", ';'),
    ("SOFT HYPHEN", '\u{AD}'),
    ("SOLIDUS", '/'),
    ("SPACE", ' '),
    ("SPARKLES", '✨'),
    ("TILDE", '~'),
    ("TRADE MARK SIGN", '™'),
    ("TRIANGULAR BULLET", '‣'),
    ("UPWARDS ARROW", '↑'),
    ("VERTICAL LINE", '|'),
    ("WARNING SIGN", '⚠'),
    ("WHITE BULLET", '◦'),
    ("WHITE CIRCLE", '○'),
    ("WHITE HEAVY CHECK MARK", '✅'),
    ("WHITE SQUARE", '□'),
    ("YEN SIGN", '¥'),
    ("ZERO WIDTH JOINER", '\u{200D}'),
    ("ZERO WIDTH NO-BREAK SPACE", '\u{FEFF}'),
    ("ZERO WIDTH NON-JOINER", '\u{200C}'),
    ("ZERO WIDTH SPACE", '\u{200B}'),
];

/// The text that is meant. A backslash before anything without a meaning stays.
pub(super) fn unescape(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let Some(c) = rest.chars().next() else {
            return Err("a string ends in a backslash".to_owned());
        };
        rest = &rest[c.len_utf8()..];
        match c {
            '\n' => {}
            '\\' | '\'' | '"' => out.push(c),
            'a' => out.push('\u{7}'),
            'b' => out.push('\u{8}'),
            'f' => out.push('\u{c}'),
            'n' => out.push('\n'),
            'r' => out.push('\r'),
            't' => out.push('\t'),
            'v' => out.push('\u{b}'),
            '0'..='7' => {
                let more = rest
                    .bytes()
                    .take(2)
                    .take_while(|b| (b'0'..=b'7').contains(b))
                    .count();
                let digits = format!("{c}{}", &rest[..more]);
                rest = &rest[more..];
                out.push(character(u32::from_str_radix(&digits, 8).ok())?);
            }
            'x' => out.push(hexadecimal(&mut rest, 2)?),
            'u' => out.push(hexadecimal(&mut rest, 4)?),
            'U' => out.push(hexadecimal(&mut rest, 8)?),
            'N' => {
                let inside = rest.strip_prefix('{').and_then(|r| r.split_once('}'));
                let (name, after) = inside.ok_or("a string has a malformed \\N escape")?;
                let known = NAMES.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
                let (_, c) = known.ok_or_else(|| format!("\\N{{{name}}} is not a name known here"))?;
                out.push(*c);
                rest = after;
            }
            other => {
                out.push('\\');
                out.push(other);
            }
        }
    }
    out.push_str(rest);
    Ok(out)
}

fn hexadecimal(rest: &mut &str, len: usize) -> Result<char, String> {
    let digits = rest
        .get(..len)
        .filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
    let digits =
        digits.ok_or_else(|| format!("a string has an escape with less than {len} hexadecimal digits"))?;
    *rest = &rest[len..];
    character(u32::from_str_radix(digits, 16).ok())
}

fn character(code: Option<u32>) -> Result<char, String> {
    code.and_then(char::from_u32)
        .ok_or_else(|| "a string has an escape that is no character".to_owned())
}
