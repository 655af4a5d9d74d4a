//! What of a text one kernel uses: the words that it can reach, and the threadgroup memory that it declares.

use super::declarations::{self, instantiation, name_before};
use super::lexer::{Kind, Token};
use super::syntax::{Item, Syntax};
use super::{MslError, condition, preprocess};
use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

/// What a kernel uses of the text that it stands in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Reach {
    /// Every identifier in the kernel, and in the functions, types and constants whose names it mentions, and so on.
    pub words: BTreeSet<String>,
    /// Bytes of the threadgroup variables declared in all that; `None` where an extent cannot be worked out.
    #[cfg_attr(not(test), allow(dead_code, reason = "a pipeline tells at run time"))]
    pub threadgroup_bytes: Option<u64>,
}

/// What the kernel of the host name `name` uses. Overloads are not told apart, so that this may be too much, and is never
/// too little.
///
/// # Errors
/// As for [`parse`](super::parse); also when the text has no such kernel.
pub(crate) fn reach(source: &str, name: &str) -> Result<Reach, MslError> {
    let s = Syntax::new(preprocess::preprocess(source)?)?;
    let mut index = Index::default();
    index.add(&s)?;
    let (mut pending, arguments) = index.roots(&s, name)?;
    let mut found = Reach {
        words: BTreeSet::new(),
        threadgroup_bytes: Some(0),
    };
    let mut seen = vec![false; index.items.len()];
    while let Some(item) = pending.pop() {
        if std::mem::replace(&mut seen[item], true) {
            continue;
        }
        let range = index.items[item].range();
        for i in range.clone().filter(|i| s.tokens[*i].is_ident()) {
            let word = s.tokens[i].text.as_ref();
            if found.words.insert(word.to_owned()) {
                pending.extend(index.by_name.get(word).into_iter().flatten());
            }
        }
        let bytes = threadgroup_bytes(&s, range, &arguments, &index);
        found.threadgroup_bytes = found
            .threadgroup_bytes
            .zip(bytes)
            .map(|(a, b)| a.saturating_add(b));
    }
    Ok(found)
}

/// The items of a text by the names that they declare.
#[derive(Default)]
struct Index {
    items: Vec<Item>,
    by_name: HashMap<String, Vec<usize>>,
}

/// Template parameters of the kernel, and what they stand for.
type Arguments = HashMap<String, String>;

impl Index {
    fn add(&mut self, s: &Syntax<'_>) -> Result<(), MslError> {
        let mut ends = Vec::new();
        let mut at = 0;
        while at < s.len() {
            if ends.last() == Some(&at) {
                ends.pop();
                at += 1;
                continue;
            }
            let item = s.item(at, *ends.last().unwrap_or(&s.len()))?;
            at = item.end();
            if let Item::Block { open, close, .. } = item {
                ends.push(close);
                at = open + 1;
                continue;
            }
            if let Some(name) = declared_name(s, &item)? {
                self.by_name.entry(name).or_default().push(self.items.len());
            }
            self.items.push(item);
        }
        Ok(())
    }

    /// The items to begin with: the kernel's definitions, and its instantiation.
    fn roots(&self, s: &Syntax<'_>, host: &str) -> Result<(Vec<usize>, Arguments), MslError> {
        for (i, item) in self.items.iter().enumerate() {
            match item {
                Item::Function { kernel: true, .. } => {
                    let definition = declarations::kernel(s, item)?;
                    let name = definition.host_name.as_ref().unwrap_or(&definition.name);
                    if definition.template.is_none() && definition.has_body && name == host {
                        return Ok((vec![i], Arguments::new()));
                    }
                }
                Item::Instantiation { .. } => {
                    let Some(instance) = instantiation(s, item)?.filter(|x| x.host_name == host) else {
                        continue;
                    };
                    let mut roots = self.by_name.get(&instance.function).cloned().unwrap_or_default();
                    let mut parameters = Vec::new();
                    for root in &roots {
                        if let Item::Function { kernel: true, .. } = &self.items[*root] {
                            let definition = declarations::kernel(s, &self.items[*root])?;
                            parameters = definition.template.unwrap_or_default();
                        }
                    }
                    roots.push(i);
                    let arguments = parameters.into_iter().zip(instance.arguments).collect();
                    return Ok((roots, arguments));
                }
                _ => {}
            }
        }
        Err(MslError::new(0, format!("the text has no kernel `{host}`")))
    }
}

