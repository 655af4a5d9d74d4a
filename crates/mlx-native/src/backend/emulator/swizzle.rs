//! The swizzles of the prelude's vectors, as properties: `v.xy`, `v.xy = v.zw`, `v.zw += v.xx`.

use std::fmt::Write;

/// The members of `vec<T, n>` for every swizzle of two to four components.
///
/// All combinations of `xyzw`; of `rgba` the runs that occur in practice. A swizzle that names a component twice can be
/// read only.
pub(super) fn members(n: usize) -> String {
    let mut out = String::new();
    for length in 2..=4usize {
        for code in 0..n.pow(length as u32) {
            let picks: Vec<usize> = (0..length).rev().map(|i| code / n.pow(i as u32) % n).collect();
            let name: String = picks.iter().map(|p| b"xyzw"[*p] as char).collect();
            let reads: Vec<String> = picks.iter().map(|p| format!("d[{p}]")).collect();
            let reads = reads.join(", ");
            let _ = writeln!(
                out,
                "constexpr vec<T, {length}> get_{name}() const {{ return vec<T, {length}>({reads}); }}"
            );
            let unique = (0..length).all(|i| !picks[..i].contains(&picks[i]));
            let mut put = String::new();
            if unique {
                let writes: Vec<String> = picks
                    .iter()
                    .enumerate()
                    .map(|(i, p)| format!("d[{p}] = o.d[{i}];"))
                    .collect();
                let writes = writes.join(" ");
                let _ = writeln!(
                    out,
                    "constexpr vec<T, {length}> put_{name}(const vec<T, {length}>& o) {{ {writes} return o; }}"
                );
                put = format!(", put = put_{name}");
            }
            let property = format!("__declspec(property(get = get_{name}{put})) vec<T, {length}>");
            let _ = writeln!(out, "{property} {name};");
            let run = picks.windows(2).all(|w| w[1] == w[0] + 1);
            if run {
                let colours: String = picks.iter().map(|p| b"rgba"[*p] as char).collect();
                let _ = writeln!(out, "{property} {colours};");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn counts_and_forms() {
        let two = super::members(2);
        assert_eq!(two.matches("__declspec").count(), 4 + 8 + 16 + 1);
        assert!(two.contains("put_yx(const vec<T, 2>& o) { d[1] = o.d[0]; d[0] = o.d[1]; return o; }"));
        assert!(!two.contains("put_xx"));
        assert_eq!(
            super::members(4).matches("__declspec").count(),
            16 + 64 + 256 + 3 + 2 + 1
        );
    }
}
