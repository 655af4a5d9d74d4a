//! The program, run as a user would.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn program(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mlx-native"));
    command.args(args).stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    program(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn json(args: &[&str]) -> serde_json::Value {
    let output = run(args);
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Ends in one line on standard error and exit code 1.
#[track_caller]
fn refused(output: &Output, words: &[&str]) {
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert_eq!(stderr.trim_end().lines().count(), 1, "one line: {stderr}");
    assert!(output.stdout.is_empty());
    for word in words {
        assert!(stderr.contains(word), "{stderr:?} does not mention {word:?}");
    }
}

/// A copy of the demo model's folder, to be damaged.
fn folder(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).unwrap();
    for (file, bytes) in mlx_native_demo::files() {
        std::fs::write(path.join(file), bytes).unwrap();
    }
    path
}

fn generate_from(folder: &Path) -> Output {
    run(&[
        "generate",
        "--model",
        folder.to_str().unwrap(),
        "--prompt",
        "fn main",
        "--max-tokens",
        "4",
    ])
}

#[test]
fn the_demo_model_writes_text() {
    let output = run(&[
        "generate",
        "--prompt",
        "Ownership in Rust means",
        "--max-tokens",
        "12",
        "--temp",
        "0",
        "--dtype",
        "f32",
    ]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(
        text(&output.stdout).starts_with(" that you can use the borrow operator"),
        "{}",
        text(&output.stdout)
    );
    assert!(text(&output.stderr).contains("tokens/s"));
}

#[test]
fn json_has_every_field_and_agrees_with_the_text() {
    let args = ["generate", "--prompt", "## Error handling", "--max-tokens", "20"];
    let plain = text(&run(&args).stdout);
    let object = json(&[&args[..], &["--json"]].concat());
    assert_eq!(
        object["text"].as_str().unwrap(),
        plain.strip_suffix('\n').unwrap()
    );
    assert_eq!(object["prompt_token_ids"], serde_json::json!([352, 1817, 3667]));
    assert_eq!(object["token_ids"].as_array().unwrap().len(), 20);
    assert_eq!(object["finish_reason"], "length");
    for field in ["prompt_tps", "generation_tps", "peak_memory_bytes"] {
        assert!(object[field].as_f64().unwrap() > 0.0, "{field}");
    }
}

#[test]
fn a_seed_fixes_the_text_and_another_changes_it() {
    let with = |seed| {
        json(&[
            "generate",
            "--json",
            "--temp",
            "1.2",
            "--max-tokens",
            "24",
            "--seed",
            seed,
        ])["token_ids"]
            .clone()
    };
    assert_eq!(with("7"), with("7"));
    assert_ne!(with("7"), with("8"));
}

#[test]
fn threads_do_not_change_the_text() {
    let with = |n| {
        json(&[
            "generate",
            "--json",
            "--max-tokens",
            "24",
            "--threads",
            n,
            "--device",
            "cpu",
        ])["token_ids"]
            .clone()
    };
    assert_eq!(with("1"), with("3"));
}

#[test]
fn every_dtype_runs() {
    for dtype in ["f32", "f16", "bf16"] {
        let object = json(&["generate", "--json", "--max-tokens", "8", "--dtype", dtype]);
        assert!(
            object["text"].as_str().unwrap().starts_with(" that you can use"),
            "{dtype}: {object}"
        );
    }
}

#[test]
fn the_prompt_may_come_from_standard_input() {
    let mut child = program(&["generate", "--prompt", "-", "--max-tokens", "3", "--json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all("## Error handling".as_bytes())
        .unwrap();
    let object: serde_json::Value =
        serde_json::from_slice(&child.wait_with_output().unwrap().stdout).unwrap();
    assert_eq!(object["prompt_token_ids"], serde_json::json!([352, 1817, 3667]));
}

#[test]
fn a_token_can_end_the_text() {
    // The first greedy token behind this prompt.
    let object = json(&[
        "generate",
        "--json",
        "--prompt",
        "## Error handling",
        "--extra-eos-token",
        "Ċ",
        "--max-tokens",
        "9",
    ]);
    assert_eq!(
        (object["finish_reason"].as_str(), object["text"].as_str()),
        (Some("stop"), Some(""))
    );
}

#[test]
fn bad_arguments_are_refused_in_one_line() {
    refused(&run(&["generate", "--prompt", ""]), &["prompt"]);
    refused(&run(&["generate", "--top-p", "2"]), &["top_p", "2"]);
    refused(&run(&["generate", "--temp=-1"]), &["temperature"]);
    refused(
        &run(&["generate", "--extra-eos-token", "no such token"]),
        &["no such token"],
    );
    refused(&run(&["generate", "--threads", "0"]), &["threads"]);
    refused(&run(&["generate", "--device", "cuda"]), &["cuda"]);
    refused(
        &run(&["generate", "--model", "/no/such/folder"]),
        &["/no/such/folder"],
    );
    assert_eq!(run(&["generate", "--no-such-flag"]).status.code(), Some(2));
}

#[test]
fn missing_files_are_named() {
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        let path = folder(&format!("missing-{file}"));
        std::fs::remove_file(path.join(file)).unwrap();
        let word = if file == "model.safetensors" {
            "safetensors"
        } else {
            file
        };
        refused(&generate_from(&path), &[word]);
    }
}

#[test]
fn truncated_weights_are_refused_wherever_they_end() {
    let path = folder("truncated");
    let whole = mlx_native_demo::WEIGHTS;
    for len in [0, 4, 8, 9, 1000, whole.len() / 2, whole.len() - 1] {
        std::fs::write(path.join("model.safetensors"), &whole[..len]).unwrap();
        refused(&generate_from(&path), &["model.safetensors"]);
    }
}

#[test]
fn absurd_configurations_are_refused() {
    let path = folder("absurd");
    let good: serde_json::Value = serde_json::from_str(mlx_native_demo::CONFIG).unwrap();
    let cases = [
        ("model_type", serde_json::json!("gpt-17"), "gpt-17"),
        ("hidden_size", serde_json::json!(0), "hidden_size"),
        ("hidden_size", serde_json::json!(512), ""),
        ("num_attention_heads", serde_json::json!(3), ""),
        ("num_key_value_heads", serde_json::json!(3), "num_key_value_heads"),
        (
            "num_hidden_layers",
            serde_json::json!(1_000_000_000u64),
            "num_hidden_layers",
        ),
        ("num_hidden_layers", serde_json::json!(9), "layers.8"),
        ("head_dim", serde_json::json!(-64), "head_dim"),
        ("vocab_size", serde_json::json!(1e30), "vocab_size"),
        (
            "intermediate_size",
            serde_json::json!("many"),
            "intermediate_size",
        ),
        ("rms_norm_eps", serde_json::json!(null), "rms_norm_eps"),
        (
            "quantization",
            serde_json::json!({"group_size": 7, "bits": 4}),
            "",
        ),
        (
            "rope_scaling",
            serde_json::json!({"rope_type": "spiral", "factor": 2.0}),
            "spiral",
        ),
    ];
    for (key, value, word) in cases {
        let mut config = good.clone();
        config[key] = value.clone();
        if key == "quantization" {
            config["quantization_config"] = value;
        }
        std::fs::write(path.join("config.json"), config.to_string()).unwrap();
        refused(&generate_from(&path), &[word]);
    }
    std::fs::write(path.join("config.json"), "{").unwrap();
    refused(&generate_from(&path), &["config.json"]);
}

#[test]
fn nan_weights_end_in_an_error_not_in_text() {
    let path = folder("nan");
    let mut bytes = mlx_native_demo::WEIGHTS.to_vec();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let names: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let range = &names["model.norm.weight"]["data_offsets"];
    let at = |i: usize| 8 + header + range[i].as_u64().unwrap() as usize;
    for pair in bytes[at(0)..at(1)].chunks_exact_mut(2) {
        pair.copy_from_slice(&[0xC0, 0x7F]);
    }
    std::fs::write(path.join("model.safetensors"), bytes).unwrap();
    refused(&generate_from(&path), &["NaN"]);
}

const CHATML: &str = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}\
    {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% if calm is true %}calm{% endif %}{% endif %}";

/// The ids of the prompt that the program makes of its flags, for the model in `folder`.
fn prompt_ids(folder: &Path, flags: &[&str]) -> serde_json::Value {
    let args = [
        "generate",
        "--json",
        "--max-tokens",
        "1",
        "--prompt",
        "hi",
        "--model",
        folder.to_str().unwrap(),
    ];
    json(&[&args[..], flags].concat())["prompt_token_ids"].clone()
}

#[test]
fn a_chat_template_is_applied_unless_told_otherwise() {
    let path = folder("chat");
    let bare = prompt_ids(&path, &[]);
    // What the flags make is what the same text makes when it is given as it is: special tokens are not added twice.
    let same_as = |text: &str| {
        let args = ["generate", "--json", "--max-tokens", "1", "--prompt", text];
        json(&args)["prompt_token_ids"].clone()
    };
    std::fs::write(path.join("chat_template.jinja"), CHATML).unwrap();
    let user = "<|im_start|>user\nhi<|im_end|>\n";
    let chat = prompt_ids(&path, &[]);
    assert_eq!(chat, same_as(&format!("{user}<|im_start|>assistant\n")));
    assert_eq!(prompt_ids(&path, &["--ignore-chat-template"]), bare);
    assert_ne!(chat, bare);
    assert_eq!(
        prompt_ids(
            &path,
            &[
                "--system-prompt",
                "be",
                "--chat-template-config",
                "{\"calm\": true}"
            ]
        ),
        same_as(&format!(
            "<|im_start|>system\nbe<|im_end|>\n{user}<|im_start|>assistant\ncalm"
        ))
    );
    assert_eq!(
        prompt_ids(&path, &["--prefill-response", "Well, "]),
        same_as(&format!("{user}<|im_start|>assistant\nWell, "))
    );
}

#[test]
fn bad_chat_templates_and_settings_are_one_line() {
    let path = folder("bad_chat");
    let with = |template: &str, flags: &[&str]| {
        std::fs::write(path.join("chat_template.jinja"), template).unwrap();
        run(&[
            &["generate", "--model", path.to_str().unwrap(), "--max-tokens", "1"],
            flags,
        ]
        .concat())
    };
    refused(&with("a\n{% if %}", &[]), &["chat template", "line 2"]);
    refused(
        &with("{{ raise_exception('not\nlike this') }}", &[]),
        &["line 1", "not like this"],
    );
    assert!(with("{% if %}", &["--ignore-chat-template"]).status.success());
    refused(
        &with(CHATML, &["--chat-template-config", "[1]"]),
        &["--chat-template-config", "object"],
    );
    refused(
        &with(CHATML, &["--chat-template-config", "{"]),
        &["--chat-template-config"],
    );
    refused(
        &with(CHATML, &["--chat-template-config", "{\"messages\": []}"]),
        &["messages"],
    );
}

#[test]
fn flags_of_a_chat_are_noted_where_there_is_none() {
    let output = run(&[
        "generate",
        "--max-tokens",
        "1",
        "--system-prompt",
        "be",
        "--verbose",
        "false",
    ]);
    assert!(output.status.success());
    assert_eq!(text(&output.stderr).lines().count(), 1);
    assert!(text(&output.stderr).contains("note: --system-prompt has no effect"));
}

/// Command lines of mlx-lm mean the same here.
#[test]
fn flags_are_read_as_mlx_lm_reads_them() {
    let demo = folder("flags");
    let model = demo.to_str().unwrap();
    let ids = |more: &[&str]| {
        let mut args = vec![
            "generate",
            "--model",
            model,
            "--prompt",
            "fn main",
            "--max-tokens",
            "4",
            "--json",
        ];
        args.extend(more);
        json(&args)["token_ids"].clone()
    };
    let plain = ids(&[]);
    assert_eq!(
        ids(&["--temp", "0.9", "--temp", "0"]),
        plain,
        "the last one counts"
    );
    assert_eq!(
        ids(&[
            "--trust-remote-code",
            "--use-default-chat-template",
            "--verbose",
            "F"
        ]),
        plain
    );
    // Several tokens behind one flag.
    let first = plain[0].to_string();
    assert_eq!(ids(&["--extra-eos-token", "4095", &first]), serde_json::json!([]));
    // The threshold that mlx-lm has where none is given.
    let xtc = |threshold: &[&str]| {
        let mut args = vec!["--temp", "1", "--seed", "3", "--xtc-probability", "1"];
        args.extend(threshold);
        ids(&args)
    };
    assert_eq!(xtc(&[]), xtc(&["--xtc-threshold", "0.1"]));
    refused(
        &run(&["generate", "--model", model, "--temp", "-1"]),
        &["temperature", "-1"],
    );
}
