//! Tokens to statements and expressions: Jinja's grammar, with the tags `break`, `continue` and `generation`.

use std::collections::HashMap;
use std::sync::Arc;

use super::ast::{
    Arguments, BlockDef, Body, Comparison, Constant, Expr, Filter, For, Link, MacroDef, Name, Node, Operator,
    Program, Statement, Target, Test,
};
use super::error::{Error, Res};
use super::lexer::{Kind, Token, tokens};
use super::{filters, tests};

/// Deepest nesting of statements and expressions.
const MAX_DEPTH: u32 = 200;

/// Parses a template.
pub(crate) fn parse(source: &str) -> Res<Program> {
    let mut parser = Parser {
        tokens: tokens(source)?,
        at: 0,
        program: Program::default(),
        names: HashMap::new(),
        depth: 0,
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
        if self.depth >= MAX_DEPTH {
            return self.fail(format!("found more than {MAX_DEPTH} levels of nesting"));
        }
        self.depth += 1;
        let result = parse(self);
        self.depth -= 1;
        result
    }

    // Statements.

    /// Statements up to a tag with one of these names, which is then the next token.
    fn body(&mut self, ends: &[&str]) -> Res<Body> {
        let mut body = Vec::new();
        loop {
            let line = self.line();
            let statement = match self.kind() {
                Kind::Data(text) => {
                    let text = text.clone();
                    self.advance();
                    Statement::Text(text)
                }
                Kind::PrintBegin => {
                    self.advance();
                    let expr = self.tuple(true, false)?;
                    self.expect_kind(&Kind::PrintEnd)?;
                    Statement::Print(vec![expr])
                }
                Kind::BlockBegin => {
                    self.advance();
                    if matches!(self.kind(), Kind::Name(name) if ends.contains(&name.as_str())) {
                        return Ok(body);
                    }
                    let statement = self.deeper(Self::statement)?;
                    self.expect_kind(&Kind::BlockEnd)?;
                    statement
                }
                Kind::End if ends.is_empty() => return Ok(body),
                _ => return self.fail(format!("unexpected {}", self.shown())),
            };
            body.push(Node { line, statement });
        }
    }

    /// The body of a tag: from the end of its statement to its end tag, whose name is then the next token.
    fn inner(&mut self, tag: &'static str, ends: &[&str]) -> Res<Body> {
        self.take_sign(":");
        self.open.push(tag);
        self.expect_kind(&Kind::BlockEnd)?;
        let body = self.body(ends)?;
        self.open.pop();
        Ok(body)
    }

    /// As [`inner`](Self::inner), in a scope of its own, with the end tag's name taken.
    fn scoped(&mut self, tag: &'static str, end: &str) -> Res<Body> {
        let soft = std::mem::take(&mut self.soft);
        let body = self.inner(tag, &[end])?;
        self.soft = soft;
        self.advance();
        Ok(body)
    }

    /// As [`scoped`](Self::scoped), for a body that becomes a function: a loop around it cannot be ended from there.
    fn function(&mut self, tag: &'static str, end: &str) -> Res<Body> {
        let in_loop = std::mem::take(&mut self.in_loop);
        let body = self.scoped(tag, end)?;
        self.in_loop = in_loop;
        Ok(body)
    }

    fn statement(&mut self) -> Res<Statement> {
        let tag = match self.kind() {
            Kind::Name(name) => name.clone(),
            _ => {
                return self.fail(format!(
                    "expected the name of a statement, found {}",
                    self.shown()
                ));
            }
        };
        if matches!(tag.as_str(), "break" | "continue") && !self.in_loop {
            return self.fail(format!("'{tag}' outside a loop"));
        }
        self.advance();
        Ok(match tag.as_str() {
            "for" => self.for_statement()?,
            "if" => self.if_statement()?,
            "set" => self.set_statement()?,
            "with" => self.with_statement()?,
            "macro" => {
                let name = self.expect_name()?;
                let id = self.name(name.clone());
                Statement::Macro(id, Arc::new(self.macro_def(Some(name), "macro", "endmacro")?))
            }
            "call" => self.call_statement()?,
            "filter" => {
                let filters = self.filters(true)?;
                let body = self.scoped("filter", "endfilter")?;
                Statement::FilterBlock { filters, body }
            }
            "autoescape" => {
                let value = self.expression()?;
                let body = self.scoped("autoescape", "endautoescape")?;
                Statement::Autoescape { value, body }
            }
            "block" => self.block_statement()?,
            "print" => {
                let mut values = Vec::new();
                while *self.kind() != Kind::BlockEnd {
                    if !values.is_empty() {
                        self.expect_sign(",")?;
                    }
                    values.push(self.expression()?);
                }
                Statement::Print(values)
            }
            "generation" => Statement::Scope(self.function("generation", "endgeneration")?),
            "break" => Statement::Break,
            "continue" => Statement::Continue,
            "extends" | "include" | "import" | "from" => {
                while !matches!(self.kind(), Kind::BlockEnd | Kind::End) {
                    self.advance();
                }
                Statement::Elsewhere("no loader for this environment: other templates cannot be had")
            }
            _ => {
                let open = self
                    .open
                    .last()
                    .map_or(String::new(), |tag| format!(", while '{tag}' is open"));
                return self.fail(format!("unknown statement '{tag}'{open}"));
            }
        })
    }

    fn for_statement(&mut self) -> Res<Statement> {
        let target = self.target(false, true)?;
        if !self.take_name("in") {
            return self.fail(format!("expected 'in', found {}", self.shown()));
        }
        let iter = self.tuple(false, true)?;
        let soft = std::mem::take(&mut self.soft);
        let in_loop = std::mem::replace(&mut self.in_loop, true);
        let test = if self.take_name("if") {
            Some(self.expression()?)
        } else {
            None
        };
        let recursive = self.take_name("recursive");
        let body = self.inner("for", &["endfor", "else"])?;
        self.in_loop = in_loop;
        let mut otherwise = Vec::new();
        if self.take_name("else") {
            otherwise = self.inner("for", &["endfor"])?;
        }
        self.soft = soft;
        self.advance();
        Ok(Statement::For(Arc::new(For {
            target,
            iter,
            test,
            recursive,
            body,
            otherwise,
        })))
    }

    fn if_statement(&mut self) -> Res<Statement> {
        let soft = std::mem::replace(&mut self.soft, true);
        let mut branches = Vec::new();
        let mut otherwise = Vec::new();
        loop {
            let test = self.tuple(false, false)?;
            let body = self.inner("if", &["elif", "else", "endif"])?;
            branches.push((test, body));
            if self.take_name("elif") {
                continue;
            }
            if self.take_name("else") {
                otherwise = self.inner("if", &["endif"])?;
            }
            self.advance();
            break;
        }
        self.soft = soft;
        Ok(Statement::If { branches, otherwise })
    }

    fn set_statement(&mut self) -> Res<Statement> {
        let target = self.target(true, false)?;
        if self.take_sign("=") {
            let value = self.tuple(true, false)?;
            return Ok(Statement::Set { target, value });
        }
        let filters = self.filters(false)?;
        let body = self.scoped("set", "endset")?;
        Ok(Statement::SetBlock {
            target,
            filters,
            body,
        })
    }

    fn with_statement(&mut self) -> Res<Statement> {
        let mut pairs = Vec::new();
        while *self.kind() != Kind::BlockEnd {
            if !pairs.is_empty() {
                self.expect_sign(",")?;
            }
            let target = self.target(false, false)?;
            self.expect_sign("=")?;
            pairs.push((target, self.expression()?));
        }
        let body = self.scoped("with", "endwith")?;
        Ok(Statement::With { pairs, body })
    }

    fn call_statement(&mut self) -> Res<Statement> {
        let line = self.line();
        // The arguments of the caller come before the call.
        let (arguments, defaults) = if self.is_sign("(") {
            self.signature()?
        } else {
            Default::default()
        };
        let call = self.expression()?;
        if !matches!(&call, Expr::Chain(_, links) if matches!(links.last(), Some(Link::Call(_)))) {
            return Err(Error::new("syntax error: expected a call").at(line));
        }
        let caller = self.macro_body(None, arguments, defaults, "call", "endcall")?;
        Ok(Statement::Call {
            caller: Arc::new(caller),
            call,
        })
    }

    fn block_statement(&mut self) -> Res<Statement> {
        let name = self.expect_name()?;
        let scoped = self.take_name("scoped");
        let required = self.take_name("required");
        if self.block_names.contains(&name) {
            return self.fail(format!("block '{name}' defined twice"));
        }
        self.block_names.push(name.clone());
        let body = self.function("block", "endblock")?;
        self.take_name(&name);
        self.program.blocks.push(BlockDef {
            name,
            scoped,
            required,
            body,
        });
        Ok(Statement::Block(self.program.blocks.len() - 1))
    }

    fn macro_def(&mut self, name: Option<String>, tag: &'static str, end: &str) -> Res<MacroDef> {
        let (arguments, defaults) = self.signature()?;
        self.macro_body(name, arguments, defaults, tag, end)
    }

    fn macro_body(
        &mut self,
        name: Option<String>,
        arguments: Vec<Name>,
        defaults: Vec<Expr>,
        tag: &'static str,
        end: &str,
    ) -> Res<MacroDef> {
        let outer = std::mem::take(&mut self.seen);
        let body = self.function(tag, end)?;
        let seen = self.seen;
        // What an inner macro uses, the outer one uses.
        self.seen = Special {
            varargs: outer.varargs || seen.varargs,
            kwargs: outer.kwargs || seen.kwargs,
            caller: outer.caller || seen.caller,
        };
        let has = |wanted: &str| {
            let names = &self.program.names;
            arguments.iter().any(|name| names[*name as usize] == wanted)
        };
        let place = arguments
            .iter()
            .position(|n| self.program.names[*n as usize] == "caller");
        let without_default = place.is_some_and(|at| at < arguments.len() - defaults.len());
        if seen.caller && without_default {
            return self.fail("the special argument 'caller' must be omitted or have a default");
        }
        let (varargs, kwargs, caller) = (has("varargs"), has("kwargs"), has("caller"));
        Ok(MacroDef {
            name,
            takes_varargs: seen.varargs && !varargs,
            takes_kwargs: seen.kwargs && !kwargs,
            takes_caller: seen.caller && !caller,
            arguments,
            defaults,
            body,
        })
    }

    fn signature(&mut self) -> Res<(Vec<Name>, Vec<Expr>)> {
        let (mut arguments, mut defaults) = (Vec::new(), Vec::new());
        self.expect_sign("(")?;
        while !self.is_sign(")") {
            if !arguments.is_empty() {
                self.expect_sign(",")?;
            }
            let name = self.expect_name()?;
            let name = self.name(name);
            if arguments.contains(&name) {
                return self.fail("an argument has the name of another");
            }
            arguments.push(name);
            if self.take_sign("=") {
                defaults.push(self.expression()?);
            } else if !defaults.is_empty() {
                return self.fail("an argument without a default follows one with a default");
            }
        }
        self.expect_sign(")")?;
        Ok((arguments, defaults))
    }

    /// What is assigned to: a name, an attribute of a namespace where those are allowed, or several.
    fn target(&mut self, attributes: bool, until_in: bool) -> Res<Target> {
        let mut targets = Vec::new();
        let mut is_tuple = false;
        loop {
            let over = match self.kind() {
                Kind::BlockEnd | Kind::PrintEnd => true,
                Kind::Sign(sign) => *sign == ")",
                Kind::Name(name) => until_in && name == "in",
                _ => false,
            };
            if over {
                break;
            }
            targets.push(self.deeper(|p| p.single_target(attributes))?);
            if !self.take_sign(",") {
                break;
            }
            is_tuple = true;
        }
        match (targets.pop(), is_tuple) {
            (Some(only), false) => Ok(only),
            (Some(last), true) => {
                targets.push(last);
                Ok(Target::Tuple(targets))
            }
            (None, _) => self.fail(format!("expected a name, found {}", self.shown())),
        }
    }

    fn single_target(&mut self, attributes: bool) -> Res<Target> {
        if self.take_sign("(") {
            let inner = self.target(attributes, false)?;
            self.expect_sign(")")?;
            return Ok(inner);
        }
        let name = self.expect_name()?;
        if is_literal(&name) {
            return self.fail(format!("cannot assign to '{name}'"));
        }
        let id = self.name(name);
        if attributes && self.take_sign(".") {
            return Ok(Target::Attribute(id, self.expect_name()?));
        }
        Ok(Target::Name(id))
    }

    // Expressions, from the loosest binding to the tightest.

    /// One expression, or a tuple of several.
    fn tuple(&mut self, conditions: bool, until_recursive: bool) -> Res<Expr> {
        let mut items = Vec::new();
        let mut is_tuple = false;
        loop {
            let over = match self.kind() {
                Kind::BlockEnd | Kind::PrintEnd => true,
                Kind::Sign(sign) => *sign == ")",
                Kind::Name(name) => until_recursive && name == "recursive",
                _ => false,
            };
            if over {
                break;
            }
            let item = if conditions {
                self.expression()?
            } else {
                self.deeper(Self::or)?
            };
            items.push(item);
            if !self.take_sign(",") {
                break;
            }
            is_tuple = true;
        }
        if is_tuple {
            return Ok(Expr::Tuple(items));
        }
        match items.pop() {
            Some(only) => Ok(only),
            None => self.fail(format!("expected an expression, found {}", self.shown())),
        }
    }

    fn expression(&mut self) -> Res<Expr> {
        self.deeper(Self::condition)
    }

    fn condition(&mut self) -> Res<Expr> {
        let unknown = self.unknown.len();
        let mut value = self.or()?;
        while self.take_name("if") {
            let test = self.or()?;
            let no = if self.take_name("else") {
                Some(Box::new(self.expression()?))
            } else {
                None
            };
            value = Expr::If {
                test: Box::new(test),
                yes: Box::new(value),
                no,
            };
            // Within a condition an unknown filter is found at run time only.
            self.unknown.truncate(unknown);
        }
        Ok(value)
    }

    fn or(&mut self) -> Res<Expr> {
        let first = self.and()?;
        if !self.is_name("or") {
            return Ok(first);
        }
        let mut all = vec![first];
        while self.take_name("or") {
            all.push(self.and()?);
        }
        Ok(Expr::Or(all))
    }

    fn and(&mut self) -> Res<Expr> {
        let first = self.not()?;
        if !self.is_name("and") {
            return Ok(first);
        }
        let mut all = vec![first];
        while self.take_name("and") {
            all.push(self.not()?);
        }
        Ok(Expr::And(all))
    }

    fn not(&mut self) -> Res<Expr> {
        if self.take_name("not") {
            return Ok(Expr::Not(Box::new(self.deeper(Self::not)?)));
        }
        self.compare()
    }

    fn compare(&mut self) -> Res<Expr> {
        let first = self.sum()?;
        let mut more = Vec::new();
        loop {
            let comparison = match self.kind() {
                Kind::Sign("==") => Comparison::Equal,
                Kind::Sign("!=") => Comparison::NotEqual,
                Kind::Sign("<") => Comparison::Less,
                Kind::Sign("<=") => Comparison::LessEqual,
                Kind::Sign(">") => Comparison::Greater,
                Kind::Sign(">=") => Comparison::GreaterEqual,
                Kind::Name(name) if name == "in" => Comparison::In,
                Kind::Name(name) if name == "not" && *self.next_kind() == Kind::Name("in".to_owned()) => {
                    self.advance();
                    Comparison::NotIn
                }
                _ => break,
            };
            self.advance();
            more.push((comparison, self.sum()?));
        }
        if more.is_empty() {
            return Ok(first);
        }
        Ok(Expr::Compare(Box::new(first), more))
    }

    fn binary(&mut self, operators: &[(&str, Operator)], operand: fn(&mut Self) -> Res<Expr>) -> Res<Expr> {
        let first = operand(self)?;
        let mut more = Vec::new();
        loop {
            let Kind::Sign(sign) = self.kind() else {
                break;
            };
            let Some((_, operator)) = operators.iter().find(|(s, _)| s == sign) else {
                break;
            };
            self.advance();
            more.push((*operator, operand(self)?));
        }
        if more.is_empty() {
            return Ok(first);
        }
        Ok(Expr::Binary(Box::new(first), more))
    }

    fn sum(&mut self) -> Res<Expr> {
        self.binary(&[("+", Operator::Add), ("-", Operator::Subtract)], Self::concat)
    }

    fn concat(&mut self) -> Res<Expr> {
        let first = self.product()?;
        if !self.is_sign("~") {
            return Ok(first);
        }
        let mut all = vec![first];
        while self.take_sign("~") {
            all.push(self.product()?);
        }
        Ok(Expr::Concat(all))
    }

    fn product(&mut self) -> Res<Expr> {
        let operators = [
            ("*", Operator::Multiply),
            ("/", Operator::Divide),
            ("//", Operator::FloorDivide),
            ("%", Operator::Modulo),
        ];
        self.binary(&operators, Self::power)
    }

    fn power(&mut self) -> Res<Expr> {
        self.binary(&[("**", Operator::Power)], |p| p.unary(true))
    }

    fn unary(&mut self, filters: bool) -> Res<Expr> {
        let value = if self.take_sign("-") {
            Expr::Negate(Box::new(self.deeper(|p| p.unary(false))?))
        } else if self.take_sign("+") {
            Expr::Plus(Box::new(self.deeper(|p| p.unary(false))?))
        } else {
            self.primary()?
        };
        self.links(value, true, filters)
    }

    fn primary(&mut self) -> Res<Expr> {
        let constant = match self.kind().clone() {
            Kind::Name(name) => {
                self.advance();
                match name.as_str() {
                    "true" | "True" => Constant::Bool(true),
                    "false" | "False" => Constant::Bool(false),
                    "none" | "None" => Constant::None,
                    _ => {
                        match name.as_str() {
                            "varargs" => self.seen.varargs = true,
                            "kwargs" => self.seen.kwargs = true,
                            "caller" => self.seen.caller = true,
                            _ => {}
                        }
                        return Ok(Expr::Name(self.name(name)));
                    }
                }
            }
            Kind::Text(mut text) => {
                self.advance();
                // Strings side by side are one.
                while let Kind::Text(more) = self.kind() {
                    text.push_str(more);
                    self.advance();
                }
                Constant::Text(text)
            }
            Kind::Int(n) => {
                self.advance();
                Constant::Int(n)
            }
            Kind::BigInt(digits) => {
                self.advance();
                Constant::BigInt(digits)
            }
            Kind::Float(f) => {
                self.advance();
                Constant::Float(f)
            }
            Kind::Sign("(") => return self.deeper(Self::parentheses),
            Kind::Sign("[") => return self.deeper(Self::list),
            Kind::Sign("{") => return self.deeper(Self::dict),
            _ => return self.fail(format!("unexpected {}", self.shown())),
        };
        Ok(self.constant(constant))
    }

    fn parentheses(&mut self) -> Res<Expr> {
        self.expect_sign("(")?;
        if self.take_sign(")") {
            return Ok(Expr::Tuple(Vec::new()));
        }
        let inner = self.tuple(true, false)?;
        self.expect_sign(")")?;
        Ok(inner)
    }

    fn list(&mut self) -> Res<Expr> {
        self.expect_sign("[")?;
        let mut items = Vec::new();
        while !self.is_sign("]") {
            if !items.is_empty() {
                self.expect_sign(",")?;
                if self.is_sign("]") {
                    break;
                }
            }
            items.push(self.expression()?);
        }
        self.expect_sign("]")?;
        Ok(Expr::List(items))
    }

    fn dict(&mut self) -> Res<Expr> {
        self.expect_sign("{")?;
        let mut items = Vec::new();
        while !self.is_sign("}") {
            if !items.is_empty() {
                self.expect_sign(",")?;
                if self.is_sign("}") {
                    break;
                }
            }
            let key = self.expression()?;
            self.expect_sign(":")?;
            items.push((key, self.expression()?));
        }
        self.expect_sign("}")?;
        Ok(Expr::Dict(items))
    }

    /// What follows a value: attributes, subscripts and calls, and then, where they may, filters and tests.
    fn links(&mut self, value: Expr, mut postfix: bool, filters: bool) -> Res<Expr> {
        let mut links = Vec::new();
        loop {
            let link = match self.kind() {
                Kind::Sign(".") if postfix => {
                    self.advance();
                    self.attribute()?
                }
                Kind::Sign("[") if postfix => {
                    self.advance();
                    self.subscript()?
                }
                Kind::Sign("(") => Link::Call(self.arguments()?),
                Kind::Sign("|") if filters => {
                    self.advance();
                    postfix = false;
                    Link::Filter(self.filter()?)
                }
                Kind::Name(name) if filters && name == "is" => {
                    self.advance();
                    postfix = false;
                    Link::Test(self.test()?)
                }
                _ => break,
            };
            links.push(link);
        }
        if links.is_empty() {
            return Ok(value);
        }
        Ok(Expr::Chain(Box::new(value), links))
    }

    fn attribute(&mut self) -> Res<Link> {
        match self.kind().clone() {
            Kind::Name(name) => {
                self.advance();
                Ok(Link::Attribute(name))
            }
            Kind::Int(n) => {
                self.advance();
                Ok(Link::Item(self.constant(Constant::Int(n))))
            }
            _ => self.fail(format!("expected a name or a number, found {}", self.shown())),
        }
    }

    fn subscript(&mut self) -> Res<Link> {
        let mut items = Vec::new();
        let mut is_tuple = false;
        while !self.is_sign("]") {
            if !items.is_empty() {
                self.expect_sign(",")?;
                is_tuple = true;
                if self.is_sign("]") {
                    break;
                }
            }
            let start = if self.is_sign(":") {
                None
            } else {
                Some(self.expression()?)
            };
            if !self.take_sign(":") {
                items.extend(start);
                continue;
            }
            let mut parts = [start, None, None];
            let mut at = 1;
            while !matches!(self.kind(), Kind::Sign("]" | ",")) {
                if self.take_sign(":") {
                    at += 1;
                    if at > 2 {
                        return self.fail("unexpected ':'");
                    }
                    continue;
                }
                if parts[at].is_some() {
                    return self.fail(format!("expected ']', found {}", self.shown()));
                }
                parts[at] = Some(self.expression()?);
            }
            if !items.is_empty() || !self.take_sign("]") {
                return self.fail("a slice among several subscripts");
            }
            return Ok(Link::Slice(Box::new(parts)));
        }
        self.expect_sign("]")?;
        match (items.pop(), is_tuple) {
            (Some(only), false) => Ok(Link::Item(only)),
            (Some(last), true) => {
                items.push(last);
                Ok(Link::Item(Expr::Tuple(items)))
            }
            (None, _) => Ok(Link::Item(Expr::Tuple(Vec::new()))),
        }
    }

    fn arguments(&mut self) -> Res<Arguments> {
        self.deeper(|p| {
            p.expect_sign("(")?;
            let mut arguments = Arguments::default();
            let mut first = true;
            while !p.is_sign(")") {
                if !first {
                    p.expect_sign(",")?;
                    if p.is_sign(")") {
                        break;
                    }
                }
                first = false;
                p.argument(&mut arguments)?;
            }
            p.expect_sign(")")?;
            Ok(arguments)
        })
    }

    fn argument(&mut self, arguments: &mut Arguments) -> Res<()> {
        let free = arguments.more_positional.is_none() && arguments.more_named.is_none();
        let bad = "invalid order of the arguments of a call";
        if self.take_sign("*") {
            if !free {
                return self.fail(bad);
            }
            arguments.more_positional = Some(Box::new(self.expression()?));
        } else if self.take_sign("**") {
            if arguments.more_named.is_some() {
                return self.fail(bad);
            }
            arguments.more_named = Some(Box::new(self.expression()?));
        } else if matches!(self.kind(), Kind::Name(_)) && *self.next_kind() == Kind::Sign("=") {
            if arguments.more_named.is_some() {
                return self.fail(bad);
            }
            let name = self.expect_name()?;
            self.advance();
            if arguments.named.iter().any(|(n, _)| *n == name) {
                return self.fail(format!("argument '{name}' is given twice"));
            }
            arguments.named.push((name, self.expression()?));
        } else {
            if !free || !arguments.named.is_empty() {
                return self.fail(bad);
            }
            arguments.positional.push(self.expression()?);
        }
        Ok(())
    }

    /// Filters in a row; the first may stand without `|`.
    fn filters(&mut self, begun: bool) -> Res<Vec<Filter>> {
        let mut filters = Vec::new();
        if begun {
            filters.push(self.filter()?);
        }
        while self.take_sign("|") {
            filters.push(self.filter()?);
        }
        Ok(filters)
    }

    fn filter(&mut self) -> Res<Filter> {
        let name = self.dotted_name()?;
        if !self.soft && !filters::is_filter(&name) {
            self.unknown
                .extend(self.fail::<()>(format!("unknown filter '{name}'")).err());
        }
        let arguments = if self.is_sign("(") {
            self.arguments()?
        } else {
            Arguments::default()
        };
        Ok(Filter { name, arguments })
    }

    fn test(&mut self) -> Res<Test> {
        let negated = self.take_name("not");
        let name = self.dotted_name()?;
        if !self.soft && !tests::is_test(&name) {
            self.unknown
                .extend(self.fail::<()>(format!("unknown test '{name}'")).err());
        }
        let mut arguments = Arguments::default();
        let has_value = match self.kind() {
            Kind::Name(name) => !matches!(name.as_str(), "else" | "or" | "and"),
            Kind::Text(_) | Kind::Int(_) | Kind::BigInt(_) | Kind::Float(_) => true,
            Kind::Sign(sign) => matches!(*sign, "[" | "{"),
            _ => false,
        };
        if self.is_sign("(") {
            arguments = self.arguments()?;
        } else if has_value {
            if self.is_name("is") {
                return self.fail("tests cannot be chained");
            }
            let value = self.primary()?;
            arguments.positional.push(self.links(value, true, false)?);
        }
        Ok(Test {
            name,
            negated,
            arguments,
        })
    }

    fn dotted_name(&mut self) -> Res<String> {
        let mut name = self.expect_name()?;
        while self.take_sign(".") {
            name.push('.');
            name.push_str(&self.expect_name()?);
        }
        Ok(name)
    }
}

fn is_literal(name: &str) -> bool {
    matches!(name, "true" | "false" | "none" | "True" | "False" | "None")
}
