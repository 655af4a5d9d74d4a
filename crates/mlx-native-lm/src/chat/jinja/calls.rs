//! Expressions, attributes, subscripts and calls.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::ast::{Arguments, Expr, Link};
use super::error::{Error, Res};
use super::interp::{Interp, set_attribute};
use super::methods;
use super::ops::{self, undefined_error};
use super::ranges::{range, slice_bounds, slice_indices};
use super::value::{Dict, Function, Object, Seq, Value, ViewKind, iterate};
use super::{filters, tests};
use crate::chat::time;

/// The arguments of a call.
#[derive(Default, Clone)]
pub(crate) struct Given {
    pub(crate) positional: Vec<Value>,
    pub(crate) named: Vec<(String, Value)>,
}

impl Given {
    /// The values of parameters, by position or by name; `None` where one is not given. `what` is called.
    pub(crate) fn bind<const N: usize>(self, what: &str, names: [&str; N]) -> Res<[Option<Value>; N]> {
        let mut values = [const { None }; N];
        if self.positional.len() > N {
            return Err(Error::new(format!(
                "{what}: found {} arguments, wanted at most {N}",
                self.positional.len()
            )));
        }
        for (at, value) in self.positional.into_iter().enumerate() {
            values[at] = Some(value);
        }
        for (name, value) in self.named {
            match names.iter().position(|n| *n == name) {
                Some(at) if values[at].is_none() => values[at] = Some(value),
                Some(_) => return Err(Error::new(format!("{what}: argument '{name}' is given twice"))),
                None => return Err(Error::new(format!("{what}: unexpected argument '{name}'"))),
            }
        }
        Ok(values)
    }
}

