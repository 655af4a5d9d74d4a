//! Conversion against `mlx_lm.convert`, tensor by tensor: `golden/convert.json`, which `tools/golden_convert.py` writes. And what
//! must not happen: half a folder, a folder written over.

#[path = "families/golden.rs"]
#[allow(dead_code)]
mod golden;
#[path = "families/sha256.rs"]
#[allow(dead_code)]
mod sha256;
#[path = "families/weights.rs"]
#[allow(dead_code)]
mod weights;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mlx_native::DType;
use mlx_native::weights::ModelWeights;
use mlx_native_lm::convert::{ConvertOptions, Recipe, convert};
use mlx_native_lm::{LmError, ModelFolder, QuantMode, QuantSpec};
use serde::Deserialize;
use serde_json::Value;

use golden::Golden;

#[derive(Deserialize)]
struct Case {
    options: BTreeMap<String, Value>,
    quantization: Option<Value>,
    tensors: Vec<(String, String, Vec<usize>, String)>,
    of: Option<String>,
}

fn options(said: &BTreeMap<String, Value>) -> ConvertOptions {
    let text = |key: &str| said.get(key).and_then(Value::as_str);
    let number = |key: &str| said.get(key).and_then(Value::as_u64).map(|n| n as u32);
    let (mode, bits, group) = match text("q_mode") {
        Some("mxfp4") => (QuantMode::Mxfp4, 4, 32),
        Some("mxfp8") => (QuantMode::Mxfp8, 8, 32),
        Some("nvfp4") => (QuantMode::Nvfp4, 4, 16),
        _ => (QuantMode::Affine, 4, 64),
    };
    let spec = QuantSpec::new(
        number("q_bits").unwrap_or(bits),
        number("q_group_size").unwrap_or(group),
        mode,
    );
    ConvertOptions {
        quantize: said.contains_key("quantize").then(|| spec.unwrap()),
        recipe: text("quant_predicate").and_then(|name| Recipe::ALL.into_iter().find(|r| r.name() == name)),
        dequantize: said.contains_key("dequantize"),
        dtype: match text("dtype") {
            Some("bfloat16") => Some(DType::BF16),
            Some("float16") => Some(DType::F16),
            _ => None,
        },
    }
}

fn fnv(bytes: &[u8]) -> u64 {
    let step = |h: u64, b: &u8| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

/// The folder of a golden model.
fn source(root: &Path, family: &str) -> PathBuf {
    let folder = root.join(format!("source-{family}"));
    if !folder.exists() {
        std::fs::create_dir(&folder).unwrap();
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/families/golden");
        let all = Golden::read_all(&golden, &[family.to_owned()]).unwrap();
        let case = all.iter().find(|c| c.case == family).unwrap();
        weights::write_folder(&folder, case, &case.variants["f32"]).unwrap();
    }
    folder
}

#[test]
fn folders_are_those_of_mlx_lm() {
    let cases: BTreeMap<String, Case> = serde_json::from_str(include_str!("golden/convert.json")).unwrap();
    let root = tempfile::tempdir().unwrap();
    // What others are made of comes first.
    let (made, first): (Vec<_>, Vec<_>) = cases.iter().partition(|(_, case)| case.of.is_some());
    for (name, case) in first.into_iter().chain(made) {
        let family = name.split(':').next().unwrap();
        let place = |name: &str| root.path().join(name.replace(':', "-"));
        let from = match &case.of {
            Some(of) => place(of),
            None => source(root.path(), family),
        };
        let target = place(name);
        let folder = ModelFolder::open(&from).unwrap();
        let report = convert(&folder, &target, &options(&case.options), |_, _| ()).unwrap();
        let written = ModelWeights::open(&target).unwrap();
        let names: Vec<&str> = case.tensors.iter().map(|t| t.0.as_str()).collect();
        let mut found: Vec<&str> = written.names().collect();
        found.sort_unstable();
        assert_eq!(found, names, "{name}");
        let mut bytes = 0;
        for (tensor, dtype, shape, hash) in &case.tensors {
            let info = written.info(tensor).unwrap();
            assert_eq!(
                (&info.dtype.to_string(), &info.shape),
                (dtype, shape),
                "{name}: {tensor}"
            );
            let contents = written.bytes(tensor).unwrap();
            bytes += contents.len() as u64;
            assert_eq!(&format!("{:016x}", fnv(contents)), hash, "{name}: {tensor}");
        }
        assert_eq!(report.bytes, bytes, "{name}");
        let config: Value =
            serde_json::from_slice(&std::fs::read(target.join("config.json")).unwrap()).unwrap();
        assert_eq!(config.get("quantization"), case.quantization.as_ref(), "{name}");
        assert_eq!(
            config.get("quantization_config"),
            case.quantization.as_ref(),
            "{name}"
        );
        // What was written is a model.
        ModelFolder::open(&target).unwrap().plan(DType::F32, 1).unwrap();
    }
}

fn left(root: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(root).unwrap();
    let mut names: Vec<String> = entries
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort_unstable();
    names
}

#[test]
fn a_folder_that_is_there_is_not_touched() {
    let root = tempfile::tempdir().unwrap();
    let folder = ModelFolder::open(source(root.path(), "llama")).unwrap();
    let target = root.path().join("there");
    std::fs::create_dir(&target).unwrap();
    std::fs::write(target.join("mine"), "text").unwrap();
    let error = convert(&folder, &target, &ConvertOptions::default(), |_, _| ()).unwrap_err();
    assert!(matches!(error, LmError::InvalidArgument(_)), "{error}");
    assert!(error.to_string().contains("there"), "{error}");
    assert_eq!(left(&target), ["mine"]);
    assert_eq!(left(root.path()), ["source-llama", "there"]);
}

#[test]
fn what_is_interrupted_leaves_nothing() {
    let root = tempfile::tempdir().unwrap();
    let folder = ModelFolder::open(source(root.path(), "llama")).unwrap();
    let target = root.path().join("new");
    let stopped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        convert(&folder, &target, &ConvertOptions::default(), |done, all| {
            assert!(done < all / 2, "stopped on the way");
        })
    }));
    assert!(stopped.is_err());
    assert_eq!(left(root.path()), ["source-llama"]);
}

