use mlx_native::weights::WeightLoader;
use mlx_native::{DeviceKind, MlxDevice};

use super::*;
use crate::quantization::QuantMode;

/// A folder with the demo's files, some replaced or, where there is no content, left out.
fn folder(changes: &[(&str, Option<&[u8]>)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in mlx_native_demo::files() {
        let bytes = changes
            .iter()
            .find(|(n, _)| *n == name)
            .map_or(Some(bytes), |(_, change)| *change);
        if let Some(bytes) = bytes {
            std::fs::write(folder.path().join(name), bytes).unwrap();
        }
    }
    folder
}

fn check(model: &ModelFolder) {
    assert_eq!(model.family().name, "qwen3");
    assert_eq!(model.eos_token_ids(None).unwrap(), [0]);
    assert_eq!(model.generation_config().temperature, Some(0.7));
    let spec = model.decoder_spec().unwrap();
    // Every matrix is packed, every norm is not, and all fit.
    let (hidden, q, inner) = (spec.hidden_size, 256, 704);
    for (module, in_dims) in [
        ("model.embed_tokens", hidden),
        ("model.layers.7.self_attn.k_proj", hidden),
        ("model.layers.0.self_attn.o_proj", q),
        ("model.layers.3.mlp.down_proj", inner),
    ] {
        let packing = model
            .quantization()
            .for_module(module, in_dims, model.weights().unwrap())
            .unwrap()
            .unwrap();
        assert_eq!(
            (packing.bits, packing.group_size, packing.mode),
            (4, 64, QuantMode::Affine),
            "{module}"
        );
    }
    assert_eq!(
        model
            .quantization()
            .for_module("model.norm", hidden, model.weights().unwrap())
            .unwrap(),
        None
    );
    assert_eq!(model.tokenizer().unwrap().vocab_size(), spec.vocab_size);
}

#[test]
fn opens_a_folder_and_files_in_memory() {
    check(&ModelFolder::from_files(mlx_native_demo::files()).unwrap());
    let folder = folder(&[]);
    check(&ModelFolder::open(folder.path()).unwrap());
}

#[test]
fn the_demo_s_weights_are_used_where_they_lie() {
    let device = MlxDevice::open(DeviceKind::Cpu).unwrap();
    let folder = folder(&[]);
    for model in [
        ModelFolder::from_files(mlx_native_demo::files()),
        ModelFolder::open(folder.path()),
    ] {
        let model = model.unwrap();
        let mut loader = WeightLoader::new(model.weights().unwrap(), &device);
        for name in model.weights().unwrap().names() {
            loader.load(name).unwrap();
        }
        assert_eq!(loader.copied_bytes(), 0);
    }
}

#[test]
fn files_that_only_recommend_may_be_missing_or_damaged() {
    let names = [
        "generation_config.json",
        "tokenizer_config.json",
        "model.safetensors.index.json",
    ];
    let folder_without = folder(&names.map(|n| (n, None)));
    let model = ModelFolder::open(folder_without.path()).unwrap();
    assert_eq!(model.generation_config(), &GenerationConfig::default());
    assert_eq!(model.eos_token_ids(None).unwrap(), [0]);
    model.tokenizer().unwrap();
    // What cannot be taken is told; what ends a text must be right.
    for (text, ends, word) in [
        (&b"{"[..], None, "EOF while parsing"),
        (
            br#"{"top_p": "most", "eos_token_id": [2]}"#,
            Some(vec![2]),
            "top_p: found",
        ),
    ] {
        let damaged = folder(&[("generation_config.json", Some(text))]);
        let model = ModelFolder::open(damaged.path()).unwrap();
        assert_eq!(model.generation_config().eos_token_ids, ends);
        let told = model.unknown_fields();
        let told = told.iter().find(|t| t.starts_with("generation_config.json: "));
        assert!(told.unwrap().contains(word), "{told:?}");
    }
    for text in [
        r#"{"eos_token_id": "2"}"#,
        r#"{"eos_token_id": [1.5]}"#,
        r#"{"eos_token_id": true}"#,
    ] {
        let damaged = folder(&[("generation_config.json", Some(text.as_bytes()))]);
        let error = ModelFolder::open(damaged.path()).unwrap_err().to_string();
        assert!(
            error.contains("generation_config.json: eos_token_id: found"),
            "{error}"
        );
    }
    // Without a tokenizer there are still tokens to be fed.
    let model = folder(&[("tokenizer.json", None)]);
    let model = ModelFolder::open(model.path()).unwrap();
    assert!(
        model
            .tokenizer()
            .unwrap_err()
            .to_string()
            .contains("no tokenizer.json")
    );
}

/// As mlx-lm 0.32.2 gathers them.
#[test]
fn ends_of_text_are_gathered_from_all_files() {
    use serde_json::json;
    let ids = |generation: &str, config: serde_json::Value, eos: serde_json::Value| {
        let mut text: serde_json::Value = serde_json::from_str(mlx_native_demo::CONFIG).unwrap();
        text["eos_token_id"] = config;
        let text = text.to_string();
        let tokenizer = json!({ "eos_token": eos }).to_string();
        let folder = folder(&[
            ("generation_config.json", Some(generation.as_bytes())),
            ("config.json", Some(text.as_bytes())),
            ("tokenizer_config.json", Some(tokenizer.as_bytes())),
        ]);
        let folder = ModelFolder::open(folder.path()).unwrap();
        let tokenizer = folder.tokenizer().unwrap();
        folder.eos_token_ids(Some(&tokenizer)).unwrap()
    };
    let none = || json!(null);
    assert_eq!(ids(r#"{"eos_token_id": [3, 2]}"#, json!(1), none()), [3, 2]);
    assert_eq!(
        ids(r#"{"eos_token_id": 3}"#, json!(1), json!("<|im_end|>")),
        [3, 2]
    );
    assert_eq!(ids("{}", json!(1), none()), [1]);
    assert_eq!(ids("{}", json!(0), json!("<|im_end|>")), [0, 2]);
    assert_eq!(
        ids("{}", json!([0, 5]), json!({"content": "<|im_end|>"})),
        [0, 5, 2]
    );
    assert_eq!(ids("{}", none(), json!("<|endoftext|>")), [0]);
    // What Python takes for nothing, and ids that are none.
    for nothing in ["0", "[]", "null", "-1"] {
        let generation = format!(r#"{{"eos_token_id": {nothing}}}"#);
        assert_eq!(ids(&generation, json!(1), none()), [1], "{nothing}");
    }
    assert_eq!(ids(r#"{"eos_token_id": [0]}"#, json!(1), none()), [0]);
    assert_eq!(ids("{}", json!(-1), json!("<|im_end|>")), [2]);
    assert_eq!(ids("{}", json!([-1, 3]), none()), [3]);
    // A token that the vocabulary lacks is added, as transformers does.
    assert_eq!(ids("{}", json!(1), json!("<nowhere>")), [1, 4096]);
}

#[test]
fn further_chat_templates_are_files_of_a_folder() {
    let with = |files: &[(&str, &str)]| {
        let folder = folder(&[]);
        std::fs::create_dir(folder.path().join(TEMPLATE_FOLDER)).unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        ModelFolder::open(folder.path()).unwrap().tokenizer().unwrap()
    };
    assert_eq!(with(&[]).chat_template(), None);
    let (one, two) = (
        "additional_chat_templates/default.jinja",
        "additional_chat_templates/tool_use.jinja",
    );
    assert_eq!(with(&[(one, "d")]).chat_template(), Some("d"));
    assert_eq!(
        with(&[(TEMPLATE_FILE, "c"), (two, "t")]).chat_template(),
        Some("c")
    );
    let only_tools = with(&[(two, "t")]);
    let error = only_tools.compile_chat_template().unwrap_err().to_string();
    assert!(error.contains("tool_use") && error.contains("default"), "{error}");
}

#[test]
fn bad_folders_end_in_one_line_that_names_the_file() {
    let half = &mlx_native_demo::WEIGHTS[..100_000];
    let index = br#"{"weight_map": {"a": "model-00002-of-00002.safetensors"}}"#;
    let cases: [(&str, Option<&[u8]>, &str); 8] = [
        ("config.json", None, "no config.json"),
        ("config.json", Some(b"{"), "config.json"),
        ("config.json", Some(b"{}"), "model_type is missing"),
        (
            "config.json",
            Some(br#"{"model_type": "none_such"}"#),
            "\"none_such\"",
        ),
        (
            "config.json",
            Some(br#"{"model_type": "llama", "quantization": {"bits": 7}}"#),
            "quantization.bits",
        ),
        ("model.safetensors", None, "model.safetensors"),
        ("model.safetensors", Some(half), "model.safetensors: tensor"),
        (
            "model.safetensors.index.json",
            Some(index),
            "model-00002-of-00002.safetensors",
        ),
    ];
    for (name, change, wanted) in cases {
        let folder = folder(&[(name, change)]);
        let message = ModelFolder::open(folder.path()).unwrap_err().to_string();
        assert!(
            message.contains(wanted) && !message.contains('\n'),
            "{name}: {message}"
        );
    }
    assert!(
        ModelFolder::open("no/such/folder")
            .unwrap_err()
            .to_string()
            .contains("no/such/folder")
    );
    let folder = folder(&[]);
    let file = folder.path().join("config.json");
    assert!(
        ModelFolder::open(&file)
            .unwrap_err()
            .to_string()
            .contains("neither a folder")
    );
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    assert!(
        ModelFolder::open(folder.path())
            .unwrap_err()
            .to_string()
            .contains("no regular file")
    );

    let without = |name: &str| ModelFolder::from_files(mlx_native_demo::files().filter(|(n, _)| *n != name));
    assert!(
        without("config.json")
            .unwrap_err()
            .to_string()
            .contains("in memory: no config.json")
    );
    assert!(
        without("model.safetensors")
            .unwrap_err()
            .to_string()
            .contains("no model*.safetensors")
    );
}
