//! Running a template: statements, scopes, loops and macros.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use super::ast::{Body, Constant, For, MacroDef, Name, Program, Statement, Target};
use super::budget::Budget;
use super::calls::Given;
use super::error::{Error, Res};
use super::filters;
use super::scopes::{LoopState, Scope};
use super::text::{to_html, to_text};
use super::value::{Function, Macro, Object, Seq, Value, iterate};

/// What comes after a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Next,
    Break,
    Continue,
}

/// One rendering.
pub(crate) struct Interp<'a> {
    pub(crate) program: &'a Program,
    pub(crate) budget: Budget,
    constants: Vec<Value>,
    /// Variables of the caller, by [`Name`].
    context: Vec<Option<Value>>,
    pub(crate) scope: Rc<Scope>,
    root: Rc<Scope>,
    out: String,
    /// Line of the statement that runs.
    line: u32,
    autoescape: bool,
    /// What `strftime_now` shows.
    pub(crate) local_time: Option<i64>,
    /// What may hold itself, to be emptied at the end.
    scopes: Vec<Rc<Scope>>,
    namespaces: Vec<Value>,
    name_loop: Option<Name>,
    name_self: Option<Name>,
    most_text: usize,
}

impl<'a> Interp<'a> {
    pub(crate) fn new(program: &'a Program, local_time: Option<i64>, most_text: usize, part: u32) -> Self {
        let constants = program.constants.iter().map(|constant| match constant {
            Constant::None => Value::None,
            Constant::Bool(b) => Value::Bool(*b),
            Constant::Int(n) => Value::Int(*n),
            Constant::BigInt(digits) => Value::BigInt(digits.as_str().into()),
            Constant::Float(f) => Value::Float(*f),
            Constant::Text(text) => Value::text(text.as_str()),
        });
        let root = Rc::new(Scope::default());
        let find = |wanted: &str| {
            program
                .names
                .iter()
                .position(|n| n == wanted)
                .map(|at| at as Name)
        };
        Interp {
            program,
            budget: Budget::new(part),
            constants: constants.collect(),
            context: vec![None; program.names.len()],
            scope: Rc::clone(&root),
            root,
            out: String::new(),
            line: 1,
            autoescape: false,
            local_time,
            scopes: Vec::new(),
            namespaces: Vec::new(),
            name_loop: find("loop"),
            name_self: find("self"),
            most_text,
        }
    }

    /// Sets a variable that the template sees. One that it does not name is not kept.
    pub(crate) fn set_variable(&mut self, name: &str, value: impl FnOnce(&Budget) -> Res<Value>) -> Res<()> {
        if let Some(at) = self.program.names.iter().position(|n| n == name) {
            self.context[at] = Some(value(&self.budget)?);
        }
        Ok(())
    }

    /// The template's text.
    pub(crate) fn run(mut self) -> Res<String> {
        let program = self.program;
        let result = self.body(&program.body);
        // Macros and namespaces may hold themselves, and each other in long chains: emptied here, no value that they
        // hold is dropped inside another.
        let scopes = std::mem::take(&mut self.scopes);
        let namespaces = std::mem::take(&mut self.namespaces);
        for scope in scopes.iter().chain([&self.root]) {
            scope.variables.borrow_mut().clear();
        }
        for namespace in &namespaces {
            if let Value::Object(object) = namespace
                && let Object::Namespace(attributes) = &**object
            {
                attributes.borrow_mut().clear();
            }
        }
        result.map_err(|e| e.at(self.line))?;
        Ok(self.out)
    }

    /// Whether what is printed is escaped.
    pub(crate) fn escapes(&self) -> bool {
        self.autoescape
    }

    pub(crate) fn constant(&self, at: usize) -> Value {
        self.constants[at].clone()
    }