#[test]
fn hostile_folders_end_in_an_error_and_leave_nothing() {
    let root = tempfile::tempdir().unwrap();
    let from = source(root.path(), "llama");
    let file = from.join("model.safetensors");
    let whole = std::fs::read(&file).unwrap();
    let target = root.path().join("new");
    let attempt = || -> Result<(), LmError> {
        convert(
            &ModelFolder::open(&from)?,
            &target,
            &ConvertOptions::default(),
            |_, _| (),
        )
        .map(drop)
    };
    // Truncated, a header of absurd length, no header at all.
    let damaged = [
        whole[..whole.len() - 1].to_vec(),
        whole[..whole.len() / 2].to_vec(),
        [&u64::MAX.to_le_bytes()[..], &whole[8..]].concat(),
        b"{}".to_vec(),
    ];
    for bytes in damaged {
        std::fs::write(&file, bytes).unwrap();
        let error = attempt().unwrap_err().to_string();
        assert_eq!(error.lines().count(), 1, "{error}");
        assert_eq!(left(root.path()), ["source-llama"]);
    }
    // A tensor of another name is missed, and one too many is named.
    let renamed = String::from_utf8_lossy(&whole).contains("model.norm.weight");
    assert!(renamed);
    let at = whole.windows(17).position(|w| w == b"model.norm.weight").unwrap();
    let mut bytes = whole.clone();
    bytes[at..at + 17].copy_from_slice(b"model.torn.weight");
    std::fs::write(&file, bytes).unwrap();
    let error = attempt().unwrap_err().to_string();
    assert!(error.contains("model.norm.weight"), "{error}");
    assert_eq!(left(root.path()), ["source-llama"]);
    std::fs::write(&file, whole).unwrap();
    attempt().unwrap();
}

#[test]
fn options_that_exclude_each_other_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let folder = ModelFolder::open(source(root.path(), "llama")).unwrap();
    let affine = QuantSpec::new(4, 64, QuantMode::Affine).unwrap();
    let small = QuantSpec::new(4, 32, QuantMode::Mxfp4).unwrap();
    let all = [
        ConvertOptions {
            quantize: Some(affine),
            dequantize: true,
            ..Default::default()
        },
        ConvertOptions {
            recipe: Some(Recipe::Mixed2And6),
            ..Default::default()
        },
        ConvertOptions {
            quantize: Some(small),
            recipe: Some(Recipe::Mixed2And6),
            ..Default::default()
        },
    ];
    for options in all {
        let error = convert(&folder, &root.path().join("new"), &options, |_, _| ()).unwrap_err();
        assert!(matches!(error, LmError::InvalidArgument(_)), "{error}");
        assert_eq!(left(root.path()), ["source-llama"]);
    }
}
