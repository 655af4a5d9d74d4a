//! The filters of Jinja, and `tojson` as transformers has it.

use super::calls::Given;
use super::error::{Error, Res};
use super::filters_numbers::{absolute, float_of, int, random, round, sum};
use super::filters_pretty::pretty;
use super::format::percent;
use super::interp::Interp;
use super::ops::{self, equal, sorted, undefined_error};
use super::text::{decimal, to_html, to_text};
use super::value::{Object, Seq, Value, ViewKind, iterate};
use super::{filters_text as texts, json, tests};

const NAMES: [&str; 54] = [
    "abs",
    "attr",
    "batch",
    "capitalize",
    "center",
    "count",
    "d",
    "default",
    "dictsort",
    "e",
    "escape",
    "filesizeformat",
    "first",
    "float",
    "forceescape",
    "format",
    "groupby",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "pprint",
    "random",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "slice",
    "sort",
    "string",
    "striptags",
    "sum",
    "title",
    "tojson",
    "trim",
    "truncate",
    "unique",
    "upper",
    "urlencode",
    "urlize",
    "wordcount",
    "wordwrap",
    "xmlattr",
];

/// Whether there is a filter of this name.
pub(crate) fn is_filter(name: &str) -> bool {
    NAMES.contains(&name)
}

/// Applies a filter.
pub(crate) fn apply(interp: &mut Interp<'_>, name: &str, value: Value, given: Given) -> Res<Value> {
    interp.budget.step()?;
    match name {
        "abs" => absolute(&value, given),
        "attr" => attr(interp, &value, given),
        "batch" => batch(interp, &value, given),
        "count" | "length" => {
            given.bind(name, [])?;
            let len = value.len().map(|n| Value::Int(n as i128));
            len.ok_or_else(|| Error::new(format!("object of type '{}' has no len()", value.type_name())))
        }
        "d" | "default" => {
            let [default, boolean] = given.bind(name, ["default_value", "boolean"])?;
            let takes = value.is_undefined() || (boolean.is_some_and(|b| b.is_true()) && !value.is_true());
            Ok(if takes {
                default.unwrap_or_else(|| Value::text(""))
            } else {
                value
            })
        }
        "dictsort" => dictsort(interp, &value, given),
        "first" => {
            given.bind(name, [])?;
            if let Value::Object(object) = &value
                && let Object::Iterator(iter) = &**object
            {
                let first = iter.next()?;
                return Ok(first.unwrap_or_else(|| Value::undefined("No first item, sequence was empty.")));
            }
            let first = iterate(&value, &interp.budget)?.into_iter().next();
            Ok(first.unwrap_or_else(|| Value::undefined("No first item, sequence was empty.")))
        }
        "last" => {
            given.bind(name, [])?;
            let last = reversed(interp, &value)?.into_iter().next();
            Ok(last.unwrap_or_else(|| Value::undefined("No last item, sequence was empty.")))
        }
        "float" => {
            let [default] = given.bind(name, ["default"])?;
            Ok(match float_of(&value)? {
                Some(f) => Value::Float(f),
                None => default.unwrap_or(Value::Float(0.0)),
            })
        }
        "int" => int(&value, given),
        "format" => {
            if !given.positional.is_empty() && !given.named.is_empty() {
                return Err(Error::new(
                    "format: can't handle positional and keyword arguments at the same time",
                ));
            }
            let values = if given.named.is_empty() {
                Value::tuple(given.positional)?
            } else {
                interp.call(&Value::object(Object::DictType), given)?
            };
            let text = soft_text(interp, &value)?;
            percent(&text, &values, &interp.budget)
        }
        "groupby" => groupby(interp, &value, given),
        "items" => {
            given.bind(name, [])?;
            match &value {
                Value::Undefined(_) => Value::iterator("generator", Vec::new(), None),
                Value::Dict(dict) => Value::iterator("generator", ViewKind::Items.items(dict)?, None),
                _ => {
                    let error = Error::new("can only get item pairs from a mapping");
                    Value::iterator("generator", Vec::new(), Some(error))
                }
            }
        }
        "join" => join(interp, &value, given),
        "list" => {
            given.bind(name, [])?;
            Value::list(iterate(&value, &interp.budget)?)
        }
        "map" => map(interp, &value, given),
        "max" | "min" => extreme(interp, &value, given, name == "max"),
        "pprint" => {
            given.bind(name, [])?;
            pretty(interp, &value)
        }
        "random" => random(&value, given),
        "reject" | "select" => select(interp, &value, given, name == "select", false),
        "rejectattr" | "selectattr" => select(interp, &value, given, name == "selectattr", true),
        "reverse" => {
            given.bind(name, [])?;
            if let Some(text) = value.as_str() {
                interp.budget.charge(text.len())?;
                return Ok(Value::text_like(&value, text.chars().rev().collect::<String>()));
            }
            match reversed(interp, &value) {
                Ok(items) => Value::iterator("reversed", items, None),
                Err(_) => {
                    let mut items = iterate(&value, &interp.budget)?;
                    items.reverse();
                    Value::list(items)
                }
            }
        }
        "round" => round(&value, given),
        "safe" => {
            given.bind(name, [])?;
            Ok(Value::markup(to_text(&value, &interp.budget)?))
        }
        "slice" => slice(interp, &value, given),
        "sort" => sort(interp, &value, given),
        "string" => {
            given.bind(name, [])?;
            soft_text(interp, &value)
        }
        "sum" => sum(interp, &value, given),
        "tojson" => json::tojson(interp, &value, given),
        "unique" => unique(interp, &value, given),
        _ => texts::apply(interp, name, value, given),
    }
}

