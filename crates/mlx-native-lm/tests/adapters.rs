//! Adapters against mlx-lm's results, and adapters that are none.

use std::path::{Path, PathBuf};

use mlx_native::{DType, DeviceKind, MlxDevice};
use mlx_native_lm::convert::fuse;
use mlx_native_lm::{Decoder, LmError, ModelFolder, ModelOptions, open_adapted_decoder, open_decoder};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

fn tests() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests")
}

fn open(model: &str, adapter: &Path) -> Result<Decoder, LmError> {
    let device = MlxDevice::open(DeviceKind::Cpu).unwrap();
    let options = ModelOptions {
        dtype: Some(DType::F32),
        ..ModelOptions::default()
    };
    open_adapted_decoder(&device, tests().join("models").join(model), adapter, &options)
}

fn floats(value: &Value) -> Vec<f32> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v.as_f64().unwrap() as f32)
        .collect()
}

#[test]
fn logits_are_those_of_mlx_lm() {
    let mut n = 0;
    for entry in std::fs::read_dir(tests().join("adapters")).unwrap() {
        let folder = entry.unwrap().path();
        let golden: Value =
            serde_json::from_slice(&std::fs::read(folder.join("golden.json")).unwrap()).unwrap();
        let mut decoder = open(golden["model"].as_str().unwrap(), &folder).unwrap();
        let ids: Vec<u32> = floats(&golden["prompt_ids"]).iter().map(|v| *v as u32).collect();
        let wanted = floats(&golden["logits"]);
        let mut state = decoder.new_state(0).unwrap();
        let found = decoder.forward(&ids, &mut state).unwrap();
        assert_eq!(found.len(), wanted.len());
        let most = wanted.iter().fold(0f32, |m, v| m.max(v.abs()));
        for (i, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
            // f32 in another order of sums, through two layers; the lengths of packed rows are those of values in bf16.
            let tolerance = if folder.ends_with("dora-4bit") { 3e-3 } else { 2e-5 };
            let wrong = (found - wanted).abs();
            assert!(
                wrong <= tolerance * most.max(1.0),
                "{folder:?}, logit {i}: {found} beside {wanted}"
            );
        }
        n += 1;
    }
    assert_eq!(n, 6);
}

#[test]
fn a_fused_model_is_the_adapted_one() {
    let target = tempfile::tempdir().unwrap();
    for name in [
        "lora-4bit",
        "dora-4bit",
        "lora-bias",
        "dora-bias",
        "peft-dora-bias",
    ] {
        let folder = tests().join("adapters").join(name);
        let golden: Value =
            serde_json::from_slice(&std::fs::read(folder.join("golden.json")).unwrap()).unwrap();
        let model = tests().join("models").join(golden["model"].as_str().unwrap());
        let source = ModelFolder::open(model).unwrap();
        let ids: Vec<u32> = floats(&golden["prompt_ids"]).iter().map(|v| *v as u32).collect();
        for dequantize in [true, false] {
            let fused = target.path().join(format!("{name}-{dequantize}"));
            fuse(&source, &folder, &fused, dequantize, |_, _| {}).unwrap();
            let device = MlxDevice::open(DeviceKind::Cpu).unwrap();
            let options = ModelOptions {
                dtype: Some(DType::F32),
                ..ModelOptions::default()
            };
            let mut decoder = open_decoder(&device, &fused, &options).unwrap();
            let mut state = decoder.new_state(0).unwrap();
            let found = decoder.forward(&ids, &mut state).unwrap();
            let wanted = floats(&golden[if dequantize { "fused" } else { "packed" }]);
            // Matrices of bf16, now and then rounded otherwise; mlx-lm leaves those of DoRA in f32.
            let tolerance = match name {
                "lora-4bit" => 1e-2,
                "dora-4bit" => 5e-2,
                _ => 1e-4,
            };
            let most = wanted.iter().fold(0f32, |m, v| m.max(v.abs()));
            for (found, wanted) in found.iter().zip(&wanted) {
                assert!(
                    (found - wanted).abs() <= tolerance * most,
                    "{name}, {dequantize}: {found} beside {wanted}"
                );
            }
        }
    }
    // What does not fit is refused, and nothing is left.
    let source = ModelFolder::open(tests().join("models/llama-8bit")).unwrap();
    let fused = target.path().join("none");
    let error = fuse(
        &source,
        &tests().join("adapters/lora-4bit"),
        &fused,
        false,
        |_, _| {},
    )
    .unwrap_err();
    assert!(error.to_string().contains("model.layers.0."), "{error}");
    assert!(!fused.exists());
}

/// An adapter of mlx-lm's layout with these tensors, all elements 0.1 where they are floats.
fn write(folder: &Path, config: &Value, tensors: &[(&str, Dtype, &[usize])]) {
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join("adapter_config.json"), config.to_string()).unwrap();
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(_, dtype, shape)| match dtype {
            Dtype::F32 => 0.1f32.to_le_bytes().repeat(shape.iter().product()),
            _ => vec![0; shape.iter().product::<usize>() * 4],
        })
        .collect();
    let views = tensors.iter().zip(&bytes).map(|((name, dtype, shape), bytes)| {
        (*name, TensorView::new(*dtype, shape.to_vec(), bytes).unwrap())
    });
    let file = safetensors::serialize(views, None).unwrap();
    std::fs::write(folder.join("adapters.safetensors"), file).unwrap();
}

