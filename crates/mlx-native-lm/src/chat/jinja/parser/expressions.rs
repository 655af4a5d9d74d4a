//! Expressions, from the loosest binding to the tightest.

use super::Parser;
use crate::chat::jinja::ast::{Arguments, Comparison, Constant, Expr, Filter, Link, Operator, Test};
use crate::chat::jinja::error::Res;
use crate::chat::jinja::lexer::Kind;
use crate::chat::jinja::{filters, tests};

impl Parser {
    /// One expression, or a tuple of several.
    pub(super) fn tuple(&mut self, conditions: bool, until_recursive: bool) -> Res<Expr> {
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

    pub(super) fn expression(&mut self) -> Res<Expr> {
        self.deeper(Self::condition)
    }

    pub(super) fn condition(&mut self) -> Res<Expr> {
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

    pub(super) fn or(&mut self) -> Res<Expr> {
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

    pub(super) fn and(&mut self) -> Res<Expr> {
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

    pub(super) fn not(&mut self) -> Res<Expr> {
        if self.take_name("not") {
            return Ok(Expr::Not(Box::new(self.deeper(Self::not)?)));
        }
        self.compare()
    }

    pub(super) fn compare(&mut self) -> Res<Expr> {
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

    pub(super) fn binary(
        &mut self,
        operators: &[(&str, Operator)],
        operand: fn(&mut Self) -> Res<Expr>,
    ) -> Res<Expr> {
        let first = operand(self)?;
        let mut more = Vec::new();
        while let Kind::Sign(sign) = self.kind() {
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

    pub(super) fn sum(&mut self) -> Res<Expr> {
        self.binary(&[("+", Operator::Add), ("-", Operator::Subtract)], Self::concat)
    }

    pub(super) fn concat(&mut self) -> Res<Expr> {
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

    pub(super) fn product(&mut self) -> Res<Expr> {
        let operators = [
            ("*", Operator::Multiply),
            ("/", Operator::Divide),
            ("//", Operator::FloorDivide),
            ("%", Operator::Modulo),
        ];
        self.binary(&operators, Self::power)
    }

    pub(super) fn power(&mut self) -> Res<Expr> {
        self.binary(&[("**", Operator::Power)], |p| p.unary(true))
    }

    pub(super) fn unary(&mut self, filters: bool) -> Res<Expr> {
        let value = if self.take_sign("-") {
            Expr::Negate(Box::new(self.deeper(|p| p.unary(false))?))
        } else if self.take_sign("+") {
            Expr::Plus(Box::new(self.deeper(|p| p.unary(false))?))
        } else {
            self.primary()?
        };
        self.links(value, true, filters)
    }

    pub(super) fn primary(&mut self) -> Res<Expr> {
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

    pub(super) fn parentheses(&mut self) -> Res<Expr> {
        self.expect_sign("(")?;
        if self.take_sign(")") {
            return Ok(Expr::Tuple(Vec::new()));
        }
        let inner = self.tuple(true, false)?;
        self.expect_sign(")")?;
        Ok(inner)
    }

    pub(super) fn list(&mut self) -> Res<Expr> {
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

    pub(super) fn dict(&mut self) -> Res<Expr> {
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
    pub(super) fn links(&mut self, value: Expr, mut postfix: bool, filters: bool) -> Res<Expr> {
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

    pub(super) fn attribute(&mut self) -> Res<Link> {
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

    pub(super) fn subscript(&mut self) -> Res<Link> {
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

    pub(super) fn arguments(&mut self) -> Res<Arguments> {
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

    pub(super) fn argument(&mut self, arguments: &mut Arguments) -> Res<()> {
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
    pub(super) fn filters(&mut self, begun: bool) -> Res<Vec<Filter>> {
        let mut filters = Vec::new();
        if begun {
            filters.push(self.filter()?);
        }
        while self.take_sign("|") {
            filters.push(self.filter()?);
        }
        Ok(filters)
    }

    pub(super) fn filter(&mut self) -> Res<Filter> {
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

    pub(super) fn test(&mut self) -> Res<Test> {
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

    pub(super) fn dotted_name(&mut self) -> Res<String> {
        let mut name = self.expect_name()?;
        while self.take_sign(".") {
            name.push('.');
            name.push_str(&self.expect_name()?);
        }
        Ok(name)
    }
}

pub(super) fn is_literal(name: &str) -> bool {
    matches!(name, "true" | "false" | "none" | "True" | "False" | "None")
}
