//! The values of templates: those of Python that templates can make.
//!
//! Lists, tuples and dictionaries cannot be changed by a template (its environment refuses that), so they hold no cycles and
//! know how deeply they are nested; too deep a nesting is refused when it is made, so that walking one needs little stack.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ops::Deref;
use std::rc::Rc;

use super::ast::MacroDef;
use super::budget::Budget;
use super::error::{Error, Res};
use super::scopes::{LoopState, Scope};

/// Deepest nesting of lists, tuples and dictionaries.
pub(crate) const MAX_NESTING: u32 = 200;

/// A value.
#[derive(Clone)]
pub(crate) enum Value {
    Undefined(Rc<Undefined>),
    None,
    Bool(bool),
    Int(i128),
    /// A whole number of more digits; it can be shown and compared for equality.
    BigInt(Rc<str>),
    Float(f64),
    Str(Rc<Text>),
    /// A text that is markup: what is put to it is escaped.
    Markup(Rc<Text>),
    List(Rc<Seq>),
    Tuple(Rc<Seq>),
    Dict(Rc<Dict>),
    Object(Rc<Object>),
}

/// What is not there, and why.
pub(crate) struct Undefined {
    pub(crate) hint: String,
    /// What the environment forbids: another kind of error.
    pub(crate) forbidden: bool,
}

/// A text whose memory is counted.
pub(crate) struct Text(Box<str>);

impl Text {
    fn new(text: String) -> Self {
        let text = text.into_boxed_str();
        Budget::add_live(text.len());
        Text(text)
    }
}

impl Drop for Text {
    fn drop(&mut self) {
        Budget::remove_live(self.0.len());
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

/// The items of a list or tuple.
pub(crate) struct Seq {
    pub(crate) items: Vec<Value>,
    depth: u32,
    /// A group of the filter `groupby`: its two items have names.
    pub(crate) is_group: bool,
}

impl Drop for Seq {
    fn drop(&mut self) {
        Budget::remove_live(self.items.len() * size_of::<Value>());
    }
}

/// What a dictionary finds its entries by: equal values have equal keys.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    None,
    Int(i128),
    Float(u64),
    Str(Rc<str>),
    Tuple(Vec<Key>),
    Undefined,
    Object(usize),
}

/// A dictionary, in the order in which its keys came.
pub(crate) struct Dict {
    pub(crate) entries: Vec<(Value, Value)>,
    index: HashMap<Key, usize>,
    depth: u32,
}

impl Drop for Dict {
    fn drop(&mut self) {
        Budget::remove_live(self.entries.len() * ENTRY);
    }
}

/// Bytes that an entry of a dictionary takes, about.
const ENTRY: usize = 4 * size_of::<Value>();

/// Values that are no data.
pub(crate) enum Object {
    Range {
        start: i128,
        stop: i128,
        step: i128,
    },
    /// What is used up by walking through it.
    Iterator(Iter),
    View {
        kind: ViewKind,
        dict: Rc<Dict>,
    },
    Method {
        of: Value,
        name: Box<str>,
    },
    Function(Function),
    Macro(Macro),
    Namespace(RefCell<Vec<(Rc<str>, Value)>>),
    Cycler {
        items: Rc<Seq>,
        at: Cell<usize>,
    },
    Joiner {
        separator: Value,
        used: Cell<bool>,
    },
    Loop(LoopState),
    /// `self`, whose attributes are the blocks.
    Blocks,
    Block(usize),
    /// The global `dict`.
    DictType,
}

/// An iterator: values that were made ahead, and the error that ends them.
pub(crate) struct Iter {
    pub(crate) kind: &'static str,
    items: Rc<Seq>,
    at: Cell<usize>,
    error: RefCell<Option<Error>>,
}

/// What a dictionary shows of itself.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum ViewKind {
    Keys,
    Values,
    Items,
}

/// Functions that templates find as variables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Function {
    Range,
    Namespace,
    Cycler,
    Joiner,
    Lipsum,
    RaiseException,
    StrftimeNow,
}

/// A macro, and where it was defined.
pub(crate) struct Macro {
    pub(crate) def: std::sync::Arc<MacroDef>,
    pub(crate) scope: Rc<Scope>,
}

impl Value {
    pub(crate) fn undefined(hint: impl Into<String>) -> Value {
        Value::Undefined(Rc::new(Undefined {
            hint: hint.into(),
            forbidden: false,
        }))
    }