    /// A variable, a global, or what says that there is none.
    pub(crate) fn lookup(&self, name: Name) -> Value {
        if let Some(value) = self.scope.get(name) {
            return value;
        }
        if let Some(Some(value)) = self.context.get(name as usize) {
            return value.clone();
        }
        let text = &self.program.names[name as usize];
        match text.as_str() {
            "range" => Value::object(Object::Function(Function::Range)),
            "dict" => Value::object(Object::DictType),
            "namespace" => Value::object(Object::Function(Function::Namespace)),
            "cycler" => Value::object(Object::Function(Function::Cycler)),
            "joiner" => Value::object(Object::Function(Function::Joiner)),
            "lipsum" => Value::object(Object::Function(Function::Lipsum)),
            "raise_exception" => Value::object(Object::Function(Function::RaiseException)),
            "strftime_now" => Value::object(Object::Function(Function::StrftimeNow)),
            "self" if self.name_self == Some(name) => Value::object(Object::Blocks),
            _ => Value::undefined(format!("'{text}' is undefined")),
        }
    }

    /// Keeps a namespace that the template made, to empty it at the end.
    pub(crate) fn keep_namespace(&mut self, namespace: &Value) {
        self.namespaces.push(namespace.clone());
    }

    fn write(&mut self, text: &str) -> Res<()> {
        if self.out.len() + text.len() > self.most_text {
            return Err(Error::new(format!(
                "made a text of more than {} bytes",
                self.most_text
            )));
        }
        self.budget.charge(text.len())?;
        self.out.push_str(text);
        Ok(())
    }

    /// What a value prints as where the template stands.
    fn print(&mut self, value: &Value) -> Res<()> {
        if let Value::Undefined(undefined) = value
            && undefined.forbidden
        {
            return Ok(());
        }
        if let (false, Some(text)) = (self.autoescape, value.as_str()) {
            return self.write(text);
        }
        let text = if self.autoescape {
            to_html(value, &self.budget)?
        } else {
            to_text(value, &self.budget)?
        };
        self.write(&text)
    }

    /// Runs something with its output kept apart; that is the result.
    fn captured(&mut self, run: impl FnOnce(&mut Self) -> Res<Flow>) -> Res<(String, Flow)> {
        let outer = std::mem::take(&mut self.out);
        let result = run(self);
        let inner = std::mem::replace(&mut self.out, outer);
        Ok((inner, result?))
    }

    /// Runs something in a scope of its own.
    fn scoped<T>(&mut self, scope: Rc<Scope>, run: impl FnOnce(&mut Self) -> Res<T>) -> Res<T> {
        let outer = std::mem::replace(&mut self.scope, scope);
        let result = run(self);
        self.scope = outer;
        result
    }

    fn body(&mut self, body: &Body) -> Res<Flow> {
        self.budget.enter()?;
        for node in body {
            self.line = node.line;
            let flow = self.statement(&node.statement).map_err(|e| e.at(self.line))?;
            if flow != Flow::Next {
                self.budget.leave();
                return Ok(flow);
            }
        }
        self.budget.leave();
        Ok(Flow::Next)
    }

    fn inner_body(&mut self, body: &Body) -> Res<Flow> {
        let scope = Scope::inside(&self.scope);
        self.scoped(scope, |this| this.body(body))
    }

