use mlx_native::weights::{ModelWeights, SafetensorsFile};
use serde_json::json;

use super::*;
use crate::config::ConfigFile;

fn section(value: Value) -> Result<QuantizationConfig> {
    ConfigFile::parse(json!({ "quantization": value }).to_string().as_bytes())
        .unwrap()
        .quantization()
}

fn four_bit() -> QuantizationConfig {
    section(json!({"group_size": 64, "bits": 4})).unwrap()
}

/// Weights of the tensors named, of these dtypes and shapes.
fn weights(tensors: &[(&str, &str, [usize; 2])]) -> ModelWeights {
    let (mut header, mut at) = (serde_json::Map::new(), 0);
    for (name, dtype, shape) in tensors {
        let size = match *dtype {
            "U32" | "F32" => 4,
            "U8" => 1,
            _ => 2,
        };
        let end = at + size * shape[0] * shape[1];
        header.insert(
            (*name).into(),
            json!({"dtype": dtype, "shape": shape, "data_offsets": [at, end]}),
        );
        at = end;
    }
    let header = Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.resize(file.len() + at, 0);
    ModelWeights::from_files(vec![SafetensorsFile::from_bytes("w", file).unwrap()]).unwrap()
}

/// A matrix `m` of 2 rows: words and groups of a row, dtype of scales, and whether it has biases.
fn matrix(words: usize, groups: usize, scales: &str, biases: bool) -> ModelWeights {
    let mut tensors = vec![("m.weight", "U32", [2, words]), ("m.scales", scales, [2, groups])];
    if biases {
        tensors.push(("m.biases", scales, [2, groups]));
    }
    weights(&tensors)
}

fn affine(bits: u32, group_size: u32) -> QuantSpec {
    QuantSpec {
        bits,
        group_size,
        mode: QuantMode::Affine,
    }
}

#[test]
fn the_section_is_checked() {
    assert_eq!(four_bit().default_spec(), Some(affine(4, 64)));
    let mxfp4 = section(json!({"group_size": 32, "bits": 4, "mode": "mxfp4"}))
        .unwrap()
        .default_spec()
        .unwrap();
    assert_eq!(mxfp4.mode, QuantMode::Mxfp4);
    let packed = matrix(16, 4, "U8", false);
    assert_eq!(mxfp4.weight_format("m", &packed).unwrap(), WeightFormat::Mxfp4);
    assert!(affine(4, 32).weight_format("m", &packed).is_err());
    assert!(mxfp4.weight_format("n", &packed).is_err());
    let eight = affine(8, 32)
        .weight_format("m", &matrix(32, 4, "F16", true))
        .unwrap();
    assert_eq!(eight, WeightFormat::affine(8, 32, DType::F16).unwrap());
    let scaled = weights(&[
        ("m.weight", "U32", [2, 16]),
        ("m.scales", "U8", [2, 8]),
        ("m.global_scale", "F32", [1, 1]),
    ]);
    let nvfp4 = four_bit().for_module("m", 128, &scaled).unwrap().unwrap();
    assert_eq!(
        nvfp4.weight_format("m", &scaled).unwrap(),
        WeightFormat::Nvfp4 { global_scale: true }
    );
    for (value, wanted) in [
        (json!({"group_size": 7, "bits": 4}), "groups of 7"),
        (json!({"group_size": 64, "bits": 7}), "7 bits"),
        (json!({"group_size": 64, "bits": 0}), "quantization.bits"),
        (json!({"group_size": 64, "bits": "4"}), "quantization.bits"),
        (
            json!({"group_size": 64, "bits": 4, "mode": "int4"}),
            "mode: found \"int4\"",
        ),
        (
            json!({"group_size": 64, "bits": 4, "mode": "mxfp4"}),
            "wanted 4 bits in groups of 32",
        ),
        (
            json!({"group_size": 64, "bits": 4, "a.b": {"bits": 9, "group_size": 64}}),
            "quantization.a.b.bits",
        ),
        (json!([]), "quantization: found a list"),
    ] {
        let message = section(value.clone()).unwrap_err().to_string();
        assert!(
            message.contains(wanted) && message.starts_with("config.json: "),
            "{value}: {message}"
        );
    }
}

#[test]
fn foreign_formats_are_refused_by_name() {
    let read = |value: Value| {
        ConfigFile::parse(value.to_string().as_bytes())
            .unwrap()
            .quantization()
    };
    let awq = read(json!({"quantization_config": {"quant_method": "aqlm", "bits": 4}}));
    assert!(matches!(awq, Err(LmError::Unsupported(m)) if m.contains("\"aqlm\"")));
    let legacy = read(json!({"quantization_config": {"bits": 8, "group_size": 32}})).unwrap();
    assert_eq!(legacy.default_spec(), Some(affine(8, 32)));
    assert_eq!(read(json!({})).unwrap().default_spec(), None);
    let mxfp8 = read(json!({"quantization_config": {"quant_method": "mxfp8"}})).unwrap();
    assert_eq!(
        mxfp8
            .default_spec()
            .map(|spec| (spec.mode, spec.bits, spec.group_size)),
        Some((QuantMode::Mxfp8, 8, 32))
    );
}

