//! The program where its surroundings are not what one would like: streams that cannot be written, little memory, texts longer than
//! the model was made for.

#![cfg(target_os = "linux")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Runs a line of `sh` in which `mlx` is the program.
fn shell(line: &str) -> Output {
    let line = line.replace("mlx ", concat!(env!("CARGO_BIN_EXE_mlx-native"), " "));
    Command::new("sh")
        .args(["-c", &line])
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Ends with this code, and no panic.
#[track_caller]
fn ends(line: &str, code: i32) -> String {
    let output = shell(line);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{line}: {said}");
    assert!(
        !said.contains("panicked") && !said.contains("defect"),
        "{line}: {said}"
    );
    said
}

#[test]
fn a_standard_error_that_cannot_be_written_is_lost_and_no_more() {
    ends("mlx generate --max-tokens 2 2>/dev/full", 0);
    ends("mlx generate --max-tokens 2 2>&-", 0);
    ends("mlx generate --max-tokens 2 >/dev/null 2>&-", 0);
    ends("mlx generate --model nothing-here 2>/dev/full", 1);
    ends("mlx generate --model nothing-here 2>&-", 1);
    ends("mlx generate --nonsense 2>/dev/full", 2);
}

#[test]
fn a_standard_output_that_cannot_be_written_is_one_line() {
    for line in [
        "mlx generate --max-tokens 2 >/dev/full",
        "mlx generate --json --max-tokens 2 >/dev/full",
    ] {
        let said = ends(line, 1);
        assert_eq!(said.trim().lines().count(), 1, "{said}");
        assert!(said.contains("standard output"), "{said}");
    }
    ends("mlx --help >/dev/full; true", 0);
}

#[test]
fn a_reader_that_has_gone_is_no_error() {
    // The reader is gone before anything is written.
    for flags in ["", "--json"] {
        let line = format!("{{ mlx generate {flags} --max-tokens 8; echo $? >&2; }} | true");
        let said = ends(&line, 0);
        assert!(said.trim().ends_with('0') && !said.contains("error"), "{said}");
    }
}

/// The demo model's folder with a chat template.
fn folder(name: &str, template: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).unwrap();
    for (file, bytes) in mlx_native_demo::files() {
        std::fs::write(path.join(file), bytes).unwrap();
    }
    std::fs::write(path.join("chat_template.jinja"), template).unwrap();
    path
}

#[test]
fn a_chat_template_runs_where_address_space_is_short() {
    let template =
        "{% for m in messages %}{% if m.role == 'user' %}{{ m.content | trim }}{% endif %}{% endfor %}";
    let path = folder("little-space", template);
    for kilobytes in [700_000, 400_000] {
        let line = format!(
            "ulimit -v {kilobytes}; mlx generate --model {} --threads 2 --prompt Hi --max-tokens 1",
            path.display()
        );
        ends(&line, 0);
    }
}

#[test]
fn a_text_beyond_the_context_is_noted() {
    let prompt = "let x = 1; ".repeat(200);
    let said = ends(&format!("mlx generate --prompt '{prompt}' --max-tokens 1"), 0);
    assert!(
        said.contains("note: the prompt has") && said.contains(" 512"),
        "{said}"
    );
    let said = ends("mlx generate --max-tokens 2", 0);
    assert!(!said.contains("note:"), "{said}");
}
