//! Kernels, their parameters, instantiations and function constants, out of their tokens.

use super::condition::integer;
use super::syntax::{Attribute, Item, Syntax};
use super::{Access, ConstantType, FunctionConstant, MslError, Space};
use std::collections::HashMap;
use std::ops::Range;

/// A kernel function, template or not.
#[derive(Clone, Debug)]
pub(crate) struct KernelDefinition {
    pub name: String,
    pub host_name: Option<String>,
    pub parameters: Vec<Parameter>,
    pub max_threads: Option<u32>,
    /// Names of the template parameters; `None` for a plain function.
    pub template: Option<Vec<String>>,
    pub line: u32,
    pub has_body: bool,
}

/// One parameter of a kernel.
#[derive(Clone, Debug)]
pub(crate) struct Parameter {
    pub kind: ParameterKind,
    /// Buffer or threadgroup-memory index.
    pub index: u32,
    pub name: String,
    /// Type without address space, `const`, `*`, `&`.
    pub ty: String,
    /// `[[function_constant(x)]]`: may be left out.
    pub optional: bool,
    /// `T&` and not `T*`.
    #[cfg_attr(
        not(feature = "cuda"),
        allow(dead_code, reason = "only CUDA passes parameters otherwise")
    )]
    pub reference: bool,
    pub line: u32,
}

/// What a parameter receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ParameterKind {
    Buffer { space: Space, access: Access },
    Threadgroup,
    Builtin(Builtin),
}

/// What the launch gives to a kernel by value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Builtin {
    ThreadPositionInGrid,
    ThreadPositionInThreadgroup,
    ThreadgroupPositionInGrid,
    ThreadIndexInThreadgroup,
    ThreadIndexInSimdgroup,
    SimdgroupIndexInThreadgroup,
    ThreadsPerThreadgroup,
    DispatchThreadsPerThreadgroup,
    ThreadgroupsPerGrid,
    ThreadsPerGrid,
    ThreadsPerSimdgroup,
    SimdgroupsPerThreadgroup,
    QuadgroupIndexInThreadgroup,
    ThreadIndexInQuadgroup,
    QuadgroupsPerThreadgroup,
}

impl Builtin {
    fn from_attribute(name: &str) -> Option<Self> {
        Some(match name {
            "thread_position_in_grid" => Self::ThreadPositionInGrid,
            "thread_position_in_threadgroup" => Self::ThreadPositionInThreadgroup,
            "threadgroup_position_in_grid" => Self::ThreadgroupPositionInGrid,
            "thread_index_in_threadgroup" => Self::ThreadIndexInThreadgroup,
            "thread_index_in_simdgroup" => Self::ThreadIndexInSimdgroup,
            "simdgroup_index_in_threadgroup" => Self::SimdgroupIndexInThreadgroup,
            "threads_per_threadgroup" => Self::ThreadsPerThreadgroup,
            "dispatch_threads_per_threadgroup" => Self::DispatchThreadsPerThreadgroup,
            "threadgroups_per_grid" => Self::ThreadgroupsPerGrid,
            "threads_per_grid" | "grid_size" => Self::ThreadsPerGrid,
            "threads_per_simdgroup" | "thread_execution_width" => Self::ThreadsPerSimdgroup,
            "simdgroups_per_threadgroup" | "dispatch_simdgroups_per_threadgroup" => {
                Self::SimdgroupsPerThreadgroup
            }
            "quadgroup_index_in_threadgroup" => Self::QuadgroupIndexInThreadgroup,
            "thread_index_in_quadgroup" => Self::ThreadIndexInQuadgroup,
            "quadgroups_per_threadgroup" | "dispatch_quadgroups_per_threadgroup" => {
                Self::QuadgroupsPerThreadgroup
            }
            _ => return None,
        })
    }