    pub(crate) fn text(text: impl Into<String>) -> Value {
        Value::Str(Rc::new(Text::new(text.into())))
    }

    pub(crate) fn markup(text: impl Into<String>) -> Value {
        Value::Markup(Rc::new(Text::new(text.into())))
    }

    /// A text that is markup where `like` is.
    pub(crate) fn text_like(like: &Value, text: impl Into<String>) -> Value {
        match like {
            Value::Markup(_) => Value::markup(text),
            _ => Value::text(text),
        }
    }

    pub(crate) fn object(object: Object) -> Value {
        Value::Object(Rc::new(object))
    }

    pub(crate) fn list(items: Vec<Value>) -> Res<Value> {
        Ok(Value::List(Seq::new(items)?))
    }

    pub(crate) fn tuple(items: Vec<Value>) -> Res<Value> {
        Ok(Value::Tuple(Seq::new(items)?))
    }

    pub(crate) fn iterator(kind: &'static str, items: Vec<Value>, error: Option<Error>) -> Res<Value> {
        Ok(Value::object(Object::Iterator(Iter {
            kind,
            items: Seq::new(items)?,
            at: Cell::new(0),
            error: RefCell::new(error),
        })))
    }

    pub(crate) fn is_undefined(&self) -> bool {
        matches!(self, Value::Undefined(_))
    }

    pub(crate) fn is_none(&self) -> bool {
        matches!(self, Value::None)
    }

    /// The text of a string, markup or not.
    pub(crate) fn as_str(&self) -> Option<&str> {
        match self {
            Value::Str(text) | Value::Markup(text) => Some(text),
            _ => None,
        }
    }

    /// A whole number, or true or false for one.
    pub(crate) fn as_int(&self) -> Option<i128> {
        match self {
            Value::Int(n) => Some(*n),
            Value::Bool(b) => Some(i128::from(*b)),
            _ => None,
        }
    }

    pub(crate) fn is_true(&self) -> bool {
        match self {
            Value::Undefined(_) | Value::None => false,
            Value::Bool(b) => *b,
            Value::Int(n) => *n != 0,
            Value::BigInt(_) => true,
            Value::Float(f) => *f != 0.0,
            Value::Str(text) | Value::Markup(text) => !text.is_empty(),
            Value::List(seq) | Value::Tuple(seq) => !seq.items.is_empty(),
            Value::Dict(dict) => !dict.entries.is_empty(),
            Value::Object(object) => match &**object {
                Object::Range { .. } => object.range_len() != Some(0),
                Object::View { dict, .. } => !dict.entries.is_empty(),
                _ => true,
            },
        }
    }

    /// How deeply lists are nested in it.
    fn depth(&self) -> u32 {
        match self {
            Value::List(seq) | Value::Tuple(seq) => seq.depth,
            Value::Dict(dict) => dict.depth,
            Value::Object(object) => match &**object {
                Object::Iterator(iter) => iter.items.depth + 1,
                Object::View { dict, .. } => dict.depth + 1,
                Object::Method { of, .. } => of.depth() + 1,
                Object::Cycler { items, .. } => items.depth + 1,
                Object::Joiner { separator, .. } => separator.depth() + 1,
                Object::Loop(state) => state.depth() + 1,
                // These may hold anything; the interpreter empties them one by one at the end.
                _ => 0,
            },
            _ => 0,
        }
    }

