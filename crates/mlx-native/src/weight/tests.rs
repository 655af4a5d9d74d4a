//! Folders made file by file.

use std::fs;

use super::*;

/// A safetensors file of u32, f32 and other tensors, given as (name, type, shape, bytes).
fn write(path: &Path, tensors: &[(&str, &str, &[usize], Vec<u8>)]) {
    let mut header = serde_json::Map::new();
    let mut data: Vec<u8> = Vec::new();
    for (name, kind, shape, bytes) in tensors {
        let entry = serde_json::json!({
            "dtype": kind, "shape": shape, "data_offsets": [data.len(), data.len() + bytes.len()],
        });
        header.insert((*name).to_owned(), entry);
        data.extend(bytes);
    }
    let header = serde_json::to_vec(&header).unwrap();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    file.extend(data);
    fs::write(path, file).unwrap();
}

fn words(n: u32) -> Vec<u8> {
    (0..n).flat_map(u32::to_le_bytes).collect()
}

#[test]
fn a_folder_of_quantised_weights() {
    let dir = tempfile::tempdir().unwrap();
    let device = MlxDevice::new().unwrap();
    let missing = load_quantized_weights(dir.path(), &device);
    assert!(matches!(missing, Err(MlxError::IoError(_))), "no configuration");
    fs::write(
        dir.path().join("quantization_config.json"),
        r#"{"per_tensor": {"b": {"bits": 8, "group_size": 32}}}"#,
    )
    .unwrap();
    assert!(
        matches!(
            load_quantized_weights(dir.path(), &device),
            Err(MlxError::IoError(_))
        ),
        "no files"
    );
    write(
        &dir.path().join("model-1.safetensors"),
        &[
            ("a.weight", "U32", &[2, 8], words(16)),
            ("a.scales", "BF16", &[2, 1], vec![0; 4]),
            ("a.biases", "BF16", &[2, 1], vec![0; 4]),
            ("b", "U32", &[1, 8], words(8)),
            ("lonely.scales", "F32", &[1], vec![0; 4]),
            ("norm", "I64", &[1], vec![0; 8]),
        ],
    );
    write(
        &dir.path().join("model-2.safetensors"),
        &[
            ("b.scales", "F16", &[1, 1], vec![1; 2]),
            ("b", "U32", &[1, 4], words(4)),
        ],
    );
    let all = load_quantized_weights(dir.path(), &device).unwrap();
    let names: Vec<_> = all.iter().map(QuantizedWeight::tensor_name).collect();
    assert_eq!(names, ["a.weight", "b"]);
    let (a, b) = (&all[0], &all[1]);
    assert_eq!(
        (a.bits(), a.group_size(), a.shape(), a.dtype()),
        (4, 64, &[2, 8][..], DType::U32)
    );
    assert_eq!(
        (b.bits(), b.group_size(), b.shape()),
        (8, 32, &[1, 4][..]),
        "the later file's"
    );
    assert!(a.biases().is_some() && b.biases().is_none());
    assert_eq!((a.element_count(), a.num_groups()), (16, 1));
    assert_eq!(a.packed_data().read::<u32>().unwrap()[15], 15);
    assert_eq!(b.scales().byte_len(), 2);
    assert!(format!("{a:?}").contains("a.weight"));
}

#[test]
fn one_file() {
    let dir = tempfile::tempdir().unwrap();
    let device = MlxDevice::new().unwrap();
    let path = dir.path().join("x.safetensors");
    write(
        &path,
        &[
            ("x", "F32", &[2], words(2)),
            ("odd", "F64", &[1], vec![0; 8]),
            ("empty", "F32", &[0], vec![]),
        ],
    );
    let file = SafetensorsFile::open(&path).unwrap();
    assert_eq!(file.tensor_names().unwrap(), ["empty", "odd", "x"]);
    let (dtype, shape, buffer) = file.load_tensor("x", &device).unwrap();
    assert_eq!(
        (dtype, shape, buffer.read::<u32>().unwrap()),
        (DType::F32, vec![2], vec![0, 1])
    );
    assert!(matches!(
        file.load_tensor("none", &device),
        Err(MlxError::SafetensorsError(_))
    ));
    assert!(matches!(file.load_tensor("odd", &device), Err(MlxError::UnsupportedDtype(t)) if t == "F64"));
    assert!(matches!(
        file.load_tensor("empty", &device),
        Err(MlxError::InvalidArgument(_))
    ));
    assert!(file.load_all_tensors(&device).is_err());
    fs::write(&path, [0xFF; 16]).unwrap();
    let damaged = SafetensorsFile::open(&path).unwrap();
    assert!(matches!(
        damaged.tensor_names(),
        Err(MlxError::SafetensorsError(_))
    ));
    let gone = SafetensorsFile::open(&dir.path().join("gone"));
    assert!(matches!(gone, Err(MlxError::IoError(_))));
    assert!(safetensors_to_metal_buffer(&device, &[], DType::U8, vec![]).is_err());
}
