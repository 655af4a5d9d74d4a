//! Files made byte by byte, right and wrong.

use std::io::Write;

use half::f16;

use super::*;

/// Builds a file.
struct Builder {
    head: Vec<u8>,
    counts: [u64; 2],
    infos: Vec<u8>,
    data: Vec<u8>,
}

impl Builder {
    fn new() -> Self {
        Builder { head: Vec::new(), counts: [0, 0], infos: Vec::new(), data: Vec::new() }
    }

    fn string(to: &mut Vec<u8>, s: &str) {
        to.extend((s.len() as u64).to_le_bytes());
        to.extend(s.as_bytes());
    }

    fn metadata(mut self, key: &str, kind: u32, value: &[u8]) -> Self {
        self.counts[1] += 1;
        Self::string(&mut self.head, key);
        self.head.extend(kind.to_le_bytes());
        self.head.extend(value);
        self
    }

    /// `dims` as the file has them: innermost first.
    fn tensor(mut self, name: &str, dims: &[u64], kind: u32, data: &[u8]) -> Self {
        let offset = self.data.len().next_multiple_of(32);
        self.data.resize(offset, 0);
        self.data.extend(data);
        self.raw_tensor(name, dims, kind, offset as u64)
    }

    fn raw_tensor(mut self, name: &str, dims: &[u64], kind: u32, offset: u64) -> Self {
        self.counts[0] += 1;
        Self::string(&mut self.infos, name);
        self.infos.extend((dims.len() as u32).to_le_bytes());
        dims.iter().for_each(|d| self.infos.extend(d.to_le_bytes()));
        self.infos.extend(kind.to_le_bytes());
        self.infos.extend(offset.to_le_bytes());
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut all = b"GGUF".to_vec();
        all.extend(3u32.to_le_bytes());
        self.counts.iter().for_each(|n| all.extend(n.to_le_bytes()));
        all.extend(&self.head);
        all.extend(&self.infos);
        all.resize(all.len().next_multiple_of(32), 0);
        all.extend(&self.data);
        all
    }

    fn open(&self) -> Result<GgufFile> {
        open(&self.bytes())
    }
}

fn open(bytes: &[u8]) -> Result<GgufFile> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    GgufFile::open(file.path())
}

#[track_caller]
fn refused(result: Result<GgufFile>, word: &str) {
    match result {
        Err(MlxError::GgufParseError(text)) => assert!(text.contains(word), "{text}"),
        other => panic!("{word}: {other:?}"),
    }
}

#[test]
fn metadata_and_tensors() {
    let device = MlxDevice::new().unwrap();
    let mut name = Vec::new();
    Builder::string(&mut name, "llama");
    let mut array = 4u32.to_le_bytes().to_vec();
    array.extend(2u64.to_le_bytes());
    array.extend([1u8, 0, 0, 0, 2, 0, 0, 0]);
    let halves: Vec<u8> = [1.5f32, -2.0].iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect();
    let mut q8 = f16::from_f32(0.5).to_le_bytes().to_vec();
    q8.extend((0..32u8).map(|i| i.wrapping_sub(7)));
    let file = Builder::new()
        .metadata("general.architecture", 8, &name)
        .metadata("n", 5, &7i32.to_le_bytes())
        .metadata("negative", 5, &(-7i32).to_le_bytes())
        .metadata("eps", 12, &1e-5f64.to_le_bytes())
        .metadata("list", 9, &array)
        .metadata("yes", 7, &[2])
        .tensor("f32", &[3, 2], 0, &[0; 24])
        .tensor("f16", &[2], 1, &halves)
        .tensor("q8", &[32, 1], 8, &q8)
        .tensor("bf16", &[2], 30, &[0; 4])
        .tensor("empty", &[0, 4], 0, &[])
        .open()
        .unwrap();
    assert_eq!((file.tensor_count(), file.metadata_count()), (5, 6));
    assert_eq!(file.tensor_names(), ["bf16", "empty", "f16", "f32", "q8"]);
    assert_eq!(file.metadata_string("general.architecture"), Some("llama"));
    assert_eq!((file.metadata_u32("n"), file.metadata_u32("negative")), (Some(7), None));
    assert_eq!(file.metadata_f32("eps"), Some(1e-5));
    assert!(matches!(file.metadata("yes"), Some(MetadataValue::Bool(true))));
    assert!(matches!(file.metadata("list"), Some(MetadataValue::Array(a)) if a.len() == 2));
    assert_eq!(file.tensor_info("f32").unwrap().shape, [2, 3]);
    let halves = file.load_tensor("f16", &device).unwrap();
    assert_eq!((halves.dtype(), halves.byte_len()), (DType::F16, 4));
    assert_eq!(file.load_tensor_f32("f16", &device).unwrap().read::<f32>().unwrap(), [1.5, -2.0]);
    let q8 = file.load_tensor("q8", &device).unwrap();
    assert_eq!((q8.dtype(), q8.shape(), q8.byte_len()), (DType::U8, &[1, 32][..], 34));
    let values = file.load_tensor_f32("q8", &device).unwrap().read::<f32>().unwrap();
    assert!(values.iter().enumerate().all(|(i, v)| *v == (i as f32 - 7.0) * 0.5));
    assert!(file.tensor_info("bf16").is_none());
    assert!(matches!(file.load_tensor("bf16", &device), Err(MlxError::GgufParseError(t)) if t.contains("BF16")));
    assert!(matches!(file.load_tensor("empty", &device), Err(MlxError::InvalidArgument(_))));
    assert!(matches!(file.load_tensor_f32("empty", &device), Err(MlxError::GgufParseError(_))));
    assert!(matches!(file.load_tensor("none", &device), Err(MlxError::GgufParseError(_))));
}