#[test]
fn shapes_say_how_a_matrix_is_packed() {
    // Whatever the top of the section says: 4 bits in groups of 64.
    for (bits, group_size) in [(2, 32), (3, 64), (4, 64), (5, 128), (6, 32), (8, 64), (8, 128)] {
        let found = matrix(128 * bits as usize / 32, 128 / group_size as usize, "F16", true);
        assert_eq!(
            four_bit().for_module("m", 128, &found).unwrap(),
            Some(affine(bits, group_size))
        );
    }
    for (words, groups, mode) in [
        (16, 4, QuantMode::Mxfp4),
        (32, 4, QuantMode::Mxfp8),
        (16, 8, QuantMode::Nvfp4),
    ] {
        let spec = four_bit()
            .for_module("m", 128, &matrix(words, groups, "U8", false))
            .unwrap()
            .unwrap();
        assert_eq!(spec.mode, mode);
    }
    let dense = weights(&[("m.weight", "F16", [2, 128])]);
    assert_eq!(four_bit().for_module("m", 128, &dense).unwrap(), None);
}

#[test]
fn a_path_that_is_named_is_what_the_section_says() {
    let named = |value: Value| section(json!({"group_size": 64, "bits": 4, "m": value})).unwrap();
    let eight = matrix(32, 4, "BF16", true);
    let config = named(json!({"group_size": 32, "bits": 8}));
    assert_eq!(config.for_module("m", 128, &eight).unwrap(), Some(affine(8, 32)));
    assert_eq!(named(json!(false)).for_module("m", 128, &eight).unwrap(), None);
    assert_eq!(
        named(json!(true))
            .for_module("m", 128, &matrix(16, 2, "F32", true))
            .unwrap(),
        Some(affine(4, 64))
    );
    // It must be true, though.
    let message = named(json!(true))
        .for_module("m", 128, &eight)
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("m.weight: found U32 [2, 32], wanted [2, 16]"),
        "{message}"
    );
    let dense = weights(&[("m.weight", "F16", [2, 128])]);
    assert!(
        config
            .for_module("m", 128, &dense)
            .unwrap_err()
            .to_string()
            .contains("m.scales is missing")
    );
}

#[test]
fn tensors_that_do_not_fit_are_refused_by_name() {
    let cases = [
        (matrix(16, 3, "F16", true), "m"),
        (matrix(17, 2, "F16", true), "m.weight"),
        (matrix(28, 2, "F16", true), "fit no packing"),
        (matrix(16, 2, "F16", false), "m.biases is missing"),
        (matrix(16, 4, "U8", true), "m.biases is there"),
        (matrix(16, 2, "U8", false), "fit no packing"),
        (matrix(0, 2, "F16", true), "fit no packing"),
        (matrix(16, 0, "F16", true), "fit no packing"),
        (
            weights(&[("m.weight", "F16", [2, 16]), ("m.scales", "F16", [2, 2])]),
            "m: weight is F16",
        ),
        (weights(&[("m.scales", "F16", [2, 2])]), "m.weight is missing"),
        (
            weights(&[("m.weight", "U32", [2, 16]), ("m.scales", "F16", [3, 2])]),
            "m.scales",
        ),
        (
            weights(&[
                ("m.weight", "U32", [2, 16]),
                ("m.scales", "F16", [2, 2]),
                ("m.biases", "F32", [2, 2]),
            ]),
            "m.biases: found F32",
        ),
        (
            weights(&[
                ("m.weight", "U32", [2, 16]),
                ("m.scales", "F16", [2, 2]),
                ("m.global_scale", "F32", [1, 1]),
            ]),
            "m.biases is missing",
        ),
    ];
    for (weights, wanted) in cases {
        let message = four_bit().for_module("m", 128, &weights).unwrap_err().to_string();
        assert!(message.contains(wanted), "{wanted}: {message}");
    }
    let none = QuantizationConfig::default();
    let message = none
        .for_module("m", 128, &matrix(16, 2, "F16", true))
        .unwrap_err()
        .to_string();
    assert!(message.contains("no quantization section"), "{message}");
    assert!(
        four_bit()
            .for_module("m", 0, &matrix(16, 2, "F16", true))
            .is_err()
    );
}