    /// The attribute's name; of two for the same thing, the one that the preludes use.
    pub fn name(self) -> &'static str {
        match self {
            Self::ThreadPositionInGrid => "thread_position_in_grid",
            Self::ThreadPositionInThreadgroup => "thread_position_in_threadgroup",
            Self::ThreadgroupPositionInGrid => "threadgroup_position_in_grid",
            Self::ThreadIndexInThreadgroup => "thread_index_in_threadgroup",
            Self::ThreadIndexInSimdgroup => "thread_index_in_simdgroup",
            Self::SimdgroupIndexInThreadgroup => "simdgroup_index_in_threadgroup",
            Self::ThreadsPerThreadgroup => "threads_per_threadgroup",
            Self::DispatchThreadsPerThreadgroup => "dispatch_threads_per_threadgroup",
            Self::ThreadgroupsPerGrid => "threadgroups_per_grid",
            Self::ThreadsPerGrid => "threads_per_grid",
            Self::ThreadsPerSimdgroup => "threads_per_simdgroup",
            Self::SimdgroupsPerThreadgroup => "simdgroups_per_threadgroup",
            Self::QuadgroupIndexInThreadgroup => "quadgroup_index_in_threadgroup",
            Self::ThreadIndexInQuadgroup => "thread_index_in_quadgroup",
            Self::QuadgroupsPerThreadgroup => "quadgroups_per_threadgroup",
        }
    }
}

/// `template [[host_name("x")]] [[kernel]] void f<float>(…);`
#[derive(Clone, Debug)]
pub(crate) struct Instantiation {
    pub host_name: String,
    /// Name of the template.
    pub function: String,
    /// The template arguments.
    pub arguments: Vec<String>,
    /// `f<float>` as C++.
    pub expression: String,
    pub line: u32,
}

/// The words of a kernel head that can follow an address space.
const SPACES: [&str; 4] = ["device", "constant", "threadgroup", "thread"];

/// Highest buffer index that Metal has.
const MAX_BUFFER_INDEX: u32 = 30;

/// Reads a kernel function.
pub(crate) fn kernel(s: &Syntax<'_>, item: &Item) -> Result<KernelDefinition, MslError> {
    let Item::Function {
        range, paren, body, ..
    } = item
    else {
        return s.error(item.range().start, "not a function");
    };
    let close = s.closer(*paren).unwrap_or(*paren);
    let name_at = name_before(s, *paren, range.start)?;
    let line = s.line(name_at);
    let name = s.tokens[name_at].text.to_string();
    let heads = s.attributes(range.start..*paren).into_iter();
    let tails = s.attributes(close + 1..body.unwrap_or(range.end));
    let (mut host_name, mut max_threads) = (None, None);
    for attribute in heads.chain(tails) {
        match attribute.name.as_str() {
            "host_name" => host_name = Some(string(s, &attribute)?),
            "max_total_threads_per_threadgroup" => max_threads = product(s, attribute.arguments.clone()),
            _ => {}
        }
    }
    let template = template_parameters(s, range.start, *paren);
    let mut parameters = Vec::new();
    for part in s.split_commas(*paren + 1..close) {
        if part.len() == 1 && s.is(part.start, "void") {
            continue;
        }
        parameters.push(parameter(s, part, &name)?);
    }
    number(&mut parameters, &name)?;
    Ok(KernelDefinition {
        name,
        host_name,
        parameters,
        max_threads,
        template,
        line,
        has_body: body.is_some(),
    })
}

/// The function's name: the identifier before its parameter list (and before explicit template arguments).
pub(super) fn name_before(s: &Syntax<'_>, paren: usize, start: usize) -> Result<usize, MslError> {
    let mut at = paren;
    let mut depth = 0i32;
    while at > start {
        at -= 1;
        match s.tokens[at].text.as_ref() {
            ">" => depth += 1,
            ">>" => depth += 2,
            "<" => depth -= 1,
            _ if depth == 0 && s.tokens[at].is_ident() => return Ok(at),
            _ => {}
        }
    }
    s.error(paren, "a function without a name")
}

/// Names of the parameters of the template heads in front of a declaration; `None` where there is no head.
fn template_parameters(s: &Syntax<'_>, start: usize, end: usize) -> Option<Vec<String>> {
    let mut found = None;
    let mut at = start;
    while at < end {
        if let Some(head) = s.template_head_end(at) {
            let names: &mut Vec<String> = found.get_or_insert_default();
            for part in s.split_commas(at + 2..head - 1) {
                let stop = part.clone().find(|i| s.is(*i, "=")).unwrap_or(part.end);
                let name = (part.start..stop).rev().find(|i| s.tokens[*i].is_ident());
                names.push(name.map_or(String::new(), |i| s.tokens[i].text.to_string()));
            }
            at = head;
        } else if let Some(e) = s.attribute_end(at) {
            at = e;
        } else {
            break;
        }
    }
    found
}

