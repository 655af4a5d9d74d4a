//! `cargo xtask cuda`: the CUDA device, on a machine with an NVIDIA GPU, and what of it can be proven without one.
//!
//! Compiler (NVRTC) and assembler (ptxas) come from PyPI, of one pinned version. It makes machine code for every
//! architecture that is named here, and its intermediate code runs on every driver of CUDA 12.9 or later.

use crate::cuda_wheels::{PACKAGES, packages};
use crate::features::COMPUTE_FEATURES;
use crate::install::{self, Need};
use crate::shell::{Cmd, Result, root, target_dir, write_file};
use std::path::Path;

/// What the offline part needs.
pub const OFFLINE_NEEDS: &[Need] = &[Need::Nvrtc];

/// Architectures that every kernel must compile for: A100, H100 and the RTX 50 series.
const CAPABILITIES: [&str; 3] = ["80", "90", "120"];

/// Features of the programs that run on a GPU. The emulator is left out: it needs clang there.
const FEATURES: &str = "testing,cuda";

/// The chore.
pub fn main(args: &[String]) -> Result<()> {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["--offline"] => {
            install::ensure(OFFLINE_NEEDS, true)?;
            offline_commands().iter().try_for_each(Cmd::run)
        }
        ["--pack", folder] => pack(&std::path::absolute(folder)?),
        [] => on_gpu_commands().iter().try_for_each(Cmd::run),
        _ => Err("cuda takes --offline, --pack FOLDER or nothing".into()),
    }
}

/// Compiles every kernel of the library for every architecture.
pub fn offline_commands() -> Vec<Cmd> {
    let made = target_dir().join("cuda/offline");
    let paths = [
        packages().join(PACKAGES[0].1),
        packages().join(PACKAGES[1].1),
        made,
    ];
    // The features of the other steps, so that the library is not built once more.
    let cmd = Cmd::line("cargo test -p mlx-native --test cuda_offline")
        .args(["--features", COMPUTE_FEATURES, "--"])
        .args(paths.iter().map(|p| p.to_string_lossy()))
        .args(CAPABILITIES);
    vec![cmd]
}

/// Every case of every kernel, and the models' golden files, on the GPU of this machine.
fn on_gpu_commands() -> Vec<Cmd> {
    vec![
        Cmd::line("cargo test -p mlx-native --test prove").args(["--features", FEATURES]),
        Cmd::line("cargo test -p mlx-native-lm --features cuda --test golden"),
        Cmd::line("cargo test -p mlx-native-lm --features cuda --test families -- --device cuda"),
        Cmd::line("cargo test -p mlx-native --test launch_model").args(["--features", FEATURES]),
        Cmd::line(
            "cargo run --release -p mlx-native-lm --features cuda --example shape_speed -- --device cuda",
        ),
    ]
}

/// Builds the test programs and the program itself, and puts them into a folder with a script that runs them: for a machine
/// with a GPU and no Rust.
fn pack(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    let json = "--message-format=json-render-diagnostics";
    let builds = [
        (
            "prove",
            format!("cargo test --no-run -p mlx-native --test prove --features {FEATURES} {json}"),
        ),
        (
            "golden",
            format!("cargo test --no-run -p mlx-native-lm --test golden --features cuda {json}"),
        ),
        (
            "families",
            format!("cargo test --no-run -p mlx-native-lm --test families --features cuda {json}"),
        ),
        (
            "shape_speed",
            format!("cargo build --release -p mlx-native-lm --example shape_speed --features cuda {json}"),
        ),
        (
            "mlx-native",
            format!("cargo build --release -p mlx-native-cli {json}"),
        ),
    ];
    for (name, line) in builds {
        let mut built = None;
        Cmd::line(&line).run_quietly(|line| {
            if let Some(path) = executable(line) {
                built = Some(path);
            }
        })?;
        let built = built.ok_or_else(|| format!("cargo named no program: {line}"))?;
        let to = folder.join(name);
        Cmd::line("strip -o")
            .args([to.to_string_lossy(), built.into()])
            .run()?;
    }
    write_file(&folder.join("run.sh"), RUN_SCRIPT)?;
    println!(
        "{} is ready: `sh run.sh` there, in the root of a copy of this repository",
        folder.display()
    );
    println!("the goldens look for their files below {}", root().display());
    Ok(())
}

/// The `executable` of a line of cargo's JSON, which has no spaces around its colons.
fn executable(line: &str) -> Option<String> {
    let rest = line.split("\"executable\":\"").nth(1)?;
    Some(rest.split('"').next()?.to_owned())
}

const RUN_SCRIPT: &str = include_str!("cuda_run.sh");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_found_in_cargos_words() {
        let line = r#"{"reason":"compiler-artifact","executable":"/t/debug/deps/prove-1a2b","fresh":true}"#;
        assert_eq!(executable(line).as_deref(), Some("/t/debug/deps/prove-1a2b"));
        assert_eq!(
            executable(r#"{"reason":"compiler-artifact","executable":null}"#),
            None
        );
    }

    #[test]
    fn the_offline_check_names_all_architectures() {
        let shown = offline_commands()[0].to_string();
        assert!(
            shown.ends_with("80 90 120") && shown.contains("libnvrtc.so.12") && shown.contains("ptxas"),
            "{shown}"
        );
        assert!(main(&["--pack".to_owned()]).is_err() && main(&["nonsense".to_owned()]).is_err());
    }
}
