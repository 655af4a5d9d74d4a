//! Tokens to statements and expressions: Jinja's grammar, with the tags `break`, `continue` and `generation`.

mod expressions;
mod statements;

use std::collections::HashMap;

use super::ast::{Constant, Expr, Name, Program};
use super::error::{Error, Res};
use super::lexer::{Kind, Token, tokens};

/// Deepest nesting of statements and expressions.
const MAX_DEPTH: u32 = 200;

/// Parses a template, nested as deep as one `part`th of what is allowed at most.
pub(crate) fn parse(source: &str, part: u32) -> Res<Program> {
    let mut parser = Parser {
        tokens: tokens(source)?,
        at: 0,
        program: Program::default(),
        names: HashMap::new(),
        depth: 0,
        most: MAX_DEPTH / part.max(1),
        in_loop: false,
        soft: false,
        open: Vec::new(),
        block_names: Vec::new(),
        seen: Special::default(),
        unknown: Vec::new(),
    };
    let body = parser.body(&[])?;
    parser.program.body = body;
    match parser.unknown.into_iter().next() {
        Some(error) => Err(error),
        None => Ok(parser.program),
    }
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    program: Program,
    names: HashMap<String, Name>,
    depth: u32,
    most: u32,
    /// Whether `break` has a loop to end.
    in_loop: bool,
    /// Whether an unknown filter or test is found at run time only.
    soft: bool,
    /// Tags that are open, for errors.
    open: Vec<&'static str>,
    block_names: Vec<String>,
    seen: Special,
    /// Filters and tests that there are none of.
    unknown: Vec<Error>,
}

/// Names that a macro's body uses, which say what the macro takes.
#[derive(Debug, Clone, Copy, Default)]
struct Special {
    varargs: bool,
    kwargs: bool,
    caller: bool,
}

impl Parser {
    // Tokens.

    fn kind(&self) -> &Kind {
        &self.tokens[self.at].kind
    }

    fn next_kind(&self) -> &Kind {
        &self.tokens[(self.at + 1).min(self.tokens.len() - 1)].kind
    }

    fn line(&self) -> u32 {
        self.tokens[self.at].line
    }

    fn advance(&mut self) {
        // The last token is the end, and stays.
        self.at = (self.at + 1).min(self.tokens.len() - 1);
    }

    fn fail<T>(&self, text: impl Into<String>) -> Res<T> {
        Err(Error::new(format!("syntax error: {}", text.into())).at(self.line()))
    }

    fn is_sign(&self, sign: &str) -> bool {
        matches!(self.kind(), Kind::Sign(s) if *s == sign)
    }

    fn is_name(&self, name: &str) -> bool {
        matches!(self.kind(), Kind::Name(n) if n == name)
    }

    fn take_sign(&mut self, sign: &str) -> bool {
        let found = self.is_sign(sign);
        if found {
            self.advance();
        }
        found
    }

    fn take_name(&mut self, name: &str) -> bool {
        let found = self.is_name(name);
        if found {
            self.advance();
        }
        found
    }

    fn expect_sign(&mut self, sign: &str) -> Res<()> {
        if self.take_sign(sign) {
            return Ok(());
        }
        self.fail(format!("expected '{sign}', found {}", self.shown()))
    }

    fn expect_name(&mut self) -> Res<String> {
        match self.kind() {
            Kind::Name(name) => {
                let name = name.clone();
                self.advance();
                Ok(name)
            }
            _ => self.fail(format!("expected a name, found {}", self.shown())),
        }
    }

    fn expect_kind(&mut self, kind: &Kind) -> Res<()> {
        if self.kind() == kind {
            self.advance();
            return Ok(());
        }
        let wanted = if *kind == Kind::BlockEnd {
            "the end of the statement"
        } else {
            "the end of the expression"
        };
        self.fail(format!("expected {wanted}, found {}", self.shown()))
    }

    fn shown(&self) -> String {
        match self.kind() {
            Kind::Data(_) => "text".to_owned(),
            Kind::BlockBegin => "'{%'".to_owned(),
            Kind::BlockEnd => "the end of the statement".to_owned(),
            Kind::PrintBegin => "'{{'".to_owned(),
            Kind::PrintEnd => "the end of the expression".to_owned(),
            Kind::Name(name) => format!("'{name}'"),
            Kind::Text(_) => "a string".to_owned(),
            Kind::Int(_) | Kind::BigInt(_) | Kind::Float(_) => "a number".to_owned(),
            Kind::Sign(sign) => format!("'{sign}'"),
            Kind::End => match self.open.last() {
                Some(tag) => format!("the end of the template, while '{tag}' is open"),
                None => "the end of the template".to_owned(),
            },
        }
    }

    fn name(&mut self, name: String) -> Name {
        if let Some(known) = self.names.get(&name) {
            return *known;
        }
        let id = self.program.names.len() as Name;
        self.program.names.push(name.clone());
        self.names.insert(name, id);
        id
    }

    fn constant(&mut self, constant: Constant) -> Expr {
        self.program.constants.push(constant);
        Expr::Constant(self.program.constants.len() - 1)
    }

    fn deeper<T>(&mut self, parse: impl FnOnce(&mut Self) -> Res<T>) -> Res<T> {
        if self.depth >= self.most {
            let text = format!("found more than {} levels of nesting", self.most);
            return Err(Error::too_deep(text).at(self.line()));
        }
        self.depth += 1;
        let result = parse(self);
        self.depth -= 1;
        result
    }
}
