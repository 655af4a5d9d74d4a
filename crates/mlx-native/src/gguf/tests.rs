//! Files written here byte by byte, whole and damaged.

use super::*;
use crate::device::MlxDevice;
use crate::device_kind::DeviceKind;
use crate::dtype::DType;
use crate::error::MlxError;

/// Writes GGUF files, also impossible ones.
#[derive(Clone)]
struct Writer {
    version: u32,
    entries: Vec<(String, u32, Vec<u8>)>,
    tensors: Vec<(String, Vec<u64>, u32, u64)>,
    data: Vec<u8>,
    alignment: usize,
    counts: Option<(u64, u64)>,
}

fn string(s: &str) -> Vec<u8> {
    [&(s.len() as u64).to_le_bytes()[..], s.as_bytes()].concat()
}

impl Writer {
    fn new() -> Self {
        Writer {
            version: 3,
            entries: vec![],
            tensors: vec![],
            data: vec![],
            alignment: 32,
            counts: None,
        }
    }

    fn entry(mut self, key: &str, ty: u32, value: &[u8]) -> Self {
        self.entries.push((key.to_owned(), ty, value.to_vec()));
        self
    }

    fn tensor(mut self, name: &str, dims: &[u64], ty: u32, bytes: &[u8]) -> Self {
        self.data
            .resize(self.data.len().next_multiple_of(self.alignment), 0);
        self.tensors
            .push((name.to_owned(), dims.to_vec(), ty, self.data.len() as u64));
        self.data.extend(bytes);
        self
    }

    fn header(&self) -> Vec<u8> {
        let counts = self
            .counts
            .unwrap_or((self.tensors.len() as u64, self.entries.len() as u64));
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend(counts.0.to_le_bytes());
        out.extend(counts.1.to_le_bytes());
        for (key, ty, value) in &self.entries {
            out.extend(string(key));
            out.extend(ty.to_le_bytes());
            out.extend(value);
        }
        for (name, dims, ty, offset) in &self.tensors {
            out.extend(string(name));
            out.extend((dims.len() as u32).to_le_bytes());
            dims.iter().for_each(|d| out.extend(d.to_le_bytes()));
            out.extend(ty.to_le_bytes());
            out.extend(offset.to_le_bytes());
        }
        out
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = self.header();
        out.resize(out.len().next_multiple_of(self.alignment), 0);
        out.extend(&self.data);
        out
    }

    fn open(&self) -> crate::error::Result<GgufFile> {
        open(self.bytes())
    }

    fn error(&self) -> String {
        match self.open() {
            Err(MlxError::GgufParseError(message)) => message,
            other => panic!("{other:?}"),
        }
    }
}

fn open(bytes: Vec<u8>) -> crate::error::Result<GgufFile> {
    GgufFile::from_bytes("test.gguf", bytes)
}

fn strings(list: &[&str]) -> Vec<u8> {
    let mut out = 8u32.to_le_bytes().to_vec();
    out.extend((list.len() as u64).to_le_bytes());
    list.iter().for_each(|s| out.extend(string(s)));
    out
}

fn sample() -> Writer {
    let ones: Vec<u8> = [0x00, 0x3C].into_iter().chain(0..32).collect();
    Writer::new()
        .entry("general.architecture", 8, &string("llama"))
        .entry("a.count", 4, &7u32.to_le_bytes())
        .entry("a.small", 3, &(-3i16).to_le_bytes())
        .entry("a.float", 6, &1.5f32.to_le_bytes())
        .entry("a.flag", 7, &[1])
        .entry("tokens", 9, &strings(&["a", "", "ü"]))
        .entry(
            "scores",
            9,
            &[
                &6u32.to_le_bytes()[..],
                &2u64.to_le_bytes(),
                &0.5f32.to_le_bytes(),
                &(-1.0f32).to_le_bytes(),
            ]
            .concat(),
        )
        .entry(
            "ids",
            9,
            &[
                &5u32.to_le_bytes()[..],
                &1u64.to_le_bytes(),
                &(-9i32).to_le_bytes(),
            ]
            .concat(),
        )
        .tensor("w", &[32, 1], 8, &ones)
        .tensor(
            "v",
            &[2, 3],
            0,
            &[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0].map(f32::to_le_bytes).concat(),
        )
        .tensor("odd", &[256], 4, &[0; 144])
        .tensor("none", &[0], 0, &[])
}

