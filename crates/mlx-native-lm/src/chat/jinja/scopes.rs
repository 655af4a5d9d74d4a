//! What a template sees where: names in scopes, and the variable `loop`.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use super::ast::{For, Name};
use super::budget::Budget;
use super::error::{Error, Res};
use super::ops;
use super::value::{Seq, Value};

/// Variables of one scope, and the scope around it.
#[derive(Default)]
pub(crate) struct Scope {
    pub(super) variables: RefCell<Vec<(Name, Value)>>,
    parent: Option<Rc<Scope>>,
}

impl Scope {
    pub(super) fn inside(parent: &Rc<Scope>) -> Rc<Scope> {
        Rc::new(Scope {
            variables: RefCell::default(),
            parent: Some(Rc::clone(parent)),
        })
    }

    pub(super) fn get(&self, name: Name) -> Option<Value> {
        let mut scope = self;
        loop {
            let variables = scope.variables.borrow();
            if let Some((_, value)) = variables.iter().find(|(n, _)| *n == name) {
                return Some(value.clone());
            }
            drop(variables);
            scope = scope.parent.as_deref()?;
        }
    }

    pub(super) fn set(&self, name: Name, value: Value) {
        let mut variables = self.variables.borrow_mut();
        match variables.iter_mut().find(|(n, _)| *n == name) {
            Some((_, old)) => *old = value,
            None => variables.push((name, value)),
        }
    }
}

/// A loop as its body sees it: the variable `loop`.
pub(crate) struct LoopState {
    pub(super) items: Rc<Seq>,
    /// Items that were taken.
    pub(super) taken: Cell<usize>,
    pub(super) depth0: usize,
    /// The loop's program, where it is recursive.
    pub(super) recursive: Option<Arc<For>>,
    pub(super) scope: Rc<Scope>,
    pub(super) changed: RefCell<Option<Value>>,
}

impl LoopState {
    pub(crate) fn len(&self) -> usize {
        self.items.items.len()
    }

    pub(crate) fn depth(&self) -> u32 {
        self.items.depth()
    }

    /// From 1.
    pub(crate) fn index(&self) -> usize {
        self.taken.get()
    }

    /// What is still to come, which is taken.
    pub(crate) fn rest(&self) -> Res<Vec<Value>> {
        Err(Error::new("a loop cannot be walked through from inside it"))
    }

    pub(crate) fn attribute(&self, name: &str) -> Option<Value> {
        let (index, len) = (self.taken.get(), self.len());
        let item = |at: Option<usize>, hint: &str| {
            let item = at.and_then(|at| self.items.items.get(at));
            item.cloned().unwrap_or_else(|| Value::undefined(hint))
        };
        let number = |n: usize| Value::Int(n as i128);
        Some(match name {
            "index" => number(index),
            "index0" => number(index.saturating_sub(1)),
            "revindex" => number(len + 1 - index.min(len)),
            "revindex0" => number(len - index.min(len)),
            "first" => Value::Bool(index == 1),
            "last" => Value::Bool(index == len),
            "length" => number(len),
            "depth" => number(self.depth0 + 1),
            "depth0" => number(self.depth0),
            "previtem" => item(index.checked_sub(2), "there is no previous item"),
            "nextitem" => item(Some(index), "there is no next item"),
            _ => return None,
        })
    }

    /// One of the arguments, in turn.
    pub(crate) fn cycle(&self, values: &[Value]) -> Res<Value> {
        match values.len() {
            0 => Err(Error::new("no items for cycling given")),
            len => Ok(values[self.index().saturating_sub(1) % len].clone()),
        }
    }

    /// Whether the arguments are others than the last time.
    pub(crate) fn has_changed(&self, values: Vec<Value>, budget: &Budget) -> Res<bool> {
        let values = Value::tuple(values)?;
        let same = match &*self.changed.borrow() {
            Some(old) => ops::equal(old, &values, budget)?,
            None => false,
        };
        if !same {
            *self.changed.borrow_mut() = Some(values);
        }
        Ok(!same)
    }
}
