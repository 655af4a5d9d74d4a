//! `cargo xtask published`: the tests that mlx-native 0.1.0 published, against this version.
//!
//! Cargo fetches that crate, its test files are copied into the target folder, and the package `mlx-native-published` is
//! built around them. Nothing of them is in the repository.

use crate::features::FEATURES;
use crate::shell::{Cmd, Result, read_file, target_dir, write_file};
use std::path::{Path, PathBuf};

const VERSION: &str = "0.1.0";
/// Files and tests that the crate has.
const FILES: usize = 33;
const TESTS: usize = 184;
/// It asserts that a queue has a latency, which is not an interface's to promise: run apart, its result is only told.
const TIMING: &str = "test_graph_vs_sequential_speed";
/// What a line begins with that tells why nothing was run.
pub const LEFT_OUT: &str = "left out: ";

/// The chore: `[--device best|emulator] [--if-reachable] [FILTER...]`.
pub fn main(args: &[String]) -> Result<()> {
    let (mut device, mut if_reachable, mut filters) = ("best", false, Vec::new());
    let mut args = args.iter().map(String::as_str);
    while let Some(arg) = args.next() {
        match arg {
            "--device" => device = args.next().unwrap_or_default(),
            "--if-reachable" => if_reachable = true,
            option if option.starts_with('-') => return Err(format!("no option '{option}'").into()),
            filter => filters.push(filter),
        }
    }
    let features = match device {
        "best" => FEATURES.to_owned(),
        "emulator" => format!("{FEATURES},mlx-native/default-emulator"),
        other => return Err(format!("--device is best or emulator, not '{other}'").into()),
    };
    let folder = match fetch() {
        Ok(folder) => folder,
        Err(why) if if_reachable => {
            println!("{LEFT_OUT}the tests of 0.1.0 cannot be fetched ({why})");
            return Ok(());
        }
        Err(why) => return Err(why),
    };
    let tests = || {
        Cmd::line("cargo test --workspace --test tests_of_0_1 --features")
            .args([&features, "--"])
            .env("MLX_NATIVE_PUBLISHED_TESTS", &folder)
    };
    let mut passed = 0;
    let outcome = tests()
        .args(["--skip", TIMING])
        .args(&filters)
        .run_reading(|line| passed += count_passed(line));
    println!(
        "\nmlx-native {VERSION}, device {device}: {passed} of {} tests passed",
        TESTS - 1
    );
    outcome?;
    if filters.is_empty() {
        if passed != TESTS - 1 {
            return Err(format!("{passed} tests ran, {VERSION} has {}", TESTS - 1).into());
        }
        let result = if tests().args([TIMING]).succeeds() {
            "passed"
        } else {
            "failed"
        };
        println!("{TIMING}, which measures the latency of a queue: {result}");
    }
    Ok(())
}

/// The number in `test result: ok. 12 passed; …`.
fn count_passed(line: &str) -> usize {
    let Some(counts) = line.trim_start().strip_prefix("test result: ") else {
        return 0;
    };
    let words: Vec<&str> = counts.split([' ', ';']).collect();
    let at = words.iter().position(|word| *word == "passed");
    at.and_then(|at| words.get(at.checked_sub(1)?)?.parse().ok())
        .unwrap_or(0)
}

/// The folder with the test files, ready to be modules of one program.
fn fetch() -> Result<PathBuf> {
    let work = target_dir().join("published");
    let tests = work.join("tests");
    let is_there = |folder: &Path| {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries
            .filter(|e| e.path().extension().is_some_and(|e| e == "rs"))
            .count()
            == FILES
    };
    if is_there(&tests) {
        return Ok(tests);
    }
    let package = work.join("fetch");
    write_file(
        &package.join("Cargo.toml"),
        &format!(
            "[package]\nname = \"fetch\"\nversion = \"0.0.0\"\nedition = \"2021\"\n[dependencies]\nmlx-native = \"={VERSION}\"\n[workspace]\n"
        ),
    )?;
    write_file(&package.join("src/lib.rs"), "")?;
    let mut metadata = String::new();
    Cmd::line("cargo metadata --format-version 1")
        .dir(&package)
        .run_quietly(|line| metadata.push_str(line))?;
    let from = package_folder(&metadata)
        .ok_or("it is not in the answer of cargo metadata")?
        .join("tests");
    if !is_there(&from) {
        return Err(format!("{} has not the {FILES} files of {VERSION}", from.display()).into());
    }
    for entry in std::fs::read_dir(&from)? {
        let path = entry?.path();
        let (Some(name), Some(text)) = (path.file_name(), read_file(&path)) else {
            continue;
        };
        write_file(&tests.join(name), &for_every_system(&text))?;
    }
    Ok(tests)
}

/// Where cargo keeps the crate: the first `manifest_path` behind its name and version.
fn package_folder(metadata: &str) -> Option<PathBuf> {
    let key = format!("\"name\":\"mlx-native\",\"version\":\"{VERSION}\"");
    let (_, rest) = metadata.split_once(&key)?;
    let (_, rest) = rest.split_once("\"manifest_path\":\"")?;
    let (path, _) = rest.split_once('"')?;
    Some(Path::new(&path.replace("\\\\", "\\")).parent()?.to_path_buf())
}

/// Most files are for Apple's systems by a line of their own; nothing below it names what only these have.
fn for_every_system(text: &str) -> String {
    text.replace("#![cfg(target_vendor = \"apple\")]\n", "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargos_answer_names_the_folder() {
        let answer = r#"{"packages":[{"name":"half","version":"0.1.0","manifest_path":"/a/Cargo.toml"},
            {"name":"mlx-native","version":"0.1.0","id":"x","manifest_path":"/b/c/Cargo.toml"}]}"#;
        assert_eq!(package_folder(answer), Some(PathBuf::from("/b/c")));
        assert_eq!(package_folder("{}"), None);
    }

    #[test]
    fn the_line_of_the_system_goes_and_counts_are_read() {
        assert_eq!(
            for_every_system("//! x\n#![cfg(target_vendor = \"apple\")]\nuse y;\n"),
            "//! x\n\nuse y;\n"
        );
        assert_eq!(
            count_passed("test result: ok. 12 passed; 0 failed; 1 ignored"),
            12
        );
        assert_eq!(count_passed("test result: FAILED. 3 passed; 1 failed"), 3);
        assert_eq!(count_passed("test a ... ok"), 0);
    }
}