#[test]
fn reads_what_is_there() {
    for version in [2, 3] {
        let file = Writer { version, ..sample() }.open().unwrap();
        assert_eq!(
            (file.version(), file.metadata_count(), file.tensor_count()),
            (version, 8, 4)
        );
        assert_eq!(file.metadata_string("general.architecture"), Some("llama"));
        assert_eq!(
            (file.metadata_u32("a.count"), file.metadata_u32("a.small")),
            (Some(7), None)
        );
        assert_eq!(
            (file.metadata_f32("a.float"), file.metadata_bool("a.flag")),
            (Some(1.5), Some(true))
        );
        assert_eq!(file.metadata_strings("tokens"), Some(vec!["a", "", "ü"]));
        assert_eq!(
            file.metadata("tokens").unwrap().as_array().unwrap()[2].as_str(),
            Some("ü")
        );
        assert_eq!(file.metadata_f32s("scores"), Some(vec![0.5, -1.0]));
        assert_eq!(
            (file.metadata_i32s("ids"), file.metadata_i32s("scores")),
            (Some(vec![-9]), None)
        );
        assert_eq!(file.metadata_string("tokens"), None);
        assert_eq!(file.tensor_names(), ["w", "v", "odd", "none"]);
        let info = file.tensor_info("v").unwrap();
        assert_eq!(
            (&info.shape[..], info.ggml_type, info.byte_len),
            (&[3, 2][..], GgmlType::F32, 24)
        );
        assert!(file.tensor_info("odd").is_none() && file.tensor_info("x").is_none());
    }
}

