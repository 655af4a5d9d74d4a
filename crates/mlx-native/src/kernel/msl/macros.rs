//! Macro definitions and their expansion.
//!
//! The algorithm is the classical one with hide sets: every token remembers the macros it came out of and is not
//! expanded by them again. Expansion that grows beyond a budget is refused, so that a few lines of nested macros cannot
//! fill the memory.

use super::MslError;
use super::lexer::{Kind, Token};
use std::borrow::Cow;
use std::collections::HashMap;
use std::rc::Rc;

/// Most tokens that all expansions of one text may move.
const BUDGET: usize = 8 << 20;
/// Deepest nesting of macro calls within arguments.
const MAX_DEPTH: u32 = 64;
/// Longest chain of macros that expand to one another.
const MAX_CHAIN: u32 = 512;

/// What the environment defines. The version is the language's, Metal 3.1: the first with `bfloat`.
const PREDEFINED: [(&str, &str); 5] = [
    ("__METAL__", "1"),
    ("__METAL_VERSION__", "310"),
    ("__METAL_MACOS__", "1"),
    ("__HAVE_BFLOAT__", "1"),
    ("METAL_FUNC", "inline"),
];

/// One `#define`.
pub(crate) struct Macro<'a> {
    name: Cow<'a, str>,
    /// Parameter names of a function-like macro; the last may stand for all remaining arguments.
    parameters: Option<Vec<Cow<'a, str>>>,
    variadic: bool,
    body: Vec<Token<'a>>,
}

impl<'a> Macro<'a> {
    /// Reads what follows `#define`.
    pub fn parse(tokens: &[Token<'a>], line: u32) -> Result<Self, MslError> {
        let Some(name) = tokens.first().filter(|t| t.is_ident()) else {
            return Err(MslError::new(line, "#define needs a name"));
        };
        let mut made = Macro {
            name: name.text.clone(),
            parameters: None,
            variadic: false,
            body: Vec::new(),
        };
        let mut at = 1;
        if tokens.get(1).is_some_and(|t| t.is("(") && !t.space) {
            let mut parameters = Vec::new();
            at = 2;
            loop {
                match tokens.get(at) {
                    Some(t) if t.is(")") => break,
                    Some(t) if t.is(",") => {}
                    Some(t) if t.is("...") => {
                        // `args...` names the rest; a bare `...` is __VA_ARGS__.
                        if !tokens[at - 1].is_ident() {
                            parameters.push(Cow::Borrowed("__VA_ARGS__"));
                        }
                        made.variadic = true;
                    }
                    Some(t) if t.is_ident() => parameters.push(t.text.clone()),
                    _ => {
                        return Err(MslError::new(
                            line,
                            format!("#define {}: bad parameter list", made.name),
                        ));
                    }
                }
                at += 1;
            }
            made.parameters = Some(parameters);
            at += 1;
        }
        made.body = tokens[at..].to_vec();
        Ok(made)
    }

    fn parameter(&self, token: &Token<'_>) -> Option<usize> {
        let parameters = self.parameters.as_ref().filter(|_| token.is_ident())?;
        parameters.iter().position(|p| *p == token.text)
    }
}

/// The macros a token came out of, as a list that shares its tails.
struct Hidden {
    macro_id: usize,
    depth: u32,
    rest: HideSet,
}
type HideSet = Option<Rc<Hidden>>;

fn hides(set: &HideSet, id: usize) -> bool {
    let mut node = set.as_ref();
    while let Some(hidden) = node {
        if hidden.macro_id == id {
            return true;
        }
        node = hidden.rest.as_ref();
    }
    false
}

type Hiding<'a> = (Token<'a>, HideSet);

/// The macros in force.
pub(crate) struct Macros<'a> {
    by_name: HashMap<String, usize>,
    definitions: Vec<Rc<Macro<'a>>>,
    moved: usize,
}