    fn statement(&mut self, statement: &Statement) -> Res<Flow> {
        self.budget.step()?;
        match statement {
            Statement::Text(text) => self.write(text)?,
            Statement::Print(values) => {
                for value in values {
                    let value = self.eval(value)?;
                    self.print(&value)?;
                }
            }
            Statement::For(each) => {
                let items = self.eval(&each.iter)?;
                return self.for_loop(each, items, 0);
            }
            Statement::If { branches, otherwise } => {
                for (test, body) in branches {
                    if self.eval(test)?.is_true() {
                        return self.body(body);
                    }
                }
                return self.body(otherwise);
            }
            Statement::Set { target, value } => {
                let value = self.eval(value)?;
                self.assign(target, value)?;
            }
            Statement::SetBlock {
                target,
                filters,
                body,
            } => {
                let (text, flow) = self.captured(|this| this.inner_body(body))?;
                if flow != Flow::Next {
                    return Ok(flow);
                }
                let value = self.made_text(text);
                let value = self.filtered(value, filters)?;
                self.assign(target, value)?;
            }
            Statement::FilterBlock { filters, body } => {
                let (text, flow) = self.captured(|this| this.inner_body(body))?;
                if flow != Flow::Next {
                    return Ok(flow);
                }
                let value = self.made_text(text);
                let value = self.filtered(value, filters)?;
                self.print(&value)?;
            }
            Statement::With { pairs, body } => {
                // All values first: none of them sees the others.
                let mut values = Vec::with_capacity(pairs.len());
                for (_, value) in pairs {
                    values.push(self.eval(value)?);
                }
                let scope = Scope::inside(&self.scope);
                return self.scoped(scope, |this| {
                    for ((target, _), value) in pairs.iter().zip(values) {
                        this.assign(target, value)?;
                    }
                    this.body(body)
                });
            }
            Statement::Macro(name, def) => {
                let value = self.macro_value(def);
                self.scope.set(*name, value);
            }
            Statement::Call { caller, call } => {
                let caller = self.macro_value(caller);
                let value = self.eval_call(call, caller)?;
                self.print(&value)?;
            }
            Statement::Autoescape { value, body } => {
                let escape = self.eval(value)?.is_true();
                let outer = std::mem::replace(&mut self.autoescape, escape);
                let result = self.inner_body(body);
                self.autoescape = outer;
                return result;
            }
            Statement::Block(at) => {
                let program = self.program;
                let block = &program.blocks[*at];
                if block.required {
                    return Err(Error::new(format!(
                        "required block '{}' is not defined",
                        block.name
                    )));
                }
                let around = if block.scoped { &self.scope } else { &self.root };
                let scope = Scope::inside(around);
                self.scoped(scope, |this| this.body(&block.body))?;
            }
            Statement::Scope(body) => return self.inner_body(body),
            Statement::Break => return Ok(Flow::Break),
            Statement::Continue => return Ok(Flow::Continue),
            Statement::Elsewhere(why) => return Err(Error::new(*why)),
        }
        Ok(Flow::Next)
    }

    /// A text that the template made: markup where it escapes.
    fn made_text(&self, text: String) -> Value {
        if self.autoescape {
            Value::markup(text)
        } else {
            Value::text(text)
        }
    }

    fn filtered(&mut self, value: Value, list: &[super::ast::Filter]) -> Res<Value> {
        let mut value = value;
        for filter in list {
            let given = self.given(&filter.arguments)?;
            value = filters::apply(self, &filter.name, value, given)?;
        }
        Ok(value)
    }

    fn macro_value(&mut self, def: &Arc<MacroDef>) -> Value {
        // The macro keeps the scope, and the scope the macro.
        if !self
            .scopes
            .last()
            .is_some_and(|last| Rc::ptr_eq(last, &self.scope))
        {
            self.scopes.push(Rc::clone(&self.scope));
        }
        Value::object(Object::Macro(Macro {
            def: Arc::clone(def),
            scope: Rc::clone(&self.scope),
        }))
    }