    /// The name of its type, as Python's errors have it.
    pub(crate) fn type_name(&self) -> &'static str {
        match self {
            Value::Undefined(_) => "Undefined",
            Value::None => "NoneType",
            Value::Bool(_) => "bool",
            Value::Int(_) | Value::BigInt(_) => "int",
            Value::Float(_) => "float",
            Value::Str(_) => "str",
            Value::Markup(_) => "Markup",
            Value::List(_) => "list",
            Value::Tuple(_) => "tuple",
            Value::Dict(_) => "dict",
            Value::Object(object) => match &**object {
                Object::Range { .. } => "range",
                Object::Iterator(iter) => iter.kind,
                Object::View { kind, .. } => kind.type_name(),
                Object::Method { .. } => "builtin_function_or_method",
                Object::Function(_) | Object::Block(_) => "function",
                Object::Macro(_) => "Macro",
                Object::Namespace(_) => "TemplateNamespace",
                Object::Cycler { .. } => "Cycler",
                Object::Joiner { .. } => "Joiner",
                Object::Loop(_) => "LoopContext",
                Object::Blocks => "TemplateReference",
                Object::DictType => "TemplateDict",
            },
        }
    }

    /// The number of items or characters, where Python's `len` gives one.
    pub(crate) fn len(&self) -> Option<usize> {
        match self {
            Value::Undefined(_) => Some(0),
            Value::Str(text) | Value::Markup(text) => Some(text.chars().count()),
            Value::List(seq) | Value::Tuple(seq) => Some(seq.items.len()),
            Value::Dict(dict) => Some(dict.entries.len()),
            Value::Object(object) => match &**object {
                Object::Range { .. } => object.range_len(),
                Object::View { dict, .. } => Some(dict.entries.len()),
                Object::Loop(state) => Some(state.len()),
                _ => None,
            },
            _ => None,
        }
    }

    /// What a dictionary finds it by.
    pub(crate) fn key(&self, budget: &Budget) -> Res<Key> {
        budget.step()?;
        Ok(match self {
            Value::Undefined(_) => Key::Undefined,
            Value::None => Key::None,
            Value::Bool(b) => Key::Int(i128::from(*b)),
            Value::Int(n) => Key::Int(*n),
            Value::BigInt(digits) => Key::Str(format!("\0{digits}").into()),
            Value::Float(f) => float_key(*f),
            Value::Str(text) | Value::Markup(text) => {
                budget.charge(text.len())?;
                Key::Str((&***text).into())
            }
            Value::Tuple(seq) => Key::Tuple(seq.items.iter().map(|v| v.key(budget)).collect::<Res<_>>()?),
            Value::Object(object) if !matches!(**object, Object::View { .. }) => {
                Key::Object(Rc::as_ptr(object).cast::<()>() as usize)
            }
            other => return Err(Error::new(format!("unhashable type: '{}'", other.type_name()))),
        })
    }

    /// Whether both are the same object, as far as that can be told.
    pub(crate) fn is_same(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::None, Value::None) => true,
            (Value::Bool(a), Value::Bool(b)) => a == b,
            (Value::Int(a), Value::Int(b)) => a == b && (-5..=256).contains(a),
            (Value::Str(a), Value::Str(b)) | (Value::Markup(a), Value::Markup(b)) => Rc::ptr_eq(a, b),
            (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => Rc::ptr_eq(a, b),
            (Value::Dict(a), Value::Dict(b)) => Rc::ptr_eq(a, b),
            (Value::Object(a), Value::Object(b)) => Rc::ptr_eq(a, b),
            (Value::Undefined(a), Value::Undefined(b)) => Rc::ptr_eq(a, b),
            _ => false,
        }
    }
}

fn float_key(f: f64) -> Key {
    if f.fract() == 0.0 && f.abs() < 1e30 {
        Key::Int(f as i128)
    } else {
        Key::Float(f.to_bits())
    }
}

impl Seq {
    pub(crate) fn new(items: Vec<Value>) -> Res<Rc<Self>> {
        Self::build(items, false)
    }

    /// A group of the filter `groupby`.
    pub(crate) fn group(key: Value, items: Value) -> Res<Value> {
        Ok(Value::Tuple(Self::build(vec![key, items], true)?))
    }

    fn build(items: Vec<Value>, is_group: bool) -> Res<Rc<Self>> {
        let depth = nested(items.iter())?;
        Budget::add_live(items.len() * size_of::<Value>());
        Ok(Rc::new(Seq {
            items,
            depth,
            is_group,
        }))
    }

    pub(crate) fn depth(&self) -> u32 {
        self.depth
    }
}

fn nested<'a>(items: impl Iterator<Item = &'a Value>) -> Res<u32> {
    let depth = 1 + items.map(Value::depth).max().unwrap_or(0);
    if depth > MAX_NESTING {
        return Err(Error::new(format!(
            "found values nested more than {MAX_NESTING} levels deep"
        )));
    }
    Ok(depth)
}

impl Dict {
    /// Of entries in their order; of equal keys the first place and the last value count.
    pub(crate) fn new(entries: Vec<(Value, Value)>, budget: &Budget) -> Res<Rc<Self>> {
        let mut kept: Vec<(Value, Value)> = Vec::with_capacity(entries.len());
        let mut index: HashMap<Key, usize> = HashMap::with_capacity(entries.len());
        for (key, value) in entries {
            match index.entry(key.key(budget)?) {
                std::collections::hash_map::Entry::Occupied(at) => kept[*at.get()].1 = value,
                std::collections::hash_map::Entry::Vacant(at) => {
                    at.insert(kept.len());
                    kept.push((key, value));
                }
            }
        }
        let depth = nested(kept.iter().flat_map(|(key, value)| [key, value]))?;
        Budget::add_live(kept.len() * ENTRY);
        Ok(Rc::new(Dict {
            entries: kept,
            index,
            depth,
        }))
    }

