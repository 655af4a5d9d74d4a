//! A kernel text without the instantiations of other kernels: a compiler then makes one kernel, not fifty.

/// Longest instantiation, in bytes: keeps every look-ahead short.
const MAX_LEN: usize = 8192;

/// `source` without the explicit instantiations of kernels of another host name than `name`. Every other line stays where
/// it is, so that a compiler's messages keep their lines. What is not plainly such an instantiation stays too.
pub(crate) fn only(source: &str, name: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut scan = Scan { source, at: 0 };
    let mut copied = 0;
    while let Some(start) = scan.next_template() {
        let Some((host, end)) = instantiation(source, start) else {
            continue;
        };
        scan.at = end;
        if host != name {
            out.push_str(&source[copied..start]);
            out.extend(source[start..end].chars().filter(|c| *c == '\n'));
            copied = end;
        }
    }
    out.push_str(&source[copied..]);
    out
}

/// Walks over text, past comments, strings, directives and bodies.
struct Scan<'a> {
    source: &'a str,
    at: usize,
}

impl Scan<'_> {
    /// Where the next `template` outside all of these stands.
    fn next_template(&mut self) -> Option<usize> {
        let bytes = self.source.as_bytes();
        while self.at < bytes.len() {
            let start = self.at;
            let rest = &bytes[start..];
            match bytes[start] {
                b'/' if rest.starts_with(b"//") => self.past("\n"),
                b'/' if rest.starts_with(b"/*") => {
                    self.at += 2;
                    self.past("*/");
                }
                b'"' => self.at = string_end(bytes, start),
                b'#' => self.past_directive(),
                c if is_word(c) => {
                    let word = bytes[start..].iter().take_while(|c| is_word(**c)).count();
                    self.at += word;
                    if &bytes[start..start + word] == b"template" {
                        return Some(start);
                    }
                }
                _ => self.at += 1,
            }
        }
        None
    }

    fn past(&mut self, mark: &str) {
        let found = find(self.source.as_bytes(), self.at, mark.as_bytes());
        self.at = found.map_or(self.source.len(), |i| i + mark.len());
    }

    fn past_directive(&mut self) {
        let bytes = self.source.as_bytes();
        while self.at < bytes.len() && bytes[self.at] != b'\n' {
            let continued = bytes[self.at] == b'\\' && bytes.get(self.at + 1) == Some(&b'\n');
            self.at += if continued { 2 } else { 1 };
        }
    }
}

/// Host name and end of the instantiation that starts at `start` with `template`.
fn instantiation(source: &str, start: usize) -> Option<(&str, usize)> {
    let bytes = source.as_bytes();
    let after = skip_space(source, start + "template".len());
    if !source[after..].starts_with("[[") {
        return None;
    }
    let (mut host, mut at) = (None, after);
    while at < bytes.len() && at - start < MAX_LEN {
        match bytes[at] {
            b';' => return host.map(|h| (h, at + 1)),
            // A body, or a directive in the midst: not what we know.
            b'{' | b'#' => return None,
            b'"' => at = string_end(bytes, at),
            b'h' if source[at..].starts_with("host_name") && host.is_none() => {
                let open = skip_space(source, at + "host_name".len());
                let quote = skip_space(source, open + 1);
                if bytes.get(open) != Some(&b'(') || bytes.get(quote) != Some(&b'"') {
                    return None;
                }
                let end = string_end(bytes, quote);
                let close = skip_space(source, end);
                // Neighbouring literals are one string; the parser above knows that, this does not.
                if bytes.get(close) != Some(&b')') {
                    return None;
                }
                host = source.get(quote + 1..end - 1);
                at = close;
            }
            _ => at += 1,
        }
    }
    None
}

fn is_word(c: u8) -> bool {
    c.is_ascii_alphanumeric() || c == b'_'
}

fn skip_space(source: &str, at: usize) -> usize {
    let bytes = source.as_bytes();
    let from = at.min(bytes.len());
    from + bytes[from..]
        .iter()
        .take_while(|c| c.is_ascii_whitespace())
        .count()
}

