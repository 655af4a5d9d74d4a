//! `cargo xtask check-metal`: the Metal host code, type-checked, linted and linked for a Mac, on Linux.
//!
//! `tools/check-darwin.sh` brings the compiler and says how. Nothing that is built here can run here; the tests of the
//! same code run on Linux against other devices.

use crate::features::{COMPUTE_FEATURES, FEATURES, has_prove};
use crate::install::{self, Need};
use crate::shell::{Cmd, Result, root, target_dir, write_file};
use std::path::Path;

/// What the commands need.
pub const NEEDS: &[Need] = &[Need::Darwin];

/// The chore.
pub fn main(args: &[String]) -> Result<()> {
    if cfg!(target_os = "macos") {
        return Err("this is a Mac: cargo clippy and cargo build do it".into());
    }
    install::ensure(NEEDS, true)?;
    match args {
        [] => commands().iter().try_for_each(Cmd::run),
        [flag] if flag == "--self-test" => self_test(),
        _ => Err("check-metal takes --self-test or nothing".into()),
    }
}

/// The script with a cargo command, in a folder.
fn darwin(dir: &Path, words: &str) -> Cmd {
    let cmd = Cmd::new(root().join("tools/check-darwin.sh").to_string_lossy())
        .args(words.split_whitespace())
        .dir(dir);
    // Its compiler is not the one that the other chores use: a folder of its own keeps both from building twice.
    // Nothing of it runs, so nothing of it is optimised.
    cmd.env("CARGO_TARGET_DIR", target_dir().join("darwin"))
        .env("CARGO_PROFILE_DEV_OPT_LEVEL", "0")
        .env("CARGO_PROFILE_DEV_DEBUG", "false")
}

/// Lint everything in the workspace, then link what uses every Metal call: the programs, the examples and `prove`. To generate
/// code for the other tests too took two more minutes and linked no further symbol.
pub fn commands() -> Vec<Cmd> {
    let with_features = |words: &str| darwin(&root(), words).args(["--features", FEATURES]);
    let mut commands = vec![
        with_features("clippy --workspace --all-targets").args(["--", "-D", "warnings"]),
        with_features("build --workspace --bins --examples"),
    ];
    if has_prove() {
        commands
            .push(darwin(&root(), "test -p mlx-native --test prove").args(["--features", COMPUTE_FEATURES]));
    }
    commands
}

/// A small program that calls Metal, correct as it stands.
const PROBE: &str = include_str!("self_test/probe.rs");

const PROBE_MANIFEST: &str = r#"[package]
name = "probe"
version = "0.0.0"
edition = "2024"

[workspace]

[dependencies]
objc2-metal = { version = "0.3", default-features = false, features = [
    "std", "bitflags", "MTLAllocation", "MTLBuffer", "MTLDevice", "MTLResource",
] }
"#;

/// A defect put into the probe.
struct Planted {
    name: &'static str,
    /// Text of the probe and what takes its place.
    change: (&'static str, &'static str),
    command: &'static str,
    /// What the output must say: a failure for another reason proves nothing.
    complaint: &'static str,
}

const PLANTED: &[Planted] = &[
    Planted {
        name: "a type error in a call of Metal",
        change: ("let length: usize = 16;", "let length: &str = \"16\";"),
        command: "check",
        complaint: "error[E0308]: mismatched types",
    },
    Planted {
        name: "a selector that Metal does not have",
        change: ("newBufferWithLength_options", "newBufferWithWidth_options"),
        command: "check",
        complaint: "error[E0599]: no method named `newBufferWithWidth_options`",
    },
    Planted {
        name: "a lint",
        change: ("if buffer.is_some() {", "if buffer.is_some() == true {"),
        command: "clippy -- -D warnings",
        complaint: "equality checks against true are unnecessary",
    },
    Planted {
        name: "a framework symbol that does not exist",
        change: (
            "fn CGMainDisplayID() -> u32;",
            "#[link_name = \"CGMainDisplayIdentity\"] fn CGMainDisplayID() -> u32;",
        ),
        command: "build",
        complaint: "undefined symbol: _CGMainDisplayIdentity",
    },
];

/// Shows that the check can fail: the probe passes as it is, and with each defect it fails for that defect's reason.
fn self_test() -> Result<()> {
    let dir = target_dir().join("check-metal-self-test");
    write_file(&dir.join("Cargo.toml"), PROBE_MANIFEST)?;
    let source = dir.join("src/main.rs");
    write_file(&source, PROBE)?;
    for words in ["clippy -- -D warnings", "build"] {
        darwin(&dir, words).run()?;
    }
    for planted in PLANTED {
        let (from, to) = planted.change;
        if PROBE.matches(from).count() != 1 {
            return Err(format!("the probe does not hold `{from}` once").into());
        }
        write_file(&source, &PROBE.replace(from, to))?;
        let (success, output) = darwin(&dir, planted.command).capture()?;
        if success || !output.contains(planted.complaint) {
            return Err(format!(
                "{} went unnoticed by `{}`:\n{output}",
                planted.name, planted.command
            )
            .into());
        }
        println!("caught: {} ({})", planted.name, planted.complaint);
    }
    println!(
        "check-metal fails where it must: {} defects planted, {} caught",
        PLANTED.len(),
        PLANTED.len()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_defect_has_its_place_in_the_probe() {
        for planted in PLANTED {
            assert_eq!(PROBE.matches(planted.change.0).count(), 1, "{}", planted.name);
        }
    }

    #[test]
    fn the_whole_workspace_is_linted_and_its_programs_linked() {
        let commands: Vec<String> = commands().iter().map(ToString::to_string).collect();
        assert!(
            commands[0].contains("clippy --workspace --all-targets") && commands[0].ends_with("-D warnings")
        );
        assert!(commands[1].contains("build --workspace --bins --examples"));
    }
}