#[test]
fn what_is_no_adapter_of_the_model_is_one_clear_error() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().join("a");
    let lora = |rank: Value| json!({"fine_tune_type": "lora", "num_layers": 1, "lora_parameters": {"rank": rank, "scale": 2.0, "dropout": 0.0}});
    let good = lora(json!(2));
    const Q: &str = "model.layers.0.self_attn.q_proj";
    let (a, b) = (format!("{Q}.lora_a"), format!("{Q}.lora_b"));
    let f = Dtype::F32;
    let refused = |words: &[&str]| {
        let error = open("qwen3-f32", &at)
            .err()
            .unwrap_or_else(|| panic!("taken: {words:?}"))
            .to_string();
        assert!(!error.contains('\n') && error.len() < 400, "{error}");
        for word in words {
            assert!(error.contains(word), "{error:?} does not mention {word:?}");
        }
    };
    refused(&["adapter_config.json"]);
    write(&at, &good, &[(&a, f, &[64, 2]), (&b, f, &[2, 128])]);
    open("qwen3-f32", &at).unwrap();
    // The tensors.
    let cases: [(&[(&str, Dtype, &[usize])], &[&str]); 12] = [
        (&[], &["no tensors"]),
        (&[(&a, f, &[64, 2])], &[Q, "one of the two"]),
        (&[(&b, f, &[2, 128])], &[Q, "one of the two"]),
        (&[(&a, f, &[64, 0]), (&b, f, &[0, 128])], &[Q, "[64, 0]"]),
        (&[(&a, f, &[64, 3]), (&b, f, &[2, 128])], &[Q, "[64, 3]"]),
        (&[(&a, f, &[64, 3]), (&b, f, &[3, 128])], &["rank", "2"]),
        (&[(&a, f, &[63, 2]), (&b, f, &[2, 128])], &[Q, "63", "64"]),
        (&[(&a, f, &[64, 2]), (&b, f, &[2, 127])], &[Q, "127", "128"]),
        (&[(&a, f, &[64, 2, 1]), (&b, f, &[2, 128])], &["lora_a", "matrix"]),
        (
            &[(&a, Dtype::I32, &[64, 2]), (&b, f, &[2, 128])],
            &["lora_a", "floats"],
        ),
        (
            &[
                (&a, f, &[64, 2]),
                (&b, f, &[2, 128]),
                ("model.layers.0.x", f, &[1]),
            ],
            &["model.layers.0.x"],
        ),
        (
            &[
                ("model.layers.9.mlp.up_proj.lora_a", f, &[64, 2]),
                ("model.layers.9.mlp.up_proj.lora_b", f, &[2, 96]),
            ],
            &["model.layers.9.mlp.up_proj", "adapter"],
        ),
    ];
    for (tensors, words) in cases {
        write(&at, &good, tensors);
        refused(words);
    }
    let m = format!("{Q}.m");
    write(
        &at,
        &good,
        &[(&a, f, &[64, 2]), (&b, f, &[2, 128]), (&m, f, &[127])],
    );
    refused(&[".m", "127", "128"]);
    // The configuration.
    let tensors: &[(&str, Dtype, &[usize])] = &[(&a, f, &[64, 2]), (&b, f, &[2, 128])];
    for (config, words) in [
        (lora(json!(0)), vec!["rank", "0"]),
        (lora(json!("2")), vec!["rank"]),
        (lora(json!(-1)), vec!["rank"]),
        (json!({"fine_tune_type": "full"}), vec!["full"]),
        (json!({"fine_tune_type": 7}), vec!["fine_tune_type"]),
        (
            json!({"fine_tune_type": "dora", "lora_parameters": {"rank": 2, "scale": 1.0}}),
            vec!["DoRA", Q],
        ),
        (json!({"lora_parameters": {"rank": 2}}), vec!["scale"]),
        (
            json!({"lora_parameters": {"rank": 2, "scale": "big"}}),
            vec!["scale"],
        ),
        (json!([1]), vec!["adapter_config.json"]),
    ] {
        write(&at, &config, tensors);
        refused(&words);
    }
    std::fs::write(at.join("adapter_config.json"), "{\"a\": ").unwrap();
    refused(&["adapter_config.json"]);
    write(&at, &good, tensors);
    let file = at.join("adapters.safetensors");
    let whole = std::fs::read(&file).unwrap();
    for cut in [0, 7, 8, 40, whole.len() - 1] {
        std::fs::write(&file, &whole[..cut]).unwrap();
        refused(&["adapters.safetensors"]);
    }
    std::fs::remove_file(&file).unwrap();
    refused(&["adapters.safetensors"]);
    let mut nan = whole;
    let n = nan.len();
    nan[n - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&file, nan).unwrap();
    refused(&["NaN"]);
    // PEFT's, where it asks for what is not computed.
    let peft = at.join("adapter_model.safetensors");
    std::fs::copy(
        tests().join("adapters/peft-lora-4bit/adapter_model.safetensors"),
        &peft,
    )
    .unwrap();
    for (field, value) in [
        ("peft_type", json!("IA3")),
        ("bias", json!("all")),
        ("fan_in_fan_out", json!(true)),
        ("rank_pattern", json!({"q_proj": 4})),
        ("r", json!(0)),
    ] {
        let mut config = json!({"peft_type": "LORA", "r": 2, "lora_alpha": 6, "bias": "none"});
        config[field] = value;
        std::fs::write(at.join("adapter_config.json"), config.to_string()).unwrap();
        refused(&[if field == "peft_type" { "IA3" } else { field }]);
    }
}