    fn assign(&mut self, target: &Target, value: Value) -> Res<()> {
        match target {
            Target::Name(name) => {
                self.scope.set(*name, value);
                Ok(())
            }
            Target::Attribute(name, attribute) => {
                let object = self.lookup(*name);
                let Value::Object(object) = &object else {
                    return Err(Error::new("cannot assign attribute on non-namespace object"));
                };
                let Object::Namespace(attributes) = &**object else {
                    return Err(Error::new("cannot assign attribute on non-namespace object"));
                };
                set_attribute(attributes, attribute, value)
            }
            Target::Tuple(targets) => {
                let items = iterate(&value, &self.budget).map_err(|e| match &value {
                    Value::Undefined(_) => e,
                    other => Error::new(format!("cannot unpack non-iterable {} object", other.type_name())),
                })?;
                if items.len() != targets.len() {
                    let what = if items.len() > targets.len() {
                        "too many"
                    } else {
                        "not enough"
                    };
                    return Err(Error::new(format!(
                        "{what} values to unpack: found {}, wanted {}",
                        items.len(),
                        targets.len()
                    )));
                }
                for (target, item) in targets.iter().zip(items) {
                    self.assign(target, item)?;
                }
                Ok(())
            }
        }
    }

    fn for_loop(&mut self, each: &Arc<For>, iterable: Value, depth0: usize) -> Res<Flow> {
        let mut items = iterate(&iterable, &self.budget)?;
        if let Some(test) = &each.test {
            let mut kept = Vec::new();
            for item in items {
                self.budget.step()?;
                let scope = Scope::inside(&self.scope);
                let keep = self.scoped(scope, |this| {
                    if let Some(name) = this.name_loop {
                        this.scope.set(
                            name,
                            Value::undefined("'loop' is undefined in the condition of a loop"),
                        );
                    }
                    this.assign(&each.target, item.clone())?;
                    Ok(this.eval(test)?.is_true())
                })?;
                if keep {
                    kept.push(item);
                }
            }
            items = kept;
        }
        let around = Rc::clone(&self.scope);
        let state = Rc::new(Object::Loop(LoopState {
            items: Seq::new(items)?,
            taken: Cell::new(0),
            depth0,
            recursive: each.recursive.then(|| Arc::clone(each)),
            scope: Rc::clone(&around),
            changed: RefCell::new(None),
        }));
        let Object::Loop(progress) = &*state else {
            return Ok(Flow::Next);
        };
        // Only a body that was gone through to its end counts here.
        let mut finished_one = false;
        for at in 0..progress.items.items.len() {
            self.budget.step()?;
            progress.taken.set(at + 1);
            let scope = Scope::inside(&around);
            if let Some(name) = self.name_loop {
                scope.set(name, Value::Object(Rc::clone(&state)));
            }
            let flow = self.scoped(scope, |this| {
                this.assign(&each.target, progress.items.items[at].clone())?;
                this.body(&each.body)
            })?;
            match flow {
                Flow::Break => break,
                Flow::Next => finished_one = true,
                Flow::Continue => {}
            }
        }
        if !finished_one && !each.otherwise.is_empty() {
            return self.inner_body(&each.otherwise);
        }
        Ok(Flow::Next)
    }

    /// A recursive loop's call of itself.
    pub(crate) fn recurse(&mut self, state: &LoopState, items: Value) -> Res<Value> {
        let Some(each) = &state.recursive else {
            return Err(Error::new(
                "the loop must have the 'recursive' marker to be called recursively",
            ));
        };
        self.budget.enter()?;
        let line = self.line;
        let scope = Rc::clone(&state.scope);
        let depth0 = state.depth0 + 1;
        let (text, _) =
            self.captured(|this| this.scoped(scope, |this| this.for_loop(each, items, depth0)))?;
        self.line = line;
        self.budget.leave();
        Ok(self.made_text(text))
    }

    /// The text of a block: what `self.name()` is.
    pub(crate) fn block_text(&mut self, at: usize) -> Res<Value> {
        self.budget.enter()?;
        let line = self.line;
        let program = self.program;
        let block = &program.blocks[at];
        let scope = Scope::inside(&self.root);
        let (text, _) = self.captured(|this| this.scoped(scope, |this| this.body(&block.body)))?;
        self.line = line;
        self.budget.leave();
        Ok(self.made_text(text))
    }

