//! Which arguments of a kernel may be the same bytes: `// in place: add(output = a, output = b)`.
//!
//! A dispatch must not bind bytes that the kernel writes to a second argument, unless its text says that the kernel takes
//! it, and then only exactly the same range. The saying is a comment, so that every compiler of the text reads past it: a
//! line of its own, with the name of the kernel function and pairs *written argument = other argument*. It holds for every
//! instantiation of the function.

use super::{Access, MslError};

/// What such a line begins with, behind the slashes.
const MARK: &str = "in place:";

/// One pair of one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct InPlace {
    pub function: String,
    pub written: String,
    pub other: String,
    pub line: u32,
}

/// All pairs of a text.
///
/// # Errors
/// A line that begins like one and does not go on like one.
pub(super) fn read(source: &str) -> Result<Vec<InPlace>, MslError> {
    let mut all = Vec::new();
    for (i, line) in source.lines().enumerate() {
        let Some(rest) = line
            .trim_start()
            .strip_prefix("//")
            .and_then(|l| l.trim_start().strip_prefix(MARK))
        else {
            continue;
        };
        let number = u32::try_from(i + 1).unwrap_or(u32::MAX);
        let pairs = pairs(rest, number).ok_or_else(|| {
            MslError::new(
                number,
                format!("`{}`: wanted `// {MARK} kernel(output = input, …)`", line.trim()),
            )
        })?;
        all.extend(pairs);
    }
    Ok(all)
}

fn pairs(text: &str, line: u32) -> Option<Vec<InPlace>> {
    let (function, arguments) = text.trim().strip_suffix(')')?.split_once('(')?;
    let function = identifier(function)?;
    arguments
        .split(',')
        .map(|pair| {
            let (written, other) = pair.split_once('=')?;
            Some(InPlace {
                function: function.to_owned(),
                written: identifier(written)?.to_owned(),
                other: identifier(other)?.to_owned(),
                line,
            })
        })
        .collect()
}

fn identifier(text: &str) -> Option<&str> {
    let text = text.trim();
    let starts = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let word = text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    (starts && word).then_some(text)
}

/// The pairs of `declared` that are for `function`, as indices of its `bindings`.
///
/// # Errors
/// A name that is no buffer argument of the kernel; a first name that the kernel does not write.
pub(super) fn resolve(
    declared: &[InPlace],
    function: &str,
    bindings: &[super::BindingDecl],
) -> Result<Vec<(u32, u32)>, MslError> {
    let of_function = declared.iter().filter(|d| d.function == function);
    of_function
        .map(|d| {
            let find = |name: &str| {
                bindings.iter().find(|b| b.name == name).ok_or_else(|| {
                    MslError::new(
                        d.line,
                        format!("in place: kernel `{function}` has no buffer `{name}`"),
                    )
                })
            };
            let (written, other) = (find(&d.written)?, find(&d.other)?);
            if written.access != Access::ReadWrite {
                let message = format!("in place: kernel `{function}` does not write `{}`", d.written);
                return Err(MslError::new(d.line, message));
            }
            Ok((written.index, other.index))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::parse;

    const KERNELS: &str = "
        template <typename T> [[kernel]] void f(device const T *a [[buffer(0)]], device T *o [[buffer(2)]]) {}
        template [[host_name(\"f_float\")]] [[kernel]] decltype(f<float>) f<float>;
        kernel void g(device float *o, constant float *a) {}
    ";

    fn with(line: &str) -> Result<Vec<(String, Vec<(u32, u32)>)>, String> {
        let module = parse(&format!("{line}\n{KERNELS}")).map_err(|e| e.to_string())?;
        Ok(module.kernels.into_iter().map(|k| (k.name, k.in_place)).collect())
    }

    #[test]
    fn pairs_go_to_every_instantiation_of_their_function() {
        let none = |n: &str| (n.to_owned(), vec![]);
        assert_eq!(
            with("// in place: f(o = a)").unwrap(),
            [("f_float".to_owned(), vec![(2, 0)]), none("g")]
        );
        assert_eq!(
            with("  //in place:  g( o=a )").unwrap()[1],
            ("g".to_owned(), vec![(0, 1)])
        );
        assert_eq!(
            with("// about in place: things").unwrap(),
            [none("f_float"), none("g")]
        );
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_its_line() {
        for (line, words) in [
            ("// in place: f", "wanted"),
            ("// in place: f(o)", "wanted"),
            ("// in place: f(o = a", "wanted"),
            ("// in place: f(o = 3)", "wanted"),
            ("// in place: f(o = x)", "no buffer `x`"),
            ("// in place: f(a = o)", "does not write `a`"),
            ("// in place: h(o = a)", "no kernel `h`"),
        ] {
            let error = with(line).unwrap_err();
            assert!(
                error.contains(words) && error.starts_with("line 1"),
                "{line}: {error}"
            );
        }
    }
}