/// The name that an item declares; several may declare the same.
fn declared_name(s: &Syntax<'_>, item: &Item) -> Result<Option<String>, MslError> {
    let text = |i: usize| Some(s.tokens[i].text.to_string());
    Ok(match item {
        Item::Function { range, paren, .. } => text(name_before(s, *paren, range.start)?),
        Item::Type { range, open, .. } => {
            let key = |i: &usize| ["struct", "class", "union"].iter().any(|k| s.is(*i, k));
            (range.start..*open).rev().find(key).map_or(Ok(None), |k| {
                let mut after = s.without_attributes(k + 1..*open).into_iter();
                Ok(after.find(|i| s.tokens[*i].is_ident()).and_then(text))
            })?
        }
        Item::Constant { range } | Item::Other { range } => {
            let words = s.without_attributes(range.clone());
            if let Some(using) = words.iter().position(|i| s.is(*i, "using")) {
                words.get(using + 1).and_then(|i| text(*i))
            } else {
                let stop = ["=", "{", "[", ";"];
                let end = words.iter().position(|i| stop.iter().any(|t| s.is(*i, t)));
                let before = &words[..end.unwrap_or(words.len())];
                before
                    .iter()
                    .rev()
                    .find(|i| s.tokens[**i].is_ident())
                    .and_then(|i| text(*i))
            }
        }
        Item::Block { .. } | Item::Instantiation { .. } => None,
    })
}

/// Bytes of the `threadgroup T name[n]…;` declared in `range`.
fn threadgroup_bytes(
    s: &Syntax<'_>,
    range: Range<usize>,
    arguments: &Arguments,
    index: &Index,
) -> Option<u64> {
    let mut total = 0u64;
    for at in range.clone().filter(|i| s.is(*i, "threadgroup")) {
        // A declaration of a variable starts a statement; pointers to threadgroup memory hold none.
        let starts = at == range.start || ["{", "}", ";"].iter().any(|t| s.is(at - 1, t));
        let end = (at..range.end).find(|i| s.is(*i, ";")).unwrap_or(range.end);
        if !starts || (at..end).any(|i| ["*", "&"].iter().any(|t| s.is(i, t)) && !in_brackets(s, at, i)) {
            continue;
        }
        let environment = Environment {
            s,
            arguments,
            index,
            scope: range.start..at,
        };
        total = total.saturating_add(environment.variable(at + 1..end)?);
    }
    Some(total)
}

/// Whether token `i` stands inside a `[…]` that opens between `from` and it.
fn in_brackets(s: &Syntax<'_>, from: usize, i: usize) -> bool {
    (from..i).any(|open| s.is(open, "[") && s.closer(open).is_some_and(|close| close > i))
}

/// What names stand for at a declaration.
struct Environment<'s, 'a> {
    s: &'s Syntax<'a>,
    arguments: &'s Arguments,
    index: &'s Index,
    /// The function's tokens before the declaration.
    scope: Range<usize>,
}

/// Deepest chain of constants defined by constants.
const MAX_DEPTH: u32 = 16;

impl Environment<'_, '_> {
    /// Bytes of `T a[n][m], b`, without the `;`.
    fn variable(&self, range: Range<usize>) -> Option<u64> {
        let first = self.s.split_commas(range.clone());
        if first.len() != 1 {
            return None;
        }
        let open = range.clone().find(|i| self.s.is(*i, "[")).unwrap_or(range.end);
        // `T name`: all but the last word are the type.
        let ty = self.s.text(range.start..open.checked_sub(1)?);
        let mut bytes = self.type_bytes(&ty)?;
        let mut at = open;
        while at < range.end && self.s.is(at, "[") {
            let close = self.s.closer(at)?;
            bytes = bytes.checked_mul(u64::try_from(self.value(at + 1..close, 0)?).ok()?)?;
            at = close + 1;
        }
        (at == range.end).then_some(bytes)
    }

    fn type_bytes(&self, ty: &str) -> Option<u64> {
        let ty = self.arguments.get(ty).map_or(ty, String::as_str);
        let scalar = ty.trim_end_matches(|c: char| c.is_ascii_digit());
        let lanes = match &ty[scalar.len()..] {
            "" => 1,
            "2" => 2,
            "3" | "4" => 4,
            _ => return None,
        };
        let bytes = match scalar {
            "bool" | "char" | "uchar" => 1,
            "short" | "ushort" | "half" | "bfloat" => 2,
            "int" | "uint" | "float" | "atomic_uint" | "atomic_int" => 4,
            "long" | "ulong" => 8,
            _ => return None,
        };
        Some(bytes * lanes)
    }