/// A value as text; markup stays markup.
pub(super) fn soft_text(interp: &Interp<'_>, value: &Value) -> Res<Value> {
    match value {
        Value::Str(_) | Value::Markup(_) => Ok(value.clone()),
        other => Ok(Value::text(to_text(other, &interp.budget)?)),
    }
}

fn attr(interp: &mut Interp<'_>, value: &Value, given: Given) -> Res<Value> {
    let [name] = given.bind("attr", ["name"])?;
    let Some(name) = name.as_ref().and_then(Value::as_str) else {
        return Err(Error::new("attr: wanted a name"));
    };
    if let Some(error) = undefined_error(value) {
        return Err(error);
    }
    let own = interp.own_attribute(value, name)?;
    Ok(own.unwrap_or_else(|| {
        Value::undefined(format!(
            "'{} object' has no attribute '{name}'",
            value.type_name()
        ))
    }))
}

/// Items from the last to the first, of what Python can reverse.
fn reversed(interp: &Interp<'_>, value: &Value) -> Res<Vec<Value>> {
    let reversible = match value {
        Value::Undefined(_) | Value::Str(_) | Value::Markup(_) => true,
        Value::List(_) | Value::Tuple(_) | Value::Dict(_) => true,
        Value::Object(object) => matches!(**object, Object::Range { .. } | Object::View { .. }),
        _ => false,
    };
    if !reversible {
        return Err(Error::new(format!(
            "'{}' object is not reversible",
            value.type_name()
        )));
    }
    let mut items = iterate(value, &interp.budget)?;
    items.reverse();
    Ok(items)
}

fn count_of(what: &str, value: Option<Value>) -> Res<usize> {
    let value = value.ok_or_else(|| Error::new(format!("{what}: an argument is missing")))?;
    let count = value.as_int().ok_or_else(|| {
        Error::new(format!(
            "{what}: wanted a whole number, found {}",
            value.type_name()
        ))
    })?;
    Ok(usize::try_from(count.max(0)).unwrap_or(usize::MAX))
}

