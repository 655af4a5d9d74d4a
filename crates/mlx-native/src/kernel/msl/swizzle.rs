//! Swizzles as calls, for a compiler whose vectors have only plain members.
//!
//! `v.xy` becomes `v.template at<0, 1>()`, a value; before an assignment it becomes `v.template put<0, 1>()`, which can be
//! assigned to. A single component is a plain member and stays.

use super::MslError;
use super::syntax::{Item, Syntax};
use std::collections::HashSet;

/// What can follow a swizzle that is written.
const ASSIGNMENTS: [&str; 11] = ["=", "+=", "-=", "*=", "/=", "%=", "&=", "|=", "^=", "<<=", ">>="];

/// The components that a name stands for: two to four of `xyzw`, or of `rgba`.
fn components(name: &str) -> Option<Vec<usize>> {
    if !(2..=4).contains(&name.len()) {
        return None;
    }
    let of = |letters: &str| name.chars().map(|c| letters.find(c)).collect::<Option<Vec<_>>>();
    of("xyzw").or_else(|| of("rgba"))
}

/// What stands for the token at `at`, if it is a swizzle. `fields`: names that are members of the text's own types.
pub(super) fn call(s: &Syntax<'_>, at: usize, fields: &HashSet<String>) -> Option<String> {
    let token = &s.tokens[at];
    if at == 0 || !token.is_ident() || !(s.is(at - 1, ".") || s.is(at - 1, "->")) {
        return None;
    }
    let name = token.text.as_ref();
    // A member function of the same name is called.
    if s.is(at + 1, "(") || fields.contains(name) {
        return None;
    }
    let components = components(name)?;
    let written = ASSIGNMENTS.iter().any(|a| s.is(at + 1, a));
    let list = components
        .iter()
        .map(usize::to_string)
        .collect::<Vec<_>>()
        .join(", ");
    let function = if written { "put" } else { "at" };
    Some(format!("template {function}<{list}>()"))
}

/// Names like swizzles that the text's types give to members of their own.
///
/// # Errors
/// Text whose items cannot be read.
pub(super) fn fields(s: &Syntax<'_>) -> Result<HashSet<String>, MslError> {
    let mut found = HashSet::new();
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
        match item {
            Item::Block { open, close, .. } => {
                ends.push(close);
                at = open + 1;
            }
            Item::Type { open, close, .. } => {
                for i in open + 1..close {
                    let declared = !s.is(i - 1, ".") && !s.is(i - 1, "->");
                    if s.tokens[i].is_ident() && declared && components(&s.tokens[i].text).is_some() {
                        found.insert(s.tokens[i].text.to_string());
                    }
                }
            }
            _ => {}
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::super::rewrite::{Options, Target, rewrite};

    fn cuda(text: &str) -> String {
        let options = Options {
            target: Target::Cuda,
            file: "t.metal",
            constants: &[],
        };
        let rewritten = rewrite(text, &options).unwrap().text;
        rewritten.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn reads_become_values_and_writes_become_places() {
        let text = cuda(
            "float2 f(float4 v, thread float4 *p) { v.xy = p->zw; v.rgb += v.bgr; return v.xx == v.wz; }",
        );
        for part in [
            "v . template put<0, 1>() = p -> template at<2, 3>() ;",
            "v . template put<0, 1, 2>() += v . template at<2, 1, 0>() ;",
            "v . template at<0, 0>() == v . template at<3, 2>()",
        ] {
            assert!(text.contains(part), "{part:?} is not in {text}");
        }
    }

    #[test]
    fn components_members_and_functions_stay() {
        let text = cuda(
            "struct Size { uint xy; float2 zw; }; float f(Size s, float4 v) { v.x = 1; s.xy = 3; return s.zw.y + v.xyg + v.zz(); }",
        );
        for part in ["v . x =", "s . xy =", "s . zw . y", "v . xyg", "v . zz ("] {
            assert!(text.contains(part), "{part:?} is not in {text}");
        }
        assert!(!text.contains("template"));
    }
}
