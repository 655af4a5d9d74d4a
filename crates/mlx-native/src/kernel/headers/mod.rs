//! Metal headers shared by several operators, and the flattener that puts them in place of `#include "…"`.

/// Name in `#include "…"` and text. A header may include another; each is put in once per text.
const HEADERS: &[(&str, &str)] = &[
    ("floats.h", include_str!("floats.h")),
    ("ggml.h", include_str!("ggml.h")),
    ("segments.h", include_str!("segments.h")),
    ("weight.h", include_str!("weight.h")),
];

/// Replaces each `#include "name"` line by the header of that name, once, with `#line` markers so that diagnostics keep
/// naming the right file and line. `#include <…>` lines stay: they are the Metal standard library's.
pub(super) fn flatten(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len() + 1024);
    let mut seen = Vec::new();
    append(text, None, &mut seen, &mut out)?;
    Ok(out)
}

fn append(text: &str, file: Option<&str>, seen: &mut Vec<String>, out: &mut String) -> Result<(), String> {
    for (i, line) in text.lines().enumerate() {
        let Some(name) = quoted_include(line) else {
            out.push_str(line);
            out.push('\n');
            continue;
        };
        if seen.iter().any(|s| s == name) {
            out.push('\n');
            continue;
        }
        let Some((_, header)) = HEADERS.iter().find(|(n, _)| *n == name) else {
            return Err(format!("line {}: no header \"{name}\" is registered", i + 1));
        };
        seen.push(name.to_owned());
        out.push_str(&format!("#line 1 \"{name}\"\n"));
        append(header, Some(name), seen, out)?;
        out.push_str(&format!(
            "#line {} \"{}\"\n",
            i + 2,
            file.unwrap_or("kernel.metal")
        ));
    }
    Ok(())
}

fn quoted_include(line: &str) -> Option<&str> {
    let rest = line
        .trim_start()
        .strip_prefix('#')?
        .trim_start()
        .strip_prefix("include")?
        .trim_start();
    rest.strip_prefix('"')?.split_once('"').map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_without_quoted_includes_is_unchanged() {
        let text = "#include <metal_stdlib>\nusing namespace metal;\n";
        assert_eq!(flatten(text).unwrap(), text);
    }

    #[test]
    fn an_unknown_header_is_named_with_its_line() {
        let error = flatten("\n#include \"nowhere.h\"\n").unwrap_err();
        assert!(error.contains("line 2") && error.contains("nowhere.h"), "{error}");
    }

    #[test]
    fn each_header_appears_once_and_lines_are_kept() {
        for (name, _) in HEADERS {
            let flat = flatten(&format!("#include \"{name}\"\n#include \"{name}\"\nint x;\n")).unwrap();
            assert_eq!(flat.matches(&format!("#line 1 \"{name}\"")).count(), 1);
            assert!(flat.contains("#line 2 \"kernel.metal\"\n\nint x;"), "{flat}");
        }
    }
}