    /// The value of an expression of literals, template arguments, constants and `sizeof`.
    fn value(&self, range: Range<usize>, depth: u32) -> Option<i64> {
        let mut tokens = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let token = &self.s.tokens[at];
            at += 1;
            let number = match token.text.as_ref() {
                _ if !token.is_ident() => {
                    tokens.push(token.clone());
                    continue;
                }
                "sizeof" => {
                    let close = self.s.closer(at)?;
                    let ty = self.s.text(at + 1..close);
                    at = close + 1;
                    i64::try_from(self.type_bytes(&ty)?).ok()?
                }
                // A cast like `uint(4)` leaves the parentheses.
                "uint" | "int" | "ushort" | "short" | "ulong" | "long" | "size_t" => continue,
                name => self.named(name, depth)?,
            };
            tokens.push(Token {
                kind: Kind::Number,
                text: Cow::Owned(number.to_string()),
                ..token.clone()
            });
        }
        condition::value(&tokens)
    }

    /// The value of a template argument, or of a constant of the function or the text.
    fn named(&self, name: &str, depth: u32) -> Option<i64> {
        if depth >= MAX_DEPTH {
            return None;
        }
        if let Some(argument) = self.arguments.get(name) {
            return condition::integer(argument);
        }
        let s = self.s;
        let local = self
            .scope
            .clone()
            .rev()
            .find(|i| s.is(*i, name) && s.is(i + 1, "="));
        if let Some(at) = local {
            let end = (at..s.len()).find(|i| s.is(*i, ";"))?;
            return self.value(at + 2..end, depth + 1);
        }
        let [only] = self.index.by_name.get(name)?[..] else {
            return None;
        };
        let range = self.index.items[only].range();
        let equals = range.clone().find(|i| s.is(*i, "="))?;
        self.value(equals + 1..range.end - 1, depth + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "
constexpr constant uint TILE = 8 * 2;
using matrix = simdgroup_float8x8;
struct Unused { bfloat x; };
struct Pair { float a; float b; };
template <typename T> T helper(T x) { matrix m; threadgroup float inner[TILE]; return x; }
float lonely(float x) { return bfloat(x); }
template <typename T, int N>
[[kernel]] void f(device T *x [[buffer(0)]], threadgroup float *given [[threadgroup(0)]]) {
    constexpr int PAD = N + 1;
    threadgroup T tile[2][TILE * (PAD + 8)];
    threadgroup float4 one;
    threadgroup const float *into = given;
    Pair p; x[0] = helper(x[0]);
}
template [[host_name(\"f_f32\")]] [[kernel]] decltype(f<float, 4>) f<float, 4>;
template [[host_name(\"f_bf16\")]] [[kernel]] decltype(f<bfloat, 3>) f<bfloat, 3>;
kernel void g(device float *x [[buffer(0)]]) { x[0] = lonely(x[0]); }
kernel void h(device float *x [[buffer(0)]], uint n [[threads_per_threadgroup]]) { threadgroup float a[what]; }
";

    #[test]
    fn words_are_those_of_what_is_mentioned() {
        let f = reach(TEXT, "f_f32").unwrap();
        for word in [
            "f",
            "helper",
            "matrix",
            "simdgroup_float8x8",
            "Pair",
            "TILE",
            "float",
        ] {
            assert!(f.words.contains(word), "{word}");
        }
        for word in ["bfloat", "Unused", "lonely", "g"] {
            assert!(!f.words.contains(word), "{word}");
        }
        assert!(reach(TEXT, "f_bf16").unwrap().words.contains("bfloat"));
        let g = reach(TEXT, "g").unwrap();
        assert!(g.words.contains("bfloat") && !g.words.contains("simdgroup_float8x8"));
    }

    #[test]
    fn threadgroup_variables_are_added_up() {
        assert_eq!(
            reach(TEXT, "f_f32").unwrap().threadgroup_bytes,
            Some(4 * 2 * 16 * 13 + 16 + 64)
        );
        assert_eq!(
            reach(TEXT, "f_bf16").unwrap().threadgroup_bytes,
            Some(2 * 2 * 16 * 12 + 16 + 64)
        );
        assert_eq!(reach(TEXT, "g").unwrap().threadgroup_bytes, Some(0));
        assert_eq!(reach(TEXT, "h").unwrap().threadgroup_bytes, None);
    }

    #[test]
    fn an_unknown_kernel_is_an_error() {
        assert!(
            reach(TEXT, "f")
                .unwrap_err()
                .to_string()
                .contains("no kernel `f`")
        );
    }
}