/// The value of a product of integer literals, parentheses allowed; `None` for anything else.
fn product(s: &Syntax<'_>, range: Range<usize>) -> Option<u32> {
    let mut value = 1i64;
    for i in range {
        match s.tokens[i].text.as_ref() {
            "*" | "(" | ")" => {}
            text => value = value.checked_mul(integer(text)?)?,
        }
    }
    u32::try_from(value).ok()
}

fn string(s: &Syntax<'_>, attribute: &Attribute) -> Result<String, MslError> {
    let mut text = String::new();
    for i in attribute.arguments.clone() {
        // Neighbouring literals are one, as in C.
        let Some(part) = s.tokens[i]
            .text
            .strip_prefix('"')
            .and_then(|t| t.strip_suffix('"'))
        else {
            return s.error(
                i,
                format!("{} needs a string, found `{}`", attribute.name, s.tokens[i].text),
            );
        };
        text.push_str(part);
    }
    if text.is_empty() || text.contains(['\\', '"', '\0']) {
        return Err(MslError::new(
            attribute.line,
            format!("{}: `{text}` is not a usable name", attribute.name),
        ));
    }
    Ok(text)
}

fn index(s: &Syntax<'_>, attribute: &Attribute) -> Result<u32, MslError> {
    let value = product(s, attribute.arguments.clone()).filter(|_| !attribute.arguments.is_empty());
    let Some(value) = value else {
        let found = s.text(attribute.arguments.clone());
        let message = format!(
            "[[{}({found})]]: the index must be an integer literal",
            attribute.name
        );
        return Err(MslError::new(attribute.line, message));
    };
    if value > MAX_BUFFER_INDEX && attribute.name != "function_constant" {
        let message = format!(
            "[[{}({value})]]: the highest index is {MAX_BUFFER_INDEX}",
            attribute.name
        );
        return Err(MslError::new(attribute.line, message));
    }
    Ok(value)
}

/// A parameter whose index is still to be given.
const UNNUMBERED: u32 = u32::MAX;

fn parameter(s: &Syntax<'_>, part: Range<usize>, kernel: &str) -> Result<Parameter, MslError> {
    let line = s.line(part.start);
    let declarator = s.without_attributes(part.clone());
    let name_at = declarator_name(s, &declarator);
    let name = name_at.map_or(String::new(), |i| s.tokens[i].text.to_string());
    let fail = |message: String| {
        Err(MslError::new(
            line,
            format!("kernel `{kernel}`, parameter `{name}`: {message}"),
        ))
    };
    let mut explicit = None;
    let mut builtin = None;
    let mut optional = false;
    for attribute in s.attributes(part) {
        match attribute.name.as_str() {
            "buffer" | "threadgroup" => explicit = Some((attribute.name == "buffer", index(s, &attribute)?)),
            "function_constant" => optional = true,
            "maybe_unused" | "unused" => {}
            other => match Builtin::from_attribute(other) {
                Some(b) => builtin = Some(b),
                None => return fail(format!("attribute [[{other}]] is not supported")),
            },
        }
    }
    let ty = type_text(s, &declarator, name_at);
    if let Some(builtin) = builtin {
        return Ok(Parameter {
            kind: ParameterKind::Builtin(builtin),
            index: 0,
            name,
            ty,
            optional,
            reference: false,
            line,
        });
    }
    let word = |w: &str| declarator.iter().position(|i| s.is(*i, w));
    // An array parameter is a pointer, as in C.
    let indirect = word("*").or(word("&")).or(word("["));
    let Some(indirect) = indirect else {
        return fail("has neither an attribute nor a pointer or reference type".to_owned());
    };
    let is_const = declarator[..indirect].iter().any(|i| s.is(*i, "const"));
    let access = if is_const { Access::Read } else { Access::ReadWrite };
    let kind = match SPACES.iter().find(|w| word(w).is_some()) {
        Some(&"device") => ParameterKind::Buffer {
            space: Space::Device,
            access,
        },
        Some(&"constant") => ParameterKind::Buffer {
            space: Space::Constant,
            access: Access::Read,
        },
        Some(&"threadgroup") => ParameterKind::Threadgroup,
        _ => return fail("needs an address space (device, constant or threadgroup)".to_owned()),
    };
    let index = match explicit {
        Some((is_buffer, index)) if is_buffer == (kind != ParameterKind::Threadgroup) => index,
        Some((true, _)) => return fail("[[buffer]] on threadgroup memory".to_owned()),
        Some((false, _)) => return fail("[[threadgroup]] on a buffer".to_owned()),
        None => UNNUMBERED,
    };
    Ok(Parameter {
        kind,
        index,
        name,
        ty,
        optional,
        reference: s.is(declarator[indirect], "&"),
        line,
    })
}

