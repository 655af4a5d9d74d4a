//! Statements: what stands between `{%` and `%}`, and the text around it.

use std::sync::Arc;

use super::expressions::is_literal;
use super::{Parser, Special};
use crate::chat::jinja::ast::{BlockDef, Body, Expr, For, Link, MacroDef, Name, Node, Statement, Target};
use crate::chat::jinja::error::{Error, Res};
use crate::chat::jinja::lexer::Kind;

impl Parser {
    /// Statements up to a tag with one of these names, which is then the next token.
    pub(super) fn body(&mut self, ends: &[&str]) -> Res<Body> {
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
    pub(super) fn inner(&mut self, tag: &'static str, ends: &[&str]) -> Res<Body> {
        self.take_sign(":");
        self.open.push(tag);
        self.expect_kind(&Kind::BlockEnd)?;
        let body = self.body(ends)?;
        self.open.pop();
        Ok(body)
    }

    /// As [`inner`](Self::inner), in a scope of its own, with the end tag's name taken.
    pub(super) fn scoped(&mut self, tag: &'static str, end: &str) -> Res<Body> {
        let soft = std::mem::take(&mut self.soft);
        let body = self.inner(tag, &[end])?;
        self.soft = soft;
        self.advance();
        Ok(body)
    }

    /// As [`scoped`](Self::scoped), for a body that becomes a function: a loop around it cannot be ended from there.
    pub(super) fn function(&mut self, tag: &'static str, end: &str) -> Res<Body> {
        let in_loop = std::mem::take(&mut self.in_loop);
        let body = self.scoped(tag, end)?;
        self.in_loop = in_loop;
        Ok(body)
    }

    pub(super) fn statement(&mut self) -> Res<Statement> {
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

    pub(super) fn for_statement(&mut self) -> Res<Statement> {
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

    pub(super) fn if_statement(&mut self) -> Res<Statement> {
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

    pub(super) fn set_statement(&mut self) -> Res<Statement> {
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

    pub(super) fn with_statement(&mut self) -> Res<Statement> {
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

    pub(super) fn call_statement(&mut self) -> Res<Statement> {
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

    pub(super) fn block_statement(&mut self) -> Res<Statement> {
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

    pub(super) fn macro_def(&mut self, name: Option<String>, tag: &'static str, end: &str) -> Res<MacroDef> {
        let (arguments, defaults) = self.signature()?;
        self.macro_body(name, arguments, defaults, tag, end)
    }

    pub(super) fn macro_body(
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

    pub(super) fn signature(&mut self) -> Res<(Vec<Name>, Vec<Expr>)> {
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
    pub(super) fn target(&mut self, attributes: bool, until_in: bool) -> Res<Target> {
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

    pub(super) fn single_target(&mut self, attributes: bool) -> Res<Target> {
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
}