fn batch(interp: &mut Interp<'_>, value: &Value, given: Given) -> Res<Value> {
    let [size, fill] = given.bind("batch", ["linecount", "fill_with"])?;
    let size = count_of("batch", size)?.max(1);
    let mut rows = Vec::new();
    let items = iterate(value, &interp.budget)?;
    for row in items.chunks(size) {
        let mut row = row.to_vec();
        if let Some(fill) = fill.as_ref().filter(|f| !f.is_none()) {
            interp
                .budget
                .charge((size - row.len()).saturating_mul(size_of::<Value>()))?;
            row.resize(size, fill.clone());
        }
        rows.push(Value::list(row)?);
    }
    Value::iterator("generator", rows, None)
}

fn slice(interp: &mut Interp<'_>, value: &Value, given: Given) -> Res<Value> {
    let [slices, fill] = given.bind("slice", ["slices", "fill_with"])?;
    let slices = count_of("slice", slices)?;
    let items = iterate(value, &interp.budget)?;
    if slices == 0 {
        return Value::iterator(
            "generator",
            Vec::new(),
            Some(Error::new("integer division or modulo by zero")),
        );
    }
    interp.budget.charge(slices.saturating_mul(64))?;
    let (each, extra) = (items.len() / slices, items.len() % slices);
    let fill = fill.filter(|f| !f.is_none());
    let mut rows = Vec::new();
    let mut at = 0;
    for row in 0..slices {
        let len = each + usize::from(row < extra);
        let mut part = items[at..at + len].to_vec();
        at += len;
        if let Some(fill) = fill.as_ref().filter(|_| row >= extra) {
            part.push(fill.clone());
        }
        rows.push(Value::list(part)?);
    }
    Value::iterator("generator", rows, None)
}

/// The key that texts without regard to case are compared by.
fn folded(value: &Value, case_sensitive: bool) -> Value {
    match value.as_str() {
        Some(text) if !case_sensitive => Value::text(text.to_lowercase()),
        _ => value.clone(),
    }
}

fn dictsort(interp: &mut Interp<'_>, value: &Value, given: Given) -> Res<Value> {
    let [case, by, reverse] = given.bind("dictsort", ["case_sensitive", "by", "reverse"])?;
    let case = case.is_some_and(|c| c.is_true());
    let by_key = match by.as_ref().map(|b| b.as_str()) {
        None | Some(Some("key")) => true,
        Some(Some("value")) => false,
        _ => {
            return Err(Error::new(
                "dictsort: you can only sort by either \"key\" or \"value\"",
            ));
        }
    };
    let Value::Dict(dict) = value else {
        return Err(undefined_error(value).unwrap_or_else(|| {
            Error::new(format!("'{}' object has no attribute 'items'", value.type_name()))
        }));
    };
    let keyed = dict.entries.iter().map(|(key, value)| {
        let by = folded(if by_key { key } else { value }, case);
        Ok((by, Value::tuple(vec![key.clone(), value.clone()])?))
    });
    let keyed = keyed.collect::<Res<Vec<_>>>()?;
    Value::list(sorted(
        keyed,
        reverse.is_some_and(|r| r.is_true()),
        &interp.budget,
    )?)
}

/// The parts of an attribute's path: names, and numbers for items.
pub(super) fn path(attribute: &Value) -> Vec<Value> {
    match attribute.as_str() {
        None if attribute.is_none() => Vec::new(),
        None => vec![attribute.clone()],
        Some(text) => text
            .split('.')
            .map(|part| match part.parse() {
                Ok(n) if part.chars().all(|c| decimal(c).is_some()) => Value::Int(n),
                _ => Value::text(part),
            })
            .collect(),
    }
}

/// What a path leads to from a value; `default` where that is undefined.
pub(super) fn along(
    interp: &Interp<'_>,
    value: &Value,
    path: &[Value],
    default: Option<&Value>,
) -> Res<Value> {
    let mut value = value.clone();
    for part in path {
        value = interp.item(&value, part)?;
        if let (Some(default), true) = (default.filter(|d| !d.is_none()), value.is_undefined()) {
            value = default.clone();
        }
    }
    Ok(value)
}

