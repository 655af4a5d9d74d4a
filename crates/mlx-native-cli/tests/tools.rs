//! `convert`, `inspect`, `bench` and `perplexity`, run as a user would.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn run(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mlx-native"));
    command.args(args).stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn json(args: &[&str]) -> Value {
    let output = run(args);
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Ends in one line on standard error and exit code 1.
#[track_caller]
fn refused(output: &Output, word: &str) {
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert_eq!(stderr.trim_end().lines().count(), 1, "one line: {stderr}");
    assert!(stderr.contains(word), "{stderr:?} does not mention {word:?}");
}

/// An empty folder of this test.
fn folder(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).unwrap();
    path
}

fn demo(path: &Path) {
    std::fs::create_dir_all(path).unwrap();
    for (file, bytes) in mlx_native_demo::files() {
        std::fs::write(path.join(file), bytes).unwrap();
    }
}

/// The text that mlx-lm was given: part of this repository.
const TEXT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../LICENSE-APACHE");

/// `mlx_lm.perplexity`'s `eval_ppl` over the same windows, with the demo model's parameters as f32.
#[test]
fn perplexity_is_that_of_mlx_lm() {
    for (length, windows, wanted, error) in [
        (64, 53, 536.050_73, 40.160_631),
        (128, 26, 475.033_53, 35.546_968),
    ] {
        let length = length.to_string();
        let args = [
            "perplexity",
            "--data-path",
            TEXT,
            "--num-samples",
            "-1",
            "--json",
            "--dtype",
            "f32",
        ];
        let found = json(&[&args[..], &["--sequence-length", &length]].concat());
        let near = |key: &str, wanted: f64| {
            let value = found[key].as_f64().unwrap();
            assert!(
                (value / wanted - 1.0).abs() < 1e-4,
                "{key}: {value}, wanted {wanted}"
            );
        };
        near("perplexity", wanted);
        near("standard_error", error);
        assert_eq!(found["samples"], windows);
    }
}

#[test]
fn perplexity_needs_a_text_with_a_window() {
    let place = folder("perplexity");
    let short = place.join("short.txt");
    std::fs::write(&short, "one").unwrap();
    refused(
        &run(&["perplexity", "--data-path", short.to_str().unwrap()]),
        "windows of 512",
    );
    refused(
        &run(&["perplexity", "--data-path", place.join("none").to_str().unwrap()]),
        "none",
    );
    refused(
        &run(&["perplexity", "--data-path", place.to_str().unwrap()]),
        "no regular file",
    );
    refused(
        &run(&["perplexity", "--data-path", TEXT, "--num-samples", "0"]),
        "--num-samples",
    );
    std::fs::write(&short, [0xff, 0xfe, 0xfd]).unwrap();
    refused(
        &run(&["perplexity", "--data-path", short.to_str().unwrap()]),
        "short.txt",
    );
}

#[test]
fn inspect_counts_what_is_there() {
    let found = json(&["inspect", "--json"]);
    assert_eq!(found["family"], "qwen3");
    assert_eq!(found["supported"], true);
    assert_eq!(found["parameters"], 6_952_192);
    assert_eq!(found["unknown_fields"], serde_json::json!([]));
    let shares: f64 = found["formats"]
        .as_array()
        .unwrap()
        .iter()
        .map(|f| f["share"].as_f64().unwrap())
        .sum();
    assert!((shares - 1.0).abs() < 1e-9, "{shares}");
    let parameters: u64 = found["formats"]
        .as_array()
        .unwrap()
        .iter()
        .map(|f| f["parameters"].as_u64().unwrap())
        .sum();
    assert_eq!(found["parameters"], parameters);
    let tensors = run(&["inspect", "--tensors"]);
    assert!(text(&tensors.stdout).contains("model.embed_tokens"));
}

#[test]
fn inspect_says_what_is_not_supported() {
    let place = folder("inspect");
    demo(&place);
    let config = std::fs::read_to_string(place.join("config.json")).unwrap();
    std::fs::write(
        place.join("config.json"),
        config.replace("\"qwen3\"", "\"nothing\""),
    )
    .unwrap();
    let output = run(&["inspect", place.to_str().unwrap()]);
    let all = text(&output.stdout) + &text(&output.stderr);
    assert!(all.contains("nothing"), "{all}");
    assert!(all.lines().all(|line| !line.contains("panicked")), "{all}");
}

#[test]
fn bench_measures_what_it_is_asked_for() {
    let output = run(&["bench", "-p", "8", "-g", "4", "-n", "1"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let table = text(&output.stdout);
    assert!(
        table.contains('8') && table.to_lowercase().contains("tokens") || table.contains("t/s"),
        "{table}"
    );
    refused(&run(&["bench", "--model", "/nowhere/at/all"]), "/nowhere/at/all");
}

#[test]
fn convert_unpacks_and_packs_the_demo_model() {
    let place = folder("convert");
    let (from, dense, packed) = (place.join("from"), place.join("dense"), place.join("packed"));
    demo(&from);
    let name = |p: &Path| p.to_str().unwrap().to_owned();
    let convert = |from: &Path, to: &Path, more: &[&str]| {
        let (from, to) = (name(from), name(to));
        run(&[&["convert", "--model", &from, "--mlx-path", &to][..], more].concat())
    };
    let output = convert(&from, &dense, &["-d"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let bits = |p: &Path| {
        json(&["inspect", "--json", &name(p)])["bits_per_weight"]
            .as_f64()
            .unwrap()
    };
    assert_eq!(bits(&dense), 16.0);
    let output = convert(&dense, &packed, &["-q", "--q-bits", "8", "--q-group-size", "32"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!((9.0..9.1).contains(&bits(&packed)), "{}", bits(&packed));
    // A folder that is there is not touched, and nothing half written stands beside it.
    refused(&convert(&from, &packed, &[]), "there already");
    refused(&convert(&from, &place.join("new"), &["-q", "-d"]), "either");
    let mut names: Vec<_> = std::fs::read_dir(&place)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["dense", "from", "packed"]);
}