#[test]
fn loads_tensors() {
    let device = MlxDevice::open(DeviceKind::Cpu).unwrap();
    let file = sample().open().unwrap();
    let w = file.load_tensor("w", &device).unwrap();
    assert_eq!(
        (w.dtype(), w.shape(), w.byte_len()),
        (DType::U8, &[1, 32][..], 34)
    );
    let values = file.load_tensor_f32("w", &device).unwrap();
    assert_eq!((values.dtype(), values.shape()), (DType::F32, &[1, 32][..]));
    assert_eq!(
        values.read::<f32>().unwrap(),
        (0..32).map(|i| i as f32).collect::<Vec<_>>()
    );
    assert_eq!(
        file.load_tensor("v", &device).unwrap().read::<f32>().unwrap(),
        [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    );
    let mut own = file.load_tensor("v", &device).unwrap();
    own.as_mut_slice::<f32>().unwrap()[0] = 9.0;
    let mut mapped = file.map_tensor("v", &device).unwrap();
    assert_eq!(
        (own.read::<f32>().unwrap()[0], mapped.read::<f32>().unwrap()[0]),
        (9.0, 1.0)
    );
    assert!(mapped.as_mut_slice::<f32>().is_err(), "the file is not written");
    assert!(matches!(
        file.map_tensor("none", &device),
        Err(MlxError::InvalidArgument(_))
    ));
    assert!(matches!(
        file.load_tensor("none", &device),
        Err(MlxError::InvalidArgument(_))
    ));
    assert!(matches!(
        file.load_tensor_f32("none", &device),
        Err(MlxError::GgufParseError(_))
    ));
    assert!(matches!(
        file.load_tensor("x", &device),
        Err(MlxError::GgufParseError(_))
    ));
    let odd = file.load_tensor("odd", &device).unwrap_err();
    assert!(odd.to_string().contains("element type 4"), "{odd}");
}

#[test]
fn every_shorter_file_is_refused() {
    let whole = sample().bytes();
    for len in 0..whole.len() {
        assert!(
            matches!(open(whole[..len].to_vec()), Err(MlxError::GgufParseError(_))),
            "{len} bytes"
        );
    }
    assert!(open(whole).is_ok());
}

#[test]
fn damage_is_named() {
    let s = sample();
    let long = |n: u64| [&8u32.to_le_bytes()[..], &n.to_le_bytes()].concat();
    let nested = |depth: usize| {
        let mut value = [&0u32.to_le_bytes()[..], &0u64.to_le_bytes()].concat();
        for _ in 0..depth {
            value = [&9u32.to_le_bytes()[..], &1u64.to_le_bytes(), &value].concat();
        }
        value
    };
    let cases: Vec<(Writer, &str)> = vec![
        (
            Writer {
                version: 1,
                ..s.clone()
            },
            "version 1",
        ),
        (
            Writer {
                version: 3u32.swap_bytes(),
                ..s.clone()
            },
            "big-endian",
        ),
        (
            Writer {
                counts: Some((u64::MAX, 0)),
                ..s.clone()
            },
            "at most",
        ),
        (
            Writer {
                counts: Some((0, 1_000_000)),
                ..s.clone()
            },
            "metadata entry 9",
        ),
        (
            s.clone().entry("a.count", 4, &[0; 4]),
            "\"a.count\" is there twice",
        ),
        (s.clone().entry("k", 13, &[0; 4]), "value type 13"),
        (s.clone().entry("k", 8, &u64::MAX.to_le_bytes()), "\"k\""),
        (
            s.clone()
                .entry("k", 8, &[&2u64.to_le_bytes()[..], &[0xC3, 0x28]].concat()),
            "utf-8",
        ),
        (s.clone().entry("k", 9, &long(u64::MAX)), "\"k\""),
        (
            s.clone().entry(
                "k",
                9,
                &[&10u32.to_le_bytes()[..], &u64::MAX.to_le_bytes()].concat(),
            ),
            "\"k\"",
        ),
        (s.clone().entry("k", 9, &nested(9)), "deep"),
        (
            s.clone().entry("general.alignment", 4, &3u32.to_le_bytes()),
            "power of two",
        ),
        (
            s.clone().entry("general.alignment", 4, &0u32.to_le_bytes()),
            "power of two",
        ),
        (s.clone().tensor("w", &[1], 0, &[0; 4]), "\"w\" is there twice"),
        (s.clone().tensor("t", &[1; 9], 0, &[0; 4]), "9 dimensions"),
        (s.clone().tensor("t", &[u64::MAX, 2], 0, &[0; 4]), "too large"),
        (s.clone().tensor("t", &[1 << 62, 1], 0, &[0; 4]), "beyond the end"),
        (s.clone().tensor("t", &[33], 8, &[0; 68]), "no whole blocks"),
        (s.clone().tensor("t", &[2], 0, &[0; 4]), "beyond the end"),
    ];
    for (writer, want) in cases {
        let message = writer.error();
        assert!(
            message.contains(want) && message.contains("test.gguf"),
            "{message:?} lacks {want:?}"
        );
    }
    let mut overlap = s.clone().tensor("t", &[8], 0, &[0; 32]);
    overlap.tensors.last_mut().unwrap().3 = 32;
    assert!(overlap.error().contains("overlap"), "{}", overlap.error());
    overlap.tensors.last_mut().unwrap().3 = 33;
    assert!(overlap.error().contains("no multiple of 32"));
    overlap.tensors.last_mut().unwrap().3 = u64::MAX - 31;
    assert!(overlap.error().contains("beyond the end"));
    assert!(
        open(b"GGML".repeat(20))
            .unwrap_err()
            .to_string()
            .contains("not with \"GGUF\"")
    );
    assert!(s.entry("k", 9, &nested(3)).open().is_ok());
}

#[test]
fn mutated_files_never_panic() {
    let whole = sample().bytes();
    let device = MlxDevice::open(DeviceKind::Cpu).unwrap();
    let mut state = 1u64;
    let mut random = |below: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let mut opened = 0;
    for _ in 0..4000 {
        let mut bytes = whole.clone();
        for _ in 0..=random(3) {
            let at = random(bytes.len());
            bytes[at] = [0, 1, 0x7F, 0x80, 0xFF, random(256) as u8][random(6)];
        }
        crate::testing::fuzz_gguf(&bytes);
        if let Ok(file) = open(bytes) {
            opened += 1;
            for name in file.tensor_names() {
                let _ = (
                    file.load_tensor(name, &device),
                    file.map_tensor(name, &device),
                    file.load_tensor_f32(name, &device),
                );
            }
        }
    }
    assert!(opened > 100, "only {opened} were read at all");
}

#[test]
fn several_files_are_one_model() {
    let folder = tempfile::tempdir().unwrap();
    let path = |no: u32| folder.path().join(format!("m-{no:05}-of-00002.gguf"));
    let shard = |no: u16, name: &str| {
        Writer::new()
            .entry("split.no", 2, &no.to_le_bytes())
            .entry("split.count", 2, &2u16.to_le_bytes())
            .entry("split.tensors.count", 5, &2i32.to_le_bytes())
            .tensor(name, &[1], 0, &(f32::from(no) + 1.0).to_le_bytes())
            .bytes()
    };
    std::fs::write(path(1), shard(0, "a")).unwrap();
    let message = GgufModel::open(path(1)).unwrap_err().to_string();
    assert!(message.contains("m-00002-of-00002.gguf"), "{message}");
    std::fs::write(path(2), shard(1, "b")).unwrap();
    let model = GgufModel::open(path(1)).unwrap();
    assert_eq!(model.tensor_names().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(model.tensor_bytes("b").unwrap(), 2.0f32.to_le_bytes());
    assert!(model.contains("a") && !model.contains("c") && model.tensor_bytes("c").is_err());
    assert!(
        GgufModel::open(path(2))
            .unwrap_err()
            .to_string()
            .contains("a later one of 2")
    );
    std::fs::write(path(2), shard(1, "a")).unwrap();
    assert!(
        GgufModel::open(path(1))
            .unwrap_err()
            .to_string()
            .contains("\"a\" is in")
    );
    std::fs::write(path(2), shard(0, "b")).unwrap();
    assert!(
        GgufModel::open(path(1))
            .unwrap_err()
            .to_string()
            .contains("file 2 of 2")
    );
}