fn sort(interp: &mut Interp<'_>, value: &Value, given: Given) -> Res<Value> {
    let [reverse, case, attribute] = given.bind("sort", ["reverse", "case_sensitive", "attribute"])?;
    let case = case.is_some_and(|c| c.is_true());
    let paths: Vec<Vec<Value>> = match attribute.as_ref().and_then(Value::as_str) {
        Some(text) => text.split(',').map(|part| path(&Value::text(part))).collect(),
        None => vec![path(&attribute.unwrap_or(Value::None))],
    };
    let mut keyed = Vec::new();
    for item in iterate(value, &interp.budget)? {
        let mut keys = Vec::with_capacity(paths.len());
        for path in &paths {
            keys.push(folded(&along(interp, &item, path, None)?, case));
        }
        keyed.push((Value::list(keys)?, item));
    }
    Value::list(sorted(
        keyed,
        reverse.is_some_and(|r| r.is_true()),
        &interp.budget,
    )?)
}

fn groupby(interp: &mut Interp<'_>, value: &Value, given: Given) -> Res<Value> {
    let [attribute, default, case] = given.bind("groupby", ["attribute", "default", "case_sensitive"])?;
    let path = path(&attribute.ok_or_else(|| Error::new("groupby: an argument is missing"))?);
    let case = case.is_some_and(|c| c.is_true());
    let mut keyed = Vec::new();
    for item in iterate(value, &interp.budget)? {
        let key = along(interp, &item, &path, default.as_ref())?;
        keyed.push((folded(&key, case), item));
    }
    let items = sorted(keyed, false, &interp.budget)?;
    let mut groups: Vec<(Value, Value, Vec<Value>)> = Vec::new();
    for item in items {
        let real = along(interp, &item, &path, default.as_ref())?;
        let key = folded(&real, case);
        match groups.last_mut() {
            Some((last, _, members)) if equal(last, &key, &interp.budget)? => members.push(item),
            _ => groups.push((key, real, vec![item])),
        }
    }
    let groups = groups
        .into_iter()
        .map(|(_, real, members)| Seq::group(real, Value::list(members)?));
    Value::list(groups.collect::<Res<_>>()?)
}

fn unique(interp: &mut Interp<'_>, value: &Value, given: Given) -> Res<Value> {
    let [case, attribute] = given.bind("unique", ["case_sensitive", "attribute"])?;
    let case = case.is_some_and(|c| c.is_true());
    let path = path(&attribute.unwrap_or(Value::None));
    lazily(|kept| {
        let mut seen = std::collections::HashSet::new();
        for item in iterate(value, &interp.budget)? {
            let key = folded(&along(interp, &item, &path, None)?, case).key(&interp.budget)?;
            if seen.insert(key) {
                kept.push(item);
            }
        }
        Ok(())
    })
}

/// A generator: what ends it in an error shows when it gets there.
fn lazily(make: impl FnOnce(&mut Vec<Value>) -> Res<()>) -> Res<Value> {
    let mut items = Vec::new();
    let error = make(&mut items).err();
    Value::iterator("generator", items, error)
}

fn join(interp: &mut Interp<'_>, value: &Value, given: Given) -> Res<Value> {
    let [separator, attribute] = given.bind("join", ["d", "attribute"])?;
    let separator = separator.unwrap_or_else(|| Value::text(""));
    let between = to_text(&separator, &interp.budget)?;
    let mut items = iterate(value, &interp.budget)?;
    if let Some(attribute) = attribute.filter(|a| !a.is_none()) {
        let path = path(&attribute);
        items = items
            .iter()
            .map(|item| along(interp, item, &path, None))
            .collect::<Res<_>>()?;
    }
    if interp.escapes()
        && (items.iter().any(|i| matches!(i, Value::Markup(_))) || matches!(separator, Value::Markup(_)))
    {
        let between = to_html(&separator, &interp.budget)?;
        let parts = items.iter().map(|item| to_html(item, &interp.budget));
        return Ok(Value::markup(parts.collect::<Res<Vec<_>>>()?.join(&between)));
    }
    let mut out = String::new();
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            out += &between;
        }
        let text = to_text(item, &interp.budget)?;
        interp.budget.charge(between.len() + text.len())?;
        out += &text;
        if at % 64 == 0 {
            // One piece of data, however many it is made of.
            interp.budget.charge(out.len())?;
        }
    }
    interp.budget.charge(out.len())?;
    Ok(Value::text(out))
}