/// The last identifier outside `[…]` and `<…>`: the name, also in `constant int (&shape)[4]`.
fn declarator_name(s: &Syntax<'_>, declarator: &[usize]) -> Option<usize> {
    let mut angle = 0i32;
    let mut square = 0i32;
    declarator.iter().rev().copied().find(|i| {
        match s.tokens[*i].text.as_ref() {
            "]" => square += 1,
            "[" => square -= 1,
            ">" => angle += 1,
            ">>" => angle += 2,
            "<" => angle -= 1,
            _ => return square == 0 && angle == 0 && s.tokens[*i].is_ident(),
        }
        false
    })
}

fn type_text(s: &Syntax<'_>, declarator: &[usize], name: Option<usize>) -> String {
    let dropped = [
        "device",
        "constant",
        "threadgroup",
        "thread",
        "const",
        "volatile",
        "*",
        "&",
        "(",
        ")",
    ];
    let mut depth = 0i32;
    let mut words = Vec::new();
    for i in declarator.iter().copied().filter(|i| Some(*i) != name) {
        match s.tokens[i].text.as_ref() {
            "<" => depth += 1,
            ">" => depth -= 1,
            ">>" => depth -= 2,
            _ => {}
        }
        if depth > 0 || !dropped.iter().any(|d| s.is(i, d)) {
            words.push(i);
        }
    }
    tidy(&s.text(words))
}

/// `vec < T , 4 >` as one writes it.
fn tidy(text: &str) -> String {
    let mut out = text.to_owned();
    for (from, to) in [
        (" < ", "<"),
        (" >", ">"),
        (" ,", ","),
        (" :: ", "::"),
        (" [", "["),
        ("[ ", "["),
        (" ]", "]"),
    ] {
        out = out.replace(from, to);
    }
    out
}

/// Replaces template parameters in a type by their arguments.
pub(crate) fn substitute(ty: &str, arguments: &HashMap<&str, &str>) -> String {
    if arguments.is_empty() {
        return ty.to_owned();
    }
    let mut out = String::with_capacity(ty.len());
    let mut rest = ty;
    while !rest.is_empty() {
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let len = rest.find(|c| !word(c)).unwrap_or(rest.len());
        let piece = if len == 0 {
            &rest[..rest.chars().next().map_or(1, char::len_utf8)]
        } else {
            &rest[..len]
        };
        out.push_str(arguments.get(piece).copied().unwrap_or(piece));
        rest = &rest[piece.len()..];
    }
    out
}

/// Gives the parameters without an index the free ones in order, and refuses duplicates.
fn number(parameters: &mut [Parameter], kernel: &str) -> Result<(), MslError> {
    for threadgroup in [false, true] {
        let of_class = |p: &Parameter| match p.kind {
            ParameterKind::Buffer { .. } => !threadgroup,
            ParameterKind::Threadgroup => threadgroup,
            ParameterKind::Builtin(_) => false,
        };
        let mut used: Vec<(u32, String)> = Vec::new();
        for p in parameters.iter().filter(|p| of_class(p) && p.index != UNNUMBERED) {
            if let Some((_, other)) = used.iter().find(|(i, _)| *i == p.index) {
                let what = if threadgroup { "threadgroup" } else { "buffer" };
                let message = format!(
                    "kernel `{kernel}`: `{other}` and `{}` share {what} index {}",
                    p.name, p.index
                );
                return Err(MslError::new(p.line, message));
            }
            used.push((p.index, p.name.clone()));
        }
        let mut next = 0;
        for p in parameters
            .iter_mut()
            .filter(|p| of_class(p) && p.index == UNNUMBERED)
        {
            while used.iter().any(|(i, _)| *i == next) {
                next += 1;
            }
            if next > MAX_BUFFER_INDEX {
                return Err(MslError::new(
                    p.line,
                    format!("kernel `{kernel}` has too many arguments"),
                ));
            }
            p.index = next;
            next += 1;
        }
    }
    Ok(())
}

