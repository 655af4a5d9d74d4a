use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::device::MlxDevice;
use crate::device_kind::DeviceKind;
use crate::weights::{ModelWeights, WeightLoader};

/// A file with this header and this data.
fn file(header: &str, data: &[u8]) -> Vec<u8> {
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(data);
    out
}

fn read(bytes: Vec<u8>) -> Result<SafetensorsFile> {
    SafetensorsFile::from_bytes("m.safetensors", bytes)
}

/// The message of the refusal.
fn refusal(bytes: Vec<u8>) -> String {
    match read(bytes) {
        Err(MlxError::SafetensorsError(message)) => message,
        other => panic!("wanted a refusal, got {other:?}"),
    }
}

#[test]
fn reads_what_the_format_s_own_crate_writes() {
    let a: Vec<u8> = (0..24).collect();
    let views = [
        (
            "a",
            safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![2, 3], &a).unwrap(),
        ),
        (
            "b.c",
            safetensors::tensor::TensorView::new(safetensors::Dtype::BF16, vec![4], &a[..8]).unwrap(),
        ),
        (
            "none",
            safetensors::tensor::TensorView::new(safetensors::Dtype::I64, vec![3, 0], &[]).unwrap(),
        ),
        (
            "scalar",
            safetensors::tensor::TensorView::new(safetensors::Dtype::U8, vec![], &a[7..8]).unwrap(),
        ),
    ];
    let metadata = HashMap::from([("format".to_string(), "mlx".to_string())]);
    let bytes = safetensors::serialize(views, Some(metadata)).unwrap();
    let file = read(bytes).unwrap();
    assert_eq!(
        file.tensor_names().collect::<Vec<_>>(),
        ["a", "b.c", "none", "scalar"]
    );
    assert_eq!(file.bytes("a").unwrap(), a);
    assert_eq!(file.bytes("b.c").unwrap(), &a[..8]);
    assert_eq!(file.bytes("scalar").unwrap(), &[7]);
    let info = file.info("a").unwrap();
    assert_eq!(
        (info.dtype, info.shape.as_slice(), info.element_count()),
        (TensorType::F32, &[2, 3][..], 6)
    );
    assert_eq!(file.info("none").unwrap().shape, [3, 0]);
    assert!(file.info("absent").is_none());
    assert!(
        file.bytes("absent")
            .unwrap_err()
            .to_string()
            .contains("m.safetensors: no tensor \"absent\"")
    );
    assert_eq!(file.metadata()["format"], "mlx");
}

#[test]
fn the_table_of_types_is_in_order() {
    for (i, (t, name, _)) in TensorType::ALL.iter().enumerate() {
        assert_eq!(*t as usize, i);
        assert_eq!(TensorType::from_name(name), Some(*t));
        if let Some(dtype) = t.dtype() {
            assert_eq!(dtype.size_of(), t.size_of());
        }
    }
}

#[test]
fn damaged_frames_are_refused() {
    assert!(refusal(vec![]).contains("0 bytes are no safetensors file"));
    assert!(refusal(vec![1; 7]).contains("7 bytes"));
    assert!(refusal(vec![255; 16]).contains("header length"));
    assert!(refusal(file("{}", b"")[..9].to_vec()).contains("truncated: a header of 2 bytes in a file of 9"));
    assert!(refusal((u64::MAX).to_le_bytes().to_vec()).contains("header length"));
    assert!(refusal(file("", b"")).contains("begin with '{'"));
    assert!(refusal(file("[]", b"")).contains("begin with '{'"));
    assert!(refusal(file("{", b"")).contains("header: "));
    assert!(refusal(file("{} x", b"")).contains("header: "));
    assert!(refusal(file("{}", b"abc")).contains("3 bytes after the last tensor"));
    let not_utf8 = [&5u64.to_le_bytes()[..], b"{\"\xff\"}"].concat();
    assert!(refusal(not_utf8).contains("header: "));
    // Spaces behind the header are what a writer aligns with.
    assert_eq!(read(file("{}      ", b"")).unwrap().tensor_names().len(), 0);
}