    pub(crate) fn get(&self, key: &Value, budget: &Budget) -> Res<Option<&Value>> {
        let at = self.index.get(&key.key(budget)?);
        Ok(at.map(|at| &self.entries[*at].1))
    }

    pub(crate) fn get_str(&self, key: &str) -> Option<&Value> {
        // Keys of text are found without making one: most dictionaries are small.
        if self.entries.len() <= 8 {
            let mut entries = self.entries.iter();
            return entries.find(|(k, _)| k.as_str() == Some(key)).map(|(_, v)| v);
        }
        let at = self.index.get(&Key::Str(key.into()))?;
        Some(&self.entries[*at].1)
    }
}

impl ViewKind {
    pub(crate) fn type_name(self) -> &'static str {
        match self {
            ViewKind::Keys => "dict_keys",
            ViewKind::Values => "dict_values",
            ViewKind::Items => "dict_items",
        }
    }

    pub(crate) fn items(self, dict: &Dict) -> Res<Vec<Value>> {
        let entries = dict.entries.iter();
        Ok(match self {
            ViewKind::Keys => entries.map(|(key, _)| key.clone()).collect(),
            ViewKind::Values => entries.map(|(_, value)| value.clone()).collect(),
            ViewKind::Items => entries
                .map(|(key, value)| Value::tuple(vec![key.clone(), value.clone()]))
                .collect::<Res<_>>()?,
        })
    }
}

impl Iter {
    /// The next value; `None` at the end.
    pub(crate) fn next(&self) -> Res<Option<Value>> {
        let at = self.at.get();
        if let Some(value) = self.items.items.get(at) {
            self.at.set(at + 1);
            return Ok(Some(value.clone()));
        }
        match self.error.borrow_mut().take() {
            Some(error) => Err(error),
            None => Ok(None),
        }
    }
}

impl Object {
    /// Number of items of a range; `None` of any other object.
    pub(crate) fn range_len(&self) -> Option<usize> {
        let Object::Range { start, stop, step } = self else {
            return None;
        };
        let span = if *step > 0 { stop - start } else { start - stop };
        let len = if span <= 0 { 0 } else { (span - 1) / step.abs() + 1 };
        usize::try_from(len).ok()
    }
}

/// All values that walking through one gives.
pub(crate) fn iterate(value: &Value, budget: &Budget) -> Res<Vec<Value>> {
    let items = match value {
        Value::Undefined(_) => Vec::new(),
        Value::Str(text) | Value::Markup(text) => {
            budget.charge(text.len() * 64)?;
            text.chars().map(|c| Value::text(c.to_string())).collect()
        }
        Value::List(seq) | Value::Tuple(seq) => seq.items.clone(),
        Value::Dict(dict) => ViewKind::Keys.items(dict)?,
        Value::Object(object) => match &**object {
            Object::Range { start, step, .. } => {
                let len = object.range_len().unwrap_or(0);
                budget.charge(len * 64)?;
                (0..len as i128).map(|i| Value::Int(start + i * step)).collect()
            }
            Object::View { kind, dict } => kind.items(dict)?,
            Object::Iterator(iter) => {
                let mut items = Vec::new();
                while let Some(item) = iter.next()? {
                    items.push(item);
                }
                items
            }
            Object::Loop(state) => state.rest()?,
            _ => return Err(not_iterable(value)),
        },
        _ => return Err(not_iterable(value)),
    };
    budget.charge(items.len() * 64)?;
    Ok(items)
}

pub(crate) fn is_iterable(value: &Value) -> bool {
    match value {
        Value::Undefined(_) | Value::Str(_) | Value::Markup(_) => true,
        Value::List(_) | Value::Tuple(_) | Value::Dict(_) => true,
        Value::Object(object) => matches!(
            **object,
            Object::Range { .. } | Object::View { .. } | Object::Iterator(_) | Object::Loop(_)
        ),
        _ => false,
    }
}

fn not_iterable(value: &Value) -> Error {
    Error::new(format!("'{}' object is not iterable", value.type_name()))
}