/// One past the closing quote of the literal that opens at `start`.
fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < bytes.len() && bytes[at] != b'"' && bytes[at] != b'\n' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(bytes.len())
}

fn find(bytes: &[u8], from: usize, mark: &[u8]) -> Option<usize> {
    bytes[from..]
        .windows(mark.len())
        .position(|w| w == mark)
        .map(|i| from + i)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"// template [[host_name("no")]] x;
#define M(n) template [[host_name(n)]] \
    [[kernel]] void f<float>();
template <typename T> [[kernel]] void f(device T *x [[buffer(0)]]) { x[0] = T(0); }
template [[host_name("f_f32")]] [[kernel]]
    decltype(f<float>) f<float>;
template [[ host_name( "f_f16" ) ]] [[kernel]] decltype(f<half>) f<half>; /* template
*/ template [[host_name("f_" "i32")]] [[kernel]] decltype(f<int>) f<int>;
kernel void plain(device int *x [[buffer(0)]]) {}
"#;

    #[test]
    fn other_instantiations_go_and_lines_stay() {
        let text = only(TEXT, "f_f16");
        assert!(!text.contains("f_f32") && text.contains("f_f16") && text.contains("f_\" \"i32"));
        assert!(text.contains("plain") && text.contains("#define M(n)") && text.contains("\"no\""));
        assert_eq!(text.lines().count(), TEXT.lines().count());
        for (i, (a, b)) in text.lines().zip(TEXT.lines()).enumerate() {
            assert!(a == b || i == 4 || i == 5, "line {}: {a:?}", i + 1);
        }
    }

    #[test]
    fn a_plain_kernel_needs_no_instantiation() {
        let text = only(TEXT, "plain");
        assert!(!text.contains("f_f32") && !text.contains("f_f16") && text.contains("void plain"));
    }

    #[test]
    fn odd_text_stays_as_it_is() {
        for text in [
            "",
            "template",
            "template [[",
            "template [[host_name(",
            "template [[host_name(\"",
            "template [[host_name(\"x\")]] never ends",
            "template [[host_name(\"x\")]] { };",
            "\"template [[host_name(\\\"x\\\")]] f;\"",
            "é template é [[host_name(\"x\")]];",
            "/* template [[host_name(\"x\")]] f; ",
            "#if 1 \\",
            "template [[host_name(\"x",
        ] {
            assert_eq!(only(text, "y"), text);
        }
    }

    #[test]
    fn any_text_at_all_is_taken() {
        let pieces = [
            "template",
            "[[",
            "host_name",
            "(",
            "\"",
            "x",
            "é",
            "\\",
            ")",
            "]]",
            ";",
            "\n",
            "//",
            "/*",
            "*/",
            "#",
            " ",
        ];
        let mut rng = crate::testing::Rng::new(11);
        for _ in 0..5000 {
            let text: String = (0..rng.range(1, 30)).map(|_| rng.pick(&pieces)).collect();
            let pruned = only(&text, "x");
            assert_eq!(
                pruned.matches('\n').count(),
                text.matches('\n').count(),
                "{text:?}"
            );
            assert!(pruned.len() <= text.len());
        }
    }

    #[test]
    fn every_kernel_of_the_library_is_left_alone_in_its_text() {
        let registry = crate::KernelRegistry::new();
        for name in registry.names() {
            let kernel = registry.kernel(name).unwrap();
            let pruned = only(kernel.source.flat().unwrap(), name);
            let module = super::super::parse(&pruned).unwrap();
            let found = module.kernel(name).unwrap_or_else(|| panic!("{name} is gone"));
            assert_eq!(
                format!("{:?}", found.bindings),
                format!("{:?}", kernel.signature.bindings)
            );
            assert_eq!(found.line, kernel.signature.line);
            let instances = pruned.matches("host_name").count();
            assert!(instances <= 1, "{name}: {instances} host names are left");
        }
    }
}
