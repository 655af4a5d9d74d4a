//! What of a text one kernel uses: the words that it can reach.

use super::declarations::{self, instantiation, name_before};
use super::syntax::{Item, Syntax};
use super::{MslError, preprocess};
use std::collections::{BTreeSet, HashMap};

/// What a kernel uses of the text that it stands in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Reach {
    /// Every identifier in the kernel, and in the functions, types and constants whose names it mentions, and so on.
    pub words: BTreeSet<String>,
    /// The items of all that, and of what the kernel's template parameters stand for.
    pub(super) items: Vec<usize>,
    pub(super) arguments: Arguments,
}

/// What the kernel of the host name `name` uses. Overloads are not told apart, so that this may be too much, and is never
/// too little.
///
/// # Errors
/// As for [`parse`](super::parse); also when the text has no such kernel.
pub(crate) fn reach(source: &str, name: &str) -> Result<Reach, MslError> {
    let s = Syntax::new(preprocess::preprocess(source)?)?;
    Index::new(&s)?.reach(&s, name)
}

/// The items of a text by the names that they declare.
#[derive(Default)]
pub(super) struct Index {
    pub items: Vec<Item>,
    pub by_name: HashMap<String, Vec<usize>>,
}

/// Template parameters of the kernel, and what they stand for.
pub(super) type Arguments = HashMap<String, String>;

impl Index {
    pub fn new(s: &Syntax<'_>) -> Result<Self, MslError> {
        let mut index = Index::default();
        index.add(s)?;
        Ok(index)
    }

    /// See [`reach`].
    pub fn reach(&self, s: &Syntax<'_>, name: &str) -> Result<Reach, MslError> {
        let (mut pending, arguments) = self.roots(s, name)?;
        let mut found = Reach {
            arguments,
            ..Reach::default()
        };
        let mut seen = vec![false; self.items.len()];
        while let Some(item) = pending.pop() {
            if std::mem::replace(&mut seen[item], true) {
                continue;
            }
            found.items.push(item);
            for i in self.items[item].range().filter(|i| s.tokens[*i].is_ident()) {
                let word = s.tokens[i].text.as_ref();
                if found.words.insert(word.to_owned()) {
                    pending.extend(self.by_name.get(word).into_iter().flatten());
                }
            }
        }
        Ok(found)
    }

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

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub const TEXT: &str = "
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
    fn an_unknown_kernel_is_an_error() {
        assert!(
            reach(TEXT, "f")
                .unwrap_err()
                .to_string()
                .contains("no kernel `f`")
        );
    }
}