impl Interp<'_> {
    /// The value of an expression.
    pub(crate) fn eval(&mut self, expr: &Expr) -> Res<Value> {
        self.budget.enter()?;
        let value = self.eval_inner(expr)?;
        self.budget.leave();
        Ok(value)
    }

    fn eval_inner(&mut self, expr: &Expr) -> Res<Value> {
        match expr {
            Expr::Constant(at) => Ok(self.constant(*at)),
            Expr::Name(name) => Ok(self.lookup(*name)),
            Expr::List(items) => Value::list(self.eval_all(items)?),
            Expr::Tuple(items) => Value::tuple(self.eval_all(items)?),
            Expr::Dict(pairs) => {
                let mut entries = Vec::with_capacity(pairs.len());
                for (key, value) in pairs {
                    let key = self.eval(key)?;
                    entries.push((key, self.eval(value)?));
                }
                Ok(Value::Dict(Dict::new(entries, &self.budget)?))
            }
            Expr::If { test, yes, no } => {
                if self.eval(test)?.is_true() {
                    return self.eval(yes);
                }
                match no {
                    Some(no) => self.eval(no),
                    None => Ok(Value::undefined(
                        "the inline if-expression evaluated to false and no else section was defined",
                    )),
                }
            }
            Expr::Or(all) => self.eval_until(all, true),
            Expr::And(all) => self.eval_until(all, false),
            Expr::Not(value) => Ok(Value::Bool(!self.eval(value)?.is_true())),
            Expr::Compare(first, more) => {
                let mut left = self.eval(first)?;
                for (comparison, right) in more {
                    let right = self.eval(right)?;
                    if !ops::compare(*comparison, &left, &right, &self.budget)? {
                        return Ok(Value::Bool(false));
                    }
                    left = right;
                }
                Ok(Value::Bool(true))
            }
            Expr::Binary(first, more) => {
                let mut left = self.eval(first)?;
                for (operator, right) in more {
                    let right = self.eval(right)?;
                    left = ops::binary(*operator, &left, &right, &self.budget)?;
                }
                Ok(left)
            }
            Expr::Concat(all) => {
                let values = self.eval_all(all)?;
                ops::concat(&values, &self.budget)
            }
            Expr::Negate(value) => ops::negate(&self.eval(value)?, false),
            Expr::Plus(value) => ops::negate(&self.eval(value)?, true),
            Expr::Chain(first, links) => {
                let value = self.eval(first)?;
                self.follow(value, links)
            }
        }
    }

    fn eval_all(&mut self, all: &[Expr]) -> Res<Vec<Value>> {
        all.iter().map(|expr| self.eval(expr)).collect()
    }

    /// The first value that is true, or is not; else the last.
    fn eval_until(&mut self, all: &[Expr], truth: bool) -> Res<Value> {
        let mut value = Value::Bool(!truth);
        for expr in all {
            value = self.eval(expr)?;
            if value.is_true() == truth {
                break;
            }
        }
        Ok(value)
    }

    fn follow(&mut self, value: Value, links: &[Link]) -> Res<Value> {
        let mut value = value;
        for link in links {
            self.budget.step()?;
            value = match link {
                Link::Attribute(name) => self.attribute(&value, name)?,
                Link::Item(key) => {
                    let key = self.eval(key)?;
                    self.item(&value, &key)?
                }
                Link::Slice(parts) => {
                    let mut bounds = [Value::None, Value::None, Value::None];
                    for (bound, part) in bounds.iter_mut().zip(parts.iter()) {
                        if let Some(part) = part {
                            *bound = self.eval(part)?;
                        }
                    }
                    self.slice(&value, &bounds)?
                }
                Link::Call(arguments) => {
                    let given = self.given(arguments)?;
                    self.call(&value, given)?
                }
                Link::Filter(filter) => {
                    let given = self.given(&filter.arguments)?;
                    filters::apply(self, &filter.name, value, given)?
                }
                Link::Test(test) => {
                    let given = self.given(&test.arguments)?;
                    Value::Bool(tests::check(self, &test.name, &value, given)? != test.negated)
                }
            };
        }
        Ok(value)
    }

    /// The arguments of a call, evaluated.
    pub(crate) fn given(&mut self, arguments: &Arguments) -> Res<Given> {
        let mut given = Given {
            positional: self.eval_all(&arguments.positional)?,
            named: Vec::with_capacity(arguments.named.len()),
        };
        for (name, value) in &arguments.named {
            given.named.push((name.clone(), self.eval(value)?));
        }
        if let Some(more) = &arguments.more_positional {
            let more = self.eval(more)?;
            given.positional.extend(iterate(&more, &self.budget)?);
        }
        if let Some(more) = &arguments.more_named {
            let more = self.eval(more)?;
            let Value::Dict(dict) = &more else {
                return Err(Error::new(format!(
                    "argument after ** must be a mapping, not {}",
                    more.type_name()
                )));
            };
            for (key, value) in &dict.entries {
                let Some(name) = key.as_str() else {
                    return Err(Error::new("keywords must be strings"));
                };
                if given.named.iter().any(|(n, _)| n == name) {
                    return Err(Error::new(format!("argument '{name}' is given twice")));
                }
                given.named.push((name.to_owned(), value.clone()));
            }
        }
        Ok(given)
    }

    /// A call with a caller, as the tag `call` makes it.
    pub(crate) fn eval_call(&mut self, call: &Expr, caller: Value) -> Res<Value> {
        let Expr::Chain(first, links) = call else {
            return Err(Error::new("expected a call"));
        };
        let Some((Link::Call(arguments), before)) = links.split_last() else {
            return Err(Error::new("expected a call"));
        };
        let value = self.eval(first)?;
        let callee = self.follow(value, before)?;
        let mut given = self.given(arguments)?;
        given.named.push(("caller".to_owned(), caller));
        self.call(&callee, given)
    }

    /// `value.name`: an attribute or method, else the item of that name.
    pub(crate) fn attribute(&self, value: &Value, name: &str) -> Res<Value> {
        if let Some(error) = undefined_error(value) {
            return Err(error);
        }
        if let Some(found) = self.own_attribute(value, name)? {
            return Ok(found);
        }
        if let Value::Dict(dict) = value
            && let Some(found) = dict.get_str(name)
        {
            return Ok(found.clone());
        }
        Ok(no_attribute(value, name))
    }

    /// An attribute or method that a value has of itself.
    pub(crate) fn own_attribute(&self, value: &Value, name: &str) -> Res<Option<Value>> {
        if let Value::Object(object) = value {
            let found = match &**object {
                Object::Namespace(attributes) => {
                    let attributes = attributes.borrow();
                    attributes
                        .iter()
                        .find(|(n, _)| **n == *name)
                        .map(|(_, v)| v.clone())
                }
                Object::Loop(state) => state.attribute(name),
                Object::Range { start, stop, step } => match name {
                    "start" => Some(Value::Int(*start)),
                    "stop" => Some(Value::Int(*stop)),
                    "step" => Some(Value::Int(*step)),
                    _ => None,
                },
                Object::Macro(callee) => macro_attribute(self, callee, name)?,
                Object::Cycler { items, at } => match name {
                    "current" => Some(items.items[at.get()].clone()),
                    "items" => Some(Value::Tuple(Rc::clone(items))),
                    "pos" => Some(Value::Int(at.get() as i128)),
                    _ => None,
                },
                Object::Joiner { separator, used } => match name {
                    "sep" => Some(separator.clone()),
                    "used" => Some(Value::Bool(used.get())),
                    _ => None,
                },
                Object::Blocks => {
                    let at = self.program.blocks.iter().position(|b| b.name == name);
                    at.map(|at| Value::object(Object::Block(at)))
                }
                _ => None,
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        if let Value::Tuple(seq) = value
            && seq.is_group
        {
            match name {
                "grouper" => return Ok(Some(seq.items[0].clone())),
                "list" => return Ok(Some(seq.items[1].clone())),
                _ => {}
            }
        }
        if let (Some(n), "real" | "numerator") = (value.as_int(), name) {
            return Ok(Some(Value::Int(n)));
        }
        match (value.as_int(), value, name) {
            (Some(_), _, "imag") => return Ok(Some(Value::Int(0))),
            (Some(_), _, "denominator") => return Ok(Some(Value::Int(1))),
            (None, Value::Float(f), "real") => return Ok(Some(Value::Float(*f))),
            (None, Value::Float(_), "imag") => return Ok(Some(Value::Float(0.0))),
            _ => {}
        }
        match methods::find(value, name) {
            methods::Found::Method => Ok(Some(Value::object(Object::Method {
                of: value.clone(),
                name: name.into(),
            }))),
            methods::Found::Changes => Ok(Some(Value::Undefined(Rc::new(super::value::Undefined {
                hint: format!(
                    "access to attribute '{name}' of '{}' object is unsafe",
                    value.type_name()
                ),
                forbidden: true,
            })))),
            methods::Found::Nothing => Ok(None),
        }
    }

    /// `value[key]`: the item, else the attribute of that name.
    pub(crate) fn item(&self, value: &Value, key: &Value) -> Res<Value> {
        if let Some(error) = undefined_error(value) {
            return Err(error);
        }
        if let Some(found) = self.own_item(value, key)? {
            return Ok(found);
        }
        if let Some(name) = key.as_str() {
            if let Some(found) = self.own_attribute(value, name)? {
                return Ok(found);
            }
            return Ok(no_attribute(value, name));
        }
        Ok(Value::undefined(format!(
            "{} has no such element",
            shown_type(value)
        )))
    }

    fn own_item(&self, value: &Value, key: &Value) -> Res<Option<Value>> {
        if let Value::Dict(dict) = value {
            if let Some(name) = key.as_str() {
                return Ok(dict.get_str(name).cloned());
            }
            // What cannot be a key is not there.
            return Ok(key
                .key(&self.budget)
                .ok()
                .and(dict.get(key, &self.budget)?.cloned()));
        }
        let Some(at) = key.as_int() else {
            return Ok(None);
        };
        let place = |len: usize| {
            let at = if at < 0 { at + len as i128 } else { at };
            usize::try_from(at).ok().filter(|at| *at < len)
        };
        Ok(match value {
            Value::List(seq) | Value::Tuple(seq) => place(seq.items.len()).map(|at| seq.items[at].clone()),
            Value::Str(text) | Value::Markup(text) => {
                self.budget.charge(text.len())?;
                let at = place(text.chars().count());
                let found = at.and_then(|at| text.chars().nth(at));
                found.map(|c| Value::text_like(value, c.to_string()))
            }
            Value::Object(object) => match &**object {
                Object::Range { start, step, .. } => {
                    let at = place(object.range_len().unwrap_or(0));
                    at.map(|at| Value::Int(start + at as i128 * step))
                }
                _ => None,
            },
            _ => None,
        })
    }

    fn slice(&self, value: &Value, bounds: &[Value; 3]) -> Res<Value> {
        if let Some(error) = undefined_error(value) {
            return Err(error);
        }
        let mut whole = [None; 3];
        for (whole, bound) in whole.iter_mut().zip(bounds) {
            *whole = match bound {
                Value::None => None,
                other => Some(other.as_int().ok_or_else(|| {
                    undefined_error(other).unwrap_or_else(|| {
                        Error::new("slice indices must be integers or None or have an __index__ method")
                    })
                })?),
            };
        }
        if whole[2] == Some(0) {
            return Err(Error::new("slice step cannot be zero"));
        }
        let picked = |len: usize| {
            self.budget.charge(len * 16)?;
            Ok::<_, Error>(slice_indices(len as i128, whole))
        };
        match value {
            Value::List(seq) => {
                let at = picked(seq.items.len())?;
                Value::list(at.into_iter().map(|i| seq.items[i].clone()).collect())
            }
            Value::Tuple(seq) => {
                let at = picked(seq.items.len())?;
                Value::tuple(at.into_iter().map(|i| seq.items[i].clone()).collect())
            }
            Value::Str(text) | Value::Markup(text) => {
                self.budget.charge(text.len())?;
                let chars: Vec<char> = text.chars().collect();
                let at = picked(chars.len())?;
                Ok(Value::text_like(
                    value,
                    at.into_iter().map(|i| chars[i]).collect::<String>(),
                ))
            }
            Value::Object(object) if object.range_len().is_some() => {
                let Object::Range { start, step, .. } = &**object else {
                    return Ok(Value::None);
                };
                let len = object.range_len().unwrap_or(0) as i128;
                let (first, last, by) = slice_bounds(len, whole);
                Ok(Value::object(Object::Range {
                    start: start + first * step,
                    stop: start + last * step,
                    step: step * by,
                }))
            }
            other => Err(Error::new(format!(
                "'{}' object is not subscriptable",
                other.type_name()
            ))),
        }
    }

    /// Calls a value.
    pub(crate) fn call(&mut self, callee: &Value, given: Given) -> Res<Value> {
        self.budget.step()?;
        if let Some(error) = undefined_error(callee) {
            return Err(error);
        }
        let Value::Object(object) = callee else {
            return Err(not_callable(callee));
        };
        match &**object {
            Object::Function(function) => self.call_function(*function, given),
            Object::Macro(callee) => self.call_macro(callee, given),
            Object::Method { of, name } => methods::call(self, of, name, given),
            Object::Joiner { separator, used } => {
                given.bind("joiner", [])?;
                Ok(if used.replace(true) {
                    separator.clone()
                } else {
                    Value::text("")
                })
            }
            Object::Loop(state) => {
                let [items] = given.bind("loop", ["iterable"])?;
                let items = items
                    .ok_or_else(|| Error::new("loop: found no argument, wanted what to walk through"))?;
                self.recurse(state, items)
            }
            Object::Block(at) => {
                given.bind("block", [])?;
                self.block_text(*at)
            }
            Object::DictType => self.make_dict(given),
            _ => Err(not_callable(callee)),
        }
    }

    fn call_function(&mut self, function: Function, given: Given) -> Res<Value> {
        match function {
            Function::Range => range(given),
            Function::Namespace => {
                let Value::Dict(dict) = self.make_dict(given)? else {
                    return Ok(Value::None);
                };
                let attributes = RefCell::new(Vec::new());
                for (key, value) in &dict.entries {
                    if let Some(name) = key.as_str() {
                        set_attribute(&attributes, name, value.clone())?;
                    }
                }
                let namespace = Value::object(Object::Namespace(attributes));
                self.keep_namespace(&namespace);
                Ok(namespace)
            }
            Function::Cycler => {
                if given.positional.is_empty() || !given.named.is_empty() {
                    return Err(Error::new("cycler: at least one item has to be provided"));
                }
                Ok(Value::object(Object::Cycler {
                    items: Seq::new(given.positional)?,
                    at: Cell::new(0),
                }))
            }
            Function::Joiner => {
                let [separator] = given.bind("joiner", ["sep"])?;
                Ok(Value::object(Object::Joiner {
                    separator: separator.unwrap_or_else(|| Value::text(", ")),
                    used: Cell::new(false),
                }))
            }
            Function::Lipsum => Err(Error::new("lipsum: makes random text, which is not supported")),
            Function::RaiseException => {
                let [message] = given.bind("raise_exception", ["message"])?;
                let message = message.ok_or_else(|| Error::new("raise_exception: found no message"))?;
                let text = super::text::to_text(&message, &self.budget)?;
                Err(Error::new(format!("the template says: {text}")))
            }
            Function::StrftimeNow => {
                let [format] = given.bind("strftime_now", ["format"])?;
                match format.as_ref().and_then(Value::as_str) {
                    Some(format) => {
                        self.budget.charge(format.len())?;
                        Ok(Value::text(time::strftime(format, self.local_time)?))
                    }
                    None => Err(Error::new("strftime_now: wanted a format")),
                }
            }
        }
    }

    /// `dict(…)`: of a mapping or of pairs, and of named arguments.
    fn make_dict(&mut self, given: Given) -> Res<Value> {
        let mut entries = Vec::new();
        let mut positional = given.positional.into_iter();
        let first = positional.next();
        if positional.next().is_some() {
            return Err(Error::new("dict: expected at most 1 argument"));
        }
        match &first {
            None => {}
            Some(Value::Dict(dict)) => entries.extend(dict.entries.iter().cloned()),
            Some(pairs) => {
                if let Some(error) = undefined_error(pairs).filter(|_| false) {
                    return Err(error);
                }
                for pair in iterate(pairs, &self.budget)? {
                    let mut items = iterate(&pair, &self.budget)?.into_iter();
                    match (items.next(), items.next(), items.next()) {
                        (Some(key), Some(value), None) => entries.push((key, value)),
                        _ => return Err(Error::new("dict: wanted pairs")),
                    }
                }
            }
        }
        let named = given
            .named
            .into_iter()
            .map(|(name, value)| (Value::text(name), value));
        entries.extend(named);
        Ok(Value::Dict(Dict::new(entries, &self.budget)?))
    }
}

fn macro_attribute(interp: &Interp<'_>, callee: &super::value::Macro, name: &str) -> Res<Option<Value>> {
    let def = &callee.def;
    Ok(Some(match name {
        "name" => def.name.as_deref().map_or(Value::None, Value::text),
        "arguments" => {
            let names = def.arguments.iter().map(|n| &interp.program.names[*n as usize]);
            Value::tuple(names.map(Value::text).collect())?
        }
        "catch_kwargs" => Value::Bool(def.takes_kwargs),
        "catch_varargs" => Value::Bool(def.takes_varargs),
        "caller" => Value::Bool(def.takes_caller),
        _ => return Ok(None),
    }))
}

fn no_attribute(value: &Value, name: &str) -> Value {
    Value::undefined(format!("{} has no attribute '{name}'", shown_type(value)))
}

fn shown_type(value: &Value) -> String {
    match value {
        Value::None => "None".to_owned(),
        other => format!("'{} object'", other.type_name()),
    }
}

fn not_callable(value: &Value) -> Error {
    Error::new(format!("'{}' object is not callable", value.type_name()))
}

/// The method of a dictionary that gives a view of it.
pub(crate) fn view(dict: &Rc<Dict>, kind: ViewKind) -> Value {
    Value::object(Object::View {
        kind,
        dict: Rc::clone(dict),
    })
}