#[test]
fn hostile_files() {
    let ok = Builder::new().tensor("x", &[4], 0, &[0; 16]);
    let bytes = ok.bytes();
    // Cut anywhere, it is an error and no panic.
    for len in 0..bytes.len() {
        assert!(open(&bytes[..len]).is_err(), "{len}");
    }
    refused(open(b"GGML____________________"), "GGUF");
    let mut other = bytes.clone();
    other[4] = 2;
    refused(open(&other), "version 2");
    other[4..8].copy_from_slice(&3u32.to_be_bytes());
    refused(open(&other), "big endian");
    let mut other = bytes.clone();
    other[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
    refused(open(&other), "tensors");
    let mut other = bytes;
    other[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
    refused(open(&other), "metadata");
    let raw = |dims: &[u64], kind, offset| Builder::new().raw_tensor("x", dims, kind, offset).open();
    refused(raw(&[4], 0, 0), "leave the file");
    refused(raw(&[1], 0, u64::MAX), "leave the file");
    refused(raw(&[u64::MAX, 2], 0, 0), "overflows");
    refused(raw(&[1 << 62, 1], 0, 0), "overflows");
    refused(raw(&[33], 8, 0), "whole blocks");
    refused(raw(&[1], 77, 0), "type 77");
    refused(raw(&[1; 9], 0, 0), "extents");
    let value = |kind, bytes: &[u8]| Builder::new().metadata("k", kind, bytes).open();
    refused(value(13, &[0; 8]), "type 13");
    refused(value(8, &u64::MAX.to_le_bytes()), "bytes");
    let mut array = 0u32.to_le_bytes().to_vec();
    array.extend((1u64 << 40).to_le_bytes());
    refused(value(9, &array), "array");
    // Arrays in arrays without end.
    let level = [9u32.to_le_bytes().to_vec(), 1u64.to_le_bytes().to_vec()].concat();
    refused(value(9, &level.repeat(2000)), "arrays in each other");
    refused(Builder::new().metadata("general.alignment", 4, &3u32.to_le_bytes()).open(), "power of two");
    refused(Builder::new().metadata("general.alignment", 4, &0u32.to_le_bytes()).open(), "power of two");
    let mut key = Builder::new();
    key.counts[1] = 1;
    key.head = [2u64.to_le_bytes().to_vec(), vec![0xFF, 0xFE]].concat();
    refused(key.open(), "UTF-8");
    assert!(matches!(GgufFile::open(Path::new("/nonexistent.gguf")), Err(MlxError::IoError(_))));
}

#[test]
fn the_last_of_equal_names_counts() {
    let file = Builder::new()
        .metadata("k", 0, &[1])
        .metadata("k", 0, &[2])
        .tensor("x", &[1], 0, &1f32.to_le_bytes())
        .tensor("x", &[1], 0, &2f32.to_le_bytes())
        .open()
        .unwrap();
    let device = MlxDevice::new().unwrap();
    assert_eq!((file.metadata_u32("k"), file.tensor_count()), (Some(2), 1));
    assert_eq!(file.load_tensor_f32("x", &device).unwrap().read::<f32>().unwrap(), [2.0]);
}