/// The kernel template among its overloads that takes `arguments` template arguments.
pub(crate) fn overload(definitions: &[KernelDefinition], arguments: usize) -> Option<&KernelDefinition> {
    let parameters = |d: &&KernelDefinition| d.template.as_ref().map_or(0, Vec::len);
    definitions
        .iter()
        .find(|d| parameters(d) == arguments)
        .or_else(|| {
            definitions
                .iter()
                .filter(|d| parameters(d) > arguments)
                .min_by_key(parameters)
        })
        .or(definitions.first())
}

/// Reads an explicit instantiation; `None` for one that makes no kernel.
pub(crate) fn instantiation(s: &Syntax<'_>, item: &Item) -> Result<Option<Instantiation>, MslError> {
    let range = item.range();
    let line = s.line(range.start);
    let mut host_name = None;
    let mut is_kernel = false;
    for attribute in s.attributes(range.clone()) {
        match attribute.name.as_str() {
            "host_name" => host_name = Some(string(s, &attribute)?),
            "kernel" => is_kernel = true,
            _ => {}
        }
    }
    let tokens = s.without_attributes(range.clone());
    is_kernel |= tokens.iter().any(|i| s.is(*i, "kernel"));
    if host_name.is_none() && !is_kernel {
        return Ok(None);
    }
    // The template-id before the parameter list, or the last one: `R f<..>(..)` and `decltype(f<..>) f<..>`.
    let mut best = None;
    let mut at = range.start + 1;
    while at < range.end {
        if let Some(e) = s.attribute_end(at) {
            at = e;
        } else if s.is(at, "(") {
            let message = "the instantiation of a kernel needs explicit template arguments";
            return s.error(at, message);
        } else if s.is(at, "decltype") {
            at = s.closer(at + 1).unwrap_or(at) + 1;
        } else if s.tokens[at].is_ident() && s.is(at + 1, "<") {
            let Some(e) = s.angle_end(at + 1) else {
                return s.error(at, "a template argument list does not end");
            };
            best = Some((at, e));
            if s.is(e, "(") {
                break;
            }
            at = e;
        } else {
            at += 1;
        }
    }
    let Some((name_at, end)) = best else {
        return s.error(range.start, "an instantiation without template arguments");
    };
    let function = s.tokens[name_at].text.to_string();
    let arguments = s
        .split_commas(name_at + 2..end - 1)
        .into_iter()
        .map(|a| tidy(&s.text(a)))
        .collect();
    let expression = s.text(name_at..end);
    let host_name = host_name.unwrap_or_else(|| tidy(&expression));
    Ok(Some(Instantiation {
        host_name,
        function,
        arguments,
        expression,
        line,
    }))
}

/// A function constant with what the rewriter needs besides.
pub(crate) struct ConstantDeclaration {
    pub declaration: FunctionConstant,
    /// The type as spelled.
    pub spelled: String,
}

/// Reads a function constant.
pub(crate) fn constant(s: &Syntax<'_>, item: &Item) -> Result<ConstantDeclaration, MslError> {
    let range = item.range();
    let line = s.line(range.start);
    let mut number = None;
    for attribute in s.attributes(range.clone()) {
        if attribute.name == "function_constant" {
            number = Some(index(s, &attribute)?);
        }
    }
    let Some(index) = number else {
        return s.error(range.start, "a function constant without an index");
    };
    if range.clone().any(|i| s.is(i, ",") || s.is(i, "=")) {
        return s.error(
            range.start,
            "function constants want one declaration each, without a value",
        );
    }
    let dropped = ["constant", "static", "constexpr", "const", ";"];
    let words: Vec<usize> = s
        .without_attributes(range.clone())
        .into_iter()
        .filter(|i| !dropped.iter().any(|d| s.is(*i, d)))
        .collect();
    let Some((name, ty)) = words.split_last() else {
        return s.error(range.start, "a function constant without a name");
    };
    let name = s.tokens[*name].text.to_string();
    let spelled = s.text(ty.iter().copied());
    let Some(ty) = ConstantType::from_name(&spelled) else {
        return s.error(
            range.start,
            format!("function constant `{name}`: type `{spelled}` is not supported"),
        );
    };
    Ok(ConstantDeclaration {
        declaration: FunctionConstant {
            index,
            name,
            ty,
            line,
        },
        spelled,
    })
}
