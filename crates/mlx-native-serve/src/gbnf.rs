//! llama.cpp's grammars as Lark: the same rules with other signs.

/// Whether a grammar is written in GBNF rather than in Lark.
pub(crate) fn is_gbnf(text: &str) -> bool {
    text.contains("::=")
}

/// The grammar in Lark; its rule `root` is `start`.
///
/// # Errors
/// A message, where the text is no grammar.
pub(crate) fn to_lark(text: &str) -> Result<String, String> {
    let tokens = scan(text)?;
    let mut out = String::new();
    let mut index = 0;
    let is_rule = |index: usize| {
        matches!(tokens.get(index), Some(Token::Name(_))) && matches!(tokens.get(index + 1), Some(Token::Is))
    };
    if !is_rule(0) {
        return Err("wanted a rule, as in root ::= \"yes\" | \"no\"".to_owned());
    }
    while index < tokens.len() {
        if let (true, Token::Name(name)) = (is_rule(index), &tokens[index]) {
            if !out.is_empty() {
                out.push('\n');
            }
            out.push_str(&rule_name(name));
            out.push(':');
            index += 2;
            continue;
        }
        out.push(' ');
        match &tokens[index] {
            Token::Name(name) => out.push_str(&rule_name(name)),
            Token::Is => return Err("found ::= in the middle of a rule".to_owned()),
            Token::Text(text) => out.push_str(text),
            Token::Sign(sign) => {
                if "*+?".contains(sign.as_str()) || sign.starts_with('{') {
                    out.pop();
                }
                out.push_str(sign);
            }
        }
        index += 1;
    }
    out.push('\n');
    Ok(out)
}

enum Token {
    Name(String),
    Is,
    /// A string or a class of characters, as Lark has it.
    Text(String),
    Sign(String),
}

fn rule_name(name: &str) -> String {
    match name {
        "root" => "start".to_owned(),
        // Lark takes names of capitals for terminals, and knows no dashes.
        name => format!("r_{}", name.replace('-', "_").to_lowercase()),
    }
}

fn scan(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let len = match c {
            '#' => rest.find('\n').unwrap_or(rest.len()),
            c if c.is_whitespace() => c.len_utf8(),
            '"' => {
                let end = closing(rest, '"')?;
                tokens.push(Token::Text(rest[..end].to_owned()));
                end
            }
            '[' => {
                let end = closing(rest, ']')?;
                tokens.push(Token::Text(format!("/{}/", rest[..end].replace('/', "\\/"))));
                end
            }
            '.' => {
                tokens.push(Token::Text("/(?s:.)/".to_owned()));
                1
            }
            ':' if rest.starts_with("::=") => {
                tokens.push(Token::Is);
                3
            }
            '{' => {
                let end = rest.find('}').ok_or("a { is not closed")? + 1;
                tokens.push(Token::Sign(rest[..end].to_owned()));
                end
            }
            '|' | '(' | ')' | '*' | '+' | '?' => {
                tokens.push(Token::Sign(c.to_string()));
                1
            }
            c if c.is_ascii_alphanumeric() || c == '_' => {
                let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
                let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
                tokens.push(Token::Name(rest[..end].to_owned()));
                end
            }
            other => return Err(format!("found {other:?}, which begins nothing")),
        };
        rest = &rest[len..];
    }
    Ok(tokens)
}

/// Where a string or class that begins here ends.
fn closing(text: &str, end: char) -> Result<usize, String> {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == end => return Ok(at + 1),
            _ => {}
        }
    }
    Err(format!(
        "what begins with {:?} is not closed",
        text.chars().next().unwrap_or_default()
    ))
}

#[cfg(test)]
mod tests {
    #[test]
    fn rules_become_larks() {
        let lark = super::to_lark(
            "# a list\nroot ::= item (\",\" item)*\nitem ::= [a-z/]+ | \"x\\\"y\" num-ber{2}\nnum-ber ::= [0-9]\n",
        );
        assert_eq!(
            lark.unwrap(),
            "start: r_item ( \",\" r_item )*\nr_item: /[a-z\\/]/+ | \"x\\\"y\" r_num_ber{2}\nr_num_ber: /[0-9]/\n"
        );
        for bad in [
            "",
            "\"x\"",
            "root ::= \"x",
            "root ::= [a",
            "root ::= ::= x",
            "root ::= %",
        ] {
            assert!(super::to_lark(bad).is_err(), "{bad}");
        }
    }
}