#[test]
fn damaged_descriptions_are_refused_by_name() {
    let one = |body: &str, data: &[u8]| refusal(file(&format!("{{\"w\":{body}}}"), data));
    let cases = [
        (
            r#"{"dtype":"F32","shape":[2],"data_offsets":[0,4]}"#,
            4,
            "F32 [2] needs 8 bytes, data_offsets give 4",
        ),
        (
            r#"{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#,
            4,
            "leave the 4 bytes of data",
        ),
        (
            r#"{"dtype":"F32","shape":[0],"data_offsets":[4,0]}"#,
            4,
            "leave the 4 bytes",
        ),
        (
            r#"{"dtype":"U8","shape":[1],"data_offsets":[18446744073709551615,18446744073709551615]}"#,
            1,
            "leave the 1",
        ),
        (
            r#"{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}"#,
            4,
            "overflows",
        ),
        (
            r#"{"dtype":"F32","shape":[18446744073709551615,0],"data_offsets":[0,0]}"#,
            0,
            "overflows",
        ),
        (
            r#"{"dtype":"F4","shape":[1],"data_offsets":[0,1]}"#,
            1,
            "unsupported dtype \"F4\"",
        ),
        (
            r#"{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}"#,
            1,
            "tensor \"w\"",
        ),
        (
            r#"{"dtype":"U8","shape":[1.5],"data_offsets":[0,1]}"#,
            1,
            "tensor \"w\"",
        ),
        (
            r#"{"dtype":"U8","shape":[1],"data_offsets":[0]}"#,
            1,
            "tensor \"w\"",
        ),
        (
            r#"{"dtype":"U8","shape":[1],"data_offsets":[0,1,2]}"#,
            1,
            "tensor \"w\"",
        ),
        (r#"{"dtype":"U8","shape":[1]}"#, 1, "data_offsets"),
        (
            r#"{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}"#,
            1,
            "duplicate field",
        ),
        (r#"null"#, 0, "tensor \"w\""),
        (
            r#"{"dtype":"U8","shape":[1],"data_offsets":[1,2]}"#,
            2,
            "follows a gap",
        ),
    ];
    for (body, data, wanted) in cases {
        let message = one(body, &vec![0; data]);
        assert!(message.starts_with("m.safetensors: "), "{message}");
        assert!(message.contains("\"w\""), "{body}: {message}");
        assert!(message.contains(wanted), "{body}: {message}");
    }
}

#[test]
fn overlaps_and_repeats_are_refused() {
    let two = |a: &str, b: &str| {
        let tensor = |o: &str| format!(r#"{{"dtype":"U8","shape":[2],"data_offsets":{o}}}"#);
        refusal(file(
            &format!(r#"{{"a":{},"b":{}}}"#, tensor(a), tensor(b)),
            &[0; 4],
        ))
    };
    assert!(two("[0,2]", "[1,3]").contains("tensor \"b\": its data overlaps"));
    assert!(two("[0,2]", "[0,2]").contains("overlaps"));
    assert!(two("[1,3]", "[0,2]").contains("tensor \"a\": its data overlaps"));
    let w = r#""w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}"#;
    assert!(refusal(file(&format!("{{{w},{w}}}"), &[0])).contains("tensor \"w\" twice"));
    assert!(refusal(file(r#"{"__metadata__":{},"__metadata__":{}}"#, &[])).contains("twice"));
    assert!(refusal(file(r#"{"__metadata__":{"a":"1","a":"2"}}"#, &[])).contains("twice"));
    assert!(refusal(file(r#"{"__metadata__":{"a":1}}"#, &[])).contains("header"));
}

#[test]
fn hostile_sizes_stay_bounded() {
    // Deep nesting ends in an error, not in the stack's.
    let deep = format!("{{\"w\":{}", "[".repeat(1_000_000));
    assert!(refusal(file(&deep, b"")).contains("header"));
    let deep = format!("{{\"w\":{{\"dtype\":\"U8\",\"other\":{}", "[".repeat(1_000_000));
    assert!(refusal(file(&deep, b"")).contains("header"));
    // A long name is cut in the message.
    let long = format!(
        "{{\"{}\":{{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,9]}}}}",
        "n".repeat(100_000)
    );
    assert!(refusal(file(&long, &[0])).len() < 400);
}

proptest! {
    /// Whatever the bytes: no panic, and what is accepted is inside the file and is what the format's own crate reads.
    #[test]
    fn agrees_with_the_format_s_own_crate(
        shapes in prop::collection::vec((0usize..4, 0usize..5), 0..4),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let data = [7u8; 64];
        let views = shapes.iter().enumerate().map(|(i, &(a, b))| {
            let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F16, vec![a, b], &data[..a * b * 2]);
            (format!("t{i}"), view.unwrap())
        });
        let mut bytes = safetensors::serialize(views, None).unwrap();
        for (at, value) in &flips {
            let at = at.index(bytes.len());
            bytes[at] = *value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len() + 1));
        }
        let theirs = safetensors::SafeTensors::deserialize(&bytes);
        match SafetensorsFile::from_bytes("p", bytes.clone()) {
            Ok(ours) => {
                for (name, info) in ours.tensors() {
                    prop_assert_eq!(ours.bytes(name).unwrap(), &bytes[info.range.clone()]);
                    prop_assert_eq!(info.range.len(), info.element_count() * info.dtype.size_of());
                }
                if let Ok(theirs) = theirs {
                    prop_assert_eq!(theirs.len(), ours.tensor_names().len());
                    for (name, info) in ours.tensors() {
                        prop_assert_eq!(theirs.tensor(name).unwrap().data(), &bytes[info.range.clone()]);
                    }
                }
            }
            Err(error) => prop_assert!(error.to_string().contains("p: ")),
        }
    }
}

/// A file of `names`, each a `U32` of two words, whose data begins `lead` bytes past a multiple of 64.
fn words(names: &[&str], lead: usize) -> Vec<u8> {
    let entries: Vec<String> = names
        .iter()
        .enumerate()
        .map(|(i, n)| {
            format!(
                r#""{n}":{{"dtype":"U32","shape":[1,2],"data_offsets":[{},{}]}}"#,
                i * 8,
                i * 8 + 8
            )
        })
        .collect();
    let mut header = format!("{{{}}}", entries.join(","));
    while (8 + header.len()) % 64 != lead {
        header.push(' ');
    }
    let data: Vec<u8> = (0..names.len() as u32 * 2).flat_map(u32::to_le_bytes).collect();
    file(&header, &data)
}

#[test]
fn opens_shards_and_refuses_bad_folders() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let open = || ModelWeights::open(folder.path());
    assert!(open().unwrap_err().to_string().contains("no model*.safetensors"));
    assert!(
        ModelWeights::open(path("nowhere"))
            .unwrap_err()
            .to_string()
            .contains("nowhere")
    );
    std::fs::write(path("model-00001-of-00002.safetensors"), words(&["a", "b"], 0)).unwrap();
    std::fs::write(path("model-00002-of-00002.safetensors"), words(&["c"], 0)).unwrap();
    std::fs::write(path("adapters.safetensors"), b"not ours").unwrap();
    let index = |shard: &str| {
        format!(
            r#"{{"metadata":{{}},"weight_map":{{"a":"{shard}","b":"model-00001-of-00002.safetensors","c":"model-00002-of-00002.safetensors"}}}}"#
        )
    };
    std::fs::write(
        path("model.safetensors.index.json"),
        index("model-00001-of-00002.safetensors"),
    )
    .unwrap();
    let weights = open().unwrap();
    assert_eq!(
        (weights.len(), weights.shards().len(), weights.total_bytes()),
        (3, 2, 24)
    );
    assert_eq!(weights.names().collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!(weights.shard_of("c"), Some(1));
    assert_eq!(weights.bytes("b").unwrap(), [2, 0, 0, 0, 3, 0, 0, 0]);
    assert!(
        weights
            .bytes("d")
            .unwrap_err()
            .to_string()
            .contains("2 safetensors files: no tensor \"d\"")
    );

    std::fs::write(
        path("model.safetensors.index.json"),
        index("model-00003-of-00003.safetensors"),
    )
    .unwrap();
    let message = open().unwrap_err().to_string();
    assert!(
        message.contains("model-00003-of-00003.safetensors") && message.contains("missing"),
        "{message}"
    );
    for outside in [
        "../model-00001-of-00002.safetensors",
        "/model.safetensors",
        "..",
        "",
        "model.bin",
    ] {
        std::fs::write(path("model.safetensors.index.json"), index(outside)).unwrap();
        let message = open().unwrap_err().to_string();
        assert!(
            message.contains("no safetensors file of this folder"),
            "{message}"
        );
    }
    std::fs::write(path("model.safetensors.index.json"), "{").unwrap();
    assert!(open().unwrap_err().to_string().contains("index.json"));
    std::fs::remove_file(path("model.safetensors.index.json")).unwrap();

    std::fs::write(path("model-00002-of-00002.safetensors"), words(&["b"], 0)).unwrap();
    let message = open().unwrap_err().to_string();
    assert!(
        message.contains("tensor \"b\" is in") && message.contains("and in"),
        "{message}"
    );
    std::fs::remove_file(path("model-00002-of-00002.safetensors")).unwrap();
    std::fs::create_dir(path("model-00002-of-00002.safetensors")).unwrap();
    assert!(open().unwrap_err().to_string().contains("not a regular file"));
    std::fs::remove_dir(path("model-00002-of-00002.safetensors")).unwrap();
    std::fs::write(path("model-00002-of-00002.safetensors"), b"").unwrap();
    assert!(open().unwrap_err().to_string().contains("0 bytes"));
}

/// As in transformers: a file that the index does not name is no part of the model.
#[test]
fn the_index_decides_between_files() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    write("model-00001-of-00002.safetensors", &words(&["a", "b"], 0));
    write("model-00002-of-00002.safetensors", &words(&["b", "c"], 0));
    write("model.safetensors", &words(&["c", "b", "a", "z"], 0));
    let open = |b: &str| {
        let (first, second) = (
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
        );
        let index = serde_json::json!({"weight_map": {"a": first, "b": b, "c": second}});
        write("model.safetensors.index.json", index.to_string().as_bytes());
        ModelWeights::open(folder.path()).unwrap()
    };
    for (b, shard) in [
        ("model-00001-of-00002.safetensors", 0),
        ("model-00002-of-00002.safetensors", 1),
    ] {
        let weights = open(b);
        assert_eq!(
            (weights.len(), weights.total_bytes(), weights.shard_of("b")),
            (3, 24, Some(shard))
        );
        let mut names: Vec<&str> = weights.names().collect();
        names.sort_unstable();
        assert_eq!(names, ["a", "b", "c"]);
    }
    // An index that names nothing decides nothing.
    write("model.safetensors.index.json", br#"{"weight_map": {}}"#);
    assert!(
        ModelWeights::open(folder.path())
            .unwrap_err()
            .to_string()
            .contains("is in")
    );
}

#[test]
fn loads_in_place_where_aligned_and_copies_where_not() {
    let device = MlxDevice::open(DeviceKind::Cpu).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for lead in [0, 2, 3] {
        std::fs::write(folder.path().join("model.safetensors"), words(&["a", "b"], lead)).unwrap();
        let weights = ModelWeights::open(folder.path()).unwrap();
        let mut loader = WeightLoader::new(&weights, &device);
        let b = loader.load("b").unwrap();
        assert_eq!((b.dtype(), b.shape()), (DType::U32, &[1, 2][..]));
        assert_eq!(b.read::<u32>().unwrap(), [2, 3]);
        assert_eq!(loader.copied_bytes(), if lead == 0 { 0 } else { 8 });
        if lead == 0 {
            assert_eq!(
                b.contents_ptr().cast_const().cast(),
                weights.bytes("b").unwrap().as_ptr()
            );
            assert!(!b.is_writable());
        }
        // The pages that were given back can still be read.
        assert_eq!(weights.bytes("b").unwrap(), [2, 0, 0, 0, 3, 0, 0, 0]);
        assert!(loader.load_as("b", &[DType::U32], &[1, 2]).is_ok());
        let message = loader
            .load_as("b", &[DType::F16, DType::BF16], &[2])
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("tensor \"b\" is U32 [1, 2], wanted f16 or bf16 [2]"),
            "{message}"
        );
        assert!(
            loader
                .load_as("z", &[DType::F16], &[2])
                .unwrap_err()
                .to_string()
                .contains("no tensor \"z\"")
        );
    }
}

#[test]
fn loads_from_memory_and_refuses_types_that_buffers_lack() {
    let device = MlxDevice::open(DeviceKind::Cpu).unwrap();
    let header = r#"{"d":{"dtype":"F64","shape":[1],"data_offsets":[0,8]},"e":{"dtype":"F32","shape":[0],"data_offsets":[8,8]}}"#;
    let weights = ModelWeights::from_files(vec![read(file(header, &[0; 8])).unwrap()]).unwrap();
    let mut loader = WeightLoader::new(&weights, &device);
    assert!(matches!(loader.load("d"), Err(MlxError::UnsupportedDtype(m)) if m.contains("\"d\" is F64")));
    assert!(loader.load("e").unwrap_err().to_string().contains("no elements"));
    let weights = ModelWeights::from_files(vec![read(words(&["a"], 0)).unwrap()]).unwrap();
    let a = WeightLoader::new(&weights, &device).load("a").unwrap();
    drop(weights);
    assert_eq!(a.read::<u32>().unwrap(), [0, 1]);
}