fn map(interp: &mut Interp<'_>, value: &Value, given: Given) -> Res<Value> {
    lazily(|made| {
        if !value.is_true() {
            return Ok(());
        }
        let items = iterate(value, &interp.budget)?;
        let mut given = given;
        let at = given.named.iter().position(|(n, _)| n == "attribute");
        if let (true, Some(at)) = (given.positional.is_empty(), at) {
            let attribute = given.named.remove(at).1;
            let default = given.named.iter().position(|(n, _)| n == "default");
            let default = default.map(|at| given.named.remove(at).1);
            if let Some((name, _)) = given.named.first() {
                return Err(Error::new(format!("map: unexpected keyword argument '{name}'")));
            }
            let path = path(&attribute);
            for item in items {
                made.push(along(interp, &item, &path, default.as_ref())?);
            }
            return Ok(());
        }
        let name = named_filter("map", "filter", &mut given)?;
        if !is_filter(&name) {
            return Err(Error::new(format!("no filter named '{name}'")));
        }
        for item in items {
            made.push(apply(interp, &name, item, given.clone())?);
        }
        Ok(())
    })
}

/// The first argument: the name of a filter or test.
fn named_filter(what: &str, kind: &str, given: &mut Given) -> Res<String> {
    if given.positional.is_empty() {
        return Err(Error::new(format!("{what}: requires a {kind} argument")));
    }
    let name = given.positional.remove(0);
    match name.as_str() {
        Some(name) => Ok(name.to_owned()),
        None => Err(Error::new(format!(
            "{what}: wanted the name of a {kind}, found {}",
            name.type_name()
        ))),
    }
}

fn select(
    interp: &mut Interp<'_>,
    value: &Value,
    given: Given,
    keeps: bool,
    by_attribute: bool,
) -> Res<Value> {
    lazily(|kept| {
        if !value.is_true() {
            return Ok(());
        }
        let items = iterate(value, &interp.budget)?;
        let mut given = given;
        let path = if by_attribute {
            if given.positional.is_empty() {
                return Err(Error::new("missing parameter for attribute name"));
            }
            Some(path(&given.positional.remove(0)))
        } else {
            None
        };
        let test = if given.positional.is_empty() {
            None
        } else {
            let name = named_filter("select", "test", &mut given)?;
            if !tests::is_test(&name) {
                return Err(Error::new(format!("no test named '{name}'")));
            }
            Some(name)
        };
        for item in items {
            let tested = match &path {
                Some(path) => along(interp, &item, path, None)?,
                None => item.clone(),
            };
            let holds = match &test {
                Some(name) => tests::check(interp, name, &tested, given.clone())?,
                None => tested.is_true(),
            };
            if holds == keeps {
                kept.push(item);
            }
        }
        Ok(())
    })
}

fn extreme(interp: &mut Interp<'_>, value: &Value, given: Given, largest: bool) -> Res<Value> {
    let [case, attribute] = given.bind("min and max", ["case_sensitive", "attribute"])?;
    let case = case.is_some_and(|c| c.is_true());
    let path = path(&attribute.unwrap_or(Value::None));
    let mut best: Option<(Value, Value)> = None;
    for item in iterate(value, &interp.budget)? {
        let key = folded(&along(interp, &item, &path, None)?, case);
        let better = match &best {
            None => true,
            Some((best, _)) if largest => {
                ops::order(&key, best, ">", &interp.budget)?.is_some_and(|o| o.is_gt())
            }
            Some((best, _)) => ops::order(&key, best, "<", &interp.budget)?.is_some_and(|o| o.is_lt()),
        };
        if better {
            best = Some((key, item));
        }
    }
    Ok(best.map_or_else(
        || Value::undefined("No aggregated item, sequence was empty."),
        |(_, item)| item,
    ))
}