    /// Calls a macro.
    pub(crate) fn call_macro(&mut self, callee: &Macro, given: Given) -> Res<Value> {
        let def = &*callee.def;
        let scope = Scope::inside(&callee.scope);
        let mut given = given;
        let shown = || match &def.name {
            Some(name) => format!("macro '{name}'"),
            None => "the caller".to_owned(),
        };
        let program = self.program;
        let name_of = |name: Name| program.names[name as usize].clone();
        let extra = given
            .positional
            .split_off(given.positional.len().min(def.arguments.len()));
        let mut values: Vec<Option<Value>> = given.positional.drain(..).map(Some).collect();
        let mut found_caller = values.len() == def.arguments.len()
            && def.arguments.iter().any(|name| name_of(*name) == "caller");
        for name in &def.arguments[values.len()..] {
            let text = name_of(*name);
            found_caller |= text == "caller";
            let at = given.named.iter().position(|(n, _)| *n == text);
            values.push(at.map(|at| given.named.remove(at).1));
        }
        let special = |wanted: &str| {
            let at = program.names.iter().position(|n| n == wanted);
            at.map(|at| at as Name)
        };
        if def.takes_caller && !found_caller {
            let at = given.named.iter().position(|(n, _)| n == "caller");
            let caller = at.map(|at| given.named.remove(at).1);
            let caller = caller.filter(|v| !v.is_none());
            let caller = caller.unwrap_or_else(|| Value::undefined("No caller defined"));
            if let Some(name) = special("caller") {
                scope.set(name, caller);
            }
        }
        if def.takes_kwargs {
            let named = given
                .named
                .drain(..)
                .map(|(name, value)| (Value::text(name), value));
            let named = super::value::Dict::new(named.collect(), &self.budget)?;
            if let Some(name) = special("kwargs") {
                scope.set(name, Value::Dict(named));
            }
        } else if let Some((name, _)) = given.named.first() {
            return Err(Error::new(format!(
                "{} takes no keyword argument '{name}'",
                shown()
            )));
        }
        if def.takes_varargs {
            if let Some(name) = special("varargs") {
                scope.set(name, Value::tuple(extra)?);
            }
        } else if !extra.is_empty() {
            return Err(Error::new(format!(
                "{} takes not more than {} argument(s)",
                shown(),
                def.arguments.len()
            )));
        }
        self.budget.enter()?;
        let line = self.line;
        let (text, _) = self.captured(|this| {
            this.scoped(scope, |this| {
                this.set_arguments(def, values)?;
                this.body(&def.body)
            })
        })?;
        self.line = line;
        self.budget.leave();
        Ok(self.made_text(text))
    }

    /// Sets the arguments of a macro in its scope; a default may name an earlier one.
    fn set_arguments(&mut self, def: &MacroDef, values: Vec<Option<Value>>) -> Res<()> {
        let without = def.arguments.len() - def.defaults.len();
        for (at, (name, value)) in def.arguments.iter().zip(values).enumerate() {
            let value = match (value, at.checked_sub(without)) {
                (Some(value), _) => value,
                (None, Some(default)) => self.eval(&def.defaults[default])?,
                (None, None) => {
                    let text = &self.program.names[*name as usize];
                    Value::undefined(format!("parameter '{text}' was not provided"))
                }
            };
            self.scope.set(*name, value);
        }
        Ok(())
    }
}

/// Sets an attribute of a namespace; none may begin with an underscore.
pub(crate) fn set_attribute(
    attributes: &RefCell<Vec<(Rc<str>, Value)>>,
    name: &str,
    value: Value,
) -> Res<()> {
    if name.starts_with('_') {
        return Err(Error::new(format!(
            "not allowed: a namespace takes no attribute that begins with an underscore, such as '{name}'"
        )));
    }
    let mut attributes = attributes.borrow_mut();
    match attributes.iter_mut().find(|(n, _)| **n == *name) {
        Some((_, old)) => *old = value,
        None => attributes.push((name.into(), value)),
    }
    Ok(())
}