impl<'a> Macros<'a> {
    /// The macros that exist before the first line.
    pub fn with_predefined() -> Self {
        let mut macros = Macros {
            by_name: HashMap::new(),
            definitions: Vec::new(),
            moved: 0,
        };
        for (name, value) in PREDEFINED {
            let kind = if value.starts_with(|c: char| c.is_ascii_digit()) {
                Kind::Number
            } else {
                Kind::Ident
            };
            let body = vec![Token {
                kind,
                text: Cow::Borrowed(value),
                line: 0,
                file: 0,
                first: false,
                space: true,
            }];
            macros.define(Macro {
                name: Cow::Borrowed(name),
                parameters: None,
                variadic: false,
                body,
            });
        }
        macros
    }

    /// Defines or redefines.
    pub fn define(&mut self, definition: Macro<'a>) {
        self.by_name
            .insert(definition.name.to_string(), self.definitions.len());
        self.definitions.push(Rc::new(definition));
    }

    /// Forgets.
    pub fn undefine(&mut self, name: &str) {
        self.by_name.remove(name);
    }

    /// Whether `name` is a macro.
    pub fn is_defined(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// Expands `tokens` to the end of `out`.
    pub fn expand(&mut self, tokens: Vec<Token<'a>>, out: &mut Vec<Token<'a>>) -> Result<(), MslError> {
        if self.by_name.is_empty() {
            out.extend(tokens);
            return Ok(());
        }
        let input = tokens.into_iter().map(|t| (t, None)).collect();
        for (token, _) in self.run(input, 0)? {
            out.push(token);
        }
        Ok(())
    }

    fn spend(&mut self, tokens: usize, line: u32) -> Result<(), MslError> {
        self.moved = self.moved.saturating_add(tokens);
        if self.moved > BUDGET {
            Err(MslError::new(line, "macros expand to too much text"))
        } else {
            Ok(())
        }
    }

    fn run(&mut self, mut input: Vec<Hiding<'a>>, depth: u32) -> Result<Vec<Hiding<'a>>, MslError> {
        // A stack: the next token is the last one.
        input.reverse();
        let mut out = Vec::with_capacity(input.len());
        while let Some((token, hidden)) = input.pop() {
            let id = if token.is_ident() {
                self.by_name.get(token.text.as_ref()).copied()
            } else {
                None
            };
            let Some(id) = id.filter(|id| !hides(&hidden, *id)) else {
                out.push(if token.is("__LINE__") {
                    (line_number(&token), hidden)
                } else {
                    (token, hidden)
                });
                continue;
            };
            let definition = Rc::clone(&self.definitions[id]);
            let arguments = if definition.parameters.is_some() {
                if !input.last().is_some_and(|(t, _)| t.is("(")) {
                    out.push((token, hidden));
                    continue;
                }
                self.arguments(&definition, &token, &mut input)?
            } else {
                Vec::new()
            };
            let chain = hidden.as_ref().map_or(0, |h| h.depth + 1);
            if depth >= MAX_DEPTH || chain >= MAX_CHAIN {
                return Err(MslError::new(
                    token.line,
                    format!("calls of macro {} are nested too deeply", token.text),
                ));
            }
            let inner = Some(Rc::new(Hidden {
                macro_id: id,
                depth: chain,
                rest: hidden,
            }));
            let body = self.substitute(&definition, &token, arguments, &inner, depth)?;
            self.spend(body.len() + 1, token.line)?;
            input.extend(body.into_iter().rev());
        }
        Ok(out)
    }

    /// Takes a parenthesised argument list off the input.
    fn arguments(
        &mut self,
        definition: &Macro<'a>,
        call: &Token<'a>,
        input: &mut Vec<Hiding<'a>>,
    ) -> Result<Vec<Vec<Hiding<'a>>>, MslError> {
        let wanted = definition.parameters.as_ref().map_or(0, Vec::len);
        let mut arguments = vec![Vec::new()];
        input.pop(); // the opening parenthesis
        let mut depth = 1usize;
        loop {
            let Some((token, hidden)) = input.pop() else {
                return Err(MslError::new(
                    call.line,
                    format!("the call of macro {} does not end", call.text),
                ));
            };
            self.spend(1, call.line)?;
            match token.text.as_ref() {
                "(" => depth += 1,
                ")" => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                break;
            }
            let collecting_rest = definition.variadic && arguments.len() == wanted;
            if depth == 1 && token.is(",") && !collecting_rest {
                arguments.push(Vec::new());
            } else if let Some(last) = arguments.last_mut() {
                last.push((token, hidden));
            }
        }
        if wanted == 0 && arguments.len() == 1 && arguments[0].is_empty() {
            arguments.clear();
        }
        if definition.variadic && arguments.len() + 1 == wanted {
            arguments.push(Vec::new());
        }
        if arguments.len() != wanted {
            let message = format!(
                "macro {} takes {wanted} arguments, found {}",
                call.text,
                arguments.len()
            );
            return Err(MslError::new(call.line, message));
        }
        Ok(arguments)
    }

    /// The body with its parameters replaced, as if it stood where the macro was called.
    fn substitute(
        &mut self,
        definition: &Macro<'a>,
        call: &Token<'a>,
        arguments: Vec<Vec<Hiding<'a>>>,
        hidden: &HideSet,
        depth: u32,
    ) -> Result<Vec<Hiding<'a>>, MslError> {
        let place = |mut token: Token<'a>| {
            (token.line, token.file, token.first) = (call.line, call.file, false);
            token
        };
        let mut expanded: Vec<Option<Vec<Hiding<'a>>>> = vec![None; arguments.len()];
        let mut out: Vec<Hiding<'a>> = Vec::with_capacity(definition.body.len());
        let body = &definition.body;
        let mut at = 0;
        while at < body.len() {
            let token = &body[at];
            let function_like = definition.parameters.is_some();
            if token.is("#")
                && function_like
                && let Some(p) = body.get(at + 1).and_then(|t| definition.parameter(t))
            {
                out.push((place(stringify(&arguments[p], token)), None));
                at += 2;
                continue;
            }
            if token.is("##") && !out.is_empty() && at + 1 < body.len() {
                let right = match definition.parameter(&body[at + 1]) {
                    Some(p) => arguments[p].clone(),
                    None => vec![(place(body[at + 1].clone()), hidden.clone())],
                };
                paste(&mut out, right);
                at += 2;
                continue;
            }
            match definition.parameter(token) {
                Some(p) => {
                    let before_paste = body.get(at + 1).is_some_and(|t| t.is("##"));
                    let text = if before_paste {
                        arguments[p].clone()
                    } else {
                        if expanded[p].is_none() {
                            expanded[p] = Some(self.run(arguments[p].clone(), depth + 1)?);
                        }
                        expanded[p].clone().unwrap_or_default()
                    };
                    self.spend(text.len(), call.line)?;
                    if before_paste && text.is_empty() {
                        // Something to paste to; dropped below if nothing is.
                        out.push((
                            Token {
                                text: Cow::Borrowed(""),
                                ..place(token.clone())
                            },
                            None,
                        ));
                    }
                    out.extend(text.into_iter().map(|(t, h)| (place(t), h)));
                }
                None => out.push((place(token.clone()), hidden.clone())),
            }
            at += 1;
        }
        out.retain(|(t, _)| !t.text.is_empty());
        Ok(out)
    }
}

fn line_number<'a>(token: &Token<'a>) -> Token<'a> {
    Token {
        kind: Kind::Number,
        text: Cow::Owned(token.line.to_string()),
        ..token.clone()
    }
}

fn stringify<'a>(argument: &[Hiding<'a>], at: &Token<'a>) -> Token<'a> {
    let mut text = String::from("\"");
    for (i, (token, _)) in argument.iter().enumerate() {
        if i > 0 && token.space {
            text.push(' ');
        }
        for c in token.text.chars() {
            if c == '"' || (c == '\\' && matches!(token.kind, Kind::Str | Kind::Char)) {
                text.push('\\');
            }
            text.push(c);
        }
    }
    text.push('"');
    Token {
        kind: Kind::Str,
        text: Cow::Owned(text),
        ..at.clone()
    }
}

/// `left ## right`: the last token of `out` and the first of `right` become one.
fn paste<'a>(out: &mut Vec<Hiding<'a>>, right: Vec<Hiding<'a>>) {
    let mut right = right.into_iter();
    if let (Some((left, _)), Some((first, _))) = (out.last_mut(), right.next()) {
        if left.text.is_empty() {
            left.kind = first.kind;
        }
        left.text = Cow::Owned(format!("{}{}", left.text, first.text));
    }
    out.extend(right);
}
